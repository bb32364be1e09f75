"""Eight-bit engines: the quantised layers run in eight bits, and the gate chooses them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import numpy_helper

from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.errors import EngineError, InvalidInput, ParityError
from ois_export.export import write_engines
from ois_export.graphs.lint import CPU_RULES, check
from ois_export.int8.calibration import encoder_inputs, pictures
from ois_export.int8.engines import quantise_engines
from ois_export.int8.options import GateLimits, Int8Options
from ois_export.int8.quantise import Quantiser, layers
from ois_export.parity.cases import SQUARE, photo_folder
from ois_network.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from ois_runtime.engines.backends import (
    EngineBackend,
    EngineOptions,
    Precision,
    load_engines,
    load_region_engines,
)
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.openvino import native_bf16, split
from ois_runtime.engines.pair import EnginePair, HostPrompts
from ois_runtime.engines.pixels import preprocess
from ois_runtime.engines.region.boxes import Box
from ois_runtime.engines.region.decoder import OUTSIDE
from support.network_scenes import micro

#: Exporting the parts that decode a region takes as long as everything else here.
REGIONS = bool(os.environ.get("OIS_INT8_REGIONS"))
INT8 = EngineOptions(precision=Precision.INT8)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of fp32 engines with random weights."""
    folder = tmp_path_factory.mktemp("fp32")
    file = folder / "micro.safetensors"
    network = micro(depth=4, out_layers=(0, 1, 2, 3), fusion_blocks=1)
    save_checkpoint(network, file, trained=False)
    write_engines(load_checkpoint(file), folder, name="micro", region=REGIONS)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures to calibrate on."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("chelsea.jpg", "coffee.jpg"):
        shutil.copy(photo_folder() / name, folder)
    return folder


