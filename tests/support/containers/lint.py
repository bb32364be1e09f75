"""Rules for the Dockerfile and compose.yaml, checked without building or running anything.

Each `lint_` function returns the violations as sentences.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER_IN_IMAGE = "/opt/ois/docker/"


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    rest: str
    line: int


@dataclass(slots=True)
class Stage:
    """A build stage. base: an image, or the name of an earlier stage."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def last(self, word: str) -> Instruction | None:
        return next((one for one in reversed(self.instructions) if one.word == word), None)


@dataclass(frozen=True, slots=True)
class Dockerfile:
    arguments: dict[str, str]
    stages: dict[str, Stage]


def parse(text: str) -> Dockerfile:
    """Parse a Dockerfile. Joins continued lines and drops comments, also between those lines."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for instruction in _instructions(text):
        if instruction.word == "ARG" and stage is None:
            name, _, value = instruction.rest.partition("=")
            arguments[name] = value
        elif instruction.word == "FROM":
            base, _, name = re.split(r"\s+(as|AS)\s+", instruction.rest + " AS ")[:3]
            stage = Stage(name.removesuffix(" AS ").strip() or str(len(stages)), base.strip())
            stages[stage.name] = stage
        elif stage is not None:
            stage.instructions.append(instruction)
    return Dockerfile(arguments, stages)


def _instructions(text: str) -> list[Instruction]:
    found, pending, start = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        start = start if pending else number
        pending += line.strip().removesuffix("\\") if line.rstrip().endswith("\\") else line.strip()
        if not line.rstrip().endswith("\\"):
            word, _, rest = pending.partition(" ")
            found.append(Instruction(word.upper(), rest.strip(), start))
            pending = ""
    return found


def lint_dockerfile(text: str, root: Path, targets: tuple[str, ...] = ("cpu", "gpu")) -> list[str]:
    """The violations of a Dockerfile whose build context is `root`."""
    file = parse(text)
    problems = []
    for stage in file.stages.values():
        problems += _lint_base(stage, file)
        for instruction in stage.instructions:
            where = f"line {instruction.line}"
            if instruction.word == "ADD":
                problems.append(f"{where}: ADD; use COPY, which never downloads or unpacks")
            if instruction.word == "COPY":
                problems += [f"{where}: {one}" for one in _lint_copy(instruction, file, root)]
            if instruction.word == "RUN":
                problems += [f"{where}: {one}" for one in _lint_run(instruction.rest)]
            if instruction.word in ("ENV", "ARG") and re.search(
                r"(TOKEN|PASSWORD|SECRET)\w*=\S", instruction.rest, re.I
            ):
                problems.append(f"{where}: a secret in the image")
    for target in targets:
        problems += _lint_target(target, file, root)
    return problems


def _lint_base(stage: Stage, file: Dockerfile) -> list[str]:
    if stage.base in file.stages:
        return []
    base = re.sub(r"\$\{(\w+)\}", lambda name: file.arguments.get(name[1], ""), stage.base)
    _, _, tag = base.rpartition("/")[2].partition(":")
    if not re.search(r"\d\d", tag):
        return [f"stage {stage.name}: the base {base} is not pinned"]
    return []


def _lint_copy(instruction: Instruction, file: Dockerfile, root: Path) -> list[str]:
    words = shlex.split(instruction.rest)
    source_stage = next((w.split("=", 1)[1] for w in words if w.startswith("--from=")), None)
    if source_stage is not None:
        return [] if source_stage in file.stages else [f"no stage {source_stage} to copy from"]
    sources = [word for word in words if not word.startswith("--")][:-1]
    ignored = _not_ignored(root)
    problems = [f"{source} does not exist" for source in sources if not (root / source).exists()]
    problems += [
        f"{source} is left out by .dockerignore"
        for source in sources
        if not any(name.split("/")[0] == source for name in ignored)
    ]
    return problems


def _not_ignored(root: Path) -> list[str]:
    lines = (root / ".dockerignore").read_text().split()
    return [line[1:] for line in lines if line.startswith("!")]


def _lint_run(command: str) -> list[str]:
    problems = []
    if re.search(r"\b(curl|wget|git clone)\b", command):
        problems.append("RUN downloads from elsewhere than a package registry")
    if "apt-get install" in command:
        if "--no-install-recommends" not in command:
            problems.append("apt-get install without --no-install-recommends")
        if "rm -rf /var/lib/apt/lists" not in command:
            problems.append("apt's lists stay in the layer")
        if "apt-get update" not in command:
            problems.append("apt-get install without apt-get update in the same layer")
    return problems


def _lint_target(target: str, file: Dockerfile, root: Path) -> list[str]:
    stage = file.stages.get(target)
    if stage is None:
        return [f"there is no target {target}"]
    problems = []
    user = stage.last("USER")
    if user is None or re.fullmatch(r"(root|0)(:.*)?", user.rest):
        problems.append(f"target {target} runs as root")
    elif not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.rest):
        problems.append(f"target {target}: USER {user.rest} is not a number; Kubernetes needs one")
    health, entry = stage.last("HEALTHCHECK"), stage.last("ENTRYPOINT")
    if health is None or "CMD [" not in health.rest:
        problems.append(f"target {target} has no HEALTHCHECK")
    elif "--start-period" not in health.rest:
        problems.append(f"target {target}: HEALTHCHECK gives the server no time to start")
    if entry is None or not entry.rest.startswith("["):
        problems.append(f"target {target}: no ENTRYPOINT as a list, so SIGTERM does not reach it")
    stop = stage.last("STOPSIGNAL")
    if stop is None or stop.rest != "SIGTERM":
        problems.append(f"target {target}: STOPSIGNAL is not SIGTERM")
    for instruction in (health, entry):
        if instruction is not None and "[" in instruction.rest:
            words = json.loads(instruction.rest[instruction.rest.index("[") :])
            problems += _missing_files(words, root, f"target {target}")
    return problems


def _missing_files(words: list[str], root: Path, where: str) -> list[str]:
    problems = []
    for word in words:
        if not word.startswith(FOLDER_IN_IMAGE):
            continue
        path = root / "docker" / word.removeprefix(FOLDER_IN_IMAGE)
        if not path.is_file():
            problems.append(f"{where}: {word} does not exist")
        elif word == words[0] and not path.stat().st_mode & 0o111:
            problems.append(f"{where}: {word} is not executable")
    return problems


def lint_compose(text: str, dockerfile: str, root: Path) -> list[str]:
    """The violations of a compose.yaml that uses `dockerfile`."""
    stages = parse(dockerfile).stages
    problems: list[str] = []
    services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    for name, service in services.items():
        target = service.get("build", {}).get("target")
        if target not in stages:
            problems.append(f"{name}: no target {target} in the Dockerfile")
        if service.get("read_only") is not True:
            problems.append(f"{name}: the root file system can be written to")
        if service.get("cap_drop") != ["ALL"]:
            problems.append(f"{name}: keeps capabilities")
        if "no-new-privileges:true" not in service.get("security_opt", []):
            problems.append(f"{name}: may gain privileges")
        if service.get("privileged") or service.get("user") in ("root", "0"):
            problems.append(f"{name}: privileged")
        if service.get("init") is not True:
            problems.append(f"{name}: no init process reaps orphans")
        if not service.get("profiles"):
            problems.append(f"{name}: has no profile, so it always starts")
        tmp = [one for one in service.get("tmpfs", []) if one.startswith("/tmp:")]
        if not tmp or "exec" not in tmp[0].split(":")[1].split(","):
            problems.append(f"{name}: the server needs /tmp in memory with exec")
        problems += _missing_files(service.get("entrypoint", []), root, name)
        problems += [
            f"{name}: publishes {port} beyond this machine"
            for port in service.get("ports", [])
            if not str(port).startswith("127.0.0.1:")
        ]
        if service.get("entrypoint") is None:
            problems += _lint_memory(name, service)
    return problems


_UNITS = {"kb": 2**10, "mb": 2**20, "gb": 2**30}


def _lint_memory(name: str, service: dict[str, Any]) -> list[str]:
    """The feature store is in shared memory, of which Docker gives 64 MiB by default."""
    size = re.fullmatch(r"(\d+)(kb|mb|gb)", str(service.get("shm_size", "")))
    if size is None:
        return [f"{name}: no shm_size"]
    cache = int(service.get("environment", {}).get("OIS_CACHE_BYTES", 0))
    if int(size[1]) * _UNITS[size[2]] < cache + 2**28:
        return [f"{name}: shm_size {size[0]} is too small for a cache of {cache} bytes"]
    return []
