"""The interfaces of Segment Anything's predictor and mask generator, on top of a session."""
