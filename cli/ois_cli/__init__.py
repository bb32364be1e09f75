"""The `ois` command: one module per command. Heavy imports are inside the commands."""
