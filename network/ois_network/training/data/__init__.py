"""Training data: pairs on disk, sources of samples, augmentation, batches, cached features."""
