"""`ois encode` and `ois annotate` on the real server: one encode per image, the same masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ois_cli.main import main
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import statistics
from support.server.players import pixels


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_annotate_after_encode_encodes_nothing_and_equals_the_engines_in_process(
    server: EmbeddedServer, engines: Path, tmp_path: Path, protocol: str
) -> None:
    url = getattr(server, f"{protocol}_url")
    names = [f"{n}.png" for n in range(3)]
    for n, name in enumerate(names):
        Image.fromarray(pixels(9000 + n + 10 * (protocol == "http"))).save(tmp_path / name)
    lines: list[dict[str, Any]] = [
        {"image": name, "points": [[10 * n + 5, 20], [90, 60]], "labels": [1, n % 2]}
        for n, name in enumerate([*names, *names])
    ]
    clicks = tmp_path / "clicks.jsonl"
    clicks.write_text("\n".join(map(json.dumps, lines)))
    before = statistics(server)["ois_encoder"]
    assert main(["encode", str(tmp_path), "--url", url]) == 0
    assert statistics(server)["ois_encoder"] == before + 3
    found = []
    for address in (url, f"local:{engines}"):
        out = tmp_path / "out.json"
        assert main(["annotate", str(clicks), "-o", str(out), "--url", address, "--overwrite"]) == 0
        result = json.loads(out.read_text())
        found.append((result["images"], result["annotations"]))
    assert statistics(server)["ois_encoder"] == before + 3
    assert len(found[0][1]) == 6
    assert found[0] == found[1]
