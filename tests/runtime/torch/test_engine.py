"""The backend torch computes what the exported engines compute, from the checkpoint alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.errors import EngineError, InvalidInput, OISError
from ois_client.sessions.client import Client
from ois_export.parity.cases import LANDSCAPE
from ois_export.parity.network_gate import CASES, Limits, make_prompts, measure
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_network.half import lower_precision
from ois_network.network import OISNetwork
from ois_network.split import ClickDecoder, ImageEncoder, Rewrites
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.engines.local import ENGINES_VARIABLE, open_transport
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.engines.pixels import preprocess
from ois_runtime.torch.checkpoint import CHECKPOINT_VARIABLE
from ois_runtime.torch.engine import TorchEngines, open_engines
from support.network_scenes import MICRO, random_network
from support.tiny_engines import write_engines

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "models" / "ois-tiny.safetensors"

#: Limits for the worst object: trained ois-tiny against the unrewritten network in fp32.
HALF_LIMITS = {
    "fp16": Limits(depth_error=0.01, logit_error=0.02, mask_iou=0.995, coverage_changed=0.02),
    # The worst pixel of the depth lies on an edge between near and far that moves slightly.
    "bf16": Limits(depth_error=0.25, logit_error=0.05, mask_iou=0.96, coverage_changed=0.15),
}


@pytest.fixture(scope="module")
def network() -> OISNetwork:
    return load_checkpoint(TINY).network


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small random network, and `engines` whose manifest names it."""
    folder = tmp_path_factory.mktemp("micro")
    file = folder / "micro.safetensors"
    digest = save_checkpoint(random_network(MICRO, seed=1), file, trained=False)
    write_engines(folder / "engines", checkpoint_sha256=digest)
    return folder


def engines(precision: str) -> TorchEngines:
    return open_engines(TINY, EngineOptions(precision=precision))


def within(measured: object, limits: Limits) -> bool:
    values = {
        name: getattr(measured, name) for name in ("depth_error", "logit_error", "coverage_changed")
    }
    return measured.mask_iou >= limits.mask_iou and all(  # type: ignore[attr-defined]
        value <= getattr(limits, name) for name, value in values.items()
    )


@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: f"{case.sample.name}{case.clicks}")
def test_fp32_is_the_network_within_the_gate_of_exports(network: OISNetwork, case: object) -> None:
    measured = measure(network, engines("fp32"), case, seed=1)  # type: ignore[arg-type]
    assert within(measured, Limits()), measured
    assert measured.row_difference < Limits().row_difference


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("case", CASES[2:4], ids=lambda case: case.sample.name)
def test_half_precision_keeps_the_masks_of_a_trained_network(
    network: OISNetwork, precision: str, case: object
) -> None:
    measured = measure(network, engines(precision), case, seed=2)  # type: ignore[arg-type]
    assert within(measured, HALF_LIMITS[precision]), measured


def test_whole_graph_bfloat16_would_not_keep_them(network: OISNetwork) -> None:
    """Without the fp32 islands the same clicks give other masks."""
    case, config = CASES[3], network.config
    image, geometry = preprocess(case.sample.pixels(), config.fit)
    matrices = [torch.from_numpy(m) for m in geometry.position_matrices(config.position_table)]
    points, *others = (torch.from_numpy(array) for array in make_prompts(case, geometry, 4))
    masks = []
    for dtype in (torch.float32, torch.bfloat16):
        whole = load_checkpoint(TINY).network
        encoder, decoder = ImageEncoder(whole).to(dtype), ClickDecoder(whole).to(dtype)
        with torch.no_grad():
            state = encoder(torch.tensor(image), *(matrix.to(dtype) for matrix in matrices))
            logits, _ = decoder(state, points.to(dtype), *others)
        masks.append(logits > 0)
    exact, rounded = masks
    assert (exact & rounded).sum() / (exact | rounded).sum() < 0.8


