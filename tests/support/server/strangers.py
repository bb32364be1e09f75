"""Requests that a proxy must not pass on to Triton."""

from __future__ import annotations

import gzip

INFER = "v2/models/ois_segment/infer"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}

#: path, body, headers, the status of the refusal
REFUSED: list[tuple[str, bytes | None, dict[str, str], int]] = [
    # Each of these crashes Triton 2.51 or makes it take gigabytes when it gets through.
    (INFER, bytes(6 * 2**20), FORM, 415),
    ("v2/health/live", bytes(8 * 2**20), FORM, 413),
    ("v2", bytes(8 * 2**20), FORM, 413),
    ("v2/models/ois_segment", bytes(8 * 2**20), FORM, 413),
    (INFER, gzip.compress(bytes(2**24)), {**JSON, "Content-Encoding": "gzip"}, 415),
    (INFER, b"[" * 400_000, JSON, 413),
    (INFER, b"[" * 400_000, {**JSON, "Inference-Header-Content-Length": "400000"}, 413),
    # And these are no requests of ours.
    (INFER, bytes(73 * 2**20), JSON, 413),
    (INFER, b"{}", {"Content-Type": "text/plain"}, 415),
    (INFER, b"{}", {**JSON, "Inference-Header-Content-Length": "-1"}, 413),
    ("v2/health/live", b"x", {}, 403),
    (INFER, None, {}, 403),
    ("v2/models/ois_encoder/infer", b"{}", JSON, 403),
    ("v2/models/ois_encode/infer", b"{}", JSON, 403),
]

#: Paths that are closed to GET.
CLOSED = (
    "v2/repository/index",
    "v2/systemsharedmemory/status",
    "v2/models/stats",
    "v2/models/ois_encoder",
    "v2/models/ois_segment/../../repository/index",
    "metrics",
    "",
)
