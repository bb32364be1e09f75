"""InterFormer, Inter2Former and DynaMITe get clicks as their own code gives them, and say what is
missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ois_benchmarks.contestants import code, standins
from ois_benchmarks.contestants.base import NotHere, Place
from ois_benchmarks.contestants.peers.dynamite import DynamiteContestant
from ois_benchmarks.contestants.peers.inter2former import Inter2FormerContestant
from ois_benchmarks.contestants.peers.interformer import InterFormerContestant
from ois_benchmarks.contestants.registry import open_contestant
from ois_benchmarks.latency.result import Identity
from ois_client.contract.clicks import Click

IDENTITY = Identity(
    label="Peer",
    family="peer",
    engine="torch",
    precision="fp32",
    source="here",
    weights="random",
    sha256="",
    input_size=(0, 0),
)
IMAGE = np.zeros((40, 60, 3), np.uint8)
CLICKS = [Click(10.4, 20.6), Click(50, 5, False), Click(30, 30)]


class Predictor:
    """InterFormer's demo predictor: keeps labels from click to click."""

    img_pad_shape = (64, 96)

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def set_input_image(self, image: np.ndarray) -> None:
        self.calls.append(image.shape)

    def partially_reset_predictor(self) -> None:
        self.calls.append("reset")

    def update_ref_label_by_new_click(self, click: Any) -> None:
        self.calls.append((*click.coords, click.is_positive))

    def get_prediction(self, count: int, previous: None) -> np.ndarray:
        assert previous is None
        mask = np.zeros((40, 60), np.int64)
        mask[:count] = 1
        return mask


def test_interformer_adds_the_last_click_to_those_it_keeps() -> None:
    predictor = Predictor()
    peer = InterFormerContestant(nn.Identity(), IDENTITY, predictor)
    peer.set_image(IMAGE)
    assert peer.identity.input_size == (96, 64)
    masks = [peer.click(CLICKS[:count]) for count in (1, 2, 3, 1)]
    assert [mask.sum() for mask in masks] == [60, 120, 180, 60]
    assert masks[0].dtype == np.bool_
    first = (21, 10, True)  # (y, x)
    rest = [(5, 50, False), (30, 30, True)]
    assert predictor.calls == [(40, 60, 3), "reset", first, *rest, "reset", first]


class Dynamite(nn.Module):
    """DynaMITe's model: features once, then all clicks of all objects at every call."""

    pixel_mean, pixel_std, size_divisibility = 0.0, 1.0, 32
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        decoder = SimpleNamespace(forward_features=lambda found: (f"of {found}", None, "levels"))
        self.sem_seg_head = SimpleNamespace(pixel_decoder=decoder)
        self.asked: list[tuple[Any, ...]] = []
        self.limits: list[list[int]] = []

    def backbone(self, pixels: torch.Tensor) -> str:
        return f"features {tuple(pixels.shape)}"

    def forward(self, *arguments: Any, max_timestamp: list[int]) -> Any:
        self.asked.append(arguments)
        self.limits.append(max_timestamp)
        masks = torch.zeros(1, 40, 60)
        masks[0, 3, 4] = 1
        return ([{"instances": SimpleNamespace(pred_masks=masks)}],)


def test_dynamite_gets_all_clicks_in_network_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = SimpleNamespace(
        from_tensors=lambda tensors, size: SimpleNamespace(tensor=torch.stack(tensors), size=size)
    )
    structures = SimpleNamespace(ImageList=images)
    monkeypatch.setitem(sys.modules, "detectron2.structures", structures)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "detectron2", SimpleNamespace())  # type: ignore[arg-type]
    twice = SimpleNamespace(apply_image=lambda image: image.repeat(2, 0).repeat(2, 1))
    resize = SimpleNamespace(get_transform=lambda _image: twice)
    network = Dynamite()
    peer = DynamiteContestant(network, IDENTITY, resize)
    peer.set_image(IMAGE)
    assert peer.identity.input_size == (120, 80)
    mask = peer.click(CLICKS)
    assert np.argwhere(mask).tolist() == [[3, 4]]
    peer.click(CLICKS[:1])
    inputs, batch, objects, features, pixels, levels, counts, inside, outside = network.asked[0]
    assert (inputs[0]["height"], inputs[0]["width"]) == (40, 60)
    assert (tuple(batch.tensor.shape), batch.size) == ((1, 3, 80, 120), 32)
    assert features == "features (1, 3, 80, 120)"
    assert (pixels, levels) == (f"of {features}", "levels")
    assert (objects, counts) == ([1], [[2]])
    assert inside == [[[[41.2, 20.8, 0], [60, 60, 2]]]]  # (y, x, number of the click)
    assert outside == [[[10, 100, 1]]]
    assert network.asked[1][-3:] == ([[1]], [[[[41.2, 20.8, 0]]]], [None])
    assert network.limits == [[2], [1]]


