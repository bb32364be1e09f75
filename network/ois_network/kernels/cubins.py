"""Compiles the kernels for GPUs that this machine lacks, and reads what the compiler made of them.

It needs no GPU. A cubin, the machine code of one kernel for one architecture, says how many
registers and how much shared memory it takes. From these follows its occupancy: how many programs
one multiprocessor runs at once, which the launcher relies on. CI checks both.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import triton
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ois_client.contract.errors import ExportError
from ois_network.kernels import language
from ois_network.kernels.choice import Blocks
from ois_network.kernels.launch import sum_tile

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
#: The precisions that engines use. The kernels also compile for fp32, but spill registers.
DTYPES = ("fp16", "bf16")
#: Pointers that Triton adds to the declared parameters.
HIDDEN = ("global_scratch", "profile_scratch")
#: Of ViT-S, B and L: 256 channels in 8 heads. There are 48 slots.
HEADS, DIM = 8, 32
BLOCKS = Blocks(queries=64, keys=64, splits=1)  # splits is a launch parameter
#: Shares of one object's keys on a GPU of 132 multiprocessors.
SHARES = 34

#: Of one multiprocessor: threads, blocks, bytes of shared memory.
_MULTIPROCESSORS = {
    80: (2048, 32, 164 * 1024),
    86: (1536, 16, 100 * 1024),
    89: (1536, 24, 100 * 1024),
    90: (2048, 32, 228 * 1024),
    100: (2048, 32, 228 * 1024),
    120: (1536, 24, 100 * 1024),
}
_REGISTERS_OF_ALL = 65536  # per multiprocessor, of every architecture
_REGISTERS_AT_ONCE = 256  # allocated for each warp in multiples of this
_SHARED_RESERVED = 1024  # bytes of shared memory per block that CUDA takes
_INPUTS = ("query", "key", "value", "key_part", "value_part", "out")
_TYPES = {
    **dict.fromkeys(("centre", "depth", "sigma", "sums", "stats"), "*fp32"),
    **dict.fromkeys(("label", "visible", "touched", "index"), "*i32"),
    "fresh": "*i8",
    **dict.fromkeys(("queries", "keys", "parts", "splits", "shares"), "i32"),
    "scale": "fp32",
}
_POINTERS_ALIGNED = [["tt.divisibility", 16]]


# A cubin is an ELF file. Its `.nv.info` sections hold records that NVIDIA does not document:
#     format (1 byte), attribute (1 byte), size or value (2 bytes), then `size` bytes if format 4
_SIZED = 4
_FRAME_SIZE, _PARAMETER, _REGISTERS = 0x11, 0x17, 0x2F
_INFO = ".nv.info"
_FIRST_NEW_ABI = 8  # from this ABI on the architecture is in bits 8-15 of the flags, before in 0-7


@dataclass(frozen=True, slots=True)
class KernelVariant:
    """A kernel and what is compiled into it."""

    name: str
    kernel: str
    dtype: str
    constants: dict[str, Any]
    warps: int
    stages: int


def variants(dtypes: Sequence[str] = DTYPES) -> list[KernelVariant]:
    """Order-aware attention, object-aware attention and the sum of shares, for each precision."""
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
            variant = KernelVariant(
                f"{name}-{dtype}", "masked_attention", dtype, constants, BLOCKS.warps, BLOCKS.stages
            )
            found.append(variant)
        tile, warps = sum_tile(SHARES)
        found.append(
            KernelVariant(f"sum-{dtype}", "add_shares", dtype, heads | {"BLOCK_S": tile}, warps, 1)
        )
    return found


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled kernel. parameters: (name, Triton's type), including the two that Triton adds."""

    variant: KernelVariant
    data: bytes
    facts: Cubin
    shared_bytes: int
    parameters: tuple[tuple[str, str], ...]

    @property
    def occupancy(self) -> int:
        """How many programs of this kernel one multiprocessor runs at once."""
        return occupancy(self.facts, self.variant.warps, self.shared_bytes)


