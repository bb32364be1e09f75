"""How long TensorRT spends in each layer of a click, by NVIDIA's `trtexec`. *Not run on a GPU yet.*

    python -m ois_benchmarks.gpu.layers ENGINES OUTPUT [--shape 1022x1022] [--objects 1]

Builds the click engine for one size, exactly as `ois build` does, and writes into OUTPUT what
`kernel_plugin` decides from: trtexec-profile.json (microseconds by layer) and trtexec-layers.json
(the graph's nodes that each layer is made of). No gate: that is `ois build`'s.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ois_client.contract.errors import EngineError, InvalidInput, OISError
from ois_export.tensorrt.build import Ranges, plan_profiles, read_source
from ois_export.tensorrt.trtexec import command

PROFILE, LAYERS = "trtexec-profile.json", "trtexec-layers.json"


def words(engines: Path, output: Path, shape: str, objects: int) -> list[str]:
    """The command. Raises `EngineError` or `InvalidInput`, as `ois build` does."""
    manifest = read_source(engines)
    profiles, _ = plan_profiles(manifest, Ranges((shape,), (str(objects),)))
    decoder = manifest.decoder
    text = command(
        engines / decoder.file,
        engines / "profiled.plan",
        profiles["decoder"],
        workspace_bytes=None,
    )
    building = [word for word in shlex.split(text) if word != "--skipInference"]
    return [
        *building,
        "--dumpProfile",
        "--separateProfileRun",
        f"--exportProfile={output / PROFILE}",
        f"--exportLayerInfo={output / LAYERS}",
    ]


def run(engines: Path, output: Path, shape: str, objects: int) -> None:
    """Build and profile. Raises `EngineError` when trtexec fails."""
    line = words(engines, output, shape, objects)
    if shutil.which(line[0]) is None:
        raise InvalidInput("trtexec is not on the PATH; TensorRT's own packages have it")
    done = subprocess.run(line, text=True, capture_output=True)
    print(done.stdout)
    if done.returncode or not (output / PROFILE).is_file():
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise EngineError(f"trtexec ended with {done.returncode}: {said[-1]}")


def arguments() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ois_benchmarks.gpu.layers",
        description="The layers of a click in TensorRT, timed by trtexec.",
    )
    parser.add_argument("engines", type=Path, help="graphs for the target tensorrt")
    parser.add_argument("output", type=Path, help="folder for the two JSON files")
    parser.add_argument("--shape", default="1022x1022", help="network pixels, WIDTHxHEIGHT")
    parser.add_argument("--objects", type=int, default=1)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = arguments().parse_args(argv)
    try:
        run(options.engines, options.output, options.shape, options.objects)
    except OISError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
