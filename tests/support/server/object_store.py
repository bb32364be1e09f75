"""A folder behind the part of the S3 protocol that reading needs: HEAD, GET and ListObjectsV2."""

from __future__ import annotations

import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"


class ObjectStore:
    """Serves the files of a folder as objects, on the loopback address."""

    def __init__(self, folder: Path) -> None:
        class Handler(_Handler):
            root = folder

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def address(self, path: str) -> str:
        """The address of `path`, which begins with a slash, for pyarrow's file systems."""
        port = self._server.server_port
        return f"s3://{BUCKET}{path}?endpoint_override=127.0.0.1:{port}&scheme=http&region=here"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def do_HEAD(self) -> None:
        path = self._file()
        if path is None:
            self._answer(404, b"", {})
            return
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.end_headers()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._answer(200, self._listing(query), {"Content-Type": "application/xml"})
            return
        path = self._file()
        if path is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {})
            return
        data = path.read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        end = min(int(last or len(data)), len(data) - 1)
        part = data[int(first) : end + 1]
        self._answer(206, part, {"Content-Range": f"bytes {first}-{end}/{len(data)}"})

    def log_message(self, *_: Any) -> None:
        pass

    def _file(self) -> Path | None:
        key = unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}").lstrip("/")
        path = self.root / key
        return path if path.is_file() else None

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        flat = "delimiter" in query
        objects: list[str] = []
        folders: set[str] = set()
        for path in sorted(p for p in self.root.rglob("*") if p.is_file()):
            key = path.relative_to(self.root).as_posix()
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if flat and "/" in rest:
                folders.add(prefix + rest.split("/")[0] + "/")
            else:
                objects.append(
                    f"<Contents><Key>{self._name(key, query)}</Key>"
                    f"<Size>{path.stat().st_size}</Size>"
                    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
        common = (
            f"<CommonPrefixes><Prefix>{self._name(one, query)}</Prefix></CommonPrefixes>"
            for one in sorted(folders)
        )
        coded = "<EncodingType>url</EncodingType>" if "encoding-type" in query else ""
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{coded}"
            f"{''.join(objects)}{''.join(common)}</ListBucketResult>"
        ).encode()

    @staticmethod
    def _name(key: str, query: dict[str, list[str]]) -> str:
        return quote(key) if "encoding-type" in query else escape(key)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
