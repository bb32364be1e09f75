"""`ois train` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_cli.main import main
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_network.initialise import build
from support.network_scenes import MICRO

RECIPE = """
network = "tiny"
bf16 = false
frozen = ["encoder", "depth_head"]
[[stages]]
longest = 56
images = 1
steps = 2
[augment]
on = false
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    micro = MICRO.replace(name="tiny")
    save_checkpoint(build(micro), tmp_path / "start.safetensors", trained=False)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for kind in ("img", "gt"):
            (tmp_path / "davis" / kind).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "davis/img" / f"{name}.jpg")
        mask = np.zeros((40, 60), dtype=np.uint8)
        mask[10:30, 15:45] = 255
        Image.fromarray(mask).save(tmp_path / "davis/gt" / f"{name}.png")
    return tmp_path


def command(folder: Path, *more: str) -> list[str]:
    return ["train", str(folder / "recipe.toml"), "-o", str(folder / "run"),
            "--weights", str(folder / "start.safetensors"), "--workers", "0", "--threads", "1",
            *more]  # fmt: skip


def test_train_stop_and_resume(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(folder, "--steps", "1")) == 0
    assert main(command(folder, "--resume", "--json")) == 0
    output = capsys.readouterr().out
    result = json.loads(output[output.index("{") :])
    checkpoint = load_checkpoint(result["checkpoint"])
    assert checkpoint.trained
    assert checkpoint.metadata["training"]["steps"] == 2
    assert checkpoint.metadata["training"]["data"] == "procedural scenes"


def test_train_on_pairs_with_cached_features(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", f"davis:{folder / 'davis'}", "--cache-features", str(folder / "cache")]
    assert main(command(folder, *data)) == 0
    assert "2 pairs" in capsys.readouterr().err
    assert len(list((folder / "cache").glob("*.safetensors"))) == 2


def test_train_on_a_mixture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", f"3*davis:{folder / 'davis'}", "--data", "scenes"]
    assert main(command(folder, *data)) == 0
    assert "3 * DAVIS" in capsys.readouterr().err
    metadata = load_checkpoint(folder / "run" / "last.safetensors").metadata
    assert metadata["training"]["data"].endswith("+ 1 * procedural scenes")


def test_train_without_a_part(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = ["--without", "order,dense", "--change", "fused_levels=4"]
    assert main(command(folder, *without, "--steps", "1")) == 0
    output = capsys.readouterr().err
    assert "order_attention=False, dense=False, fused_levels=[4]" in output.replace("\n", " ")
    assert main(command(folder, "--resume")) == 2
    assert "network_changes.dense: False, None" in capsys.readouterr().err.replace("\n", " ")
    assert main(command(folder, *without, "--resume")) == 0
    checkpoint = load_checkpoint(folder / "run" / "last.safetensors")
    start = load_checkpoint(folder / "start.safetensors")
    expected = start.config.replace(order_attention=False, dense=False, fused_levels=(4,))
    assert checkpoint.config == expected
    assert checkpoint.metadata["training"]["recipe"]["network_changes"] == {
        "order_attention": False, "dense": False, "fused_levels": [4]
    }  # fmt: skip
    encoder = checkpoint.network.encoder.state_dict()
    for name, value in start.network.encoder.state_dict().items():
        assert encoder[name].equal(value), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--without", "ordr"], "'ordr' to leave out; expected some of order, object"),
        (["--change", "longest=14"], "'longest', which would change encoder or heads"),
        (["--change", "dense=0"], "expected dense=true or dense=false"),
        (["--change", "dense"], "expected FIELD=VALUE"),
        (["--change", "depth_blocks=2"], "needs depth_encoder"),
        (["--change", "depth_blocks=two"], "'depth_blocks' is 'two'"),
        (["--change", "dense=true", "--without", "dense"], "expected one of them"),
        (["--data", "coco"], "hqseg44k:ROOT"),
        (["--data", "davis:/nowhere"], "do not exist"),
        (["--data", "hqseg44k:/nowhere"], "lacks"),
        (["--resume"], "no run to resume"),
        (["--cache-features", "cache"], "in which no image repeats"),
        (["--data", "x*scenes"], "a number before *"),
        (["--data", "0*scenes", "--data", "scenes"], "expected positive numbers"),
        (["--data", "cutouts:one"], "cutouts:FOLDER,PHOTOGRAPHS"),
        (["--data", "photo:/nowhere"], "lacks encoder.onnx, sam.onnx, photographs, cutouts"),
    ],
)
def test_mistakes_are_reported(
    folder: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(folder, *more)) == 2
    assert message in capsys.readouterr().err


def test_frozen_parts_need_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(folder / "recipe.toml"), "-o", str(folder / "run")]) == 2
    assert "--weights" in capsys.readouterr().err
    assert main(["train", "paper", "-o", str(folder / "run"),
                 "--data", f"davis:{folder / 'davis'}"]) == 2  # fmt: skip
    assert "--weights" in capsys.readouterr().err


def test_epochs_need_a_data_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.replace("steps = 2", "epochs = 15"))
    assert main(command(folder)) == 2
    assert "procedural scenes are endless" in capsys.readouterr().err


def test_weights_of_another_size_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(build(MICRO), folder / "start.safetensors", trained=False)
    assert main(command(folder)) == 2
    assert "of a micro network; expected" in capsys.readouterr().err


def test_no_option_is_taken_for_one_of_torchrun() -> None:
    """It parses the whole command line, and accepts abbreviations of its own options."""
    import typer
    from torch.distributed.run import get_args_parser

    from ois_cli.train import register

    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    train = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    names = [name for option in train.params for name in option.opts if name.startswith("-")]
    assert "--weights" in names
    line = ["--nproc-per-node", "2", "-m", "ois_cli.main", "train", "tiny", *names]
    assert get_args_parser().parse_args(line).training_script_args == line[4:]
