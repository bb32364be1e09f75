"""Code that runs inside Triton: the Python models of the model repository."""
