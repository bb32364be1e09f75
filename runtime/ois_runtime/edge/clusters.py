"""Envoy's clusters: the replicas, once for HTTP and once for gRPC.

Images are spread with Maglev, a consistent hash. Envoy's ring hash would not do: the number of a
replica's points on it depends on how many replicas there are, so when one of three is lost, 9 % of
all images change their place without need. With Maglev it is 0.02 %.

Both clusters hash the same names, so both protocols find an image's features at the same replica.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from ois_client.wire import TOKEN_HEADER
from ois_runtime.edge import rules
from ois_runtime.edge.click_check import click_check
from ois_runtime.edge.routes import GRPC_CLUSTER, HTTP_CLUSTER, Json, overwrite
from ois_runtime.edge.settings import EdgeSettings, Replica

#: Idle connections are closed after this time: a server that stops waits for them.
_IDLE_S = 3
_NO_LIMIT = 2**32 - 1


def clusters(replicas: Sequence[Replica], settings: EdgeSettings) -> list[Json]:
    """The two clusters of `replicas`. A replica that is no longer in the list is drained: requests
    that it has are answered, and it gets no new ones."""
    return [
        _cluster(HTTP_CLUSTER, [(one, one.http_port) for one in replicas], settings),
        _cluster(GRPC_CLUSTER, [(one, one.grpc_port) for one in replicas], settings),
    ]


def _cluster(name: str, targets: list[tuple[Replica, int]], settings: EdgeSettings) -> Json:
    protocol: Json = {"http_protocol_options": {}}
    if name == GRPC_CLUSTER:
        windows = {
            "initial_stream_window_size": 4 * 2**20,
            "initial_connection_window_size": 16 * 2**20,
        }
        protocol = {"http2_protocol_options": windows}
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        # Names are looked up again every 5 s, so a replica may get a new address.
        "type": "STRICT_DNS" if any(_is_name(one.host) for one, _ in targets) else "STATIC",
        "dns_lookup_family": "V4_PREFERRED",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [_endpoint(one, port) for one, port in targets]}],
        },
        "connect_timeout": f"{rules.CONNECT_TIMEOUT_S}s",
        "lb_policy": "MAGLEV",
        "common_lb_config": {
            "consistent_hashing_lb_config": {"hash_balance_factor": settings.balance_percent},
            # If no replica is healthy, all are tried: perhaps they are only busy.
            "healthy_panic_threshold": {"value": 1},
        },
        "health_checks": [_health_check(settings)],
        "ignore_health_on_host_removal": True,
        "outlier_detection": _OUTLIERS,
        "circuit_breakers": {
            "thresholds": [
                {
                    # Each worker thread has connections of its own, and keeps idle ones. At a limit
                    # of connections, a request over HTTP/1.1 whose thread has only busy ones is not
                    # refused but waits for one of them. Requests are limited; a connection has one.
                    "max_connections": _NO_LIMIT,
                    "max_pending_requests": settings.max_requests,
                    "max_requests": settings.max_requests,
                    "max_retries": 64,
                    "track_remaining": True,
                }
            ]
        },
        "per_connection_buffer_limit_bytes": 2**20,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3"
                ".HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{_IDLE_S}s"},
                "explicit_http_config": protocol,
            }
        },
    }


#: A replica whose connections fail twice in a row is left out for some seconds, until a health
#: check says more. Answers do not count, whatever they say: a replica that answers "overloaded" or
#: an error works, and clients could otherwise turn replicas off.
_OUTLIERS: Json = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 2,
    "enforcing_consecutive_local_origin_failure": 100,
    "enforcing_consecutive_5xx": 0,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
    "interval": "1s",
    "base_ejection_time": "5s",
    "max_ejection_time": "30s",
    "max_ejection_percent": 50,
}


def _endpoint(replica: Replica, port: int) -> Json:
    return {
        "endpoint": {
            "address": {"socket_address": {"address": replica.host, "port_value": port}},
            # Health is a click over HTTP, for gRPC too.
            "health_check_config": {"port_value": replica.http_port},
        },
        "metadata": {"filter_metadata": {"envoy.lb": {"hash_key": replica.name}}},
    }


def _health_check(settings: EdgeSettings) -> Json:
    interval = f"{settings.health_interval_s:g}s"
    request = click_check(*settings.probe)
    headers = {**request.headers, **({TOKEN_HEADER: settings.tokens[0]} if settings.tokens else {})}
    return {
        "timeout": f"{settings.health_timeout_s:g}s",
        "interval": interval,
        "no_traffic_interval": interval,
        "unhealthy_threshold": settings.unhealthy_after,
        "healthy_threshold": 1,
        # A connection that stays open would delay a replica that stops.
        "reuse_connection": False,
        "http_health_check": {
            "host": "localhost",
            "path": request.path,
            "method": "POST",
            "send": {"text": request.body.hex()},
            "request_headers_to_add": [overwrite(*header) for header in headers.items()],
            "expected_statuses": [{"start": "200", "end": "201"}],
            # Without these, one answer such as "overloaded" would end a replica's turn at once.
            "retriable_statuses": [{"start": "400", "end": "600"}],
            "codec_client_type": "HTTP1",
        },
    }


def _is_name(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
