"""`ois bench layers`: how long TensorRT spends in each layer of a click, by NVIDIA's `trtexec`.

Builds the click engine for one size, exactly as `ois build` does, and writes the two files from
which `ois bench plugin` decides: trtexec-profile.json (milliseconds per layer) and
trtexec-layers.json (the nodes of the graph in each layer). The engine is not checked; `ois build`
does that. *Not run on a GPU yet.*
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from ois_client.contract.errors import EngineError, InvalidInput
from ois_export.tensorrt.build import Ranges, plan_profiles, read_source
from ois_export.tensorrt.plan import trtexec_command

PROFILE, LAYERS = "trtexec-profile.json", "trtexec-layers.json"


def words(engines: Path, output: Path, shape: str, objects: int) -> list[str]:
    """The command line of trtexec.

    Raises `EngineError` or `InvalidInput`, as `ois build` does.
    """
    manifest = read_source(engines)
    profiles, _ = plan_profiles(manifest, Ranges((shape,), (str(objects),)))
    decoder = manifest.decoder
    text = trtexec_command(
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


def run(engines: Path, output: Path, shape: str, objects: int) -> str:
    """Build and profile, and return what trtexec printed.

    Raises `InvalidInput` if trtexec is not installed, `EngineError` if it fails.
    """
    line = words(engines, output, shape, objects)
    if shutil.which(line[0]) is None:
        raise InvalidInput("trtexec is not on the PATH; it comes with TensorRT's own packages")
    done = subprocess.run(line, text=True, capture_output=True)
    if done.returncode or not (output / PROFILE).is_file():
        said = (done.stderr or done.stdout).strip().splitlines() or ["it printed nothing"]
        raise EngineError(f"trtexec failed with exit code {done.returncode}: {said[-1]}")
    return done.stdout
