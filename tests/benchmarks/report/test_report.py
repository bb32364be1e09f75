"""`ois bench report`: nothing is left out, and definitions and machines stay apart."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from ois_benchmarks import roofline
from ois_benchmarks.ablation.result import compared
from ois_benchmarks.ablation.run import NetworkVariant
from ois_benchmarks.latency.result import Definition, LatencyResult
from ois_benchmarks.quality.result import model_name
from ois_benchmarks.report.build import build
from ois_benchmarks.report.inputs import Inputs, LatencyRun, Source, read_inputs
from ois_benchmarks.report.latency import engine_charts, latency_charts
from ois_benchmarks.report.page import Chart
from ois_benchmarks.report.roofline import Work
from ois_benchmarks.report.table3 import TABLE_3, table_3
from ois_benchmarks.roofline import Ceilings
from ois_benchmarks.table import Column, Table, TableRow
from ois_cli.main import main
from ois_client.contract.errors import InvalidInput
from support.results import (
    CEILINGS,
    MACHINE,
    SIZE,
    figure,
    quality_document,
    row,
    sat,
    spc,
    timing,
)


def latency(result: LatencyResult, name: str = "spc.json") -> LatencyRun:
    document = json.loads(json.dumps(result.to_dict()))
    return LatencyRun(Source(name, document), LatencyResult.from_dict(document))


# -- reading ----------------------------------------------------------------------------------


def test_every_kind_of_result_is_read(results: Path) -> None:
    found = read_inputs([results])
    kinds = (found.latency, found.engines, found.quality, found.load, found.overhead)
    assert [len(each) for each in (*kinds, found.ceilings)] == [2, 1, 1, 1, 1, 1]
    assert len(found.sources) == 7


def test_a_folder_may_hold_other_files_but_a_named_file_must_be_a_result(results: Path) -> None:
    (results / "other.json").write_text('{"benchmark": "tea"}')
    (results / "half.json").write_text('{"benchmark": "load", "schema": 1, "steps": [{}]}')
    (results / "parts.json").write_text('{"benchmark": "switched-off"}')  # has its own table
    found = read_inputs([results])
    assert sorted(text.split(":")[0] for text in found.skipped) == ["half.json", "other.json"]
    with pytest.raises(InvalidInput, match="got the benchmark 'switched-off'"):
        read_inputs([results / "parts.json"])
    with pytest.raises(InvalidInput, match="got the benchmark 'tea'"):
        read_inputs([results / "other.json"])
    with pytest.raises(InvalidInput, match="is damaged"):
        read_inputs([results / "half.json"])
    (results / "text.json").write_text("{")
    with pytest.raises(InvalidInput, match="not JSON"):
        read_inputs([results / "text.json"])


def test_committed_results_make_a_report() -> None:
    inputs = read_inputs([Path(__file__).parents[3] / "benchmarks" / "results"])
    assert inputs.skipped == []
    assert len(build(inputs).findings) >= 7


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no result in"):
        read_inputs([tmp_path])


# -- tables -----------------------------------------------------------------------------------


def test_a_table_is_the_same_in_markdown_and_html() -> None:
    table = Table(
        "T",
        [Column("name", number=False), Column("a", "g"), Column("empty", "g")],
        [
            TableRow(["x|<y>", "1\n0 to 2", ""], strong=True),
            TableRow(["gone: why", "", ""], quiet=True),
        ],
        ["note"],
    ).without_empty_columns()
    assert table.markdown().splitlines() == [
        "**T**", "", "| name | g: a |", "|---|---:|", "| **x\\|<y>** | 1 (0 to 2) |",
        "| gone: why |  |", "", "note",
    ]  # fmt: skip
    page = table.html()
    assert "<td>x|&lt;y&gt;</td>" in page
    assert '<td class="number">1<small>0 to 2</small></td>' in page
    assert '<td colspan="2">gone: why</td>' in page


def cells(table: Table, name: str) -> Mapping[str, str]:
    found = next(row for row in table.rows if row.cells[0].startswith(name))
    return dict(zip([column.heading for column in table.columns], found.cells, strict=True))


def test_table_3_has_paper_and_measured_side_by_side() -> None:
    table = table_3([latency(spc()), latency(sat(), "sat.json")], SIZE)
    peer = cells(table, "HQ-SAM")
    assert (peer["parameters, M: paper"], peer["parameters, M: here"]) == ("94.81", "94.81")
    assert (peer["SPC, ms per click: paper"], peer["SPC, ms per click: click, here"]) == (
        "10",
        "300\n294 to 306",
    )
    assert peer["SAT, s: sequential, here"] == "≈ 77.0\n75.5 to 78.5"
    ours = cells(table, "OIS bf16")
    assert ours["SPC, ms per click: click, here"].startswith("150\n")
    assert ours["SPC, ms per click: loop, here"].startswith("300\n")
    assert ours["SAT, s: sequential, here"].startswith("40.0\n")
    assert ours["SAT, s: batched, here"].startswith("30.0\n")
    assert cells(table, "SAM")["SPC, ms per click: click, here"].startswith("50.0*")
    assert any(r.cells[0] == "segnext-sax2: not measured, no checkout" for r in table.rows)
    assert cells(table, "SimpleClick (1024), paper")["SAT, s: paper"] == "81.3"
    assert (peer["SAT, s: paper"], peer["NoC90: paper"], peer["5-mIoU: paper"]) == (
        "5.1", "6.49", "89.85",
    )  # fmt: skip
    assert table.rows[0].cells[0] == "OIS bf16"


def test_the_first_finding_is_about_a_run_with_our_engines() -> None:
    peers = latency(replace(spc(), rows=spc().rows[1:]), "a-peers.json")
    short = latency(replace(spc(), rows=spc().rows[:1]), "b-short.json")
    report = build(Inputs(latency=[peers, short, latency(spc(), "c.json")]))
    (section,) = (each for each in report.sections if each.title == "Seconds per click")
    texts = [block.split(":")[0] for block in section.blocks if isinstance(block, str)]
    assert texts == ["c.json", "b-short.json", "a-peers.json"]
    assert report.findings[0].startswith("A click on 854x480: OIS bf16 takes 150 ms")


def test_a_contestant_of_two_runs_has_two_rows() -> None:
    slow = {Definition.CLICK: figure(0.6)}
    again = [row("hqsam-vitb", "HQ-SAM", "hqsam", figures=slow), row("sam-vitb", "SAM", "sam")]
    runs = [latency(spc()), latency(sat(), "sat.json")]
    runs.append(latency(replace(spc(), rows=tuple(again)), "peers.json"))
    table = table_3(runs, SIZE)
    first, second = cells(table, "HQ-SAM"), cells(table, "HQ-SAM (peers.json)")
    assert first["SPC, ms per click: click, here"].startswith("300\n")
    assert first["SAT, s: sequential, here"] == "≈ 77.0\n75.5 to 78.5"  # one row of both runs
    assert second["SPC, ms per click: click, here"].startswith("600\n")
    assert (first["SPC, ms per click: paper"], second["SPC, ms per click: paper"]) == ("10", "")


def test_the_papers_network_is_not_compared_with_a_tiny_one() -> None:
    for label, expected in (("OIS ViT-B, PyTorch", "107.88"), ("OIS tiny, PyTorch", "")):
        figures = {Definition.CLICK: figure(1.0)}
        mine = row("ois-torch-unrewritten", label, "ois", figures=figures)
        table = table_3([latency(replace(spc(), rows=(mine,)))], SIZE)
        assert cells(table, label)["parameters, M: paper"] == expected
        assert any(line.cells[0] == "OIS, paper" for line in table.rows) is not bool(expected)


def test_a_mean_click_and_a_spread_encode_have_their_own_columns() -> None:
    """Clicks of 0.1, 0.1 and 0.4 s, and an encode of 2 s: 0.2 s online, 0.3 s spread over 20."""
    clicks = replace(timing(0.1), samples_s=(0.1, 0.1, 0.4))
    figures = {Definition.CLICK: figure(0.1, timing=clicks)}
    mine = row("ois-torch", "OIS a", "ois", figures=figures, encode=timing(2.0))
    alone = row("peer", "Peer", "peer", figures=figures)  # computes all of it on every click
    unknown = row("other", "Other", "peer", figures={Definition.CLICK: figure(0.1)})
    table = table_3([latency(replace(spc(), rows=(mine, alone, unknown)))], SIZE)
    name = "SPC, ms per click: "
    found = {
        label: [cells(table, label)[name + one] for one in ("online, here", "20-SPC, here")]
        for label in ("OIS a", "Peer", "Other")
    }
    assert found == {"OIS a": ["200", "300"], "Peer": ["200", "200"], "Other": ["", ""]}
    assert cells(table, "OIS a")[name + "click, here"].startswith("100\n")


def test_the_papers_rows_are_those_of_its_table_3() -> None:
    assert {row.contestant for row in TABLE_3} == {
        "simpleclick-448", "simpleclick-1024", "segnext-sax2", "hqsam-vitb",
        "ois-torch-unrewritten",
    }  # fmt: skip
    paper = {row.method: row for row in TABLE_3}
    assert (paper["OIS"].parameters, paper["SegNext"].parameters) == ("107.88", "113.79")
    assert (paper["SegNext"].spc, paper["SegNext"].sat) == ("58", "20.6")
    assert (paper["OIS"].spc, paper["OIS"].sat) == ("31", "9.2")
    assert (paper["SimpleClick (448)"].sat, paper["SimpleClick (1024)"].spc) == ("", "")


def test_results_of_two_machines_are_never_in_one_table() -> None:
    other = replace(spc(), machine={**MACHINE, "cores": 64})
    inputs = Inputs(latency=[latency(spc()), latency(other, "b.json")])
    inputs.sources = [one.source for one in inputs.latency]
    section = build(inputs).sections[1]
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert len(tables) == 2
    assert [block for block in section.blocks if isinstance(block, str)] == [
        "Test CPU <1>, 2 cores, 2 threads, cpu:",
        "Test CPU <1>, 64 cores, 2 threads, cpu:",
    ]


# -- charts -----------------------------------------------------------------------------------


def test_each_definition_has_its_own_chart_with_its_meaning() -> None:
    made = list(latency_charts(spc()))
    assert [chart.caption.split(":")[0] for chart in made] == ["encode", "click", "loop"]
    assert made[1].caption == f"click: {Definition.CLICK.meaning}."
    assert made[1].title == (
        "A click on 854x480: OIS bf16 takes 150 ms: 2.0x faster than HQ-SAM, 3.0x slower than SAM"
    )
    assert "segnext-sax2: not measured, no checkout" in made[1].svg
    assert [p.caption.split(":")[0] for p in latency_charts(sat())] == ["sequential", "batched"]


def test_engines_of_earlier_versions_are_shown_by_their_present_names() -> None:
    timing = {"median_s": 0.2, "low_s": 0.19, "high_s": 0.21, "noisy": False}
    row = {"contestant": "openvino-f32", "width": 28, "height": 14, "click": timing}
    (click, _) = engine_charts({"network": "tiny", "rows": [{**row, "encode": timing}]})
    assert "openvino-fp32" in click.title
    model = {"network": "tiny", "engine": "onnxruntime 1.32.0 f32"}
    assert model_name(model) == "tiny, onnxruntime 1.32.0 fp32"


def test_a_warning_is_listed_once_with_its_contestants() -> None:
    warned = [
        replace(row, identity=replace(row.identity, warnings=("no timm",)))
        for row in spc().rows[:2]
        if row.identity is not None
    ]
    notes = table_3([latency(replace(spc(), rows=tuple(warned)))], SIZE).notes
    assert notes[2:] == ["no timm: OIS bf16; HQ-SAM."]


def test_the_floor_is_the_slower_of_arithmetic_and_memory() -> None:
    arithmetic = Work("a", "click", True, "fp32", 0.5, 1e11, 1e9)
    memory = Work("b", "click", True, "bf16", 0.4, 1e10, 4e9)
    assert arithmetic.share(CEILINGS) == pytest.approx(0.25 / 0.5)
    assert memory.share(CEILINGS) == pytest.approx(0.2 / 0.4)
    assert CEILINGS.floor_s(1e11, 1e9, "bf16") == pytest.approx(0.125)
    assert replace(CEILINGS, bf16_flops=None).peak("bf16") == 4e11


def test_ceilings_hold_for_their_machine_only() -> None:
    assert CEILINGS.holds_for(MACHINE)
    assert not CEILINGS.holds_for({**MACHINE, "cores": 4})
    assert not CEILINGS.holds_for({**MACHINE, "threads": 1})
    document = json.loads(json.dumps(CEILINGS.to_dict()))
    assert Ceilings.from_dict(document) == CEILINGS
    with pytest.raises(InvalidInput, match="not ceilings"):
        Ceilings.from_dict({**document, "schema": 0})


def test_ceilings_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_SIDE", 128), ("_CHANNELS", 16), ("_GRID", 16), ("_ROUNDS", 2)):
        monkeypatch.setattr(roofline, name, value)
    monkeypatch.setattr(roofline, "_ARRAY_BYTES", 2**20)
    found = roofline.measure(threads=1)
    assert found.threads == 1
    fp32 = [rate for name, rate in found.kernels.items() if name.endswith("fp32")]
    assert len(fp32) == 3
    assert found.fp32_flops == pytest.approx(max(fp32), rel=1e-3)
    assert found.bf16_flops is None or found.bf16_flops > found.fp32_flops
    assert found.bytes_per_s > 0


# -- the page ---------------------------------------------------------------------------------


class Checker(HTMLParser):
    """Collects tags and the addresses that a browser would load. Checks that tags are closed."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        links = (value for name, value in attrs if name.endswith(("src", "href")))
        self.loads += [link for link in links if link and not link.startswith(("#", "data:"))]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_has_every_section(results: Path) -> None:
    report = build(read_inputs([results]))
    page = report.html()
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.loads == []
    assert not checker.tags & {"script", "link", "img", "iframe"}
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "Test CPU &lt;1&gt;" in page
    assert [section.title for section in report.sections] == [
        "Quality: the paper's Tables 1 and 2, and other data",
        "The paper's Table 3",
        "Ablations: the paper's Tables 4 and 5",
        "Seconds per click",
        "Segment anything: 256 clicks on one image",
        "One network in every engine",
        "How much of the machine is used",
        "Clicks against IoU",
        "Many users at once",
        "Where the time goes",
        "What the terms mean",
        "Machines",
    ]
    for chart in (b for section in report.sections for b in section.blocks):
        if isinstance(chart, Chart):
            ElementTree.fromstring(chart.svg)
    # Every colour that a text asks for is in the style sheet, in both themes.
    style = page[page.index("<style>") : page.index("</style>")]
    asked = set(re.findall(r"fill: var\((--[a-z]+),", page))
    assert {"--blue", "--orange", "--muted", "--ink"} <= asked
    assert all(style.count(f"{name}: #") == 2 for name in asked)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_figures_and_the_worst_objects_are_part_of_the_page(results: Path, tmp_path: Path) -> None:
    for name in ("figure-rounds-two-networks.png", "figure-notes.txt", "other.png"):
        Image.new("RGB", (4, 3), "red").save(results / name, "PNG")
    Image.new("RGB", (5, 3), "blue").save(results / "worst.jpg")
    entry = {"share": 0.01, "thinness": 3.21, "iou": {"1": 0.25, "5": 0.5}}
    document = {
        **quality_document(),
        "protocol": {"clicks": 5},
        "by_thinness": [
            {"thinness": "thin", "objects": 1, "miou": {"1": quality_document()["curve"][0]}}
        ],
        "worst": [
            {"name": "fence", "clicks": None, **entry},
            {"name": "pole", "clicks": 4, **entry},
        ],
        "worst_order": "thinness",
        "pictures": "../results/worst.jpg",
    }
    (results / "quality.json").write_text(json.dumps(document))
    report = build(read_inputs([results]))
    page, text = report.html(), report.markdown()
    checker = Checker()
    checker.feed(page)
    assert checker.loads == []
    drawn = [
        BytesIO(b64decode(each)) for each in re.findall(r'src="data:image/\w+;base64,(.+?)"', page)
    ]
    assert [Image.open(each).size for each in drawn] == [(5, 3), (4, 3)]
    assert "rounds two networks" in text
    assert "As Figures 10 to 13 of the paper" in page
    assert "other" not in text.split("## Figures")[1].split("##")[0]
    assert (
        "| worst objects, thinnest first | share of the image, % | thinness | clicks to 90 % |"
        in text
    )
    assert "| fence | 1.0 | 3.2 | never | 25.0 | 50.0 |" in text
    assert "| pole | 1.0 | 3.2 | 4 | 25.0 | 50.0 |" in text
    named = read_inputs([results / "quality.json", results / "other.png"])
    assert named.figures == [results / "other.png"]
    (results / "worst.jpg").unlink()  # the table stays
    assert "fence" in build(read_inputs([results / "quality.json"])).html()
    named.figures = [tmp_path / "gone.png"]
    with pytest.raises(InvalidInput, match=r"the picture .*gone\.png cannot be read"):
        build(named).html()


