"""The front: a small program that takes requests in Triton's place, and passes on the well-formed.

    client ──► TCP, loopback ──► front ──► Unix socket, for this user only ──► Triton

Triton's own HTTP and gRPC servers crash on some requests (docs/security.md). So the embedded
server listens on Unix sockets, and this program on the ports. `requests.py` says what a request
may be; `http.py` and `grpc.py` carry it. It runs in a process of its own, see `__main__.py`.
"""
