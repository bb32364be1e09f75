"""Envoy's routes: `rules.py` as two virtual hosts, one for HTTP and one for gRPC.

Envoy takes the first route that matches. The routes of a host refuse with a reason, then pass on
what a request of ours can be, then refuse all the rest.
"""

from __future__ import annotations

import re
from typing import Any

from ois_client.wire import DIGEST_HEADER, TOKEN_HEADER
from ois_runtime.edge import rules
from ois_runtime.edge.settings import EdgeSettings

Json = dict[str, Any]

HTTP_CLUSTER = "ois_http"
GRPC_CLUSTER = "ois_grpc"
#: Names of filters that routes switch off. SHORT: allows hardly a body over HTTP, and
#: `rules.MAX_DESCRIPTION_BYTES` over gRPC. READ_MODEL and CHECK_MODEL: see `model_check.py`.
BUFFER, SHORT = "envoy.filters.http.buffer", "short"
READ_MODEL, CHECK_MODEL = "envoy.filters.http.grpc_field_extraction", "envoy.filters.http.rbac"
#: gRPC statuses.
PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE = 7, 8, 14
_UNIMPLEMENTED, _UNAUTHENTICATED = 12, 16

_OFF = {
    BUFFER: {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
        "disabled": True,
    },
    **{
        name: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
        for name in (SHORT, READ_MODEL, CHECK_MODEL)
    },
}
_NO_TOKEN = f"expecting header '{TOKEN_HEADER}' with the token"
_WRONG_TYPE = f"expecting one of the content types {', '.join(rules.CONTENT_TYPES)}"
_LARGEST = 2**62


def http_host(settings: EdgeSettings) -> Json:
    """HTTP/1.1: descriptions without a body, and infer requests whose length is known."""
    token = _token(settings)
    description = [_has(":path", rules.HTTP_DESCRIPTION)]
    get = [_has(":method", "GET"), _has("content-length", "0?")]
    infer = [_has(":path", rules.HTTP_INFER), _has(":method", "POST")]
    size, json = "content-length", "inference-header-content-length"
    too_large = {"start": str(rules.MAX_REQUEST_BYTES + 1), "end": str(_LARGEST)}
    binary = [_has(json, rules.JSON_LENGTH), _has(size, "[0-9]+")]
    only_json = [_lacks_any(json), _has(size, rules.JSON_LENGTH)]
    return _host(
        HTTP_CLUSTER,
        [
            *([_pass(HTTP_CLUSTER, [_has(":path", rules.HTTP_HEALTH), *get])] if token else []),
            *([_refuse(401, _NO_TOKEN, [_lacks(token)])] if token else []),
            _refuse(413, rules.TOO_LARGE, [*description, _has(size, "[0-9]{2,}|[2-9]")]),
            *(_refuse(415, rules.COMPRESSED, [*infer, one]) for one in _COMPRESSED),
            _refuse(415, _WRONG_TYPE, [*infer, _lacks(_TYPES)]),
            _refuse(413, rules.TOO_LARGE, [*infer, {"name": size, "range_match": too_large}]),
            _pass(HTTP_CLUSTER, [*description, *get, *_if(token)]),
            _pass(HTTP_CLUSTER, [*infer, *binary, *_if(token)]) | _without(SHORT),
            _pass(HTTP_CLUSTER, [*infer, *only_json, *_if(token)]) | _without(SHORT),
            _refuse(413, f"{rules.TOO_LARGE}, or its lengths are not stated", infer),
            _refuse(403, rules.CLOSED, []),
        ],
    )


