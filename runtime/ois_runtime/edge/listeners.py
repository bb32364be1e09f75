"""Envoy's listeners: limits on connections and headers, TLS, and the filters before the routes."""

from __future__ import annotations

from ois_client.wire import DIGEST_HEADER
from ois_runtime.edge import rules
from ois_runtime.edge.model_check import model_filters
from ois_runtime.edge.routes import (
    BUFFER,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    SHORT,
    UNAVAILABLE,
    Json,
    grpc_host,
    http_host,
    overwrite,
)
from ois_runtime.edge.settings import EdgeSettings, Listen

ADMIN_CLUSTER = "admin"

_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_MAX_HEADER_KB = 16
_MAX_HEADERS = 64
#: A picture of 64 MiB needs five minutes at 2 Mbit/s.
_SEND_TIMEOUT_S = 300


def listeners(settings: EdgeSettings) -> list[Json]:
    found = [
        _listener("http", settings.http, _http_manager(settings), settings, "http/1.1"),
        _listener("grpc", settings.grpc, _grpc_manager(settings), settings, "h2"),
    ]
    if settings.stats is not None:
        found.append(_listener("stats", settings.stats, _stats_manager(), None, ""))
    return found


def address(listen: Listen) -> Json:
    return {"socket_address": {"address": listen.host, "port_value": listen.port}}


def _listener(
    name: str, listen: Listen, manager: Json, settings: EdgeSettings | None, protocol: str
) -> Json:
    """settings: for TLS; None never has it."""
    chain: Json = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
                    **manager,
                },
            }
        ]
    }
    if settings is not None and settings.certificate is not None:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
                ".DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": [protocol],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(settings.certificate)},
                            "private_key": {"filename": str(settings.key)},
                        }
                    ],
                },
            },
        }
        chain["transport_socket_connect_timeout"] = "10s"
    return {
        "name": name,
        "address": address(listen),
        # Otherwise a second Envoy could share the port without an error.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": 2**20,
        "filter_chains": [chain],
    }


# -- what strangers talk to -----------------------------------------------------------------------


def _http_manager(settings: EdgeSettings) -> Json:
    return _edge_manager("http", http_host(settings), settings, [], short=1) | {
        "codec_type": "HTTP1",
        # Errors as Triton writes them, so that clients show the reason.
        "local_reply_config": {
            "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
            "mappers": _replies(),
        },
    }


def _grpc_manager(settings: EdgeSettings) -> Json:
    short = rules.MAX_DESCRIPTION_BYTES
    return _edge_manager("grpc", grpc_host(settings), settings, model_filters(), short=short) | {
        "codec_type": "HTTP2",
        "http2_protocol_options": {
            "max_concurrent_streams": 128,
            "initial_stream_window_size": 4 * 2**20,
            "initial_connection_window_size": 16 * 2**20,
        },
        "local_reply_config": {"mappers": _replies()},
    }


def _edge_manager(
    name: str, host: Json, settings: EdgeSettings, checks: list[Json], *, short: int
) -> Json:
    """checks: filters that look into a request whose size is accepted. short: bytes that the body
    of a description request may have; Envoy's least is 1."""
    largest = {"max_request_bytes": rules.MAX_REQUEST_BYTES}
    return {
        "stat_prefix": name,
        "server_name": "ois",
        "generate_request_id": False,
        "use_remote_address": True,
        "skip_xff_append": True,
        # Paths are compared as they were sent, so that nothing can be hidden in them.
        "normalize_path": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": _MAX_HEADER_KB,
        "request_headers_timeout": "10s",
        "request_timeout": f"{_SEND_TIMEOUT_S}s",
        "stream_idle_timeout": f"{rules.ANSWER_TIMEOUT_S + 10}s",
        # Time for requests in progress when Envoy drains.
        "drain_timeout": "5s",
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "max_headers_count": _MAX_HEADERS,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http_filters": [
            _filter("header_mutation", "HeaderMutation", _WITHOUT_ENVOYS_HEADERS),
            _filter("body_size_limit", "BodySizeLimit", {"max_request_bytes": short}, name=SHORT),
            # A replica gets a request when all of it is here. The filter does not count the part
            # that arrives last, so its limit is not the limit of a request.
            _filter("body_size_limit", "BodySizeLimit", largest),
            _filter("buffer", "Buffer", largest, name=BUFFER),
            *checks,
            _filter("router", "Router", {"suppress_envoy_headers": True}),
        ],
        "route_config": {
            "name": name,
            "virtual_hosts": [host],
            "validate_clusters": False,  # they come from another file if they can change
        },
        **({"access_log": [_access_log(settings.access_log)]} if settings.access_log else {}),
    }


#: With headers like x-envoy-retry-on, a client could have its requests sent to one replica after
#: another, which `rules.ATTEMPTS` forbids. Envoy itself removes them only from clients that it
#: takes for external.
_WITHOUT_ENVOYS_HEADERS: Json = {
    "mutations": {
        "request_mutations": [{"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}}]
    }
}


def _filter(package: str, kind: str, config: Json, *, name: str = "") -> Json:
    """name: by which routes refer to the filter."""
    return {
        "name": name or f"envoy.filters.http.{package}",
        "typed_config": {"@type": f"{_FILTERS}.http.{package}.v3.{kind}", **config},
    }


def _replies() -> list[Json]:
    """What Envoy says when it refuses a body, or when no replica answers."""

    def reply(condition: Json, text: str, status: int) -> Json:
        return {
            "filter": condition,
            "body": {"inline_string": text},
            "headers_to_add": [overwrite("grpc-status", str(status))],
        }

    def flags(*names: str) -> Json:
        return {"response_flag_filter": {"flags": list(names)}}

    def code(number: int) -> Json:
        value = {"default_value": number, "runtime_key": "none"}
        return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}

    return [
        reply(flags("UO", "OM"), "too many requests are in progress", RESOURCE_EXHAUSTED),
        reply(
            flags("UH", "UF", "UC", "UT", "UR", "LR", "NC", "URX"), rules.NO_REPLICA, UNAVAILABLE
        ),
        reply(code(413), rules.TOO_LARGE, RESOURCE_EXHAUSTED),
        reply(code(403), rules.CLOSED, PERMISSION_DENIED),
    ]


def _access_log(path: str) -> Json:
    line = (
        '%START_TIME% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% "%REQ(:METHOD)% %REQ(:PATH)%" '
        f"%RESPONSE_CODE% %DURATION% %RESPONSE_FLAGS% image=%REQ({DIGEST_HEADER})% "
        "replica=%UPSTREAM_HOST% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT%\n"
    )
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"text_format_source": {"inline_string": line}},
        },
    }


# -- for probes and monitoring --------------------------------------------------------------------


def _stats_manager() -> Json:
    """`/ready` and Envoy's metrics, and nothing else of its administration."""

    def route(path: str) -> Json:
        get = {"name": ":method", "string_match": {"exact": "GET"}}
        return {
            "match": {"path": path, "headers": [get]},
            "route": {"cluster": ADMIN_CLUSTER, "prefix_rewrite": path},
        }

    host = {
        "name": "stats",
        "domains": ["*"],
        "routes": [route("/ready"), route("/stats/prometheus")],
    }
    return {
        "stat_prefix": "stats",
        "codec_type": "HTTP1",
        "http_filters": [_filter("router", "Router", {})],
        "route_config": {"name": "stats", "virtual_hosts": [host]},
    }
