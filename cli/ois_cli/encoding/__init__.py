"""`ois encode`: encodes many images before their first click."""
