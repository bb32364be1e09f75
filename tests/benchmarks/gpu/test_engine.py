"""GPU measurements, on a stand-in device: the graphs that users' calls replay are timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ois_benchmarks import machine
from ois_benchmarks.gpu import ceilings, engine
from ois_benchmarks.gpu.timing import Microseconds, Rates
from ois_benchmarks.report.gpu import engine_tables
from ois_benchmarks.roofline import Ceilings
from ois_cli.main import main
from ois_client.contract.errors import EngineError
from ois_network.checkpoints.checkpoint import save_checkpoint
from ois_runtime.engines.backends import EngineOptions
from ois_runtime.gpu_driver import Gpu
from ois_runtime.torch.engine import TorchEngines, open_whole
from ois_runtime.torch.graph_pool import CAPTURE_AT
from ois_runtime.torch.graphs import GraphRunner
from ois_runtime.torch.runner import EagerRunner
from support.network_scenes import MICRO, random_network
from support.torch_graphs import HostDevice

H200 = Gpu("NVIDIA H200", 90, 141 * 2**30, (13, 0))
RATES = {"fp32": Rates(4e12, 5e13), "bf16": Rates(4.1e12, 7e14), "fp16": Rates(4e12, 7.2e14)}


class Timer:
    """In place of `GraphTimer`: runs what it should time once; every replay takes 10 us."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []

    def time_graph(self, graph: Any, *, cold: bool) -> Microseconds:
        assert not cold  # a click's own inputs were just written
        with torch.inference_mode():
            graph.replay()
        self.graphs.append(graph)
        return Microseconds(10.0, 9.0, 11.0)

    def time(self, run: Callable[[], Any], *, cold: bool) -> Microseconds:
        assert not cold
        assert run().dtype is torch.uint8
        return Microseconds(2.0, 1.0, 3.0)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> TorchEngines:
    """A small random network whose graphs live on `HostDevice`."""
    file = tmp_path_factory.mktemp("micro") / "micro.safetensors"
    save_checkpoint(random_network(MICRO, seed=1), file, trained=False)
    made = open_whole(file, EngineOptions())
    assert isinstance(made.runner, EagerRunner)
    made.runner = GraphRunner(
        made.runner._encode, made.runner._decode, HostDevice(), cuda_graphs=32
    )
    return made


def bench(engines: TorchEngines) -> tuple[engine.Bench, Timer]:
    timer = Timer()
    side = MICRO.longest
    return engine.Bench(engines, timer, RATES["fp32"], side, side), timer  # type: ignore[arg-type]


def test_graphs_of_the_engine_are_timed(engines: TorchEngines) -> None:
    cost = engine.cost_of(engines, MICRO.longest, MICRO.longest)
    made, timer = bench(engines)
    rows = list(made.replays((1, 2, 8), cost))
    assert [row.name for row in rows] == ["encode", "click, N = 1", "click, N = 2", "click, N = 8"]
    runner = engines.runner
    assert isinstance(runner, GraphRunner)
    kept = runner.kept
    assert kept.clicks.captures == 3
    assert [graph.outputs[0].shape[0] for graph in timer.graphs[1:]] == [1, 2, 8]
    assert all(row.masks is not None and row.call_us > 0 for row in rows[1:])
    assert rows[0].masks is None
    # Eight objects take eight times the arithmetic, but weights and features are read once.
    assert rows[3].floor_us <= 8 * rows[1].floor_us
    by_memory = cost.click_bytes / 4e12 > cost.click_flops / 5e13
    assert rows[1].bound == ("memory" if by_memory else "arithmetic")
    assert rows[1].floor_us == 1e6 * max(cost.click_flops / 5e13, cost.click_bytes / 4e12)
    shape = engine.NewShape(112, 84, (9.0, 30.0, 1.0), (5.0, 9.0, 1.0))
    table = "".join(each.markdown() for each in engine.tables_of(rows, [shape]))
    assert "| click, N = 8 | 10 (9 to 11) |" in table
    assert "| 112x84 | 9.0, 30.0, 1.0 | 5.0, 9.0, 1.0 |" in table
    about = {"network": "micro", "weights": "random", "engine": "torch", "size": "112x112"}
    stopped = "the GPU is out of memory"
    document = engine.EngineResult(about, rows, [shape], stopped).to_dict()
    graphs, shapes = engine_tables(json.loads(json.dumps(document)))
    assert [row.cells[0] for row in graphs.rows] == [
        "encode", "click, 1 objects", "click, 2 objects", "click, 8 objects"
    ]  # fmt: skip
    assert graphs.rows[1].cells[1] == "10.0\n9.00 to 11.0"
    assert graphs.rows[1].cells[4:6] == [rows[1].bound, "2.00"]
    assert graphs.notes[-1] == "The run stopped early: the GPU is out of memory"
    assert shapes.rows[0].cells == ["112x84", "9.00, 30.0, 1.00", "5.00, 9.00, 1.00"]


