"""Builds TensorRT plans from ONNX graphs: lint rules, changes to graphs, profiles, build."""
