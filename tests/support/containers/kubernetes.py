"""Rules for the Kubernetes manifests beyond their schemas: what must fit together, and our own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

Document = dict[str, Any]

_WORKLOADS = ("Deployment", "StatefulSet")
#: Secrets that README.md creates.
SECRETS = {"ois-token", "ois-envoy", "ois-tls"}
_UNITS = {"Gi": 2**30, "Mi": 2**20}


def read(files: Mapping[str, str]) -> list[Document]:
    """All documents of all files."""
    return [one for text in files.values() for one in yaml.safe_load_all(text) if one is not None]


def lint(documents: list[Document]) -> list[str]:
    """The violations, as sentences."""
    return [
        *(problem for one in _of(documents, *_WORKLOADS) for problem in _pod(one)),
        *_services(documents),
        *_disruptions(documents),
        *_network(documents),
        *_autoscaling(documents),
        *_stateful(documents),
    ]


def _pod(workload: Document) -> Iterator[str]:
    name = workload["metadata"]["name"]
    spec = workload["spec"]
    labels = spec["template"]["metadata"]["labels"]
    pod = spec["template"]["spec"]
    if spec["selector"]["matchLabels"] != labels:
        yield f"{name}: its selector does not select its own pods"
    if not pod["securityContext"].get("runAsNonRoot"):
        yield f"{name}: may run as root"
    if pod["securityContext"].get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{name}: no seccomp profile"
    if pod.get("automountServiceAccountToken", True):
        yield f"{name}: gets a token of the cluster"
    volumes = {one["name"]: one for one in pod.get("volumes", [])}
    claims = {one["metadata"]["name"] for one in spec.get("volumeClaimTemplates", [])}
    for volume in volumes.values():
        secret = volume.get("secret", {}).get("secretName")
        if secret is not None and secret not in SECRETS:
            yield f"{name}: nobody creates the secret {secret}"
    for container in pod["containers"]:
        yield from _container(name, container, volumes, claims)
        wait = sum(map(int, re.findall(r"sleep['\s:a-z{]*?(\d+)", str(container["lifecycle"]))))
        if wait + 30 > pod.get("terminationGracePeriodSeconds", 30):
            yield f"{name}: is killed before its requests can end"


def _container(
    name: str, container: Document, volumes: Mapping[str, Any], claims: set[str]
) -> Iterator[str]:
    safe = container.get("securityContext", {})
    if not safe.get("readOnlyRootFilesystem"):
        yield f"{name}: can be written to"
    if safe.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{name}: keeps capabilities"
    if safe.get("allowPrivilegeEscalation", True):
        yield f"{name}: may gain privileges"
    for probe in ("readinessProbe", "livenessProbe"):
        if probe not in container:
            yield f"{name}: no {probe}"
    if "memory" not in container["resources"].get("limits", {}):
        yield f"{name}: its memory is not limited"
    if container["resources"]["limits"]["memory"] != container["resources"]["requests"]["memory"]:
        yield f"{name}: may lose memory that it was promised"
    if not re.search(r":[\w.-]+$", container["image"]) or container["image"].endswith(":latest"):
        yield f"{name}: its image is not pinned"
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes.keys() | claims:
            yield f"{name}: mounts {mount['name']}, which is no volume"
    for variable in container.get("env", []):
        if re.search(r"TOKEN$|PASSWORD", variable["name"]):
            yield f"{name}: a secret in its environment"
    variables = {one["name"]: one.get("value") for one in container.get("env", [])}
    cache = int(variables.get("OIS_CACHE_BYTES") or 0)
    if cache:
        size = volumes.get("shm", {}).get("emptyDir", {}).get("sizeLimit", "0Gi")
        if _bytes(size) < cache + 2**30:
            yield f"{name}: /dev/shm is too small for the feature store"
        if _bytes(container["resources"]["limits"]["memory"]) < _bytes(size) + 4 * 2**30:
            yield f"{name}: its memory is too small for /dev/shm and the server"


def _services(documents: list[Document]) -> Iterator[str]:
    for service in _of(documents, "Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        pods = [one for one in _of(documents, *_WORKLOADS) if _selects(spec["selector"], one)]
        if len(pods) != 1:
            yield f"service {name}: selects {len(pods)} workloads"
            continue
        ports = {port["name"] for port in _ports(pods[0])}
        for port in spec["ports"]:
            if port["targetPort"] not in ports:
                yield f"service {name}: {port['targetPort']} is no port of its pods"


def _disruptions(documents: list[Document]) -> Iterator[str]:
    for workload in _of(documents, *_WORKLOADS):
        budgets = [
            one
            for one in _of(documents, "PodDisruptionBudget")
            if _selects(one["spec"]["selector"]["matchLabels"], workload)
        ]
        if len(budgets) != 1:
            yield f"{workload['metadata']['name']}: {len(budgets)} disruption budgets"


def _network(documents: list[Document]) -> Iterator[str]:
    for workload in _of(documents, *_WORKLOADS):
        name = workload["metadata"]["name"]
        policies = [
            one
            for one in _of(documents, "NetworkPolicy")
            if _selects(one["spec"]["podSelector"]["matchLabels"], workload)
        ]
        if len(policies) != 1:
            yield f"{name}: {len(policies)} network policies"
            continue
        names = {port["name"] for port in _ports(workload)}
        for rule in policies[0]["spec"]["ingress"]:
            ports = {port["port"] for port in rule["ports"]}
            if not ports <= names:
                yield f"{name}: the network policy names {sorted(ports - names)}, which it lacks"
            private = ports & {"metrics", "stats"} or workload["kind"] == "StatefulSet"
            if private and not rule.get("from"):
                yield f"{name}: everyone reaches {sorted(ports)}"


def _autoscaling(documents: list[Document]) -> Iterator[str]:
    made = {
        rule["name"]["as"]
        for one in _of(documents, "ConfigMap")
        for rule in yaml.safe_load(one["data"]["rules.yaml"])["rules"]
    }
    for scaler in _of(documents, "HorizontalPodAutoscaler"):
        spec, name = scaler["spec"], scaler["metadata"]["name"]
        target = spec["scaleTargetRef"]
        found = [
            one
            for one in _of(documents, target["kind"])
            if one["metadata"]["name"] == target["name"]
        ]
        if len(found) != 1:
            yield f"autoscaler {name}: there is no {target['kind']} {target['name']}"
        elif "replicas" in found[0]["spec"]:
            yield f"autoscaler {name}: every apply would set the replicas back"
        if spec["minReplicas"] < 2:
            yield f"autoscaler {name}: a single replica may be left"
        for metric in spec["metrics"]:
            if metric["pods"]["metric"]["name"] not in made:
                yield f"autoscaler {name}: no rule makes {metric['pods']['metric']['name']}"


def _stateful(documents: list[Document]) -> Iterator[str]:
    for one in _of(documents, "StatefulSet"):
        name = one["metadata"]["name"]
        services = {
            service["metadata"]["name"]
            for service in _of(documents, "Service")
            if service["spec"].get("clusterIP") == "None"
        }
        if one["spec"]["serviceName"] not in services:
            yield f"{name}: no headless service gives its pods names"
        limits = one["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        if limits.get("nvidia.com/gpu") != "1":
            yield f"{name}: expected one GPU per replica"


def _of(documents: list[Document], *kinds: str) -> list[Document]:
    return [one for one in documents if one["kind"] in kinds]


def _selects(labels: Mapping[str, str], workload: Document) -> bool:
    return labels.items() <= workload["spec"]["template"]["metadata"]["labels"].items()


def _ports(workload: Document) -> list[Document]:
    ports: list[Document] = workload["spec"]["template"]["spec"]["containers"][0]["ports"]
    return ports


def _bytes(text: str) -> int:
    return int(text[:-2]) * _UNITS[text[-2:]]
