"""A remote model for X-AnyLabeling: takes clicks and returns polygons.

    OIS_URL=grpc://127.0.0.1:8001 python remote_server.py

X-AnyLabeling sends the image and all clicks on an object with every new click. The image is encoded
once, and each new click runs the network's decoder once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ois_client import AccessDenied, Client, InvalidInput, OISError
from ois_client.environment import open_client
from ois_client.sessions.replay import RecentSessions, replay
from x_anylabeling_format import (
    image_bytes,
    image_text,
    read_fineness,
    read_marks,
    read_model,
    shapes_of_mask,
)

log = logging.getLogger("ois.x_anylabeling")

MODEL = "ois"
#: Limit for a request: a picture of 190 MB, as base64.
MAX_BODY_BYTES = 2**28

#: What X-AnyLabeling shows for this model. The last one is "Replace (Off)". Without it, the image's
#: other shapes would be deleted whenever a request fails: a failure counts as an empty result.
WIDGETS: tuple[dict[str, Any], ...] = (
    {"name": "button_add_point", "value": None},
    {"name": "button_remove_point", "value": None},
    {"name": "button_clear", "value": None},
    {"name": "button_finish_object", "value": None},
    {"name": "mask_fineness_slider", "value": 10},
    {"name": "mask_fineness_value_label", "value": None},
    {"name": "toggle_preserve_existing_annotations", "value": True},
)


class RemoteModel:
    """Answers X-AnyLabeling's requests. Thread-safe."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._recent = RecentSessions(client)

    def models(self) -> dict[str, Any]:
        """The answer to `/v1/models`. Raises `OISError` if the server does not answer."""
        model = {
            "model_id": MODEL,
            "display_name": f"OIS {self._client.info.network}",
            "widgets": list(WIDGETS),
            "batch_processing_mode": None,  # it needs clicks, so not for many images at once
        }
        return {MODEL: model}

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to `/v1/predict`; without a positive click, no shapes.

        Raises `OISError` if the request is invalid or the server does not answer.
        """
        read_model(request, MODEL)
        clicks, fineness = read_marks(request), read_fineness(request)
        shapes: list[dict[str, Any]] = []
        if clicks:
            text = image_text(request)
            key = hashlib.sha256(text.encode()).hexdigest()
            with self._recent.session(key, lambda: image_bytes(text)) as session:
                shapes = shapes_of_mask(replay(session, clicks), fineness)
        return {"shapes": shapes, "description": "", "replace": False}


def make_server(
    model: RemoteModel, host: str = "127.0.0.1", port: int = 0, token: str = ""
) -> ThreadingHTTPServer:
    """A web server; `serve_forever` runs it.

    port: 0 takes a free one. token: the API key that X-AnyLabeling must send; "" for none.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, form: str, *arguments: object) -> None:
            log.debug(form, *arguments)

        def do_GET(self) -> None:
            if self.path == "/health":
                self._send(200, {"status": "healthy", "models_loaded": 1})
            elif self.path == "/v1/models":
                self._answer(lambda: model.models())
            else:
                self._missing()

        def do_POST(self) -> None:
            if self.path == "/v1/predict":
                self._answer(lambda: model.predict(self._body()))
            else:
                self._missing()

        def _answer(self, work: Any) -> None:
            given = self.headers.get("Token") or ""
            if token and not hmac.compare_digest(given.encode(), token.encode()):
                denied = AccessDenied("expected the API key of TOKEN, in the header Token")
                self._fail(401, denied)
                return
            try:
                data = work()
            except OISError as error:
                log.warning("%s: %s", self.path, error)
                self._fail(400 if isinstance(error, InvalidInput) else 503, error)
            else:
                self._send(200, {"success": True, "data": data})

        def _body(self) -> dict[str, Any]:
            length = self.headers.get("Content-Length") or ""
            if not length.isdecimal() or len(length) > 12 or int(length) > MAX_BODY_BYTES:
                self.close_connection = True  # the body stays unread
                raise InvalidInput(
                    f"got a request of {length[:20] or 'unknown'} bytes; expected at most "
                    f"{MAX_BODY_BYTES}"
                )
            try:
                value = json.loads(self.rfile.read(int(length)))
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"got a request that is not JSON: {error}") from error
            if not isinstance(value, dict):
                raise InvalidInput(f"got JSON of type {type(value).__name__}; expected an object")
            return value

        def _missing(self) -> None:
            self.close_connection = True
            self._fail(404, InvalidInput(f"got {self.path[:80]}; expected /v1/models, /v1/predict"))

        def _fail(self, status: int, error: OISError) -> None:
            """X-AnyLabeling logs the status line alone, so the message goes there too."""
            words = str(error).encode("latin-1", "replace").decode("latin-1")
            body = {"success": False, "error": {"code": error.code, "message": str(error)}}
            self._send(status, body, " ".join(words.split())[:400])

        def _send(self, status: int, body: dict[str, Any], reason: str | None = None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status, reason)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


def main() -> None:
    """Serve on `$HOST:$PORT`, by default 127.0.0.1:8500, until Ctrl-C."""
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"))
    setting = os.environ.get
    try:
        client = open_client()
    except OISError as error:
        raise SystemExit(f"error: {error}") from error
    with client:
        host, port = setting("HOST", "127.0.0.1"), int(setting("PORT", "8500"))
        server = make_server(RemoteModel(client), host, port, setting("TOKEN", ""))
        log.info("running on http://%s:%d", *server.server_address[:2])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("stopped")
        finally:
            server.server_close()


if __name__ == "__main__":
    main()
