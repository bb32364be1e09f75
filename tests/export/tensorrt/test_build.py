"""`ois build` writes engines that compute the same as their graphs, or writes nothing.

Graphs, values and TensorRT's API are real; TensorRT is a stand-in: see support/tensorrt/fake.py.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from ois_benchmarks.gpu import layers as trtexec_profile
from ois_cli.main import main
from ois_client.contract.errors import (
    ExportError,
    ParityError,
    UnsupportedGraph,
)
from ois_client.contract.geometry import Geometry
from ois_export.parity.cases import CASES, SQUARE, Case, make_prompts
from ois_export.parity.comparison import Limits
from ois_export.parity.network_gate import run_gate
from ois_export.parity.reference import open_reference
from ois_export.tensorrt.build import trtexec_commands
from ois_export.tensorrt.plan import (
    BuildOptions,
    _logger,
    allow_decomposition,
    built_types,
    check_precision,
)
from ois_network.network import OISNetwork
from ois_runtime import gpu_driver as driver
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.manifest import Manifest
from support.network_scenes import MICRO
from support.tensorrt.builds import RANGES, build
from support.tensorrt.fake import APIS, VERSIONS, FakeTensorRT


def test_the_graphs_compute_what_the_network_does(graphs: Path, network: OISNetwork) -> None:
    limits = Limits(depth_error=2e-5, logit_error=2e-5)
    with open_reference(graphs) as engines:
        record = run_gate(network, engines, limits=limits, cases=CASES[1:4])
    assert record["limits"]["logit_error"] == 2e-5
    assert all(case["mask_iou"] > 0.999 for case in record["cases"])


@pytest.mark.parametrize(("width", "height"), [(112, 84), (112, 70), (70, 112), (112, 112)])
def test_tokens_and_keys_are_padded_to_eight_and_masked(
    graphs: Path, width: int, height: int
) -> None:
    geometry = Geometry.fit(width, height, longest=MICRO.longest)
    patches = geometry.grid_height * geometry.grid_width
    image = np.full((geometry.network_height, geometry.network_width, 3), 90, dtype=np.uint8)
    rows, columns = geometry.position_matrices()
    feeds = {"image": image, "pos_rows": rows, "pos_cols": columns}
    weights = attention_weights(graphs / "encoder.onnx", feeds)
    padded = -(-(1 + patches) // 8) * 8
    assert {array.shape[-1] for array in weights} == {padded}
    assert all((array[..., 1 + patches :] == 0).all() for array in weights)

    with open_reference(graphs) as engines:
        state = engines.encode(image, geometry)
    prompts = make_prompts(Case(SQUARE, ((2, 1, True), (1, 0, False))), geometry, seed=0)
    weights = attention_weights(graphs / "decoder.onnx", {**state.arrays, **prompts.named()})
    *to_image, from_tokens = weights
    assert len(to_image) == 2 * MICRO.fusion_blocks
    assert from_tokens.shape[-1] == 48
    assert {array.shape[-1] for array in to_image} == {-(-patches // 8) * 8}
    assert all((array[..., patches:] == 0).all() for array in to_image)
    np.testing.assert_allclose(to_image[0].sum(-1), 1, atol=1e-5)


def attention_weights(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The output of every softmax in a graph."""
    model = onnx.load(str(path))
    names = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
    for name in names:
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = {value.name for value in session.get_inputs()}
    return list(session.run(names, {k: v for k, v in feeds.items() if k in wanted}))


@pytest.mark.parametrize("api", APIS, ids=VERSIONS)
def test_a_build_writes_proven_engines_and_their_repository(
    api: dict[str, object], graphs: Path, tmp_path: Path
) -> None:
    trt = FakeTensorRT(api)
    said: list[str] = []
    folder = build(graphs, tmp_path, trt, ranges=RANGES, progress=said.append)
    manifest = Manifest.load(folder)
    manifest.verify(folder)
    source = Manifest.load(graphs)
    assert folder.name == (
        f"nvidia_h100_80gb_hbm3-sm90-tensorrt{trt.__version__}-{source.model_sha256[:16]}"
    )
    assert manifest.options["graphs_sha256"] == source.model_sha256
    assert manifest.options["layers"]["encoder"].keys() == {"fp32"}
    assert manifest.versions["tensorrt"] == trt.__version__
    assert manifest.versions["driver_cuda"] == "13.1"
    cases = manifest.parity["cases"]  # type: ignore[call-overload]
    assert {case["objects"] for case in cases} == {1, 2, 3, 4}
    sizes = {tuple(case["network_size"]) for case in cases}
    assert sizes == {(112, 42), (112, 70), (112, 112), (42, 112), (70, 112)}
    assert all(case["logit_error"] < 1e-5 for case in cases)  # both sides are ONNX Runtime here

    assert trt.seen.flags == 1 << int(trt.NetworkDefinitionCreationFlag["STRONGLY_TYPED"])
    assert trt.seen.cleared == ["TF32", "TF32"]
    assert {"Builder.build_serialized_network", "IExecutionContext.execute_async_v3"} <= trt.calls
    (cache,) = tmp_path.glob("nvidia_h100_80gb_hbm3-sm90-tensorrt*.timing-cache")
    assert cache.read_bytes() == b"2"  # the second build read the timings of the first
    assert any("Building Engine 50 %" in line for line in said)

    config = (folder / "repository" / "ois_decoder" / "config.pbtxt").read_text()
    assert 'platform: "tensorrt_plan"' in config
    assert 'profile: [ "0", "1", "2", "3" ]' in config
    assert (folder / "repository" / "ois_encoder" / "1" / "model.plan").is_file()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {folder.name, cache.name}

    trt.calls.clear()
    assert build(graphs, tmp_path, trt) == folder
    assert trt.calls == set()
    build(graphs, tmp_path, trt, rebuild=True)
    assert "Builder.build_serialized_network" in trt.calls


