"""The embedded server: prepares, starts, watches and ends a real `tritonserver`."""
