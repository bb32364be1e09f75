"""The TensorRT engine, and the CUDA driver and memory it needs."""
