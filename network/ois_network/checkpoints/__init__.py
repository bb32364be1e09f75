"""Checkpoint files: reading, writing, and converting weights of other projects."""
