"""Envoy's whole configuration: in one document, or with the replicas in a file that can change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ois_runtime.edge.clusters import clusters
from ois_runtime.edge.listeners import ADMIN_CLUSTER, address, listeners
from ois_runtime.edge.routes import Json
from ois_runtime.edge.settings import EdgeSettings, Listen, Replica


def whole(replicas: Sequence[Replica], settings: EdgeSettings) -> Json:
    """One document for `envoy --config-path`, with fixed replicas."""
    config = _bootstrap(settings)
    for cluster in clusters(replicas, settings):
        del cluster["@type"]
        config["static_resources"]["clusters"].append(cluster)
    return config


def with_file(file: Path, settings: EdgeSettings) -> Json:
    """The document for an Envoy that reads its replicas from `file`, again whenever a new file is
    moved to this place. `replica_file` is its content."""
    source = {"path": str(file), "watched_directory": {"path": str(file.parent)}}
    config = _bootstrap(settings)
    config["node"] = {"id": "ois", "cluster": "ois"}
    config["dynamic_resources"] = {
        "cds_config": {"path_config_source": source, "resource_api_version": "V3"}
    }
    return config


def replica_file(replicas: Sequence[Replica], settings: EdgeSettings, version: int) -> Json:
    """version: a number that differs from those of earlier files."""
    return {"version_info": str(version), "resources": clusters(replicas, settings)}


def _bootstrap(settings: EdgeSettings) -> Json:
    admin = (
        address(settings.admin)
        if isinstance(settings.admin, Listen)
        else {"pipe": {"path": str(settings.admin), "mode": 0o600}}
    )
    found: list[Json] = []
    if settings.stats is not None:
        endpoint = {"endpoint": {"address": admin}}
        found.append(
            {
                "name": ADMIN_CLUSTER,
                "connect_timeout": "1s",
                "load_assignment": {
                    "cluster_name": ADMIN_CLUSTER,
                    "endpoints": [{"lb_endpoints": [endpoint]}],
                },
            }
        )
    return {
        "admin": {"address": admin},
        "static_resources": {"listeners": listeners(settings), "clusters": found},
        "overload_manager": _overload_manager(settings),
        # Envoy's limit for patterns is smaller than our list of routes.
        "layered_runtime": {
            "layers": [{"name": "ois", "static_layer": {"re2.max_program_size.error_level": 65536}}]
        },
    }


def _overload_manager(settings: EdgeSettings) -> Json:
    """Refuse requests near the limit of memory, and connections above their number."""
    monitors = "type.googleapis.com/envoy.extensions.resource_monitors"
    heap, connections = (
        "envoy.resource_monitors.fixed_heap",
        "envoy.resource_monitors.global_downstream_max_connections",
    )

    def above(share: float) -> Json:
        return {"name": heap, "threshold": {"value": share}}

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": f"{monitors}.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": str(settings.memory_bytes),
                },
            },
            {
                "name": connections,
                "typed_config": {
                    "@type": f"{monitors}.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": str(settings.max_connections),
                },
            },
        ],
        "actions": [
            {"name": "envoy.overload_actions.shrink_heap", "triggers": [above(0.85)]},
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [above(0.9)]},
        ],
    }
