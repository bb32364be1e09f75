"""The kernels compiled ahead of time, for hosts that have no Python (a TensorRT plugin).

    python -m ois_network.kernels.cubins FOLDER [--sm 90] [--dtype float16]

needs no GPU. One file an architecture and variant, and `manifest.json`, which says how each is
launched: grid, threads, shared memory, and its parameters in order. After the declared ones
come two that Triton adds, pointers to scratch memory; these kernels use none, pass null.

From sm_90 on the code is for exactly that architecture (`sm_90a`, `sm_100a`, ...): choose the
file at run time by the device's compute capability.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ois_client.contract.errors import ExportError, OISError, OutputError
from ois_network.kernels import language
from ois_network.kernels.choice import Blocks
from ois_network.kernels.elf import Cubin, read_cubin

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
#: What is written. The kernels compile for fp32 as well, but spill registers there.
DTYPES = ("float16", "bfloat16")
HIDDEN = ("global_scratch", "profile_scratch")
#: ViT-S, B and L: 256 channels in 8 heads, 48 slots.
HEADS, DIM = 8, 32
BLOCKS = Blocks(queries=64, keys=64, splits=1)  # splits is a parameter, not compiled in

_POINTERS = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}
_INPUTS = ("query", "key", "value", "key_part", "value_part", "out")
_TYPES = {
    **dict.fromkeys(("centre", "depth", "sigma", "sums", "stats"), "*fp32"),
    **dict.fromkeys(("label", "visible", "touched", "index"), "*i32"),
    "fresh": "*i8",
    **dict.fromkeys(("queries", "keys", "parts", "splits", "shares"), "i32"),
    "scale": "fp32",
}
_POINTERS_ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled kernel. name: of the file; constants: what is compiled in."""

    name: str
    kernel: str
    dtype: str
    constants: dict[str, Any]
    warps: int
    stages: int


def variants(dtypes: Sequence[str] = DTYPES) -> list[Variant]:
    """Order-aware, object-aware and the sum of their shares, for each dtype."""
    heads = {"HEADS": HEADS, "DIM": DIM}
    found = []
    for dtype in dtypes:
        for name, order in (("order", True), ("object", False)):
            constants = heads | {
                "BLOCK_Q": BLOCKS.queries,
                "BLOCK_K": BLOCKS.keys,
                "KEYS_SHARED": True,
                "DEPTH_SHARED": True,
                "SIGMA_PER_HEAD": False,
                "ORDER": order,
                "ALLOW": not order,
                "PARTS": True,
                "SKIP": False,
                "DIRECT": False,
                "PRECISION": "ieee",
                "WIDEN": False,
            }
            variant = Variant(
                f"{name}-{dtype}", "masked_attention", dtype, constants, BLOCKS.warps, BLOCKS.stages
            )
            found.append(variant)
        found.append(Variant(f"sum-{dtype}", "add_shares", dtype, heads | {"BLOCK_Q": 16}, 1, 1))
    return found


@dataclass(frozen=True, slots=True)
class Compiled:
    """data: the cubin. parameters: (name, Triton's type), the two hidden ones included."""

    variant: Variant
    data: bytes
    facts: Cubin
    shared_bytes: int
    parameters: tuple[tuple[str, str], ...]