def compile_kernel(variant: KernelVariant, architecture: int) -> Compiled:
    """Compile for sm_<architecture>. Raises `ExportError` if the result is not as requested."""
    if triton.knobs.runtime.interpret:
        raise ExportError("TRITON_INTERPRET is set, so Triton does not compile; unset it")
    function = getattr(language, variant.kernel)
    types = _TYPES | dict.fromkeys(_INPUTS, f"*{variant.dtype}")
    signature = {
        name: "constexpr" if name in variant.constants else types[name]
        for name in function.arg_names
    }
    attributes = {
        (place,): _POINTERS_ALIGNED
        for place, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    # Fusing a·b + c is the default of Triton up to 3.9 and not of later versions, so set it.
    options = {"num_warps": variant.warps, "num_stages": variant.stages, "enable_fp_fusion": True}
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True  # it is most of a file
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
        wrong.append("it needs scratch memory")
    if wrong:
        raise ExportError(
            f"Triton {triton.__version__} compiled {variant.name} for sm_{architecture} wrongly: "
            f"{'; '.join(wrong)}. Use another version of Triton"
        )
    return Compiled(variant, data, facts, kernel.metadata.shared, parameters)


def occupancy(facts: Cubin, warps: int, shared_bytes: int) -> int:
    """How many blocks of `warps` warps one multiprocessor of the cubin's architecture holds.

    By NVIDIA's rules: registers are allocated per warp, and each block of threads takes 1 KiB of
    shared memory besides its own. Raises `KeyError` for an architecture that is not in
    `ARCHITECTURES`.
    """
    threads, blocks, shared = _MULTIPROCESSORS[facts.architecture]
    per_warp = -(-32 * facts.registers // _REGISTERS_AT_ONCE) * _REGISTERS_AT_ONCE
    return min(
        blocks,
        threads // (32 * warps),
        _REGISTERS_OF_ALL // (per_warp * warps),
        shared // (shared_bytes + _SHARED_RESERVED),
    )


@dataclass(frozen=True, slots=True)
class Cubin:
    """What a compiled kernel says about itself.

    architecture: 90 for sm_90. entry: the kernel's name. parameters: their number. registers and
    stack_bytes: per thread; a stack of 0 bytes means that no register was spilled.
    """

    architecture: int
    entry: str
    parameters: int
    registers: int
    stack_bytes: int


def read_cubin(data: bytes) -> Cubin:
    """Read a cubin with one kernel. Raises `ExportError` if `data` is anything else."""
    try:
        elf = ELFFile(io.BytesIO(data))
        sections = {section.name: section for section in elf.iter_sections()}
        symbols = sections[".symtab"]
        entries = [name for name in sections if name.startswith(_INFO + ".")]
        if elf["e_machine"] != "EM_CUDA" or len(entries) != 1:
            raise ExportError(f"got an ELF file with {len(entries)} kernels; expected one cubin")
        entry = entries[0].removeprefix(_INFO + ".")
        general = list(_records(sections[_INFO].data()))
        own = list(_records(sections[entries[0]].data()))
        # General records name their function by its symbol: a kernel's helpers have their own.
        number = [s.name for s in symbols.iter_symbols()].index(entry)
        flags = elf["e_flags"]
    except (ELFError, KeyError, ValueError) as error:
        raise ExportError(f"got data that is not a cubin ({error!r}); compile it again") from error
    new = elf["e_ident"]["EI_ABIVERSION"] >= _FIRST_NEW_ABI
    return Cubin(
        architecture=flags >> 8 & 0xFF if new else flags & 0xFF,
        entry=entry,
        parameters=sum(attribute == _PARAMETER for attribute, _ in own),
        registers=_of_symbol(general, _REGISTERS, number),
        stack_bytes=_of_symbol(general, _FRAME_SIZE, number),
    )


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at + 2 : at + 4], "little") if data[at] == _SIZED else 0
        yield data[at + 1], data[at + 4 : at + 4 + size]
        at += 4 + size


def _of_symbol(records: list[tuple[int, bytes]], attribute: int, number: int) -> int:
    """The value of the record of an attribute and a symbol number (two 32-bit words)."""
    for found, data in records:
        if found == attribute and int.from_bytes(data[:4], "little") == number:
            return int.from_bytes(data[4:8], "little")
    raise ExportError(f"the cubin has no record {attribute:#x} for its kernel; compile it again")