def test_markdown_and_page_say_what_failed_and_what_is_missing(results: Path) -> None:
    report = build(read_inputs([results]))
    for text in (report.markdown(), report.html()):
        assert "segnext-sax2: not measured, no checkout" in text
        assert "7 TOO_MUCH" in text
        assert "The run was interrupted: steps are missing" in text
        assert "the weights are random, so its quality means nothing" in text
        assert Definition.SEQUENTIAL.meaning.split(",")[0] in text
        assert "sustained: 20 clicks/s" in text


@pytest.mark.parametrize("change", [{"cores": 9}, {"noisy": True}])
def test_without_good_ceilings_of_the_machine_there_is_a_reason_and_no_roofline(
    results: Path, change: dict[str, Any]
) -> None:
    (results / "ceilings.json").write_text(json.dumps(replace(CEILINGS, **change).to_dict()))
    text = build(read_inputs([results])).markdown()
    assert "spc.json has no roofline" in text
    assert "of the roof" not in text


def on_a_gpu(result: LatencyResult, gpu: str) -> LatencyResult:
    """`result` on a GPU, except its first row, which stays on the CPU."""
    first, *others = result.rows
    moved = [
        replace(row, identity=replace(row.identity, engine="torch 2 fp32 on cuda", precision=given))
        for row, given in zip(others, ("fp16", "fp32"), strict=False)
        if row.identity is not None
    ]
    machine = {**MACHINE, "gpu": gpu}
    return replace(result, settings={"device": "cuda"}, machine=machine, rows=(first, *moved))


