"""Clients and sessions: an image is encoded once, then clicked on many times."""