class Inter2Former(nn.Module):
    """Inter2Former's segmentor: the labels are the sum of all points and masks so far."""

    def __init__(self) -> None:
        super().__init__()
        self.data_preprocessor = SimpleNamespace(mean=torch.zeros(3, 1, 1), std=torch.ones(3, 1, 1))
        self.points: list[Any] = []
        self.encoded: list[tuple[int, ...]] = []

    def backbone(self, pixels: torch.Tensor) -> str:
        self.encoded.append(tuple(pixels.shape))
        return "features"

    def edge_detector(self, _pixels: torch.Tensor) -> str:
        return "edges"

    def update_ref_label_by_point_lists(
        self, labels: torch.Tensor, points: Any, **options: Any
    ) -> torch.Tensor:
        assert options == {"inner_radius": 5, "outer_radius": 0, "fast_mode": True}
        self.points.append((points[0][0], float(labels.max())))
        return labels

    def neck(self, features: str, ref_label: torch.Tensor) -> torch.Tensor:
        assert features == "features"
        return ref_label

    def decode_head(self, _labels: torch.Tensor, edges: str) -> torch.Tensor:
        assert edges == "edges"
        return torch.where(torch.arange(8) < 4, 1.0, -1.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)

    def interpolate(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return nn.functional.interpolate(logits, size, mode="nearest")

    def convert_logits_to_labels(self, logits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return (logits > 0).to(dtype)

    def update_ref_label_by_prediction(
        self, labels: torch.Tensor, found: torch.Tensor
    ) -> torch.Tensor:
        assert found.shape == labels.shape
        return labels + found


def test_inter2former_keeps_its_labels_from_click_to_click(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signs = SimpleNamespace(CLK_POSITIVE="+", CLK_NEGATIVE="-")
    unknown = SimpleNamespace(REF_UNKNOWN=7)
    for name, module in (
        ("engine", SimpleNamespace()),
        ("engine.utils", SimpleNamespace()),
        ("engine.utils.click", signs),
        ("inter2former", SimpleNamespace()),
        ("inter2former.utils", unknown),
    ):
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    network = Inter2Former()
    peer = Inter2FormerContestant(network, IDENTITY, side=120)
    peer.set_image(IMAGE)  # 60 x 40, padded to 60 x 60, enlarged to 120 x 120
    masks = [peer.click(CLICKS[:count]) for count in (1, 2, 1)]
    assert network.encoded == [(1, 3, 120, 120)]
    assert network.points == [((42, 20, "+"), 7), ((10, 100, "-"), 8), ((42, 20, "+"), 7)]
    for mask in masks:
        assert mask.shape == (40, 60)
        assert mask[:, :30].all()
        assert not mask[:, 30:].any()


@pytest.mark.parametrize(
    ("name", "module", "how"),
    [
        ("dynamite-swin-tiny", "detectron2", "git+https://github.com/facebookresearch/detectron2"),
        ("interformer-light", "mmcv", "mmcv==1.6.0"),
        ("inter2former-1024", "mmcv", "mmcv-lite==2.0.1"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, how: str
) -> None:
    monkeypatch.setattr(code.util, "find_spec", lambda _name: None)
    with pytest.raises(NotHere) as caught:
        open_contestant(name, Place(threads=1, scratch=tmp_path))
    assert f"imports {module}" in str(caught.value)
    assert how in str(caught.value)


def test_a_stand_in_for_a_part_leaves_the_library_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(runner="real")
    monkeypatch.setitem(sys.modules, "mmcv", library)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "mmcv.ops", raising=False)
    try:
        warnings = standins.supply_missing(("mmcv.ops",))
        assert warnings == ("mmcv.ops cannot be imported; a stand-in replaces it",)
        assert sys.modules["mmcv"] is library  # type: ignore[comparison-overlap]
        assert library.runner == "real"
        with pytest.raises(NotImplementedError, match="no stand-in"):
            sys.modules["mmcv.ops"].sigmoid_focal_loss()
    finally:
        sys.modules.pop("mmcv.ops", None)