GPU_CEILINGS = replace(
    CEILINGS, fp32_flops=5e13, bf16_flops=7e14, fp16_flops=7.1e14, bytes_per_s=3e12, gpu="H100"
)


def test_times_of_a_gpu_are_not_drawn_below_a_processors_roof() -> None:
    inputs = Inputs(latency=[latency(on_a_gpu(spc(), "H100"))])
    inputs.ceilings = [CEILINGS, replace(GPU_CEILINGS, gpu="H200")]
    inputs.sources = [inputs.latency[0].source]
    text = build(inputs).markdown()
    assert "spc.json has no roofline" in text
    assert "ois bench ceilings" in text
    assert "of the roof" not in text


def test_times_of_a_gpu_are_drawn_below_its_own_roof() -> None:
    inputs = Inputs(latency=[latency(on_a_gpu(spc(), "H100"))])
    inputs.ceilings, inputs.sources = [CEILINGS, GPU_CEILINGS], [inputs.latency[0].source]
    report = build(inputs)
    text = report.markdown()
    assert "Ceilings measured on H100: 50000 GFLOP/s fp32, 700000 GFLOP/s bf16, 710000" in text
    section = next(one for one in report.sections if one.title.startswith("How much"))
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    floors = [float(cells(table, "HQ-SAM")["floor, ms"])]
    # 2e9 bytes at 3e12 per second; 1e11 FLOPs at 7.1e14 per second take less.
    assert floors == [pytest.approx(0.667, rel=0.01)]
    assert "OIS bf16" not in table.markdown()  # it ran on the CPU
    chart = next(block for block in section.blocks if isinstance(block, Chart))
    assert "bf16, fp16: 710000 GFLOP/s" in chart.svg
    assert "H100, Test CPU" in text


