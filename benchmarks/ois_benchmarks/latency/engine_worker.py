"""One contestant of the engines benchmark in a process of its own.

    prepare FOLDER (--network NAME | CHECKPOINT) [--checkpoint-only | --target T --precision P]
                                                     a checkpoint and its engines
    measure FOLDER CHECKPOINT --contestant NAME ...  prints one line of JSON

Apart so that peak memory is one engine's, and so that no library's threads or allocator
meet another's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.contestants.base import CHECKPOINT
from ois_benchmarks.machine import peak_memory_bytes
from ois_benchmarks.timing import measure
from ois_client.contract.clicks import Click, fill_slots
from ois_client.contract.errors import InvalidInput, OISError
from ois_client.contract.geometry import Geometry

Arrays = dict[str, NDArray[Any]]


def prepare(
    folder: Path,
    network: str,
    checkpoint: Path | None,
    *,
    exported: bool,
    target: str = "cpu",
    precision: str = "fp32",
) -> None:
    """Write `CHECKPOINT` and, if `exported`, the two graphs with a manifest.

    checkpoint: may be the one that is already there. target, precision: of the graphs, as
    `ois export` has them, but without its gate, whose limits are for trained networks.
    """
    import shutil

    from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
    from ois_network.config import preset
    from ois_network.initialise import build, randomise

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / CHECKPOINT
    if checkpoint is None:
        save_checkpoint(randomise(build(preset(network))), file, trained=False)
    elif checkpoint != file:
        shutil.copy(checkpoint, file)
    if exported:
        from ois_export.export import write_engines
        from ois_export.targets import Target

        chosen = Target.parse(target)
        chosen.check(precision)
        write_engines(
            load_checkpoint(file), folder, name="bench", target=chosen, precision=precision
        )


def inputs(longest: int, width: int, height: int) -> tuple[Geometry, NDArray[np.uint8], Arrays]:
    """The picture (a photograph, stretched to the network size) and three clicks.

    Raises `InvalidInput` when the size is not one the network has.
    """
    from PIL import Image

    from ois_export.parity.cases import SQUARE

    geometry = Geometry.fit(width, height, longest=longest)
    if (geometry.network_width, geometry.network_height) != (width, height):
        raise InvalidInput(
            f"got the size {width}x{height}; expected the longer side {longest} and both "
            "multiples of 14"
        )
    image = np.array(Image.fromarray(SQUARE.pixels()).resize((width, height)))
    clicks = [
        Click(0.5 * width, 0.4 * height),
        Click(0.4 * width, 0.6 * height),
        Click(0.1 * width, 0.1 * height, False),
    ]
    points, labels = fill_slots([clicks], geometry)
    y, x = np.mgrid[: geometry.grid_height, : geometry.grid_width]
    distance = np.hypot(x - geometry.grid_width / 2, y - geometry.grid_height / 2)
    coverage = np.clip((geometry.grid_height / 3 - distance) * 64, 0, 255).astype(np.uint8)
    prompts = {
        "points": points,
        "labels": labels,
        "coverage": coverage[None],
        "has_previous": np.ones(1, dtype=np.bool_),
    }
    return geometry, image, prompts


#: encode() -> state, click(state) -> logits (1, h, w)
Pair = tuple[Callable[[], Any], Callable[[Any], NDArray[np.float32]], Callable[[Any], int]]


def torch_pair(
    checkpoint: Path,
    geometry: Geometry,
    image: NDArray[np.uint8],
    prompts: Arrays,
    *,
    rewritten: bool,
    threads: int,
) -> Pair:
    import torch

    from ois_network.checkpoints.checkpoint import load_checkpoint
    from ois_network.split import ClickDecoder, ImageEncoder, Rewrites

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    network = load_checkpoint(checkpoint).network
    rows, columns = map(torch.from_numpy, geometry.position_matrices())
    pixels = torch.from_numpy(image)
    given = [torch.from_numpy(prompts[name]) for name in prompts]
    if not rewritten:

        def click(features: Any) -> NDArray[np.float32]:
            return network.click(features, *given).numpy()

        def size_of(features: Any) -> int:
            tensors = [*features.levels, features.depth]
            return sum(t.numel() * t.element_size() for t in tensors)

        return lambda: network.encode(pixels.unsqueeze(0), rows, columns), click, size_of
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

    return (
        encode,
        rewritten_click,
        lambda state: sum(t.numel() * t.element_size() for t in state.values()),
    )


def engine_pair(
    folder: Path,
    geometry: Geometry,
    image: NDArray[np.uint8],
    prompts: Arrays,
    *,
    backend: str,
    precision: str,
    threads: int,
) -> Pair:
    from ois_runtime.engines.base import EngineBackend, EngineOptions, load_engines

    options = EngineOptions(threads=threads, precision=precision)
    engines = load_engines(folder, EngineBackend.parse(backend), options)
    return (
        lambda: engines.encode(image, geometry),
        lambda state: engines.decode(state, **prompts)[0],
        lambda state: state.nbytes,
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ois_network.checkpoints.checkpoint import load_checkpoint

    folder, checkpoint = Path(args.folder), Path(args.checkpoint)
    width, height = (int(side) for side in args.size.split("x"))
    longest = load_checkpoint(checkpoint).config.longest
    geometry, image, prompts = inputs(longest, width, height)
    name: str = args.contestant
    if name.startswith("torch"):
        rewritten = name == "torch"
        pair = torch_pair(
            checkpoint, geometry, image, prompts, rewritten=rewritten, threads=args.threads
        )
    else:
        backend, _, precision = name.partition("-")
        pair = engine_pair(
            folder,
            geometry,
            image,
            prompts,
            backend=backend,
            precision=precision or "f32",
            threads=args.threads,
        )
    encode, click, size_of = pair
    state = encode()
    encode_time = measure(encode, repeats=max(3, args.repeats // 2), warmup=0)
    logits = click(state)
    click_time = measure(lambda: click(state), repeats=args.repeats * 3, warmup=1)
    np.save(folder / f"{name}-{width}x{height}.npy", logits)
    return {
        "encode": encode_time.to_dict(),
        "click": click_time.to_dict(),
        "state_bytes": size_of(state),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def arguments() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("prepare")
    first.add_argument("folder", type=Path)
    first.add_argument("checkpoint", type=Path, nargs="?")
    first.add_argument("--network", default="vitb")
    first.add_argument("--checkpoint-only", action="store_true")
    first.add_argument("--target", default="cpu")
    first.add_argument("--precision", default="fp32")
    second = commands.add_parser("measure")
    second.add_argument("folder", type=Path)
    second.add_argument("checkpoint", type=Path)
    second.add_argument("--contestant", required=True)
    second.add_argument("--size", required=True)
    second.add_argument("--repeats", type=int, default=5)
    second.add_argument("--threads", type=int, required=True)
    return parser


def main() -> int:
    args = arguments().parse_args()
    try:
        if args.command == "prepare":
            prepare(
                args.folder,
                args.network,
                args.checkpoint,
                exported=not args.checkpoint_only,
                target=args.target,
                precision=args.precision,
            )
        else:
            print(json.dumps(run(args)))
    except OISError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
