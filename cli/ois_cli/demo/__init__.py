"""`ois demo`: the page, its gateway, and the sheets of sample photographs."""
