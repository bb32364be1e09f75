"""Checkpoint files: reading, writing, converting weights of other projects."""