def test_results_of_two_gpus_are_not_one_table() -> None:
    runs = [latency(on_a_gpu(spc(), gpu), f"{gpu}.json") for gpu in ("H100", "H200")]
    inputs = Inputs(latency=runs, sources=[one.source for one in runs])
    blocks = build(inputs).sections[1].blocks
    assert [block for block in blocks if isinstance(block, str)] == [
        "Test CPU <1>, 2 cores, 2 threads, H100:",
        "Test CPU <1>, 2 cores, 2 threads, H200:",
    ]


def test_published_rows_are_in_the_table(results: Path) -> None:
    rows = [{"method": "Somebody", "dataset": "scenes", "noc90": 4.5, "miou1": 0.61}]
    table = build(read_inputs([results]), rows).sections[0].blocks[2]
    assert isinstance(table, Table)
    assert table.title == "Measured on scenes"
    theirs, ours = cells(table, "Somebody, published"), cells(table, "tiny, onnxruntime")
    assert (theirs["NoC90: paper"], theirs["1-mIoU: paper"]) == ("4.50", "61.00")
    assert ours["NoC90: here"] == "3.25\n3.00 to 3.50"
    assert ours["1-mIoU: here"].startswith("60.00\n")


def test_without_results_the_papers_tables_stand_alone_and_blank_beside() -> None:
    quality, third, ablations, *_ = build(Inputs()).sections
    tables = [block for part in (quality, third, ablations) for block in part.blocks]
    assert [
        table.title.split(":")[0].split(";")[0] for table in tables if isinstance(table, Table)
    ] == [f"Table {number} of the paper" for number in (1, 2, 3, 4, 5)]
    for table in tables:
        assert isinstance(table, Table)
        assert table.title.endswith("not measured here yet")
        for column, *found in zip(table.columns, *(line.cells for line in table.rows), strict=True):
            assert not any(found) or "here" not in column.name
    first, second = (block for block in quality.blocks if isinstance(block, Table))
    assert cells(first, "OIS, paper")["NoF95: paper"] == "485"
    assert cells(second, "HR-SAM++, second group, paper")["1-mIoU: paper"] == "-"