@pytest.mark.parametrize("api", APIS, ids=VERSIONS)
def test_the_precision_of_a_half_build_is_inspected(
    api: dict[str, object], half_graphs: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "mine.cache"
    cache.write_text("from another GPU")
    options = BuildOptions(workspace_bytes=2**30, optimization_level=5, timing_cache=cache)
    trt = FakeTensorRT(api)
    folder = build(half_graphs, tmp_path, trt, options=options)
    layers = Manifest.load(folder).options["layers"]
    assert layers["encoder"]["fp16"] > 50
    assert layers["decoder"]["fp16"] > 50
    assert (trt.seen.level, trt.seen.workspace) == (5, 2**30)
    assert cache.read_bytes() == b"2"
    assert trt.seen.strategy == "ON_PROFILE_CHANGE"  # memory of one profile, not of the largest


@pytest.mark.parametrize("api", APIS, ids=VERSIONS)
def test_an_attention_without_a_fused_kernel_may_be_decomposed(api: dict[str, object]) -> None:
    """Otherwise the build would fail. TensorRT 10.12 has no layer for it and needs nothing."""
    trt = FakeTensorRT(api)
    network = trt.Builder(_logger(trt)).create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    node = onnx.helper.make_node("Attention", ["q", "k", "v"], ["y"])
    network.model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    known = hasattr(trt.LayerType, "ATTENTION_INPUT")
    assert allow_decomposition(trt, network) == int(known)
    assert [attention.decomposable for attention in trt.seen.attentions] == [True] * known


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        ("parse", UnsupportedGraph, "Attention node_7: unsupported"),
        ("build", ExportError, "no kernel for node /attention"),
        ("profile", ExportError, "rejects the profile '112x70'"),
        ("precision", ExportError, "did not build encoder.plan in fp16"),
        ("values", ParityError, r"logit_error is 0\.5; the limit is 0\.015"),
        ("rows", ParityError, "row_difference is"),
    ],
)
def test_a_wrong_engine_is_not_written(
    wrong: str, kind: type[Exception], says: str, half_graphs: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=says):
        build(half_graphs, tmp_path, FakeTensorRT(APIS[-1], wrong))
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".timing-cache"]


