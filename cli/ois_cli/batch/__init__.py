"""Commands that work on many images: progress, failed items, where items come from, workers."""
