"""Peers in fp16: the same contestants, whose products run in half precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ois_benchmarks.contestants.base import BatchedContestant, NotHere, Place
from ois_benchmarks.contestants.registry import CONTESTANTS, FAST, choose, open_contestant, peer_of
from ois_benchmarks.gpu import autocast
from ois_benchmarks.latency.result import Identity
from ois_client.contract.clicks import Click

IDENTITY = Identity(
    label="Peer",
    family="peer",
    engine="torch fp32 on cuda",
    precision="fp32",
    source="here",
    weights="random",
    sha256="",
    input_size=(8, 8),
)


class Peer:
    encodes, served, identity = True, False, IDENTITY

    def __init__(self) -> None:
        self.dtypes: list[torch.dtype] = []
        self.closed = False

    def _product(self) -> np.ndarray:
        made = torch.ones(2, 4) @ torch.ones(4, 3)
        self.dtypes.append(made.dtype)
        return made.float().numpy() > 0

    def set_image(self, _image: np.ndarray) -> None:
        self._product()

    def click(self, _clicks: Sequence[Click]) -> np.ndarray:
        return self._product()

    def cost(self) -> None:
        self._product()

    def close(self) -> None:
        self.closed = True


class BatchedPeer(Peer):
    def click_each(self, _points: Sequence[Click]) -> np.ndarray:
        return self._product()


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_calls_run_in_half_precision_and_the_count_does_not(
    precision: str, dtype: torch.dtype
) -> None:
    peer = BatchedPeer()
    fast: Any = autocast.wrap(peer, "cpu", precision)
    fast.set_image(np.zeros((4, 4, 3), dtype=np.uint8))
    assert fast.click([Click(1, 1)]).all()
    fast.click_each([Click(1, 1)])
    fast.cost()
    fast.close()
    assert peer.dtypes == [dtype] * 3 + [torch.float32]
    assert peer.closed
    assert (fast.identity.label, fast.identity.precision) == (f"Peer, {precision}", precision)
    assert f"{precision} autocast, on cpu" in fast.identity.engine
    assert "TF32, on cuda" in autocast.wrap(peer, "cuda", precision).identity.engine
    assert isinstance(fast, BatchedContestant)
    assert not isinstance(autocast.wrap(Peer(), "cpu", precision), BatchedContestant)


def test_every_variant_is_a_contestant_of_the_same_peer(tmp_path: Path) -> None:
    assert set(FAST) == set(autocast.VARIANTS)
    assert not set(FAST) & {*choose([]), *choose(["sam"])}  # only if they are named
    assert choose(list(FAST)) == list(FAST)
    for name, variant in autocast.VARIANTS.items():
        assert name == f"{variant.shipped}-{variant.precision}"
        assert variant.shipped in CONTESTANTS
        assert peer_of(name) == peer_of(variant.shipped)
        # fp16 is refused on a CPU, bf16 only lacks the clone.
        why = "for GPUs; on a CPU, measure" if variant.precision == "fp16" else "clone https"
        with pytest.raises(NotHere, match=why):
            open_contestant(name, Place(threads=1, scratch=tmp_path))


def test_products_that_stay_in_fp32_may_use_tf32() -> None:
    backends: Any = torch.backends
    owners = (backends.cuda.matmul, backends.cudnn.conv)
    before = [owner.fp32_precision for owner in owners]
    try:
        autocast.allow_tf32()
        assert [owner.fp32_precision for owner in owners] == ["tf32", "tf32"]
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.fp32_precision = value
