"""How requests reach a Triton server: addresses, gRPC, HTTP, retries, deadlines."""
