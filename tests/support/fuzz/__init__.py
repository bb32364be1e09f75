"""Seeded damage to what strangers send: bytes, JSON, protobuf messages, image files."""
