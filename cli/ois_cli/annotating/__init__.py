"""`ois annotate`: batch annotation from a file of clicks."""
