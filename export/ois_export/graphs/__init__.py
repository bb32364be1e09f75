"""Exports PyTorch modules to ONNX graphs: tracing, attention, padding, precision, lint."""
