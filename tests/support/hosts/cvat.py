"""A stand-in for a CVAT server with agents: functions, their queue, and one task with one image.

It speaks what `cvat-sdk` and `cvat-cli` 2.80 ask of a server, and refuses everything else.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "token-of-ada"
TASK, FUNCTION = 5, 1
DATE = "2026-11-01T00:00:00Z"


class CvatHost:
    """requests: parameters of annotation requests that wait for the agent. function: what
    `create-native` has sent. results: (what, body) per finished request, in order."""

    def __init__(self, image: bytes) -> None:
        self.requests: list[dict[str, Any]] = []
        self.function: dict[str, Any] = {}
        self.results: list[tuple[str, dict[str, Any]]] = []
        self.refused: list[str] = []
        self._image = image
        host = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                path = unquote(self.path.partition("?")[0])
                self._send(host._get(path.rstrip("/")))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
                self._send(host._post(unquote(self.path), body))

            def _send(self, answer: Any) -> None:
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    status, answer = 401, {"detail": "no credentials"}
                elif answer is None:
                    host.refused.append(self.path)
                    status, answer = 404, {"detail": "not found"}
                else:
                    status = 200
                is_image = isinstance(answer, bytes)
                data = answer if is_image else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "image/png" if is_image else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def ask(self, pos_points: list, neg_points: list, **more: Any) -> None:
        """Queue a request of an annotator, as CVAT's server writes it."""
        self.requests.append(
            {
                "type": "interact",
                "task": TASK,
                "frame": 0,
                "pos_points": pos_points,
                "neg_points": neg_points,
                "obj_bbox": [],
                **more,
            }
        )

    def _get(self, path: str) -> Any:
        return {
            "/api/server/about": {
                "name": "CVAT",
                "description": "",
                "version": "2.80.0",
                "logo_url": "",
                "subtitle": "",
            },
            f"/api/functions/{FUNCTION}": self._described(),
            f"/api/tasks/{TASK}": {
                "id": TASK,
                "name": "task",
                "organization": None,
                "size": 1,
                "mode": "annotation",
                "data_chunk_size": 72,
                "data_original_chunk_type": "imageset",
                "created_date": DATE,
                "updated_date": DATE,
                "jobs": {"completed": 0, "validation": 0},
                "labels": {"url": f"{self.url}/api/labels"},
            },
            f"/api/tasks/{TASK}/data/meta": {
                "chunks_updated_date": DATE,
                "deleted_frames": [],
                "frames": [{"name": "0.png", "width": 1, "height": 1, "related_files": 0}],
            },
            f"/api/tasks/{TASK}/data": self._image,
            "/api/labels": {"count": 0, "next": None, "previous": None, "results": []},
        }.get(path)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/api/functions":
            self.function = body
            return self._described()
        queue = f"/api/functions/queues/function:{FUNCTION}/requests/"
        if path == queue + "acquire":
            if body["request_category"] != "interactive" or not self.requests:
                return {"ar_assignment": None}
            number = len(self.results)
            return {"ar_assignment": {"ar_id": f"r{number}", "ar_params": self.requests.pop(0)}}
        if done := re.fullmatch(re.escape(queue) + r"r\d+/(complete|fail)", path):
            self.results.append((done[1], body))
            return {}
        return None

    def _described(self) -> dict[str, Any]:
        """The function as the server describes it, with its defaults."""
        defaults = {"startswith_box": False, "startswith_box_optional": False, "min_neg_points": -1}
        return {"id": FUNCTION, **defaults, **self.function}
