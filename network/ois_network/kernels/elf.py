"""What a cubin says about itself, read without CUDA's tools.

A cubin is an ELF file. The architecture is in its header's flags; registers, stack and the
parameters of each kernel are in the `.nv.info` sections, as records that NVIDIA does not
document but its tools (`cuobjdump --dump-resource-usage`) print:

    format (1 byte), attribute (1 byte), size or value (2 bytes), then `size` bytes if format 4
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ois_client.contract.errors import ExportError

_SIZED = 4  # the format that has bytes behind it
_FRAME_SIZE, _PARAMETER, _REGISTERS = 0x11, 0x17, 0x2F
_INFO = ".nv.info"
_FIRST_NEW_ABI = 8  # from here the architecture is in bits 8-15 of the flags, not in 0-7


@dataclass(frozen=True, slots=True)
class Cubin:
    """architecture: 90 for sm_90; entry: the kernel's name; parameters: how many it takes;
    registers: of a thread; stack_bytes: of a thread, 0 when nothing was spilled.
    """

    architecture: int
    entry: str
    parameters: int
    registers: int
    stack_bytes: int


def read_cubin(data: bytes) -> Cubin:
    """Of a file with one kernel. Raises `ExportError` when it is no such file."""
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
        # Records of all functions name theirs by its symbol: a kernel's helpers have their own.
        number = [s.name for s in symbols.iter_symbols()].index(entry)
        flags = elf["e_flags"]
    except (ELFError, KeyError, ValueError) as error:
        raise ExportError(f"got something that is no cubin: {error!r}") from error
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
    """The value of an (attribute, symbol) record of two 32-bit words."""
    for found, data in records:
        if found == attribute and int.from_bytes(data[:4], "little") == number:
            return int.from_bytes(data[4:8], "little")
    raise ExportError(f"the cubin has no record {attribute:#x} of its kernel")
