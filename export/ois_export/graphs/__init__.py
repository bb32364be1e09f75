"""From PyTorch modules to ONNX graphs: tracing, attention forms, precision, lint."""
