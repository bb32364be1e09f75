"""`ois bench`: one module per group of measurements."""
