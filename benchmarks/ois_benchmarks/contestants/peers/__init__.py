"""Other systems, each by its own code: clones, packages and ONNX files, never copies."""
