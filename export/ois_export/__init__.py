"""Exports a checkpoint to engines: graphs, lint, parity gate, manifest, model repository.

    manifest = export_engines(checkpoint, engines)               # ONNX, for CPUs
    export_engines(checkpoint, graphs, target=Target.TENSORRT, precision="fp16")
    folder = build_engines(graphs, plans)                        # on the machine with the GPU

Engines that fail a check are not written. Importing this package loads neither torch nor onnx;
each name loads its module on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ois_export.export import export_engines
    from ois_export.parity.comparison import Limits
    from ois_export.repository import write_repository
    from ois_export.targets import Target
    from ois_export.tensorrt.build import Ranges, build_engines, trtexec_commands
    from ois_export.tensorrt.plan import BuildOptions

__all__ = [
    "BuildOptions",
    "Limits",
    "Ranges",
    "Target",
    "build_engines",
    "export_engines",
    "trtexec_commands",
    "write_repository",
]

_MODULES = {
    "BuildOptions": "tensorrt.plan",
    "Limits": "parity.comparison",
    "Ranges": "tensorrt.build",
    "Target": "targets",
    "build_engines": "tensorrt.build",
    "export_engines": "export",
    "trtexec_commands": "tensorrt.build",
    "write_repository": "repository",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