def test_measured_quality_stands_below_the_papers_rows() -> None:
    document = {**quality_document(), "dataset": {"name": "DAVIS345"}}
    counts = {"value": 120.0, "low": 100.0, "high": 140.0}
    document["metrics"] |= {"nof95_segnext": counts, "nof95_never": {**counts, "value": 118.0}}
    report = build(Inputs(quality=[Source("q.json", document)]))
    table = report.sections[0].blocks[1]
    assert isinstance(table, Table)
    assert table.title == "Table 2 of the paper: DAVIS"
    ours = cells(table, "tiny, onnxruntime, random weights")
    assert (ours["NoC90: here"], ours["NoC90: paper"]) == ("3.25\n3.00 to 3.50", "")
    assert ours["NoF95: here, as SegNext's code counts"].startswith("120\n")
    assert ours["NoF95: here, never 95 %"].startswith("118\n")
    assert ours["NoF95: here, never 90 %"] == ""


def ablation_document(rows: Mapping[str, str]) -> dict[str, Any]:
    """rows: label -> the row of the paper that it stands for."""
    ious = [[0.5, 0.8, 0.96, 0.96, 0.96], [0.9] * 5]
    variants = [NetworkVariant(name, name, {}, row) for name, row in rows.items()]
    runs = [{"variant": one.name, "seed": 0, "parameters": 5, "ious": ious} for one in variants]
    made = compared(runs, variants, (0,), data="DAVIS345", clicks=5, longest=56)
    return {"benchmark": "ablation", "checkpoint": "tiny", **made}


