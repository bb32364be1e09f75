"""What runs inside Triton: the models of the repository and what they share."""
