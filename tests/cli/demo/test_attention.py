"""The page's pictures of attention are those of `ois show attention`, for the page's clicks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ois_cli.demo.gateway.attention import AttentionNetwork
from ois_cli.demo.gateway.frames import write_frame
from ois_cli.demo.gateway.server import Gateway
from ois_cli.main import main
from ois_cli.show.attention import attention_of
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidClick, InvalidInput, TooManyClicks
from ois_network.checkpoints.checkpoint import save_checkpoint
from support.demo.calls import ask, encoded, noise, pixels_of
from support.network_scenes import micro
from support.tiny_engines import write_engines

NETWORK = micro(sigma_init=2.0)
PIXELS = noise(160, 96)
IMAGE = encoded(PIXELS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "micro.safetensors"
    save_checkpoint(NETWORK, path, trained=False)
    return path


@pytest.fixture(scope="module")
def attention(checkpoint: Path) -> AttentionNetwork:
    return AttentionNetwork(checkpoint)


def frame(clicks: list[list[float | bool]], image: bytes = IMAGE, **parts: bytes) -> bytes:
    return write_frame({"clicks": clicks}, {"image": image, **parts})


@pytest.mark.parametrize("positive", [True, False])
def test_the_weights_of_the_last_click(attention: AttentionNetwork, positive: bool) -> None:
    # One click, because the masks of earlier clicks are the page's and not computed here.
    head, parts = attention.answer(frame([[40, 30, positive]]))
    expected = attention_of(NETWORK, PIXELS, [Click(40, 30, positive)]).clicks[0].blocks
    assert len(head["sigmas"]) == len(expected) == 2
    for number, block in enumerate(expected):
        for name, weights in (("before", block.before), ("after", block.after)):
            shown = pixels_of(parts[f"{name}{number}"])
            assert list(shown.shape) == head["grid"] == list(weights.shape)
            visible = shown < 255
            ratio = weights[visible] / np.maximum(shown[visible], 1)
            np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.15, atol=1e-5)
        assert f"object{number}" in parts


def test_the_coverage_limits_where_object_aware_attention_looks(
    attention: AttentionNetwork,
) -> None:
    fit = NETWORK.config.fit(160, 96)
    coverage = np.zeros(fit.coverage_shape, np.uint8)
    coverage[:, : coverage.shape[1] // 2] = 255
    _, parts = attention.answer(frame([[40, 30, True]], coverage=coverage.tobytes()))
    shown = pixels_of(parts["object0"])
    half = shown.shape[1] // 2
    assert shown[:, half:].max() == 0
    assert shown[:, :half].max() > 0


def test_it_is_answered_by_the_gateway(attention: AttentionNetwork, tmp_path: Path) -> None:
    engines = write_engines(tmp_path / "engines")
    with Gateway(f"local:{engines}", port=0, attention=attention) as gateway:
        assert json.loads(ask(gateway.url, "/api/info").body)["attention"] is True
        reply = ask(gateway.url, "/api/attention", frame([[40, 30, True]]))
        assert {"before0", "after0", "object0"} <= set(reply.frame[1])


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (frame([]), InvalidInput, "got no click"),
        (frame([[500, 30, True]]), InvalidClick, "500"),
        (frame([[40, 30, True]] * 25), TooManyClicks, "25 positive"),
        (frame([[40, 30, True]], coverage=b"\x01"), InvalidInput, "a coverage of 1 cells"),
        (frame([[40, 30, True]], image=b"x"), InvalidInput, "not an image"),
    ],
)
def test_a_wrong_request_is_a_typed_error(
    attention: AttentionNetwork, data: bytes, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        attention.answer(data)


def test_the_checkpoint_of_other_engines_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = write_engines(tmp_path / "engines")
    argv = ["demo", "--no-browser", "--url", "local:", "--engines", str(engines)]
    assert main([*argv, "--checkpoint", str(checkpoint)]) == 2
    assert "from which these engines were not made" in capsys.readouterr().err
