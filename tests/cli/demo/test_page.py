"""The page's files fit together and load nothing from other hosts; Node tests their logic."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "cli" / "ois_cli" / "demo" / "page"
MODULES = sorted(PAGE.rglob("*.js"))
HTML = (PAGE / "index.html").read_text(encoding="utf-8")
FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())

#: The name of SVG elements; not an address that is loaded.
_NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_pages_logic() -> None:
    tests = sorted(map(str, (ROOT / "tests" / "cli" / "demo" / "page").glob("*.test.js")))
    run = subprocess.run(["node", "--test", *tests], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert re.search(r"^# pass [1-9]", run.stdout, re.MULTILINE)


def name_of(path: Path) -> str:
    return path.relative_to(PAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_comes_from_another_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace(_NAMESPACE, "")
    assert re.findall(r"\w+://|[\"'(]//", text) == []


def test_the_page_has_no_inline_code_or_style() -> None:
    assert re.findall(r"\sstyle=|\son\w+=|<style|<script(?![^>]*\ssrc=)", HTML) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_import_only_existing_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for names, other in re.findall(r"import (.+?) from \"(.+?)\"", text, re.DOTALL):
        imported = (path.parent / other).resolve()
        assert imported in FILES
        exported = imported.read_text(encoding="utf-8")
        if names.startswith("{"):
            for name in re.findall(r"(\w+)(?: as \w+)?(?=[,\s}])", names):
                if f"{name} as" in names or f"as {name}" not in names:
                    assert re.search(rf"export (async )?(function|const|class) {name}\b", exported)


def test_elements_that_the_code_uses_are_on_the_page() -> None:
    there = set(re.findall(r"\sid=\"([\w-]+)\"", HTML))
    asked = {
        name
        for path in MODULES
        for name in re.findall(r"\bget\(\"([\w-]+)\"\)", path.read_text(encoding="utf-8"))
    }
    assert asked <= there
    assert len(asked) > 30


def test_every_file_is_used() -> None:
    html = [(PAGE, name) for name in re.findall(r"(?:href|src)=\"([\w/.]+)\"", HTML)]
    modules = [
        (path.parent, name)
        for path in MODULES
        for name in re.findall(r" from \"(.+?)\"", path.read_text(encoding="utf-8"))
    ]
    used = {(folder / name).resolve() for folder, name in (*html, *modules)}
    unused = set(FILES) - used
    assert {name_of(path) for path in unused} == {"index.html", "package.json"}


def test_buttons_without_words_have_a_name() -> None:
    for attributes, inside in re.findall(r"<button([^>]*)>(.*?)</button>", HTML, re.DOTALL):
        words = re.sub(r"<[^>]*>", "", inside).strip()
        # This button gets its text when it is shown.
        assert words or "aria-label=" in attributes or 'id="trouble-drop"' in attributes
