"""K and V are cached (rewrite R4) only where a measurement lets the kernels run.

The measurements and the name of the GPU are invented; the code that reads them is real.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ois_client.contract.geometry import Geometry
from ois_network.checkpoints.checkpoint import save_checkpoint
from ois_network.config import NetworkConfig, preset
from ois_network.kernels import operations
from ois_network.kernels.choice import Measurement, write_measurements
from ois_network.kernels.operations import KernelAttention, measured_for
from ois_network.kernels.slots import Call
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.torch.engine import open_engines
from support.kernels.measured import measurement
from support.network_scenes import MICRO, random_network

GPU = torch.device("cuda", 0)
VITB, TINY = preset("vitb"), preset("tiny")


def use_table(
    monkeypatch: pytest.MonkeyPatch, folder: Path, rows: list[Measurement], here: str = "9.0"
) -> None:
    """Pretend that this is a GPU of capability `here`, and that `rows` were measured on a 9.0."""
    path = folder / "measured.json"
    path.write_text('{"schema": 1, "devices": {}}')
    write_measurements("9.0", {"device": "made up"}, rows, path)
    read = operations.read_measurements
    monkeypatch.setattr(operations, "read_measurements", lambda: read(path))
    monkeypatch.setattr(operations, "capability_of", lambda _device: here)


def of_vitb(ratio: float = 0.5, **changes: object) -> list[Measurement]:
    """Measurements of ViT-B with 1 and 8 objects."""
    return [measurement(n, ratio, **changes) for n in (1, 8)]


@pytest.mark.parametrize(
    ("config", "dtype", "on"),
    [
        (VITB, torch.float16, True),
        (VITB, torch.bfloat16, False),
        (VITB, torch.float32, False),
        (TINY, torch.float16, False),
        (VITB.replace(fusion_heads=4), torch.float16, False),
        (VITB.replace(prompt_dim=128, fusion_heads=4), torch.float16, False),
        (VITB.replace(longest=518), torch.float16, False),  # at most 1369 patches
        (VITB.replace(longest=756), torch.float16, True),  # the square has 2916
        (VITB.replace(dense=False), torch.float16, False),  # its decoder does not use the kernels
        (VITB.replace(mask_empty_slots=True), torch.float16, False),  # the same
    ],
)
def test_a_network_caches_if_its_own_size_and_dtype_were_measured(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    config: NetworkConfig,
    dtype: torch.dtype,
    on: bool,
) -> None:
    use_table(monkeypatch, tmp_path, of_vitb())
    assert measured_for(config, dtype, GPU) is on
    if config.dense and not config.mask_empty_slots:
        assert asked_everywhere(config, dtype) is on


def asked_everywhere(config: NetworkConfig, dtype: torch.dtype) -> bool:
    """Whether the kernels run for some click, with any patch grid and 1 to 64 objects."""
    ops = KernelAttention()
    side = config.longest // config.patch
    return any(
        ops.takes(Call(n, 48, config.prompt_dim, side * m, config.fusion_heads, dtype), GPU)
        for n in range(1, 65)
        for m in range(1, side + 1)
    )


@pytest.mark.parametrize(
    ("rows", "here"),
    [
        (of_vitb(), "8.0"),
        (of_vitb(0.97), "9.0"),
        ([], "9.0"),
        (of_vitb(queries=16), "9.0"),
    ],
    ids=["another GPU", "not faster", "nothing measured", "other queries"],
)
def test_a_network_does_not_cache_if_the_kernels_were_not_faster_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: list[Measurement], here: str
) -> None:
    use_table(monkeypatch, tmp_path, rows, here)
    assert not measured_for(VITB, torch.float16, GPU)
    assert not asked_everywhere(VITB, torch.float16)


@pytest.mark.parametrize(
    ("precision", "heads", "on"),
    [("fp16", 4, True), ("bf16", 4, False), ("fp32", 4, False), ("fp16", 2, False)],
)
def test_the_engine_caches_only_in_the_measured_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str, heads: int, on: bool
) -> None:
    use_table(monkeypatch, tmp_path, of_vitb(channels=32, keys=64, heads=4))
    file = tmp_path / "micro.safetensors"
    save_checkpoint(random_network(MICRO.replace(fusion_heads=heads)), file, trained=False)
    engines = open_engines(file, EngineOptions(precision=precision))
    assert engines.rewrites.cached_kv is on
    geometry = Geometry.fit(112, 84, longest=MICRO.longest)
    state = engines.encode(np.zeros((84, 112, 3), dtype=np.uint8), geometry)
    assert ("keys_values" in state.tensors) is on


def test_a_cpu_never_caches() -> None:
    assert not measured_for(VITB, torch.float32, torch.device("cpu"))
