"""Every command and every block of Python in the documents works as it is printed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from ois_cli.main import app, main
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.documents import DOCUMENTS, ROOT, Block, blocks

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
COMMANDS = [(block, words) for block in BLOCKS for words in block.commands()]
#: Programs that only blocks with a `needs` line may use: none of them is ours.
FOREIGN = {
    "docker",
    "kubectl",
    "curl",
    "cvat-cli",
    "nuctl",
    "label-studio",
    "napari",
    "git",
    "trtexec",
    "torchrun",
    "perf_analyzer",
    "cd",
    "export",
    "bash",
    "ssh",
}


def _names(pairs: list[tuple[Block, list[str]]]) -> list[str]:
    return [f"{block.where} {' '.join(words[:3])}" for block, words in pairs]


@pytest.mark.parametrize(("block", "words"), COMMANDS, ids=_names(COMMANDS))
def test_commands_exist(block: Block, words: list[str]) -> None:
    words = [word for word in words if not re.match(r"[A-Z_]+=", word)]  # VARIABLE=value
    program, arguments = words[0], words[1:]
    if program == "ois":
        _parse(arguments)
    elif program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program in ("python", "python3"):
        if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]) is not None, arguments
        else:
            assert (ROOT / arguments[0]).is_file(), arguments
    elif program == "pip":
        _check_extras(arguments)
    else:
        assert program in FOREIGN, f"{block.where}: what is {program}?"
        assert block.needs, f"{block.where}: say what it needs"


def _parse(arguments: list[str]) -> None:
    """As the command line would, up to running the command."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"ois {' '.join(arguments)}"
        command = command.commands[rest.pop(0)]
    command.make_context(command.name, rest)


def _check_extras(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"ois-deploy\[([\w,]+)\]|\.\[([\w,]+)\]", " ".join(arguments)):
        names = "".join(extras).split(",")
        assert set(names) <= set(project["optional-dependencies"]), names


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint's engines."""
    folder = tmp_path_factory.mktemp("documents") / "engines" / "ois-photo-cpu"
    checkpoint = ROOT / "models" / "ois-photo.safetensors"
    assert (
        main(["export", str(checkpoint), "--target", "cpu", "--output", str(folder), "--no-region"])
        == 0
    )
    return folder


@pytest.fixture(scope="session")
def server(engines: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(engines, ServerOptions(), log=lambda _line: None) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, engines: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the documents take for granted: a photograph, the checkpoint, its engines."""
    (tmp_path / "engines").symlink_to(engines.parent)
    (tmp_path / "models").symlink_to(ROOT / "models")
    photos = ROOT / "export" / "ois_export" / "photos"
    shutil.copy(photos / "coffee.jpg", tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    for photo in photos.glob("*.jpg"):
        shutil.copy(photo, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _runnable(language: str) -> list[Path]:
    return [
        document
        for document in DOCUMENTS
        if any(b.language == language and not b.needs for b in blocks(document))
    ]


@pytest.mark.parametrize("document", _runnable("console"), ids=lambda path: path.stem)
@pytest.mark.usefixtures("folder")
def test_commands_run(document: Path, server: EmbeddedServer) -> None:
    for block in blocks(document):
        if block.language != "console" or block.needs:
            continue
        for words in block.commands():
            if words[0] == "ois":
                arguments = [_on(server, word) for word in words[1:]]
                assert main(arguments) == 0, f"{block.where}: ois {' '.join(words[1:])}"


@pytest.mark.parametrize("document", _runnable("python"), ids=lambda path: path.stem)
@pytest.mark.usefixtures("folder")
def test_python_runs(document: Path, server: EmbeddedServer) -> None:
    """Blocks of a document share their names, as a reader's session would."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(document):
        if block.language == "python" and not block.needs:
            source = _on(server, "\n" * block.line + block.text)
            exec(compile(source, str(block.document), "exec"), names)


def _on(server: EmbeddedServer, text: str) -> str:
    """The documents' ports, replaced by those of the server that runs here."""
    replaced = text.replace("grpc://127.0.0.1:8001", server.grpc_url)
    replaced = replaced.replace("http://127.0.0.1:8000", server.http_url)
    replaced = replaced.replace("127.0.0.1:8001", server.grpc_url.removeprefix("grpc://"))
    return replaced.replace(', token="..."', "")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / unquote(path)).resolve() if path else document
        assert found.exists(), f"{document.name}: {target}"
        assert os.path.commonpath([found, ROOT]) == str(ROOT), target
        if anchor:
            assert anchor in _anchors(found), f"{document.name}: {target}"


def _anchors(document: Path) -> set[str]:
    """GitHub's: lower case, spaces to hyphens, punctuation dropped."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_api_reference_builds(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    from reference import build

    build(tmp_path, ("ois_client", "ois_runtime.serving"))
    page = (tmp_path / "ois_client.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("AsyncClient", "OISPredictor", "superseded"))
    assert (tmp_path / "ois_client" / "contract" / "geometry.html").is_file()
    assert (tmp_path / "ois_runtime" / "serving" / "segment_model.html").is_file()
