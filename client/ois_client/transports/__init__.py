"""Sends requests to a Triton server: addresses, gRPC, HTTP, retries, deadlines."""
