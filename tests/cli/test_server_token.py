"""Commands that get a server's address as an argument can use one that requires a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_cli.main import main
from support.wire_server import WireServer


@pytest.fixture
def server() -> Iterator[WireServer]:
    with WireServer() as server:
        server.token = "s3cret"
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:50] = 255
    for name, pixels in (("images", np.dstack([mask] * 3)), ("masks", mask)):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    np.save(tmp_path / "near.npy", np.linspace(1, 2, 60 * 80, dtype=np.float32).reshape(60, 80))
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "show rounds URL --image IMAGES/a.png --mask MASKS/a.png --clicks 1 -o HERE/r.png",
        "show compare URL --image IMAGES/a.png --mask MASKS/a.png -o HERE/c.png",
        "bench quality URL --data folders:IMAGES,MASKS --clicks 1 -o HERE/q.jsonl",
        "bench boxes URL --data folders:IMAGES,MASKS",
        "bench depth URL --pair IMAGES/a.png,HERE/near.npy --scenes 0",
    ],
)
def test_the_token_of_the_environment_is_sent(
    line: str,
    server: WireServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for word, place in (("IMAGES", "images"), ("MASKS", "masks"), ("HERE", ".")):
        line = line.replace(word, str(folder / place))
    argv = line.replace("URL", server.urls["http"]).split()
    monkeypatch.setenv("OIS_TOKEN", "wrong")
    assert main(argv) == 2
    assert "requires a token" in capsys.readouterr().err
    monkeypatch.setenv("OIS_TOKEN", "s3cret")
    assert main(argv) == 0, capsys.readouterr().err
