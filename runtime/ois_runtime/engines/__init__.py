"""Engines in process: backends, manifests, image states, the feature store, the segmenter."""
