"""Variants of the kernels that the launcher uses, to be compiled.

Only `compiled` imports the compiler, so that a test can set the environment before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ois_network.kernels.cubins import Compiled

#: On which every variant is compiled.
ARCHITECTURE = 90
#: On which only the three kernels of an fp16 engine are.
OTHERS = (80, 86, 89, 100, 120)
_NO_DISKS = ("PARTS", False)
#: One share of the keys. Triton compiles in an argument that is 1, as in the launcher.
_ONE_SHARE = (("DIRECT", True), _NO_DISKS, ("splits", 1))


@dataclass(frozen=True)
class CubinCase:
    """A variant. kernel: order, object or sum. changes: other constants than `cubins.variants`."""

    kernel: str
    dtype: str
    changes: tuple[tuple[str, object], ...] = ()
    architecture: int = ARCHITECTURE


#: What an fp16 engine launches for most clicks.
USUAL = {
    f"{kernel} fp16, sm_{architecture}": CubinCase(kernel, "fp16", (), architecture)
    for architecture in (ARCHITECTURE, *OTHERS)
    for kernel in ("order", "object", "sum")
}
CASES = USUAL | {
    "order bf16": CubinCase("order", "bf16"),
    "object bf16": CubinCase("object", "bf16"),
    "sum bf16": CubinCase("sum", "bf16"),
    "order fp32": CubinCase("order", "fp32"),
    "sum fp32": CubinCase("sum", "fp32"),
    "sum of few": CubinCase("sum", "fp16", (("BLOCK_S", 16),)),
    "order, skipping": CubinCase("order", "fp16", (("SKIP", True),)),
    "object, skipping": CubinCase("object", "fp16", (("SKIP", True),)),
    "order, no disks": CubinCase("order", "fp16", (_NO_DISKS,)),
    "order, one share": CubinCase("order", "fp16", _ONE_SHARE),
    "object, one share, skipping": CubinCase("object", "bf16", (*_ONE_SHARE, ("SKIP", True))),
    "object, nothing masked": CubinCase("object", "fp16", (("ALLOW", False),)),
    "order, all of each object's own": CubinCase(
        "order",
        "fp16",
        (("KEYS_SHARED", False), ("DEPTH_SHARED", False), ("SIGMA_PER_HEAD", True), _NO_DISKS),
    ),
}


def compiled(case: CubinCase) -> Compiled:
    """Compile a case. Raises the `ExportError` of `cubins.compile_kernel`."""
    from ois_network.kernels import cubins

    name = f"{case.kernel}-{case.dtype}"
    variant = next(one for one in cubins.variants([case.dtype]) if one.name == name)
    constants = variant.constants | dict(case.changes)
    return cubins.compile_kernel(replace(variant, constants=constants), case.architecture)
