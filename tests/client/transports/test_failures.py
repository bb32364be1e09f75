"""Every failure of Triton, gRPC, HTTP or a proxy becomes one of our errors."""

import pytest

from ois_client.contract.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    EngineError,
    IncompatibleServer,
    InvalidImage,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
    UnknownImage,
)
from ois_client.transports.failures import error_for, status_of_http
from ois_client.transports.http import error_of

URL = "grpc://host:8001"


@pytest.mark.parametrize(
    ("status", "text", "kind", "said"),
    [
        # of our models
        ("NOT_FOUND", "OIS:UNKNOWN_IMAGE: gone", UnknownImage, "gone"),
        ("INTERNAL", "in ensemble 'x', OIS:ENGINE_ERROR: no", EngineError, "no"),
        # of Triton 2.51, as observed
        (
            "UNAVAILABLE",
            "This protocol is restricted, expecting header 'triton-grpc-protocol-authorization'",
            AccessDenied,
            "pass token=",
        ),
        ("PERMISSION_DENIED", "This API is restricted, expecting header 'a'", AccessDenied, "tok"),
        ("UNAVAILABLE", "Exceeds maximum queue size", ServerOverloaded, "later"),
        ("UNAVAILABLE", "Request timeout expired", ServerOverloaded, "later"),
        ("INTERNAL", "Stub process 'x_0_0' is not healthy.", ServerUnavailable, "x_0_0"),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", IncompatibleServer, "export"),
        ("NOT_FOUND", "'x' has no available versions", ServerUnavailable, "being started"),
        ("UNAVAILABLE", "Model x is not ready", ServerUnavailable, "being started"),
        (
            "INTERNAL",
            "Failed to increase the shared memory pool size for key 'k' ... use '--shm-size'",
            ServerOverloaded,
            "--shm-size",
        ),
        (
            "INVALID_ARGUMENT",
            "unexpected inference input 'IMAGE_SHAPE' for model 'ois_segment'",
            IncompatibleServer,
            "IMAGE_SHAPE",
        ),
        # of gRPC
        ("UNAVAILABLE", "failed to connect to all addresses", ServerUnavailable, "ois serve"),
        ("UNAVAILABLE", "Socket closed", ServerUnavailable, URL),
        ("INTERNAL", "Received RST_STREAM with error code 2", ServerUnavailable, URL),
        ("INTERNAL", "Exception deserializing response!", ServerUnavailable, "damaged"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded, "within 2.5 s"),
        ("CANCELLED", "Channel closed!", Cancelled, "nothing was changed"),
        ("UNIMPLEMENTED", "unknown service", IncompatibleServer, "unknown service"),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 5)", InvalidImage, "9"),
        ("RESOURCE_EXHAUSTED", "", ServerOverloaded, "RESOURCE_EXHAUSTED"),
        ("UNAUTHENTICATED", "", AccessDenied, "token="),
        ("UNKNOWN", "Unexpected <class 'X'>", OISError, "UNKNOWN: Unexpected"),
        ("DATA_LOSS", "{braces}", OISError, "{braces}"),
    ],
)
def test_every_failure_has_a_type_and_names_the_server(status, text, kind, said):
    error = error_for(status, text, url=URL, timeout_s=2.5)
    assert type(error) is kind
    assert said in str(error)
    assert URL in str(error) or text.find("OIS:") >= 0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, IncompatibleServer),
        (401, AccessDenied),
        (403, AccessDenied),
        (404, IncompatibleServer),
        (405, IncompatibleServer),
        (413, InvalidImage),
        (429, ServerOverloaded),
        (500, OISError),
        (501, IncompatibleServer),
        (502, ServerUnavailable),
        (503, ServerUnavailable),
        (504, DeadlineExceeded),
        (302, IncompatibleServer),
    ],
)
def test_an_error_page_of_a_proxy_is_classified_by_its_status(status, kind):
    reasons = {413: "Request Entity Too Large", 429: "Too Many Requests"}
    page = b"<html>nginx</html>"
    error = error_of(status, reasons.get(status, "Reason"), page, url=URL, timeout_s=1)
    assert type(error) is kind
    assert "html" not in str(error)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error": null}', b"\xff"])
def test_a_malformed_error_body_does_not_raise(body):
    assert isinstance(error_of(503, "", body, url=URL, timeout_s=1), ServerUnavailable)


def test_messages_are_one_short_line_without_a_traceback():
    text = "Failed to process\n\nTraceback (most recent call last):\n File '/srv/x.py'"
    message = str(error_for("INTERNAL", text, url=URL, timeout_s=1))
    assert "Failed to process" in message
    assert "/srv" not in message
    assert "\n" not in message
    assert len(str(error_for("INTERNAL", "x" * 10_000, url=URL, timeout_s=1))) < 500


def test_every_http_status_has_a_grpc_one():
    assert {status_of_http(status) for status in range(300, 600)} >= {"UNAVAILABLE", "INTERNAL"}
