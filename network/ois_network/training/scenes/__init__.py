"""Procedural scenes with exact masks and exact depth."""
