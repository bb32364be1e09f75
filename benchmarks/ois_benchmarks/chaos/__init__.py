"""`ois bench chaos`: a server is broken at random moments while people click."""