def test_numbers_of_objects_that_run_in_parts_are_not_timed(
    engines: TorchEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.runner, "_most_objects", lambda _grid: 3)
    rows = bench(engines)[0].replays((1, 2, 8), engine.cost_of(engines, 112, 112))
    assert [next(rows).objects for _ in range(3)] == [0, 1, 2]
    with pytest.raises(EngineError, match="8 objects run in parts of at most 2"):
        next(rows)


def test_new_shapes_are_timed_use_by_use(engines: TorchEngines) -> None:
    runner = engines.runner
    assert isinstance(runner, GraphRunner)
    before = runner.kept.encodes.captures
    shapes = list(bench(engines)[0].new_shapes())
    assert [shape.height for shape in shapes] == [56, 70, 84]
    assert all(shape.width == MICRO.longest for shape in shapes)
    assert all(len(s.encode_ms) == len(s.click_ms) == CAPTURE_AT + 1 for s in shapes)
    assert runner.kept.encodes.captures == before + 3


def test_engines_on_a_cpu_are_refused(engines: TorchEngines) -> None:
    plain = open_engines_like(engines)
    with pytest.raises(EngineError, match="expected a GPU"):
        engine.Bench(plain, Timer(), RATES["fp32"], 112, 112)  # type: ignore[arg-type]


def open_engines_like(engines: TorchEngines) -> TorchEngines:
    runner = engines.runner
    assert isinstance(runner, GraphRunner)
    made = object.__new__(TorchEngines)
    made.runner = EagerRunner(runner._encode, runner._decode)
    made.description = "torch cpu"
    return made


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_commands_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "gpu-engine"]) == 2
    assert main(["bench", "ceilings", "--output", str(tmp_path / "ceilings.json")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: this measurement needs an NVIDIA GPU") for line in said)
    assert len(said) == 2


def test_a_gpus_ceilings_hold_for_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.gpu_driver, "probe", lambda: H200)
    found = ceilings.ceilings_of(RATES, "torch's name")
    assert (found.where, found.bytes_per_s) == ("NVIDIA H200", 4.1e12)
    assert found.peaks() == {"fp32": 5e13, "bf16": 7e14, "fp16": 7.2e14}
    assert found.peak("fp16") == 7.2e14
    assert Ceilings.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    here = machine.describe()
    assert found.holds_for(here, "cuda")
    assert not found.holds_for({**here, "gpu": "NVIDIA H100 80GB HBM3"}, "cuda")
    assert not found.holds_for(here)  # nor for what ran on this machine's processor


def test_a_machine_names_its_gpu_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.gpu_driver, "probe", lambda: H200)
    monkeypatch.setattr(machine, "_driver_version", lambda: "580.159.04")
    assert machine.describe_gpu() == {
        "gpu": "NVIDIA H200",
        "gpu_memory_gib": 141.0,
        "gpu_capability": "9.0",
        "driver": "580.159.04",
        "driver_cuda": "13.0",
    }

    def nothing() -> Gpu:
        raise EngineError("no NVIDIA driver")

    monkeypatch.setattr(machine.gpu_driver, "probe", nothing)
    assert machine.describe_gpu() == {}
    assert not {"gpu", "driver"} & machine.describe().keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "big"], "expected WIDTHxHEIGHT"),
        (["--size", "1022"], "expected WIDTHxHEIGHT"),
        (["--repeats", "0"], "Invalid value for '--repeats'"),
        (["--objects", "3"], "got 3 objects; expected some of 1, 2, 4"),
        (["--precision", "int4"], "got the precision 'int4'"),
    ],
)
def test_impossible_options_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "gpu-engine", *words]) == 2
    assert said in capsys.readouterr().err