def test_packed_masks_agree_with_the_logits(micro: Path) -> None:
    pair = open_engines(micro / "micro.safetensors", EngineOptions())
    picture = LANDSCAPE.pixels()
    with Client(f"local:{micro / 'micro.safetensors'}") as client:
        session = client.open(picture)
        mask = session.click(100, 100)
    geometry = session.geometry
    image, _ = preprocess(picture, MICRO.fit)
    points, labels = fill_slots([[Click(100, 100)]], geometry)
    grid = np.zeros((1, geometry.grid_height, geometry.grid_width), dtype=np.uint8)
    state = pair.encode(image, geometry)
    prompts: HostPrompts = Prompts(points, labels, grid, np.zeros(1, dtype=np.bool_))
    masks = pair.decode_masks(state, prompts, want_logits=True)
    logits, coverage = pair.decode(state, prompts)
    np.testing.assert_array_equal(masks.logits, logits)
    np.testing.assert_array_equal(masks.coverage, coverage)
    np.testing.assert_array_equal(
        np.unpackbits(masks.packed[0], count=mask.size).reshape(mask.shape), mask
    )
    assert pair.decode_masks(state, prompts, want_logits=False).logits is None


def test_a_state_counts_its_devices_bytes_and_shows_its_depth(micro: Path) -> None:
    halves = {
        precision: open_engines(micro / "micro.safetensors", EngineOptions(precision=precision))
        for precision in ("fp32", "bf16")
    }
    states = {}
    for precision, pair in halves.items():
        with Client(f"local:{micro / 'micro.safetensors'}?precision={precision}") as client:
            geometry = client.open(LANDSCAPE.pixels()).geometry
        size = (geometry.network_height, geometry.network_width, 3)
        states[precision] = pair.encode(np.full(size, 90, dtype=np.uint8), geometry)
    full, half = states["fp32"], states["bf16"]
    assert full.nbytes == sum(array.nbytes for array in full.arrays.values())
    assert half.nbytes < 0.75 * full.nbytes
    assert half.tensors["features"].dtype is torch.bfloat16
    assert half.arrays["features"].dtype == np.float32
    assert half.arrays["depth"].shape == (1, *size[:2])
    with pytest.raises(ValueError, match="read-only"):
        full.arrays["depth"][:] = 0
    assert full.serial != half.serial
    with pytest.raises(EngineError, match="another backend"):
        halves["fp32"].decode(object(), Prompts(*[np.zeros(1)] * 4))  # type: ignore[arg-type]


def test_precisions_have_their_own_digest(micro: Path) -> None:
    digests = {
        open_engines(
            micro / "micro.safetensors", EngineOptions(precision=precision)
        ).manifest.model_sha256
        for precision in ("f32", "fp32", "f16", "fp16", "bf16")
    }
    assert len(digests) == 3


# -- what a network in half precision is ---------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_islands_stay_fp32_and_cached_keys_work_too(dtype: torch.dtype) -> None:
    network = random_network(MICRO, seed=1).requires_grad_(False)
    exact = random_network(MICRO, seed=1).requires_grad_(False)
    rewrites = Rewrites(cached_kv=True)
    encoder, decoder = ImageEncoder(network, rewrites), ClickDecoder(network, rewrites)
    lower_precision(encoder, decoder, dtype)
    assert network.dense is not None
    kept = [network.position.gaussian, network.dense.conv.weight, network.encoder.norm.weight]
    kept += [
        head.scratch.output_conv2[-1].weight for head in (network.depth_head, network.mask_head)
    ]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert network.encoder.patch_embed.proj.weight.dtype is dtype
    assert decoder.prompt_paths["3"].first.dtype is dtype  # type: ignore[union-attr]
    inputs = (
        torch.randint(0, 256, (84, 112, 3), generator=torch.Generator().manual_seed(1)).byte(),
        torch.eye(37)[:6],
        torch.eye(37)[:8],
    )
    points = torch.full((2, 48, 2), 30.0)
    labels = torch.full((2, 48), -1, dtype=torch.int32)
    labels[:, 0], labels[1, 24] = 1, 0
    points[1, 24] = 70.0
    clicks = (points, labels, torch.zeros(2, 6, 8, dtype=torch.uint8), torch.zeros(2).bool())
    with torch.no_grad():
        state = encoder(*inputs)
        logits, _ = decoder(state, *clicks)
        wanted, _ = ClickDecoder(exact)(ImageEncoder(exact)(*inputs), *clicks)
    assert state["keys_values"].dtype is dtype
    assert state["depth"].dtype is logits.dtype is torch.float32
    error = (logits - wanted).pow(2).mean().sqrt() / wanted.std()
    assert error < (0.02 if dtype is torch.float16 else 0.15)
    with pytest.raises(ValueError, match="already"):
        lower_precision(encoder, decoder, dtype)
    with pytest.raises(ValueError, match="of different networks"):
        lower_precision(encoder, ClickDecoder(exact), dtype)


