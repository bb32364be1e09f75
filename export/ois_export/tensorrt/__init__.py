"""ONNX graphs to TensorRT plans: rewrites, profiles, lint, build, parity."""