def test_a_failed_build_leaves_the_old_engines(half_graphs: Path, tmp_path: Path) -> None:
    folder = build(half_graphs, tmp_path, FakeTensorRT(APIS[-1]))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(ParityError):
        build(half_graphs, tmp_path, FakeTensorRT(APIS[-1], "values"), rebuild=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_random_weights_have_wider_limits_but_rows_must_agree(
    half_graphs: Path, graphs: Path, tmp_path: Path
) -> None:
    """Untrained logits are near the threshold, so a GPU's rounding changes their masks."""
    usual = Limits.of(Precision.FP16)
    wider = Manifest.load(build(half_graphs, tmp_path, FakeTensorRT(APIS[-1]))).parity["limits"]
    assert wider["row_difference"] == usual.row_difference
    assert wider["logit_error"] == pytest.approx(5 * usual.logit_error)
    assert wider["mask_iou"] == pytest.approx(0.95)
    exact = Manifest.load(build(graphs, tmp_path, FakeTensorRT(APIS[-1]))).parity["limits"]
    assert exact == dataclasses.asdict(Limits.of(Precision.FP32))


TRTEXEC = """#!{python}
import json, sys
given = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
assert given["onnx"].endswith("decoder.onnx") and "skipInference" not in given, given
assert given["optShapes"] == given["minShapes"] == given["maxShapes"], given
assert "stronglyTyped" in given and given["profilingVerbosity"] == "detailed", given
if "{fails}": sys.exit("[E] no GPU")
json.dump([{{"name": "a", "averageMs": 1.0}}], open(given["exportProfile"], "w"))
json.dump({{"Layers": []}}, open(given["exportLayerInfo"], "w"))
"""


def test_a_click_s_layers_are_profiled_with_the_same_settings(
    half_graphs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program, output = tmp_path / "trtexec", tmp_path / "results"
    output.mkdir()
    words = [str(half_graphs), str(output), "--shape", "112x70", "--objects", "1"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "layers", *words]) == 2
    assert "trtexec is not on the PATH" in capsys.readouterr().err
    for fails, code in (("yes", 2), ("", 0)):
        program.write_text(TRTEXEC.format(python=sys.executable, fails=fails))
        program.chmod(0o755)
        assert main(["bench", "layers", *words]) == code
    assert "trtexec failed with exit code 1: [E] no GPU" in capsys.readouterr().err
    assert json.loads((output / trtexec_profile.PROFILE).read_text())[0]["name"] == "a"
    assert (output / trtexec_profile.LAYERS).is_file()
    assert main(["bench", "layers", str(tmp_path / "none"), str(output)]) == 2


def test_trtexec_commands_have_the_same_settings(
    graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = trtexec_commands(graphs, tmp_path, RANGES, BuildOptions(workspace_bytes=2**30))
    encoder, decoder = re.sub(r" \\\n +", " ", text).splitlines()
    for line in (encoder, decoder):
        words = line.split()
        assert words[0] == "trtexec"
        assert {"--stronglyTyped", "--noTF32", "--memPoolSize=workspace:1024"} <= set(words)
    assert "--profile=0 --minShapes=image:42x112x3,pos_rows:3x37,pos_cols:8x37" in encoder
    assert "--optShapes=image:70x112x3" in encoder
    assert decoder.count("--maxShapes=") == 4
    assert "points:4x48x2" in decoder
    assert main(["build", str(graphs), "--print-trtexec", "--shape", "112x70"]) == 0
    assert "image:70x112x3" in capsys.readouterr().out


def test_without_a_driver_ois_build_says_so(
    graphs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libnothing.so.1")
    plans = tmp_path / "plans"
    assert main(["build", str(graphs), "-o", str(plans)]) == 2
    error = capsys.readouterr().err
    assert "no NVIDIA driver" in error
    assert "--gpus all" in error
    assert "Traceback" not in error
    assert not plans.exists()


def test_ois_build_refuses_graphs_for_other_targets(
    graphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("encoder.onnx", "decoder.onnx", "manifest.json"):
        (tmp_path / name).write_bytes((graphs / name).read_bytes())
    data = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**data, "target": "cpu"}))
    assert main(["build", str(tmp_path), "--print-trtexec"]) == 2
    assert "holds engines for cpu" in capsys.readouterr().err
    assert main(["build", str(tmp_path / "none")]) == 2
    assert main(["build", str(graphs), "--print-trtexec", "--objects", "0"]) == 2
    assert "objects '0'" in capsys.readouterr().err


def test_the_inspector_output_of_both_versions_is_read() -> None:
    ten = {
        "Layers": [
            {"LayerType": "gemm", "Outputs": [{"Format/Datatype": "Row major linear FP16 format"}]},
            {"LayerType": "Reformat", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]},
            {"LayerType": "kgen", "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]},
            {"LayerType": "ln", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]},
        ],
        "Bindings": ["image"],
    }
    eleven = {
        "Layers": [
            {"LayerType": "gemm", "Outputs": [{"Format": "Linear", "DataType": "BFloat16"}]},
            {"LayerType": "ln", "Outputs": [{"Format": "Linear", "DataType": "Float"}]},
        ],
        "I/O Tensors": ["image"],
    }
    assert built_types(json.dumps(ten)) == {Precision.FP16: 1, Precision.FP32: 1}
    assert built_types(json.dumps(eleven)) == {Precision.BF16: 1, Precision.FP32: 1}
    assert check_precision(json.dumps(ten), Precision.FP16, "e") == {"fp16": 1, "fp32": 1}
    for information, wanted in ((ten, "fp32"), (ten, "bf16"), (eleven, "fp16")):
        with pytest.raises(ExportError, match=f"did not build e in {wanted}"):
            check_precision(json.dumps(information), Precision.parse(wanted), "e")
    for text in ('{"Layers": ["a", "b"]}', '{"Layers": []}', "[]", "x"):
        with pytest.raises(ExportError, match="inspector"):
            built_types(text)
