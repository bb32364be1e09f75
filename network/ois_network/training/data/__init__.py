"""Training data: pairs on disk, augmentation, batches, cached features."""
