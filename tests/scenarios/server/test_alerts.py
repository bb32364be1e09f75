"""The metrics that deploy/prometheus/alerts.yaml names are on a server's port."""

from __future__ import annotations

import re

import yaml

from ois_client import Client
from ois_runtime.embedded.server import EmbeddedServer
from support.documents import ROOT
from support.server.calls import eventually, get
from support.server.players import pixels


def test_a_server_has_the_metrics_of_the_alerts(server: EmbeddedServer) -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    text = " ".join(rule["expr"] for rule in groups[0]["rules"])
    names = set(re.findall(r"\b(?:ois|nv)_\w+(?=[\[{])", text))
    assert len(names) > 5
    with Client(server.grpc_url) as client:
        session = client.open(pixels(8300))
        for _ in range(2):
            session.click(40, 40)

    def missing() -> set[str]:
        lines = get(str(server.metrics_url)).decode().splitlines()
        return names - {re.split(r"[{ ]", line)[0] for line in lines}

    assert not eventually(missing, lambda left: not left)
