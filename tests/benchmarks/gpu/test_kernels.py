"""Measurements of kernels: what is refused and what is concluded. Timing itself needs a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton, which is for Linux")

from ois_benchmarks.gpu import kernels, plugin
from ois_benchmarks.gpu.click import flops, least_bytes
from ois_benchmarks.gpu.timing import Microseconds, Rates
from ois_benchmarks.report.gpu import kernel_tables
from ois_cli.main import main
from ois_client.contract.errors import InvalidInput, ParityError
from ois_network.kernels.choice import Blocks, choose, read_measurements
from ois_network.kernels.slots import Call

CALL = Call(1, 48, 256, 5329, 8, torch.float16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this measurement needs an NVIDIA GPU")
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--objects", "0"], ["--repeats", "0"]])
def test_impossible_options_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "kernels", *arguments]) == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_the_floor_counts_each_number_once() -> None:
    # Six attentions, two products of 48 x 5329 x 256 multiply-adds each.
    assert flops(CALL) == 6 * 2 * 2 * 48 * 5329 * 256
    images_part = 6 * 2 * 5329 * 256 * 2
    assert images_part < least_bytes(CALL) < 1.05 * images_part
    more = Call(64, 48, 256, 5329, 8, torch.float16)
    assert flops(more) == 64 * flops(CALL)
    assert least_bytes(more) < 3 * least_bytes(CALL)  # K and V of the image are shared
    assert Rates(1e12, 1e15).floor_s(flops=10**12, bytes_moved=10**6) == 1e-3
    assert Rates(1e12, 1e15).floor_s(flops=10**6, bytes_moved=10**9) == 1e-3


def test_candidates_fill_the_device() -> None:
    for blocks in kernels.candidates(CALL, multiprocessors=132):
        share = 8 * -(-48 // blocks.queries)  # programs of one share
        most = -(-5329 // blocks.keys)
        # With the share of the touched patches, and one more would not fit.
        assert (blocks.splits + 2) * share > 132 or blocks.splits == most
        assert (blocks.splits + 1) * share <= 4 * 132
        assert 1 <= blocks.splits <= most


def test_a_measured_row_decides_and_reads_well() -> None:
    cold, warm = Microseconds(20.0, 19.0, 21.0), Microseconds(15.0, 14.0, 16.0)
    slow = Microseconds(50.0, 49.0, 51.0)
    row = kernels.KernelRow(CALL, cold, warm, slow, slow, 42.0, 10.0, 1e-4, Blocks(64, 64, 33))
    assert choose([row.measurement], CALL) == Blocks(64, 64, 33)
    assert "| 5329 | 1 | 20.0 / 15.0 | 50.0 / 50.0 | 42.0 | 10.0 | 50% | 2.50x |" in (
        kernels.table_of([row]).markdown()
    )
    assert json.loads(json.dumps(row.to_dict()))["call"]["dtype"] == "float16"


#: As `ois export` names nodes, see test_export_fp16.py.
ATTENTION = "network.fusion.blocks.0.order_attention"


def profile(attention_ms: float) -> list[dict[str, Any]]:
    layers = {f"{ATTENTION}/node__symbolic": attention_ms, "/head/Conv": 0.9 - attention_ms}
    return [{"count": 100}] + [{"name": n, "averageMs": ms} for n, ms in layers.items()]


def measured(kernels_us: float) -> dict[str, Any]:
    call = {"objects": 1, "keys": 5329}
    return {"rows": [{"call": call, "kernels_cold": {"median": kernels_us}}]}


@pytest.mark.parametrize(
    ("attention_ms", "kernels_us", "needed"),
    [(0.2, 20, True), (0.2, 160, False), (0.02, 30, False), (0.066, 20, True)],
)
def test_a_plugin_is_for_where_it_saves_enough(
    attention_ms: float, kernels_us: float, needed: bool
) -> None:
    verdict = plugin.decide(profile(attention_ms), measured(kernels_us), objects=1, keys=5329)
    assert verdict.click_us == pytest.approx(900)
    assert verdict.needed is needed
    assert verdict.sentence().startswith("build the plugin" if needed else "no plugin")


def test_the_decision_needs_both_measurements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidInput, match="none of the profile's 2 layers"):
        plugin.decide(profile(0.1), measured(9), objects=1, keys=5329, layers="gone")
    with pytest.raises(InvalidInput, match="only for 1 objects with 5329 keys"):
        plugin.decide(profile(0.1), measured(9), objects=4, keys=5329)
    with pytest.raises(InvalidInput, match="something else"):
        plugin.decide({"a": 1}, measured(9), objects=1, keys=5329)
    (tmp_path / "p.json").write_text(json.dumps(profile(0.2)))
    (tmp_path / "k.json").write_text(json.dumps(measured(20)))
    files = [str(tmp_path / "p.json"), str(tmp_path / "k.json")]
    assert main(["bench", "plugin", *files]) == 0
    assert "saves at most 20.0%" in capsys.readouterr().out
    assert main(["bench", "plugin", *files, "--layers", "("]) == 2
    assert "expected a regular expression" in capsys.readouterr().err
    assert main(["bench", "plugin", files[0], str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err


def test_fused_layers_are_known_by_what_they_are_made_of() -> None:
    fused = [
        {"count": 100},
        {"name": "__myl_MulAddSoft_myl0_12", "averageMs": 0.2},
        {"name": "{ForeignNode[/a.../b]}", "averageMs": 0.7},
    ]
    with pytest.raises(
        InvalidInput, match=r"2 of them are regions that TensorRT fused \(900.0 us\).*--layer-info"
    ):
        plugin.decide(fused, measured(20), objects=1, keys=5329)
    info = {
        "Layers": [
            {
                "Name": "__myl_MulAddSoft_myl0_12",
                "Metadata": f"[ONNX Layer: {ATTENTION}/node__symbolic]",
            },
            {"Name": "{ForeignNode[/a.../b]}", "Metadata": "[ONNX Layer: /head/Conv]"},
        ]
    }
    verdict = plugin.decide(fused, measured(20), objects=1, keys=5329, layer_info=info)
    assert verdict.tensorrt_us == pytest.approx(200)
    # Without details TensorRT writes only names, and nothing is guessed.
    with pytest.raises(InvalidInput, match="--layer-info"):
        plugin.decide(
            fused, measured(20), objects=1, keys=5329, layer_info={"Layers": ["__myl_a", "b"]}
        )
    with pytest.raises(InvalidInput, match="something else"):
        plugin.decide(fused, measured(20), objects=1, keys=5329, layer_info={"Layer": []})


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty table of measurements, to which the benchmark writes as if there were a GPU."""
    path = tmp_path / "measured.json"
    path.write_text('{"schema": 1, "devices": {}}')
    about = {"gpu": "H100", "capability": "9.0"}
    monkeypatch.setattr(kernels, "require_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(kernels, "describe_gpu", lambda _device: about)
    for name in ("write_measurements", "forget_measurements"):
        monkeypatch.setattr(kernels, name, partial(getattr(kernels, name), path=path))
    return path


def two_then(error: BaseException) -> Callable[..., Iterator[kernels.KernelRow]]:
    """A measurement of two rows, which then fails."""
    cold = Microseconds(20.0, 19.0, 21.0)
    slow = Microseconds(50.0, 49.0, 51.0)

    def measure(*_: object) -> Iterator[kernels.KernelRow]:
        for objects in (1, 2):
            call = Call(objects, 48, 256, 5329, 8, torch.float16)
            yield kernels.KernelRow(
                call, cold, cold, slow, slow, 42.0, 10.0, 1e-4, Blocks(64, 64, 33)
            )
        raise error

    return measure


def test_kernels_that_are_wrong_once_are_not_used(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "measure", two_then(ParityError("off by one")))
    assert main(["bench", "kernels", "--write"]) == 2
    assert read_measurements(table) == {"9.0": []}


def test_what_was_measured_before_a_time_limit_is_kept(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "measure", two_then(KeyboardInterrupt()))
    output = tmp_path / "kernels.json"
    assert main(["bench", "kernels", "--output", str(output), "--write"]) == 130
    result = json.loads(output.read_text())
    assert [row["call"]["objects"] for row in result["rows"]] == [1, 2]
    assert result["machine"]["gpu"] == "H100"
    (shown,) = kernel_tables(result)
    assert [row.cells[:3] for row in shown.rows] == [
        ["5329", objects, "20.0\n19.0 to 21.0"] for objects in ("1", "2")
    ]
    assert shown.rows[0].cells[-1] == "2.50x"
    assert [row.call.objects for row in read_measurements(table)["9.0"]] == [1, 2]