def test_ablations_stand_beside_the_papers_rows() -> None:
    rows = {"default": "full", "no-order": "w/o order", "depth": "DepthEncoder", "levels": ""}
    inputs = Inputs(ablations=[Source("a.json", ablation_document(rows))])
    blocks = build(inputs).sections[2].blocks
    four, five, _, every = blocks
    assert isinstance(four, Table)
    assert isinstance(five, Table)
    assert isinstance(every, Table)
    assert cells(four, "w/o order, paper")["NoC90: paper"] == "4.84"
    mine = cells(four, "tiny, no-order, on DAVIS345")
    assert mine["NoC90: here"].startswith("2.00 (+0.00")
    assert mine["NoF95: here, never 95 %"].startswith("1.0 (")
    assert [line.cells[0].split(" (")[0] for line in five.rows] == [
        "MM-SAM, paper", "DepthEncoder, paper", "tiny, depth, on DAVIS345", "OIS, paper",
        "tiny, default, on DAVIS345",
    ]  # fmt: skip
    assert "not run here" in five.rows[0].cells[0]
    assert len(every.rows) == 4


def test_variants_that_removed_less_are_not_beside_the_papers_rows() -> None:
    """Results of earlier versions name no row of the paper."""
    old = ablation_document({"default": "", "no-order": ""})
    for entry in old["table"]:
        del entry["row"]
    blocks = build(Inputs(ablations=[Source("a.json", old)])).sections[2].blocks
    titles = [block.title for block in blocks if isinstance(block, Table)]
    assert titles[0].endswith("not measured here yet")


# -- the command ------------------------------------------------------------------------------


def test_the_command_writes_page_and_markdown(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, tables = tmp_path / "r.html", tmp_path / "r.md"
    argv = ["bench", "report", str(results), "-o", str(page), "--markdown", str(tables)]
    assert main([*argv, "--no-measure", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["files"] == [str(page), str(tables)]
    assert any(finding.startswith("A click on 854x480") for finding in printed["findings"])
    assert page.read_text().startswith("<!doctype html>")
    assert tables.read_text().startswith("# OIS Deploy")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["none.json"], "does not exist"),
        ([".", "-o", "r.txt"], "expected a name that ends in .html"),
        ([".", "--markdown", "r.html"], "expected a name that ends in .md"),
        (["."], "no result in"),
        ([".", "--published", "none.json"], "none.json cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(
    argv: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "report", *argv]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
