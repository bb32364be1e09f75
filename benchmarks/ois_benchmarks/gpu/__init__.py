"""Measurements that need a GPU: the torch engine, kernels, device ceilings, TensorRT layers."""
