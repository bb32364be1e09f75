"""`ois bench quality` gives the same result through a server as in process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ois_cli.main import main
from ois_runtime.embedded.server import EmbeddedServer


def test_quality_over_grpc_equals_quality_in_process(
    engines: Path, server: EmbeddedServer, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for name, radius in (("a", 9), ("b", 15)):
        y, x = np.mgrid[:60, :90]
        mask = np.hypot(x - 40, y - 28) < radius
        pixels = rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)
        for folder, picture in (("img", pixels), ("gt", mask.astype(np.uint8) * 255)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{name}.png")
    documents = []
    for place, where in (("a", f"local:{engines}"), ("b", server.grpc_url)):
        arguments = ["bench", "quality", where, "--data", f"davis:{tmp_path}", "--clicks", "3",
                     "--output", str(tmp_path / f"{place}.jsonl")]  # fmt: skip
        assert main(arguments) == 0
        documents.append(json.loads((tmp_path / f"{place}.json").read_text()))
    here, there = documents
    assert here["metrics"]["miou1"]["value"] > 0.1
    assert there["metrics"] == here["metrics"]
    assert there["dataset"] == here["dataset"]
    assert here["dataset"]["name"] == "DAVIS, 2 frames"  # not DAVIS345, which has other frames
