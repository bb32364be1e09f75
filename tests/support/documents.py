"""Code blocks of the documents, for the tests that run them.

A block runs unless the line before it says what it needs: `<!-- needs: a GPU -->`. Its `ois`
commands are then only parsed by the real command line, so that no option goes stale.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/*/README.md"),
        *ROOT.glob("deploy/*/README.md"),
    ]
)

_BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[^\n]+?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Block:
    """language: console, python, ...; needs: why it does not run here, or empty."""

    document: Path
    line: int
    language: str
    text: str
    needs: str

    @property
    def where(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each line that begins with `$ `; a trailing backslash joins lines."""
        joined = self.text.replace("\\\n", " ")
        lines = [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
        return [_words(line) for line in lines]


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        yield Block(document, line, match["language"], match["text"], match["needs"] or "")


def _words(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    return [word.removeprefix(".venv/bin/") for word in words]
