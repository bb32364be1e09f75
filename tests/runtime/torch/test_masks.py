"""Masks made on a device equal NumPy's masks, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ois_client.contract.errors import InvalidInput
from ois_client.contract.geometry import Geometry
from ois_client.contract.masks import pack_mask
from ois_runtime.engines.pixels import postprocess
from ois_runtime.torch import masks as torch_masks
from ois_runtime.torch.masks import pack_bits, pack_masks


def packed_by_numpy(logits: np.ndarray, geometry: Geometry) -> list[bytes]:
    return [pack_mask(mask) for mask in postprocess(logits, geometry)]


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 130),
    height=st.integers(1, 130),
    count=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_every_size_up_and_down(width: int, height: int, count: int, seed: int) -> None:
    geometry = Geometry.fit(width, height, longest=56)
    shape = (count, geometry.network_height, geometry.network_width)
    logits = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    packed = pack_masks(torch.from_numpy(logits), geometry).numpy()
    assert [row.tobytes() for row in packed] == packed_by_numpy(logits, geometry)


def test_a_large_picture_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_masks, "_BAND_BYTES", 5000)
    geometry = Geometry.fit(333, 101, longest=112)
    shape = (2, geometry.network_height, geometry.network_width)
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    packed = pack_masks(torch.from_numpy(logits), geometry).numpy()
    assert [row.tobytes() for row in packed] == packed_by_numpy(logits, geometry)


@given(st.lists(st.booleans(), min_size=8, max_size=80))
def test_bits_are_packed_as_numpy_packs_them(bits: list[bool]) -> None:
    bits = bits[: len(bits) // 8 * 8]
    packed = pack_bits(torch.tensor([bits]))
    np.testing.assert_array_equal(packed.numpy()[0], np.packbits(bits))


def test_half_precision_logits_are_widened_before_they_are_blended() -> None:
    geometry = Geometry.fit(99, 99, longest=56)
    logits = torch.randn(1, 56, 56, generator=torch.Generator().manual_seed(0)).to(torch.float16)
    packed = pack_masks(logits, geometry).numpy()
    assert packed[0].tobytes() == packed_by_numpy(logits.float().numpy(), geometry)[0]


def test_logits_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"\(1, 56, 55\); expected \(N, 56, 56\)"):
        pack_masks(torch.zeros(1, 56, 55), Geometry.fit(99, 99, longest=56))
