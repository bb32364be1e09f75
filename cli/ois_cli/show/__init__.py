"""`ois show`: figures of what the network attends to, and of several methods side by side."""
