"""The methods of a figure: what the user names, how it is opened, and who fails."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl

import typer

from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from ois_benchmarks.contestants.client import PeerClient
    from ois_client.sessions.client import Client

PEER = "peer:"
_NAMED = re.compile(r"(?P<name>[^=:?/]+)=(?P<url>.+)", re.DOTALL)
_FILES = ("weights", "checkout")

Methods = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]URL...",
        help="The methods: local:ENGINES, torch:CHECKPOINT, a server's address, or peer:NAME, a "
        "contestant of `ois bench spc`, with its files as "
        "peer:NAME?weights=PATH&checkout=FOLDER. NAME is the title in the figure.",
        show_default=False,
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads, for local, torch and peer.")]


@dataclass(frozen=True, slots=True)
class Method:
    """name: the title. weights, checkout: files of a peer."""

    name: str
    url: str
    weights: Path | None = None
    checkout: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Method:
        """Read `[NAME=]URL`. Without a name, the address with the last part of its path.

        Raises `InvalidInput` for a peer's file that is not weights or checkout.
        """
        match = _NAMED.fullmatch(text)
        url = match["url"] if match else text
        files: dict[str, Path] = {}
        if url.startswith(PEER):
            url, _, query = url.partition("?")
            for key, value in parse_qsl(query, keep_blank_values=True):
                if key not in _FILES or not value:
                    raise InvalidInput(
                        f"got {key}={value} in {text!r}; expected weights=PATH or checkout=FOLDER"
                    )
                files[key] = Path(value)
        name = match["name"].strip() if match else _short(url)
        return cls(name, url, files.get("weights"), files.get("checkout"))

    def open(self, threads: int | None, token: str | None = None) -> Client | PeerClient:
        """Raises what `ois_benchmarks.quality.run.open_client` raises."""
        from ois_benchmarks.quality.run import open_client

        return open_client(
            self.url, threads=threads, weights=self.weights, checkout=self.checkout, token=token
        )


def parse_methods(texts: Sequence[str]) -> list[Method]:
    """Raises `InvalidInput` if two methods have one name."""
    methods = [Method.parse(text) for text in texts]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(
                f"got {names.count(name)} methods named {name!r}; give each a name of its own, "
                f"for example A={methods[names.index(name)].url}"
            )
    return methods


def _short(url: str) -> str:
    """`torch:runs/a/last.safetensors` -> `torch:last`; a server's address stays as it is."""
    scheme, colon, path = url.partition(":")
    if path.startswith("//"):
        return url
    last = Path(path.partition("?")[0]).name.removesuffix(".safetensors")
    return f"{scheme}{colon}{last}"
