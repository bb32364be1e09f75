"""The embedded server: staging, launching, guarding and probing a real `tritonserver`."""