def compile_kernel(variant: Variant, architecture: int) -> Compiled:
    """For sm_<architecture>. Raises `ExportError` when what comes out is not what was asked."""
    if triton.knobs.runtime.interpret:
        raise ExportError("TRITON_INTERPRET is set, which replaces the compiler; unset it")
    function = getattr(language, variant.kernel)
    types = _TYPES | dict.fromkeys(_INPUTS, _POINTERS[variant.dtype])
    signature = {
        name: "constexpr" if name in variant.constants else types[name]
        for name in function.arg_names
    }
    attributes = {
        (place,): _POINTERS_ALIGNED
        for place, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    # Contraction of a·b + c is Triton's default up to 3.9 and not after: say it.
    options = {"num_warps": variant.warps, "num_stages": variant.stages, "enable_fp_fusion": True}
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True  # it is most of the file
        kernel = triton.compile(
            ASTSource(function, signature, variant.constants, attributes),
            target=GPUTarget("cuda", architecture, 32),
            options=options,
        )
    data = kernel.asm["cubin"]
    facts = read_cubin(data)
    declared = [(name, kind) for name, kind in signature.items() if kind != "constexpr"]
    parameters = (*declared, *((name, "*i8") for name in HIDDEN))
    wrong = []
    if facts.architecture != architecture:
        wrong.append(f"it is for sm_{facts.architecture}")
    if facts.entry != variant.kernel:
        wrong.append(f"its kernel is {facts.entry}")
    if facts.parameters != len(parameters):
        wrong.append(f"it takes {facts.parameters} parameters, expected {len(parameters)}")
    if kernel.metadata.global_scratch_size or kernel.metadata.profile_scratch_size:
        wrong.append("it wants scratch memory")
    if wrong:
        raise ExportError(
            f"Triton {triton.__version__} compiled {variant.name} for sm_{architecture} to "
            f"something else: {'; '.join(wrong)}. Use another version of Triton"
        )
    return Compiled(variant, data, facts, kernel.metadata.shared, parameters)


def write_cubins(
    folder: Path,
    architectures: Sequence[int] = ARCHITECTURES,
    dtypes: Sequence[str] = DTYPES,
) -> Path:
    """Compile and write all; the manifest comes last. Returns its path.

    Raises `ExportError`, and `OutputError` when the folder cannot be written.
    """
    entries = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for architecture in architectures:
            for variant in variants(dtypes):
                compiled = compile_kernel(variant, architecture)
                file = f"{variant.name}-sm{architecture}.cubin"
                (folder / file).write_bytes(compiled.data)
                entries.append(_entry(file, compiled))
        manifest = folder / "manifest.json"
        manifest.write_text(
            json.dumps({"schema": 1, "triton": triton.__version__, "kernels": entries}, indent=1)
        )
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    return manifest


def _entry(file: str, compiled: Compiled) -> dict[str, Any]:
    variant = compiled.variant
    tile = f"ceil(queries / {variant.constants['BLOCK_Q']})"
    grids = {
        "masked_attention": ["splits + 1", f"{HEADS} * {tile}", "objects"],
        "add_shares": [tile, str(HEADS), "objects"],
    }
    return {
        "file": file,
        "bytes": len(compiled.data),
        "sha256": hashlib.sha256(compiled.data).hexdigest(),
        "architecture": compiled.facts.architecture,
        "entry": compiled.facts.entry,
        "registers": compiled.facts.registers,
        "stack_bytes": compiled.facts.stack_bytes,
        "dtype": variant.dtype,
        "grid": grids[variant.kernel],
        "threads": 32 * variant.warps,
        "shared_bytes": compiled.shared_bytes,
        "parameters": [list(parameter) for parameter in compiled.parameters],
        "constants": variant.constants,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ois_network.kernels.cubins",
        description="Compile the masked cross-attention for GPUs; none is needed here.",
    )
    parser.add_argument("folder", type=Path, help="where the cubins and manifest.json go")
    parser.add_argument(
        "--sm",
        type=int,
        action="append",
        choices=ARCHITECTURES,
        help="architecture; repeat it (default: all)",
    )
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="repeat it (default: all)")
    options = parser.parse_args(argv)
    try:
        manifest = write_cubins(
            options.folder, options.sm or ARCHITECTURES, options.dtype or DTYPES
        )
    except OISError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for entry in json.loads(manifest.read_text())["kernels"]:
        print(
            f"{entry['file']:34} {entry['bytes']:>7} bytes  {entry['registers']:>3} registers  "
            f"{entry['stack_bytes']:>3} bytes of stack  {entry['shared_bytes']:>6} shared"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
