"""`ois show attention`: the figure and its numbers come from the network and the clicks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ois_benchmarks.quality.run import open_client
from ois_cli.main import main
from ois_cli.show.attention import attention_of
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidInput
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from support.network_scenes import micro

WIDTH, HEIGHT = 160, 96  # network 112x70, patches 8x5
CLICKS = [Click(40, 30), Click(120, 60, False), Click(60, 50), Click(10, 80, False)]
POINTS = ["40,30", "120,60,-", "60,50", "10,80,-"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "micro.safetensors"
    save_checkpoint(micro(sigma_init=2.0), path, trained=False)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def test_the_figure_has_a_row_per_click_and_two_pictures_per_block(
    image: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = image.with_name("attention.png")
    argv = ["show", "attention", str(image), "--checkpoint", str(checkpoint), "-o", str(out)]
    argv += [word for point in POINTS for word in ("--point", point)]
    assert main([*argv, "--panel-width", "80", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [tuple(one["click"]) for one in document["clicks"]] == [
        (click.x, click.y, click.positive) for click in CLICKS
    ]
    blocks = len(document["sigma"])
    assert blocks == 2
    for one in document["clicks"]:
        assert len(one["depth_distance"]) == blocks
        assert all(block["after"] < block["before"] for block in one["depth_distance"])
    height, width = np.asarray(Image.open(out)).shape[:2]
    columns, rows, panel_height = 2 + 2 * blocks, len(CLICKS), 48
    assert width == 12 + columns * (80 + 12)
    assert height == 12 + rows * (30 + panel_height + 12) + 30  # titles, gaps, the footer


def test_the_clicks_are_applied_as_in_a_session(image: Path, checkpoint: Path) -> None:
    pixels = np.asarray(Image.open(image))
    found = attention_of(load_checkpoint(checkpoint).network, pixels, CLICKS)
    with open_client(f"torch:{checkpoint}") as client:
        session = client.open(image)
        for click in CLICKS:
            mask = session.click(click.x, click.y, click.positive)
    assert (found.mask == mask).all()


def test_each_click_has_the_attention_of_its_own_slot(image: Path, checkpoint: Path) -> None:
    pixels = np.asarray(Image.open(image))
    found = attention_of(load_checkpoint(checkpoint).network, pixels, CLICKS)
    for one in found.clicks:
        for block in one.blocks:
            assert block.before.shape == block.after.shape == (5, 8)
            assert block.before.sum() == pytest.approx(1, abs=1e-5)
            assert block.after.sum() == pytest.approx(1, abs=1e-5)
    first, second, third, fourth = found.clicks
    assert (first.order == third.order).all()  # M+ is shared, M- is not
    assert not (second.order == fourth.order).all()
    assert not (first.blocks[0].before == third.blocks[0].before).all()
    # The map of a negative click is zero at the click: network pixels, half-pixel centres.
    x, y = (CLICKS[1].x + 0.5) * 112 / WIDTH - 0.5, (CLICKS[1].y + 0.5) * 70 / HEIGHT - 0.5
    near = second.order[int(y) : int(y) + 2, int(x) : int(x) + 2]
    assert near.min() < 0.1


def test_a_network_without_order_maps_is_refused() -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    with pytest.raises(InvalidInput, match="has no order maps"):
        attention_of(micro(order_attention=False), pixels, CLICKS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", "500,10"], "outside the 160x96 image"),
        (["-p", "40,30", "--checkpoint", "missing.safetensors"], "missing.safetensors"),
        (["-p", "40,30", "-o", "attention.gif"], "expected a name that ends in"),
    ],
)
def test_bad_input_is_told(
    image: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    if "-o" not in options:
        options = [*options, "-o", str(image.with_name("a.png"))]
    assert main(["show", "attention", str(image), *options]) == 2
    assert message in capsys.readouterr().err
    assert not image.with_name("a.png").exists()
