"""Runs exported engines in process: pre- and postprocessing, the feature store, transports.

Picture ─► preprocess ─► encode ─► ImageState ─► FeatureStore
                                                    │
clicks, coverage ───────────────► decode ◄──────────┘ ─► logits ─► postprocess ─► masks
"""
