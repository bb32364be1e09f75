"""Turns a folder of fp32 engines for CPUs into one of int8 engines."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any, cast

from ois_client.contract.errors import ParityError
from ois_export.int8.calibration import decoder_inputs, encoder_inputs, pictures
from ois_export.int8.options import ROLES, GateLimits, Int8Options, require_packages
from ois_export.int8.parts import quantise_parts
from ois_export.int8.quantise import Quantiser
from ois_export.int8.robot import RobotGate
from ois_export.int8.search import Choice, choose
from ois_export.parity.comparison import Progress
from ois_runtime.engines.backends import EngineBackend, EngineOptions, GraphBackend, Precision
from ois_runtime.engines.manifest import EngineFile, Manifest
from ois_runtime.engines.pair import EnginePair, GraphPair

#: In `Manifest.options`: role -> `Choice.to_dict`, and how it was found.
OPTION = "int8"
#: Inputs that a layer is measured on.
_MEASURED = 2


def quantise_engines(
    folder: Path,
    manifest: Manifest,
    options: Int8Options,
    *,
    gated: bool = True,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Quantise the fp32 graphs in `folder`; return the manifest, not yet written.

    First the encoder, then the decoder behind the new encoder; both are judged by what they differ
    from the fp32 pair. A graph that passes with no layer stays in fp32. gated: False quantises
    without the robot's judgement, for measurements of speed.

    Raises `ParityError` if no graph could be quantised, `InvalidInput` if the calibration folder
    has no pictures, and `EngineError` if a package is missing.
    """
    require_packages()
    library = _judge()
    limits = options.limits or GateLimits.of(manifest)
    given = pictures(options.calibration)
    choices: dict[str, Choice] = {}
    with tempfile.TemporaryDirectory() as scratch:
        before = {}
        for role in ROLES:
            before[role] = Path(scratch) / f"{role}.onnx"
            shutil.copyfile(folder / f"{role}.onnx", before[role])
        reference = _pair(manifest, library, before, EngineOptions())
        gate = RobotGate(reference, options.scenes, progress) if gated else None
        eight = EngineOptions(precision=Precision.INT8)
        for role in [each for each in ROLES if each in options.roles]:
            inputs = encoder_inputs if role == "encoder" else decoder_inputs
            progress(f"{role}: ranges of the tensors on {len(given)} pictures")
            quantiser = Quantiser(before[role], role, inputs(reference, given))

            def pair_with(path: Path, role: str = role) -> EnginePair:
                files = {each: folder / f"{each}.onnx" for each in ROLES}
                return _pair(manifest, library, {**files, role: path}, eight)

            choices[role] = choose(
                folder / f"{role}.onnx",
                quantiser,
                list(islice(inputs(reference, given), _MEASURED)),
                open_graph=lambda path: library.open_graph(path, eight),
                pair_with=pair_with,
                gate=gate,
                limits=limits,
                progress=progress,
            )
        region = manifest.region
        if choices.get("decoder") and choices["decoder"].quantised:
            progress("decoder: the parts that decode a region")
            region = quantise_parts(
                folder, manifest, before["encoder"], choices["decoder"].chosen, library, given
            )
    if not any(choice.quantised for choice in choices.values()):
        raise ParityError(
            f"no layer could be quantised within the limits ({_last_words(choices, limits)}); "
            "nothing was written. Give --calibration pictures like the ones to segment, or export "
            "in fp32 and run --backend openvino --precision bf16"
        )
    engines = {
        role: _described(folder / f"{role}.onnx", getattr(manifest, role)) for role in choices
    }
    record: dict[str, Any] = {role: choice.to_dict() for role, choice in choices.items()}
    record["pictures"] = len(given)
    record["judged_in"] = library.describe(eight)
    record["limits"] = dataclasses.asdict(limits)
    return dataclasses.replace(
        manifest,
        precision=Precision.INT8.value,
        region=region,
        options={**manifest.options, OPTION: record},
        encoder=engines.get("encoder", manifest.encoder),
        decoder=engines.get("decoder", manifest.decoder),
    )


def _judge() -> GraphBackend:
    """The library that int8 engines are judged in: OpenVINO, or ONNX Runtime without it."""
    backend = EngineBackend.OPENVINO
    try:
        importlib.import_module(backend.package)
    except ImportError:
        backend = EngineBackend.ONNXRUNTIME
    library: Any = importlib.import_module(backend.module)
    return cast(GraphBackend, library)


def _pair(
    manifest: Manifest, library: GraphBackend, files: dict[str, Path], options: EngineOptions
) -> GraphPair:
    graphs = [library.open_graph(files[role], options) for role in ROLES]
    return GraphPair(manifest, library.describe(options), *graphs)


def _described(path: Path, before: EngineFile) -> EngineFile:
    return EngineFile.of(path, before.inputs, before.outputs)


def _last_words(choices: dict[str, Choice], limits: GateLimits) -> str:
    return "; ".join(
        f"{role}: {'; '.join(choice.verdict.broken(limits)) if choice.verdict else 'all broken'}"
        for role, choice in choices.items()
    )
