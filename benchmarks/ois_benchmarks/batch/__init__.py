"""Batches: images per second of one process and of Ray's workers, and what many images cost."""
