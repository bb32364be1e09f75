"""Lets `benchmarks/run_gpu.sh` run on a CPU: Python imports this file before it runs a command.

The folder must be on PYTHONPATH, and `tests` too. Everything that needs a GPU is replaced, and
nothing else: the device is the CPU, captured graphs live on `HostDevice`, every replay takes 10 us
by a stand-in clock, `torch.compile` compiles nothing. Networks, engines, measurements, results and
reports are the real ones. Packages that `benchmarks/prepare_gpu.sh` does not carry to a GPU machine
cannot be imported, except for the report, which is made elsewhere.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from typing import Any

NOT_CARRIED = (
    *("cv2", "cuda", "google", "grpc", "matplotlib", "onnx", "onnxruntime", "onnxscript"),
    *("openvino", "psutil", "tensorboard", "transformers", "tritonclient"),
)


def miss() -> None:
    """From here on, these packages are not installed."""
    find = importlib.util.find_spec

    def missing(name: str) -> bool:
        return name.partition(".")[0] in NOT_CARRIED

    class Finder:
        def find_spec(self, name: str, *_others: object) -> None:
            if missing(name):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    importlib.util.find_spec = lambda name, *more: None if missing(name) else find(name, *more)
    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]


def rehearse() -> None:
    import torch

    import ois_benchmarks.contestants.ois as contestants
    import ois_benchmarks.gpu.timing as timing
    import ois_runtime.torch.device as device
    import ois_runtime.torch.runner as runner
    from support.torch_graphs import HostDevice

    cpu = torch.device("cpu")

    class Clock:
        """`GraphTimer` with a stand-in clock."""

        def __init__(self, device: torch.device, _repeats: int) -> None:
            self.device = device

        def capture(self, run: Any) -> Any:
            raise NotImplementedError("nothing that is rehearsed captures with it")

        def time(self, run: Any, *, cold: bool) -> timing.Microseconds:
            del cold
            run()
            return timing.Microseconds(10.0, 9.0, 11.0)

        def time_graph(self, graph: Any, *, cold: bool) -> timing.Microseconds:
            with torch.inference_mode():
                return self.time(graph.replay, cold=cold)

        def rates(self, _dtype: torch.dtype) -> timing.Rates:
            return timing.Rates(4e12, 5e14)

    def graphs(encode: Any, decode: Any) -> Any:
        from ois_runtime.torch.graphs import GraphRunner

        return GraphRunner(encode, decode, HostDevice(), cuda_graphs=32)

    open_ois = contestants.open_ois
    contestants.open_ois = lambda place, variant: open_ois(replace(place, device="cuda"), variant)
    timing.require_gpu = lambda: cpu  # type: ignore[assignment]
    timing.describe_gpu = lambda _device: {"gpu": "rehearsal", "capability": "0.0"}
    timing.GraphTimer = Clock  # type: ignore[assignment,misc]
    device.find_device = lambda _name, _precision: cpu  # type: ignore[assignment]
    if "gpu-profile" not in sys.orig_argv:  # without graphs; a profile of a CPU is of one thread
        runner.EagerRunner = graphs  # type: ignore[assignment,misc]
    torch.cuda.get_device_name = lambda _device=None: "rehearsal"
    torch.compile = lambda module, **_options: module  # type: ignore[assignment]


# Only for the commands of the script and the processes that measure, not for pip.
if any(word.startswith("ois_") for word in sys.orig_argv):
    if "report" not in sys.orig_argv:
        miss()
    rehearse()