def grpc_host(settings: EdgeSettings) -> Json:
    """HTTP/2: the calls of a client. Filters limit the length of its messages."""
    token = _token(settings)
    call = [_has(":method", "POST"), _has("content-type", r"application/grpc(\+proto)?")]
    health = [_has(":path", rules.GRPC_HEALTH), *call]
    more: Json = {"request_headers_to_remove": ["grpc-timeout"]}
    if token:
        # Triton reads this one, which could otherwise be another token than the one checked here.
        name, value = f"triton-grpc-protocol-{TOKEN_HEADER}", f"%REQ({TOKEN_HEADER})%"
        more["request_headers_to_add"] = [overwrite(name, value)]
    return (
        _host(
            GRPC_CLUSTER,
            [
                *(
                    _refuse(415, rules.COMPRESSED, [one], status=_UNIMPLEMENTED)
                    for one in _COMPRESSED
                ),
                *([_pass(GRPC_CLUSTER, health)] if token else []),
                *(
                    [_refuse(401, _NO_TOKEN, [_lacks(token)], status=_UNAUTHENTICATED)]
                    if token
                    else []
                ),
                _pass(GRPC_CLUSTER, [_has(":path", rules.GRPC_DESCRIPTION), *call, *_if(token)]),
                _pass(GRPC_CLUSTER, [_has(":path", rules.GRPC_INFER), *call, *_if(token)])
                | _without(SHORT),
                _refuse(403, rules.CLOSED, [], status=PERMISSION_DENIED),
            ],
        )
        | more
    )


def _host(name: str, routes: list[Json]) -> Json:
    return {"name": name, "domains": ["*"], "routes": routes}


def _pass(cluster: str, matchers: list[Json]) -> Json:
    """Send the request to the replica of its image, or to any if it names none."""
    retries = {
        # Both mean that the replica has not seen the request.
        "retry_on": "connect-failure,refused-stream",
        "num_retries": rules.ATTEMPTS - 1,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3"
                    ".PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 5,
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.050s"},
    }
    return {
        "match": {"prefix": "/", "headers": matchers},
        "route": {
            "cluster": cluster,
            # `ois serve` refuses the names of other machines, which web pages can choose.
            "host_rewrite_literal": "localhost",
            "timeout": f"{rules.ANSWER_TIMEOUT_S}s",
            "hash_policy": [{"header": {"header_name": DIGEST_HEADER}}],
            "retry_policy": retries,
        },
    }


def _refuse(code: int, text: str, matchers: list[Json], *, status: int | None = None) -> Json:
    """Answer at once, before any of the body is read. status: of gRPC."""
    route = {
        "match": {"prefix": "/", "headers": matchers},
        "direct_response": {"status": code, "body": {"inline_string": text}},
    }
    if status is None:
        return route | _without(BUFFER, SHORT)
    headers = {"response_headers_to_add": [overwrite("grpc-status", str(status))]}
    return route | headers | _without(BUFFER, SHORT, READ_MODEL, CHECK_MODEL)


def overwrite(name: str, value: str) -> Json:
    """A header that replaces those of its name."""
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _without(*names: str) -> Json:
    """Fields of a route that switch filters off."""
    return {"typed_per_filter_config": {name: _OFF[name] for name in names}}


# -- conditions on headers ------------------------------------------------------------------------


def _has(name: str, pattern: str) -> Json:
    """The condition that the whole header matches the pattern.

    A missing header is like an empty one, and a repeated one like its values joined by commas.
    """
    return {
        "name": name,
        "string_match": {"safe_regex": {"regex": pattern}},
        "treat_missing_header_as_empty": True,
    }


def _lacks(condition: Json) -> Json:
    return {**condition, "invert_match": True}


def _lacks_any(name: str) -> Json:
    return {"name": name, "present_match": False}


def _token(settings: EdgeSettings) -> Json:
    """The condition that a request has one of the tokens; {} without tokens."""
    tokens = "|".join(map(re.escape, settings.tokens))
    return _has(TOKEN_HEADER, tokens) if tokens else {}


def _if(condition: Json) -> list[Json]:
    return [condition] if condition else []


_TYPES = _has("content-type", "|".join(map(re.escape, rules.CONTENT_TYPES)))
#: Triton decompresses a body before it looks at the token: 1.5 MB of gzip become 4.7 GB.
_COMPRESSED = [_lacks(_has(name, "(identity)?")) for name in ("content-encoding", "grpc-encoding")]
