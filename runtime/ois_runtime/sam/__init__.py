"""Networks of the SAM family as a pair of ONNX files: an encoder, and SAM's own decoder graph."""