@pytest.fixture(scope="module")
def quantised(engines: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in int8, as `ois export` makes them."""
    folder = copied(engines, tmp_path_factory.mktemp("int8") / "engines")
    lenient = GateLimits(iou_drop=1.0, noc_rise=5.0, agreement=0.0)  # the weights are random
    options = Int8Options(scenes=1, limits=lenient, calibration=photographs)
    quantise_engines(folder, Manifest.load(folder), options).save(folder)
    return folder


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def weight_bytes(graph: Path) -> int:
    return sum(numpy_helper.to_array(t).nbytes for t in onnx.load(str(graph)).graph.initializer)


def request(pair: EnginePair) -> tuple[ImageState, HostPrompts]:
    """A photograph, encoded, and one click on it."""
    image, geometry = preprocess(SQUARE.pixels(), pair.manifest.fit)
    points, labels = fill_slots([[Click(250.0, 200.0)]], geometry)
    coverage = np.zeros((1, *geometry.coverage_shape), np.uint8)
    return pair.encode(image, geometry), Prompts(points, labels, coverage, np.array([False]))


def masks(pair: EnginePair) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The image state of a photograph, and the logits of a click."""
    state, prompts = request(pair)
    return dict(state.arrays), pair.decode(state, prompts)[0]


@pytest.mark.parametrize("backend", [EngineBackend.ONNXRUNTIME, EngineBackend.OPENVINO])
def test_int8_engines_are_near_the_fp32_ones_in_both_libraries(
    engines: Path, quantised: Path, backend: EngineBackend
) -> None:
    wanted, logits = masks(load_engines(engines))
    pair = load_engines(quantised, backend, INT8)
    got, eight = masks(pair)
    for name in [name for name, array in wanted.items() if array.size > 1]:
        error = np.abs(got[name].astype(float) - wanted[name]).mean()
        assert 0 <= error < 0.1 * (np.abs(wanted[name]).mean() + 1e-6), name
    assert 0 < np.abs(eight - logits).mean() < 0.2 * np.abs(logits).mean()
    assert "int8" in pair.description
    check(quantised / "encoder.onnx", CPU_RULES)
    check(quantised / "decoder.onnx", CPU_RULES)


def test_the_manifest_says_what_was_quantised_and_what_the_robot_found(
    engines: Path, quantised: Path
) -> None:
    before, manifest = Manifest.load(engines), Manifest.load(quantised)
    manifest.verify(quantised)
    assert manifest.precision == "int8"
    assert manifest.model_sha256 != before.model_sha256  # features and masks are not mixed
    for role in ("encoder", "decoder"):
        assert weight_bytes(quantised / f"{role}.onnx") < weight_bytes(engines / f"{role}.onnx")
    record = manifest.options["int8"]
    for role in ("encoder", "decoder"):
        choice = record[role]
        assert 0 < choice["quantised"] == choice["layers"] - len(choice["kept"])
        gate = choice["gate"]
        assert gate["objects"] >= gate["exact"] > 0
        assert gate["reference_iou"] - gate["iou"] <= record["limits"]["iou_drop"]
        assert gate["noc"] - gate["reference_noc"] <= record["limits"]["noc_rise"]
        assert record["limits"]["agreement"] <= gate["agreement"] <= 1
    assert "int8" in record["judged_in"]


@pytest.mark.skipif(not REGIONS, reason="set OIS_INT8_REGIONS=1 to export regions too")
def test_the_parts_that_decode_a_region_are_quantised_in_the_same_layers(
    engines: Path, quantised: Path
) -> None:
    before, manifest = Manifest.load(engines), Manifest.load(quantised)
    assert before.region is not None
    assert manifest.region is not None
    assert not manifest.region.accepted  # its gate has not seen these engines
    for old, new in zip(before.region.files, manifest.region.files, strict=True):
        assert weight_bytes(quantised / new.file) < weight_bytes(engines / old.file), new.file
    choice = manifest.options["int8"]["decoder"]
    left = set(layers(onnx.load(str(engines / "decoder.onnx")), "decoder")) - set(choice["kept"])
    eight = {
        layer
        for file in manifest.region.files
        for layer in layers(onnx.load(str(engines / file.file)), "decoder")
    }
    assert left <= eight
    whole = masks(load_engines(quantised, EngineBackend.OPENVINO, INT8))[1]
    pair = load_region_engines(quantised, EngineBackend.OPENVINO, INT8)
    parts = masks(pair)[1]
    assert np.abs(parts - whole).mean() < 0.1 * np.abs(whole).mean()
    state, prompts = request(pair)
    region = pair.decode_region(state, prompts, boxes=[[Box(2, 2, 6, 6)]]).logits
    decoded = region > OUTSIDE
    assert 0 < decoded.mean() < 1
    # The crop rounds as the whole does.
    assert np.abs(region - parts)[decoded].mean() < 0.01 * np.abs(parts).mean()


@pytest.mark.skipif(not native_bf16(), reason="this CPU has no bf16, so graphs are not cut")
def test_the_first_convolutions_run_in_eight_bits_although_the_graph_is_cut(
    quantised: Path,
) -> None:
    """What quantises a convolution's input goes into the part that has the convolution."""
    core = openvino.Core()
    path = str(quantised / "decoder.onnx")
    parts = split(core.read_model(path), lambda: core.read_model(path))
    found = {
        part.get_friendly_name(): [node.get_type_name() for node in part.get_ordered_ops()]
        for part in parts
    }
    products = onnx.load(path).graph
    activations = {n.input[0] for n in products.node if n.op_type == "Conv"}
    quantisers = {n.input[0] for n in products.node if n.op_type == "DequantizeLinear"} & {
        o for n in products.node if n.op_type == "QuantizeLinear" for o in n.output
    }
    assert activations
    assert quantisers
    assert "FakeQuantize" not in found["front"]
    assert found["back"].count("FakeQuantize") >= len(quantisers)


def test_layers_that_change_the_masks_are_left_and_an_export_without_any_is_refused(
    engines: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(engines, tmp_path / "engines")
    every = layers(onnx.load(str(folder / "decoder.onnx")), "decoder")
    few = dict(list(every.items())[-4:])  # to be quick
    monkeypatch.setattr("ois_export.int8.quantise.layers", lambda *_: few)
    said: list[str] = []
    impossible = Int8Options(
        roles=("decoder",),
        scenes=1,
        limits=GateLimits(iou_drop=-1.0, noc_rise=9, agreement=0),
        calibration=photographs,
    )
    with pytest.raises(ParityError, match=r"no layer could be quantised .*decoder: IoU after 5"):
        quantise_engines(folder, Manifest.load(folder), impossible, progress=said.append)
    assert (folder / "decoder.onnx").read_bytes() == (engines / "decoder.onnx").read_bytes()
    alone = [text.split()[3] for text in said if "alone in int8" in text]
    assert alone == list(few)
    counts = [int(text.split()[1]) for text in said if text.endswith("layers in int8")]
    assert counts == [4, 3, 2]


def test_products_of_clicks_and_the_last_convolution_are_never_quantised(
    engines: Path, tmp_path: Path
) -> None:
    graph = onnx.load(str(engines / "decoder.onnx"))
    names = [name for group in layers(graph, "decoder").values() for name in group]
    assert names
    kinds = {node.name: node.op_type for node in graph.graph.node}
    assert {kinds[name] for name in names} == {"Conv"}
    assert not any("output_conv2.2" in name for name in names)
    reference = load_engines(engines)
    given = list(encoder_inputs(reference, pictures()[:1]))
    quantiser = Quantiser(engines / "encoder.onnx", "encoder", given)
    block = next(name for name in quantiser.layers if "blocks.1" in name)
    quantiser.write(tmp_path / "one.onnx", [block])
    nodes = onnx.load(str(tmp_path / "one.onnx")).graph.node
    makers = {output: node for node in nodes for output in node.output}
    eight = {
        node.name
        for node in nodes
        if node.op_type in ("Conv", "MatMul", "Gemm")
        and node.input[1] in makers
        and makers[node.input[1]].op_type == "DequantizeLinear"
    }
    assert eight == set(quantiser.layers[block])


def test_engines_in_fp32_are_not_opened_as_int8(engines: Path) -> None:
    with pytest.raises(EngineError, match=r"are fp32\. Make int8 ones with: ois export"):
        load_engines(engines, EngineBackend.OPENVINO, INT8)


def test_options_of_int8_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    assert Int8Options.of("fp32", None, None, None) is None
    assert Int8Options.of("int8", None, "fp32", None) == Int8Options(roles=("encoder",))
    assert Int8Options.of("fp32", None, "int8", tmp_path) == Int8Options(
        roles=("decoder",), calibration=tmp_path
    )
    with pytest.raises(InvalidInput, match="only the precision int8"):
        Int8Options.of("fp32", None, None, tmp_path)
    with pytest.raises(InvalidInput, match="got bf16 for the encoder"):
        Int8Options.of("fp32", "bf16", None, None)
    with pytest.raises(InvalidInput, match="has no pictures"):
        pictures(tmp_path)
    with pytest.raises(InvalidInput, match="expected a folder"):
        pictures(tmp_path / "missing")
