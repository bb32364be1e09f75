"""A lower floor never imports an upper one, and the client and the command stay light.

The imports are read from the source, so those inside functions count too.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Package -> what it may import of ours, itself aside. The table of the design document.
MAY_IMPORT = {
    "ois_client": set(),
    "ois_network": {"ois_client"},
    "ois_runtime": {"ois_client"},
    "ois_export": {"ois_network", "ois_runtime", "ois_client"},
    "ois_benchmarks": {"ois_export", "ois_network", "ois_runtime", "ois_client"},
    "ois_cli": {"ois_benchmarks", "ois_export", "ois_network", "ois_runtime", "ois_client"},
    "triton_models": {"ois_runtime", "ois_client"},
}
#: One file may import more than its package.
ALSO = {"runtime/ois_runtime/torch/engine.py": {"ois_network"}}

OURS = set(MAY_IMPORT)
HEAVY = {
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "safetensors",
    "scipy",
    "skimage",
    "torch",
    "transformers",
}


def imported(source: str, *, top_level_only: bool = False) -> set[str]:
    """Top-level names of all absolute imports, `import_module("...")` literals included."""
    nodes = list(ast.walk(ast.parse(source)))
    if top_level_only:
        nodes = _outside_functions(ast.parse(source))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and _called_name(node) in ("import_module", "__import__"):
            names.update(
                argument.value
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )
    return {name.split(".")[0] for name in names}


def _called_name(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _outside_functions(node: ast.AST) -> list[ast.AST]:
    """What runs when the module is imported; `if TYPE_CHECKING:` does not."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        found += [child, *_outside_functions(child)]
    return found


def violations(package: str, path: str, source: str) -> set[str]:
    """What the file at `path` (relative to the repository) imports and must not."""
    allowed = MAY_IMPORT[package] | ALSO.get(path, set()) | {package}
    found = (imported(source) & OURS) - allowed
    if package == "ois_client":
        found |= imported(source) & HEAVY
    if package == "ois_cli":
        found |= imported(source, top_level_only=True) & (HEAVY | OURS - {"ois_cli", "ois_client"})
    return found


def modules() -> list[tuple[str, Path]]:
    folders = {
        package: ROOT / package.removeprefix("ois_") / package
        for package in MAY_IMPORT
        if package.startswith("ois_")
    }
    folders["triton_models"] = ROOT / "triton_models"
    return [(package, path) for package, folder in folders.items() for path in folder.rglob("*.py")]


@pytest.mark.parametrize(
    ("package", "path"),
    modules(),
    ids=lambda value: value.relative_to(ROOT).as_posix() if isinstance(value, Path) else value,
)
def test_no_module_imports_an_upper_floor(package: str, path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    assert violations(package, relative, path.read_text(encoding="utf-8")) == set()


def module_name(path: Path) -> str:
    """`client/ois_client/wire/__init__.py` -> `ois_client.wire`."""
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def dependencies() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, inside functions too, but not for types."""
    paths = {module_name(path): path for package, path in modules() if package in OURS}
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        found[name] = set()
        for node in _all_but_types(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found[name].add(inner if inner in paths else node.module)
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
        found[name] &= paths.keys()
    return found


def _all_but_types(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from _all_but_types(child)


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(dependencies()).prepare()  # raises CycleError, which names the circle


def test_every_package_was_looked_at() -> None:
    assert {"ois_client", "ois_cli"} <= {package for package, _ in modules()}


@pytest.mark.parametrize(
    ("package", "path", "source", "expected"),
    [
        ("ois_client", "c.py", "import ois_runtime.engines.local", {"ois_runtime"}),
        ("ois_client", "c.py", "def f():\n    from ois_network import x", {"ois_network"}),
        ("ois_client", "c.py", "def f():\n    import torch.nn as nn", {"torch"}),
        (
            "ois_client",
            "c.py",
            "import importlib\nimportlib.import_module('onnxruntime')",
            {"onnxruntime"},
        ),
        ("ois_client", "c.py", "from . import errors\nimport numpy", set()),
        ("ois_network", "n.py", "from ois_runtime import ort", {"ois_runtime"}),
        (
            "ois_runtime",
            "runtime/ois_runtime/engines/onnx_runtime.py",
            "import ois_network",
            {"ois_network"},
        ),
        ("ois_runtime", "runtime/ois_runtime/torch/engine.py", "import ois_network", set()),
        ("ois_export", "e.py", "import ois_benchmarks", {"ois_benchmarks"}),
        ("ois_cli", "x.py", "import torch", {"torch"}),
        ("ois_cli", "x.py", "try:\n    import torch\nexcept ImportError: ...", {"torch"}),
        ("ois_cli", "x.py", "from ois_export import graph", {"ois_export"}),
        ("ois_cli", "x.py", "def f():\n    import torch, ois_export", set()),
        ("triton_models", "m.py", "import ois_export, ois_client", {"ois_export"}),
    ],
)
def test_the_check_finds_a_wrong_import(
    package: str, path: str, source: str, expected: set[str]
) -> None:
    assert violations(package, path, source) == expected


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import json, sys\n"
        "from ois_cli.main import main\n"
        "status = main(['--help'])\n"
        "print(json.dumps([status, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, loaded = json.loads(run.stdout.splitlines()[-1])
    assert status == 0
    assert HEAVY & set(loaded) == set()
    assert {name for name in loaded if name in OURS} == {"ois_cli", "ois_client"}
