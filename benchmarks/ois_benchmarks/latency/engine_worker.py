"""Measure one engine for `ois bench engines`, in its own process.

    python -m ois_benchmarks.latency.engine_worker JOB      prints one line of JSON

With a process per engine, peak memory is that of one engine, and the threads and allocators of
different libraries do not interfere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.machine import peak_memory_bytes
from ois_benchmarks.timing import measure
from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.errors import InvalidInput, OISError
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.pair import HostPrompts


def inputs(
    fit: Callable[[int, int], Geometry], width: int, height: int
) -> tuple[Geometry, NDArray[np.uint8], HostPrompts]:
    """A photograph, stretched to the network size, and three clicks on one object.

    fit: of the network, such as `Manifest.fit`. width, height: network pixels. Raises
    `InvalidInput` if the network cannot run at this size.
    """
    from PIL import Image

    from ois_export.parity.cases import SQUARE

    geometry = fit(width, height)
    size = geometry.network_width, geometry.network_height
    if size != (width, height):
        raise InvalidInput(
            f"got the size {width}x{height}; expected the longer side {max(size)} and both "
            f"multiples of {geometry.patch}"
        )
    image = np.array(Image.fromarray(SQUARE.pixels()).resize((width, height)))
    clicks = [
        Click(0.5 * width, 0.4 * height),
        Click(0.4 * width, 0.6 * height),
        Click(0.1 * width, 0.1 * height, False),
    ]
    points, labels = fill_slots([clicks], geometry)
    rows, columns = geometry.coverage_shape
    y, x = np.mgrid[:rows, :columns]
    distance = np.hypot(x - columns / 2, y - rows / 2)
    coverage = np.clip((rows / 3 - distance) * 64, 0, 255).astype(np.uint8)
    has_previous = np.ones(1, dtype=np.bool_)
    return geometry, image, Prompts(points, labels, coverage[None], has_previous)


@dataclass(frozen=True, slots=True)
class Calls:
    """What is timed. encode: returns the state. click: state -> logits (1, h, w)."""

    encode: Callable[[], Any]
    click: Callable[[Any], NDArray[np.float32]]
    state_bytes: Callable[[Any], int]


def torch_calls(
    checkpoint: Path,
    geometry: Geometry,
    image: NDArray[np.uint8],
    prompts: HostPrompts,
    *,
    rewritten: bool,
    threads: int,
) -> Calls:
    """The network in PyTorch: as the paper describes it, or with the exact rewrites."""
    import torch

    from ois_network.checkpoints.checkpoint import load_checkpoint
    from ois_network.split import ClickDecoder, ImageEncoder, Rewrites

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    network = load_checkpoint(checkpoint).network
    rows, columns = map(torch.from_numpy, geometry.position_matrices())
    pixels = torch.from_numpy(image)
    given = prompts.map(torch.from_numpy)
    if not rewritten:

        def click(features: Any) -> NDArray[np.float32]:
            return network.click(features, given).numpy()

        def size_of(features: Any) -> int:
            tensors = [*features.levels, features.depth]
            return sum(t.numel() * t.element_size() for t in tensors)

        return Calls(lambda: network.encode(pixels.unsqueeze(0), rows, columns), click, size_of)
    encoder = ImageEncoder(network, Rewrites())
    decoder = ClickDecoder(network, Rewrites())
    decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode() -> dict[str, Any]:
        state = encoder(pixels, rows, columns)
        return {
            name: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
            for name, t in state.items()
        }

    def rewritten_click(state: dict[str, Any]) -> NDArray[np.float32]:
        return decoder(state, *given)[0].numpy()

    return Calls(
        encode,
        rewritten_click,
        lambda state: sum(t.numel() * t.element_size() for t in state.values()),
    )


def engine_calls(
    folder: Path,
    geometry: Geometry,
    image: NDArray[np.uint8],
    prompts: HostPrompts,
    *,
    backend: str,
    precision: Precision,
    threads: int,
) -> Calls:
    """The exported engines in `folder`, on one backend."""
    from ois_runtime.engines.backends import EngineBackend, EngineOptions, load_engines

    options = EngineOptions(threads=threads, precision=precision)
    engines = load_engines(folder, EngineBackend.parse(backend), options)
    return Calls(
        lambda: engines.encode(image, geometry),
        lambda state: engines.decode(state, prompts)[0],
        lambda state: state.nbytes,
    )


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    """Measure one engine, and save its logits for the comparison with the others.

    job: folder, checkpoint, contestant (of `engines.CONTESTANTS`), width and height in network
    pixels, repeats, threads. Returns the JSON-ready row.
    """
    from ois_network.checkpoints.checkpoint import load_checkpoint

    folder, checkpoint, name = Path(job["folder"]), Path(job["checkpoint"]), job["contestant"]
    width, height, threads = job["width"], job["height"], job["threads"]
    config = load_checkpoint(checkpoint).config
    geometry, image, prompts = inputs(config.fit, width, height)
    if name.startswith("torch"):
        calls = torch_calls(
            checkpoint, geometry, image, prompts, rewritten=name == "torch", threads=threads
        )
    else:
        backend, _, precision = name.partition("-")
        calls = engine_calls(
            folder,
            geometry,
            image,
            prompts,
            backend=backend,
            precision=Precision.parse(precision or "fp32"),
            threads=threads,
        )
    state = calls.encode()
    encode_time = measure(calls.encode, repeats=max(3, job["repeats"] // 2), warmup=0)
    logits = calls.click(state)
    click_time = measure(lambda: calls.click(state), repeats=job["repeats"] * 3, warmup=1)
    np.save(folder / f"{name}-{width}x{height}.npy", logits)
    return {
        "encode": encode_time.to_dict(),
        "click": click_time.to_dict(),
        "state_bytes": calls.state_bytes(state),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def main(job: str) -> int:
    """Run one job, given as JSON. Returns the exit code of the process."""
    try:
        print(json.dumps(run(json.loads(job))))
    except OISError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
