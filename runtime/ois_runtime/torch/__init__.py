"""The PyTorch engine: the network itself, with CUDA graphs on a GPU."""
