"""Both halves can be compiled whole. Nothing is compiled here: a backend counts and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from ois_benchmarks.gpu import compiled
from ois_benchmarks.gpu.timing import Microseconds
from ois_network.checkpoints.checkpoint import save_checkpoint
from ois_runtime.engines.backends import Precision
from support.network_scenes import MICRO, random_network

CPU = torch.device("cpu")
#: Operations of the traced halves of MICRO, with a margin. More mean more kernels in every click.
MOST_OPERATIONS = {"click, N = 1": 420, "encode": 420}


class Timer:
    """In place of `GraphTimer`: runs what it should time."""

    def time(self, run: Any, *, cold: bool) -> Microseconds:
        assert not cold
        run()
        return Microseconds(10.0, 9.0, 11.0)


@pytest.mark.usefixtures("one_thread")
def test_both_halves_are_one_graph_each(tmp_path: Path) -> None:
    file = tmp_path / "micro.safetensors"
    save_checkpoint(random_network(MICRO, seed=1), file, trained=False)
    halves = compiled.halves_of(file, Precision.BF16, CPU)
    graphs: list[int] = []

    def backend(graph: GraphModule, _inputs: Any) -> Any:
        graphs.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        return graph.forward

    rows = list(
        compiled.measure(*halves, (112, 84), Timer(), CPU, backend)  # type: ignore[arg-type]
    )
    assert [row.name for row in rows] == list(MOST_OPERATIONS)
    assert len(graphs) == 2  # one each: no break
    # The last convolution sums in another order, which can change the coverage by 1 of 255.
    assert all(row.error < 1e-2 for row in rows)
    for count, most in zip(graphs, MOST_OPERATIONS.values(), strict=True):
        assert 50 < count <= most
    table = compiled.table_of(rows).markdown()
    assert "| click, N = 1 | 10 | 10 | 1.00x | " in table