# -- finding the checkpoint and the device -------------------------------------------------


def test_an_engine_folder_leads_to_its_checkpoint(
    micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine_folder, file = micro / "engines", micro / "micro.safetensors"
    url = f"local:{engine_folder}?backend=torch"
    with pytest.raises(EngineError, match=r"not among .*ois-photo.*checkpoint=FILE"):
        open_transport(url.removeprefix("local:"))
    with pytest.raises(EngineError, match=rf"not among {TINY}"):
        open_transport(url.removeprefix("local:"), checkpoint=TINY)
    with Client(url, checkpoint=file) as client:
        assert client.info.network == "micro"
    monkeypatch.setenv(CHECKPOINT_VARIABLE, str(file))
    assert Client(url).info.network == "micro"
    monkeypatch.delenv(CHECKPOINT_VARIABLE)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "some.safetensors").write_bytes(file.read_bytes())
    assert Client(url).info.network == "micro"
    monkeypatch.setenv(ENGINES_VARIABLE, str(engine_folder))
    assert Client("local:?backend=torch").info.engine.endswith("cpu fp32")


def test_errors_say_why_something_cannot_be_opened(micro: Path, tmp_path: Path) -> None:
    file = micro / "micro.safetensors"
    (tmp_path / "text.safetensors").write_text("no tensors")
    for url, kind, text in (
        (f"local:{file}?device=tpu", InvalidInput, "'tpu'; expected cpu, cuda"),
        (f"local:{file}?precision=int4", InvalidInput, "expected one of fp32, fp16, bf16, int8"),
        (f"local:{file}?precision=int8", InvalidInput, "torch supports fp32, fp16, bf16"),
        (f"local:{file}?checkpoint={TINY}", InvalidInput, "two checkpoints"),
        (f"local:{file}?threads=many", InvalidInput, "threads = 'many'; expected a number"),
        (f"local:{file}?cuda_graphs=-1", InvalidInput, "cuda_graphs = -1"),
        (f"local:{file}?device=cpu&device=cpu", InvalidInput, "device twice"),
        (f"local:{file}?backend=openvino&device=cuda", InvalidInput, "runs on cpu"),
        (f"local:{micro}/engines?checkpoint={micro}/none&backend=torch", EngineError, "no checkp"),
        (f"local:{tmp_path}?backend=torch", EngineError, "no checkpoint and no engine folder"),
        (f"local:{tmp_path}/text.safetensors", OISError, "text.safetensors"),
    ):
        with pytest.raises(kind, match=text):
            Client(url)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("url", ["local:cuda", "local:cuda:1?precision=fp16", "local:?device=cuda"])
def test_without_a_gpu_the_error_says_what_to_do(
    micro: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv(CHECKPOINT_VARIABLE, str(micro / "micro.safetensors"))
    with pytest.raises(EngineError, match=r"got the device cuda.*(CUDA|GPU).*use device=cpu"):
        Client(url)
