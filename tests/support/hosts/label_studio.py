"""A stand-in for Label Studio: a web server with tokens, and the storage that it redirects to."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

PERSONAL_TOKEN, LEGACY_TOKEN = "head.body.signature", "0123456789abcdef"
WIDTH, HEIGHT = 120, 90


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()


class Host:
    """Two HTTP servers: Label Studio with its tokens, and its storage.

    seen: (server, path, Authorization) per request. accepted: valid values of Authorization.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []  # server, path, Authorization
        self.accepted = {f"Token {LEGACY_TOKEN}", "Bearer access-1"}
        self.exchanges = 0
        self.images = {f"/data/upload/1/{n}.jpg": jpeg(n) for n in range(4)}
        self.storage = self._start("storage")
        self.studio = self._start("studio")

    def url(self, server: ThreadingHTTPServer) -> str:
        return f"http://127.0.0.1:{server.server_address[1]}"

    def _start(self, name: str) -> ThreadingHTTPServer:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                host.seen.append((name, self.path, self.headers.get("Authorization", "")))
                if name == "storage":
                    return self.reply(200, jpeg(9))
                if self.headers.get("Authorization") not in host.accepted:
                    return self.reply(401, b"no")
                if self.path.startswith("/tasks/7/presign/"):
                    return self.reply(302, b"", host.url(host.storage) + "/signed?secret=1")
                body = host.images.get(self.path)
                return self.reply(200, body) if body else self.reply(404, b"no such file")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/api/token/refresh"
                if body != {"refresh": PERSONAL_TOKEN}:
                    return self.reply(401, b"{}")
                host.exchanges += 1
                access = json.dumps({"access": f"access-{host.exchanges}"}).encode()
                return self.reply(200, access)

            def reply(self, status: int, body: bytes, location: str | None = None) -> None:
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def close(self) -> None:
        for server in (self.studio, self.storage):
            server.shutdown()
            server.server_close()
