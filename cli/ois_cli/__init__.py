"""The `ois` command: one module per command, heavy imports only inside the commands."""
