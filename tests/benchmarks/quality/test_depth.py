"""`ois bench depth`: the order of a depth map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_benchmarks.quality.depth import agreement, read_inverse_depth
from ois_cli.main import main
from ois_client.contract.errors import InvalidInput
from support.tiny_engines import write_engines

TRUTH = np.linspace(1, 5, 48 * 64, dtype=np.float32).reshape(48, 64)


def test_only_the_order_counts() -> None:
    assert agreement(TRUTH**3, TRUTH)[0] == 1
    assert agreement(-TRUTH, TRUTH)[0] == 0
    noise = np.random.default_rng(0).random(TRUTH.shape, dtype=np.float32)
    chance, pairs = agreement(noise, TRUTH)
    assert abs(chance - 0.5) < 0.03
    assert pairs > 80_000


def test_unknown_pixels_are_left_out() -> None:
    holes = TRUTH.copy()
    holes[:, :20] = np.nan
    holes[:, 20:30] = 0
    wrong = np.where(np.nan_to_num(holes) > 0, TRUTH, -TRUTH)
    assert agreement(wrong, holes)[0] == 1
    with pytest.raises(InvalidInput, match="same everywhere"):
        agreement(TRUTH, np.ones_like(TRUTH))
    with pytest.raises(InvalidInput, match="fewer than two"):
        agreement(TRUTH, np.zeros_like(TRUTH))


def test_depths_are_read_from_arrays_and_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", TRUTH)
    np.savez(tmp_path / "b.npz", disparity=TRUTH)
    Image.fromarray((TRUTH * 40).astype(np.uint8)).save(tmp_path / "c.png")
    assert np.array_equal(read_inverse_depth(tmp_path / "a.npy"), TRUTH)
    assert np.array_equal(read_inverse_depth(tmp_path / "b.npz"), TRUTH)
    assert read_inverse_depth(tmp_path / "c.png").shape == TRUTH.shape
    (tmp_path / "d.png").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="cannot read the depth"):
        read_inverse_depth(tmp_path / "d.png")
    np.save(tmp_path / "e.npy", np.zeros(3))
    with pytest.raises(InvalidInput, match=r"shape \(3,\)"):
        read_inverse_depth(tmp_path / "e.npy")


def test_the_command_measures_scenes_and_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = write_engines(tmp_path / "engines", trained=True)
    np.save(tmp_path / "truth.npy", TRUTH)
    Image.fromarray(np.full((48, 64, 3), 99, dtype=np.uint8)).save(tmp_path / "a.png")
    result = tmp_path / "depth.json"
    pair = f"{tmp_path / 'a.png'},{tmp_path / 'truth.npy'}"
    command = ["bench", "depth", f"local:{engines}", "--pair", pair, "--scenes", "2"]
    assert main([*command, "-o", str(result)]) == 0
    rows = json.loads(result.read_text())["rows"]
    assert [row["name"] for row in rows] == ["a.png", "2 held-out scenes"]
    assert all(0 <= row["agreement"] <= 1 for row in rows)
    assert "pairs in the right order" in capsys.readouterr().out
    assert main([*command[:3], "--pair", "alone"]) == 2
    assert "expected IMAGE,DISPARITY" in capsys.readouterr().err
