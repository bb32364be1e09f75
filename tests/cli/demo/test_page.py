"""The page's files: they fit together, need nothing from elsewhere, and their logic is tested."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "cli" / "ois_cli" / "demo" / "page"
MODULES = sorted(PAGE.glob("*.js"))
HTML = (PAGE / "index.html").read_text(encoding="utf-8")
FILES = {path.name for path in PAGE.iterdir()}

#: A name for elements of SVG, which is no address.
_NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_pages_logic() -> None:
    tests = sorted(map(str, (ROOT / "tests" / "cli" / "demo" / "page").glob("*.test.js")))
    run = subprocess.run(["node", "--test", *tests], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert re.search(r"^# pass [1-9]", run.stdout, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(PAGE.iterdir()), ids=lambda path: path.name)
def test_nothing_comes_from_another_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace(_NAMESPACE, "")
    assert re.findall(r"\w+://|[\"'(]//", text) == []


def test_the_page_has_no_code_or_style_that_its_policy_forbids() -> None:
    assert re.findall(r"\sstyle=|\son\w+=|<style|<script(?![^>]*\ssrc=)", HTML) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_modules_import_only_what_is_there(path: Path) -> None:
    """And only names that the other module exports."""
    text = path.read_text(encoding="utf-8")
    for names, other in re.findall(r"import (.+?) from \"\./(.+?)\"", text, re.DOTALL):
        assert other in FILES
        exported = (PAGE / other).read_text(encoding="utf-8")
        if names.startswith("{"):
            for name in re.findall(r"(\w+)(?: as \w+)?(?=[,\s}])", names):
                if f"{name} as" in names or f"as {name}" not in names:
                    assert re.search(rf"export (async )?(function|const|class) {name}\b", exported)


def test_elements_that_the_code_asks_for_are_on_the_page() -> None:
    there = set(re.findall(r"\sid=\"([\w-]+)\"", HTML))
    asked = {
        name
        for path in MODULES
        for name in re.findall(r"\bget\(\"([\w-]+)\"\)", path.read_text(encoding="utf-8"))
    }
    assert asked <= there
    assert len(asked) > 30


def test_every_module_is_loaded() -> None:
    text = HTML + "".join(path.read_text(encoding="utf-8") for path in MODULES)
    assert [path.name for path in MODULES if f'"{path.name}"' not in text.replace("./", "")] == []


def test_buttons_without_words_have_a_name() -> None:
    for attributes, inside in re.findall(r"<button([^>]*)>(.*?)</button>", HTML, re.DOTALL):
        words = re.sub(r"<[^>]*>", "", inside).strip()
        # the one button without either gets its words when it is shown
        assert words or "aria-label=" in attributes or 'id="trouble-drop"' in attributes
