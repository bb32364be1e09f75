"""`ois build` makes engines that compute what their graphs do, or nothing at all.

Graphs, numbers and TensorRT's API are real, TensorRT itself is not: see support/tensorrt/fake.py.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from ois_benchmarks.gpu import layers as trtexec_profile
from ois_cli.main import main
from ois_client.contract.errors import (
    EngineError,
    ExportError,
    InvalidInput,
    ParityError,
    UnsupportedGraph,
)
from ois_client.contract.geometry import Geometry
from ois_export.export import describe_graph, write_engines
from ois_export.graphs.precision import typed
from ois_export.parity.cases import CASES, SQUARE, Case, make_prompts
from ois_export.parity.comparison import Limits
from ois_export.parity.network_gate import run_gate
from ois_export.parity.reference import open_reference
from ois_export.repository import write_repository
from ois_export.targets import Target
from ois_export.tensorrt.build import Ranges, build_with, plan_profiles, trtexec_commands
from ois_export.tensorrt.plan import BuildOptions, built_types, check_precision
from ois_export.tensorrt.profiles import Objects, Shapes, input_shape
from ois_network.checkpoints.checkpoint import Checkpoint
from ois_network.network import OISNetwork
from ois_runtime import gpu_driver as driver
from ois_runtime.engines.backends import EngineOptions, Precision
from ois_runtime.engines.manifest import Manifest
from ois_runtime.engines.pair import GraphPair
from ois_runtime.gpu_driver import Gpu
from ois_runtime.tensorrt.engine import PlanGraph, choose_profile, open_graph
from ois_runtime.tensorrt.memory import DeviceBuffers
from support.network_scenes import MICRO, micro
from support.tensorrt.fake import APIS, VERSIONS, FakeTensorRT, HostMemory

GPU = Gpu("NVIDIA H100 80GB HBM3", 90, 80 * 2**30, (13, 1))
RANGES = Ranges(("landscape", "portrait"), ("1", "2:3:4"))
ONE_SHAPE = Ranges(("112x70",), ("2",))


@pytest.fixture(scope="module")
def network() -> OISNetwork:
    return micro()


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, network: OISNetwork) -> Path:
    folder = tmp_path_factory.mktemp("fp32")
    checkpoint = Checkpoint(network, network.config, trained=False, sha256="0" * 64, metadata={})
    write_engines(checkpoint, folder, name="micro", target=Target.TENSORRT)
    return folder


@pytest.fixture(scope="module")
def half_graphs(tmp_path_factory: pytest.TempPathFactory, graphs: Path) -> Path:
    folder = tmp_path_factory.mktemp("fp16")
    engines = {}
    for role in ("encoder", "decoder"):
        path = folder / f"{role}.onnx"
        onnx.save(typed(onnx.load(str(graphs / path.name)), Precision.FP16), str(path))
        engines[role] = describe_graph(path, Target.TENSORRT)
    dataclasses.replace(Manifest.load(graphs), precision="fp16", **engines).save(folder)
    return folder


def build(engines: Path, plans: Path, trt: FakeTensorRT, **changes: object) -> Path:
    settings: dict[str, object] = {
        "ranges": ONE_SHAPE,
        "options": BuildOptions(),
        "limits": None,
        "rebuild": False,
        "progress": lambda _: None,
        **changes,
    }
    manifest = Manifest.load(engines)
    return build_with(trt, GPU, HostMemory, engines, manifest, plans, **settings)  # type: ignore[arg-type]


def test_the_graphs_compute_what_the_network_does(graphs: Path, network: OISNetwork) -> None:
    limits = Limits(depth_error=2e-5, logit_error=2e-5)
    with open_reference(graphs) as engines:
        record = run_gate(network, engines, limits=limits, cases=CASES[1:4])
    assert record["limits"]["logit_error"] == 2e-5
    assert all(case["mask_iou"] > 0.999 for case in record["cases"])


@pytest.mark.parametrize(("width", "height"), [(112, 84), (112, 70), (70, 112), (112, 112)])
def test_tokens_and_keys_are_filled_up_to_eight_and_masked(
    graphs: Path, width: int, height: int
) -> None:
    geometry = Geometry.fit(width, height, longest=MICRO.longest)
    patches = geometry.grid_height * geometry.grid_width
    image = np.full((geometry.network_height, geometry.network_width, 3), 90, dtype=np.uint8)
    rows, columns = geometry.position_matrices()
    feeds = {"image": image, "pos_rows": rows, "pos_cols": columns}
    weights = attention_weights(graphs / "encoder.onnx", feeds)
    filled = -(-(1 + patches) // 8) * 8
    assert {array.shape[-1] for array in weights} == {filled}
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
    """What every softmax of a graph gives."""
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
    assert cache.read_bytes() == b"2"  # the second build read what the first had measured
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
def test_a_half_build_is_inspected_in_either_version_s_words(
    api: dict[str, object], half_graphs: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "mine.cache"
    cache.write_text("of another GPU")
    options = BuildOptions(workspace_bytes=2**30, optimization_level=5, timing_cache=cache)
    trt = FakeTensorRT(api)
    folder = build(half_graphs, tmp_path, trt, options=options)
    layers = Manifest.load(folder).options["layers"]
    assert layers["encoder"]["fp16"] > 50
    assert layers["decoder"]["fp16"] > 50
    assert (trt.seen.level, trt.seen.workspace) == (5, 2**30)
    assert cache.read_bytes() == b"2"


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
def test_an_engine_that_is_not_right_is_not_written(
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


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory, half_graphs: Path) -> Path:
    folder = tmp_path_factory.mktemp("plans")
    return build(half_graphs, folder, FakeTensorRT(APIS[-1]), ranges=RANGES)


def open_plans(folder: Path) -> tuple[GraphPair, HostMemory]:
    """The engines, and the decoder's memory."""
    trt, memory = FakeTensorRT(APIS[-1]), HostMemory()
    encoder = PlanGraph(folder / "encoder.plan", trt, HostMemory())
    decoder = PlanGraph(folder / "decoder.plan", trt, memory)
    return GraphPair(Manifest.load(folder), "fake", encoder, decoder), memory


def test_plans_run_in_process_and_keep_an_image_s_features_on_the_gpu(
    plans: Path, half_graphs: Path
) -> None:
    engines, memory = open_plans(plans)
    geometry = Geometry.fit(112, 84, longest=MICRO.longest)
    image = np.full((geometry.network_height, geometry.network_width, 3), 90, dtype=np.uint8)
    prompts = make_prompts(Case(SQUARE, ((2, 1, True), (1, 0, False))), geometry, seed=0)
    state = engines.encode(image, geometry)
    assert state.arrays["features"].dtype == np.float16
    assert state.arrays["depth"].dtype == np.float32
    logits, coverage = engines.decode(state, prompts)
    with open_reference(half_graphs) as onnx_engines:
        expected, expected_coverage = onnx_engines.decode(
            onnx_engines.encode(image, geometry), prompts
        )
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(coverage, expected_coverage)

    held, uploads = len(memory.held), memory.uploads
    again, _ = engines.decode(state, prompts)
    np.testing.assert_array_equal(again, logits)
    assert memory.uploads == uploads + 4  # the prompts alone
    assert len(memory.held) == held
    count = len(state.arrays)
    del state
    gc.collect()
    assert len(memory.held) == held - count


def test_a_closed_engine_leaves_nothing_on_the_gpu(plans: Path) -> None:
    engines, memory = open_plans(plans)
    geometry = Geometry.fit(112, 84, longest=MICRO.longest)
    image = np.full((geometry.network_height, geometry.network_width, 3), 90, dtype=np.uint8)
    state = engines.encode(image, geometry)
    engines.decode(state, make_prompts(Case(SQUARE, ((2, 1, True),)), geometry, seed=0))
    assert memory.held
    assert not memory.closed
    del engines
    gc.collect()
    assert not memory.held  # the image's features too, although the image is still there
    assert memory.closed
    del state
    gc.collect()


def test_a_buffer_that_finds_no_room_to_grow_is_not_used_again() -> None:
    memory = HostMemory()
    buffers = DeviceBuffers(memory)
    small = buffers.named("logits", 10)
    memory.failures = 1
    with pytest.raises(EngineError, match="out of memory"):
        buffers.named("logits", 1000)
    assert small not in memory.held
    large = buffers.named("logits", 5)  # smaller than what failed: still a new one
    assert list(memory.held) == [large]
    buffers.close()
    assert not memory.held
    assert memory.closed


def test_a_failed_copy_keeps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = HostMemory()
    buffers = DeviceBuffers(memory)
    features = np.arange(6.0)
    features.flags.writeable = False

    def fails(*_: object) -> None:
        raise EngineError("cudaMemcpyAsync failed")

    with monkeypatch.context() as broken:
        broken.setattr(memory, "upload", fails)
        with pytest.raises(EngineError, match="cudaMemcpyAsync"):
            buffers.place("features", features)
    assert not memory.held
    assert buffers.place("features", features) == buffers.place("features", features)
    assert memory.uploads == 1


def test_what_a_plan_was_not_built_for_is_said(plans: Path, tmp_path: Path) -> None:
    engines, _ = open_plans(plans)
    wide = Geometry.fit(112, 14, longest=MICRO.longest)
    image = np.zeros((wide.network_height, wide.network_width, 3), dtype=np.uint8)
    with pytest.raises(EngineError, match=r"not built for image 14x112x3.*42x112x3 to 112x112x3"):
        engines.encode(image, wide)
    encoder = PlanGraph(plans / "encoder.plan", FakeTensorRT(APIS[-1]), HostMemory())
    with pytest.raises(EngineError, match="image is float32; expected uint8"):
        encoder.run({name: np.zeros(1, dtype=np.float32) for name in encoder.inputs})
    with pytest.raises(EngineError, match="another version or for another GPU"):
        PlanGraph(plans / "encoder.plan", FakeTensorRT(APIS[0]), HostMemory())
    (tmp_path / "cut.plan").write_bytes(b"plan")
    with pytest.raises(EngineError, match="cannot load"):
        PlanGraph(tmp_path / "cut.plan", FakeTensorRT(APIS[0]), HostMemory())


def test_graphs_are_no_plans(graphs: Path) -> None:
    with pytest.raises(EngineError, match=r"encoder.onnx is no TensorRT engine.*ois build"):
        open_graph(graphs / "encoder.onnx", EngineOptions(device="cuda"))


def test_triton_warms_every_profile_at_the_shapes_it_is_tuned_for(
    graphs: Path, tmp_path: Path
) -> None:
    folder = build(graphs, tmp_path, FakeTensorRT(APIS[-1]), ranges=RANGES)
    manifest = Manifest.load(folder)
    best = {"encoder": [(5, 8, 1), (8, 5, 1)], "decoder": [(5, 8, 1), (5, 8, 3), (8, 5, 1)]}
    best["decoder"].append((8, 5, 3))  # as RANGES and `plan_profiles` order them
    for role, engine in (("encoder", manifest.encoder), ("decoder", manifest.decoder)):
        text = (folder / "repository" / f"ois_{role}" / "config.pbtxt").read_text()
        config = text_format.Parse(text, ModelConfig())
        assert [each.name for each in config.model_warmup] == manifest.options["profiles"][role]
        kinds = {each.name: each.data_type for each in config.input}
        for sample, (rows, columns, count) in zip(config.model_warmup, best[role], strict=True):
            assert sample.batch_size == 1  # Triton skips 0, though these models have no batches
            assert dict(sample.inputs).keys() == {spec.name for spec in engine.inputs}
            for spec in engine.inputs:
                given = sample.inputs[spec.name]
                assert given.data_type == kinds[spec.name]
                assert tuple(given.dims) == input_shape(spec, (rows, columns), count, 14)
                assert given.WhichOneof("input_data_type") == "zero_data"
                assert given.zero_data
    for role in ("encoder", "decoder"):  # a CPU would pay for them in seconds at every start
        graph = write_repository(graphs, Manifest.load(graphs), tmp_path) / f"ois_{role}"
        config = text_format.Parse((graph / "config.pbtxt").read_text(), ModelConfig())
        assert config.input
        assert not config.model_warmup


def test_the_profile_tuned_nearest_is_chosen() -> None:
    profiles = [
        {"x": ((1, 8), (1, 8), (1, 8))},
        {"x": ((1, 8), (8, 8), (32, 8))},
        {"x": ((1, 8), (2, 8), (4, 8))},
    ]
    chosen = [choose_profile(profiles, {"x": (n, 8)}) for n in (1, 2, 3, 5, 32, 33)]
    assert chosen == [0, 2, 2, 1, 1, None]
    assert choose_profile(profiles, {"x": (1, 9)}) is None


@pytest.mark.parametrize("grid", [(3, 8), (5, 8), (8, 8), (8, 4)])
def test_profiles_have_the_shapes_that_the_encoder_gives(
    graphs: Path, grid: tuple[int, int]
) -> None:
    manifest = Manifest.load(graphs)
    rows, columns = grid
    geometry = Geometry(columns * 14, rows * 14, columns, rows)
    image = np.zeros((rows * 14, columns * 14, 3), dtype=np.uint8)
    with open_reference(graphs) as engines:
        state = engines.encode(image, geometry)
    for spec in manifest.decoder.inputs:
        if spec.name in state.arrays:
            assert input_shape(spec, grid, 3, 14) == state.arrays[spec.name].shape, spec
    profiles, _ = plan_profiles(manifest, RANGES)
    fixed = {"depth_min", "depth_max"}
    assert set(profiles["decoder"][0].inputs) == {s.name for s in manifest.decoder.inputs} - fixed
    assert len(profiles["decoder"]) == 4


@pytest.mark.parametrize("text", ["0", "2:1:3", "1:2", "a", "", "1:2:3:4", "-1"])
def test_impossible_object_ranges_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="objects"):
        Objects.parse(text)


@pytest.mark.parametrize("text", ["square", "100x112", "112x119", "56x56", "x", "112x", "112"])
def test_impossible_shapes_are_refused(text: str, graphs: Path) -> None:
    with pytest.raises(InvalidInput, match="shape"):
        Shapes.parse(text, Manifest.load(graphs))


def test_one_shape_is_a_profile_without_freedom(graphs: Path) -> None:
    shape = Shapes.parse("112x70", Manifest.load(graphs))
    assert shape.lowest == shape.best == shape.highest == (5, 8)


def test_random_weights_have_wider_limits_but_rows_must_agree(
    half_graphs: Path, graphs: Path, tmp_path: Path
) -> None:
    """Logits that nobody trained lie near the threshold: a GPU's rounding moves their masks."""
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


def test_trtexec_gets_the_same_settings(
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


def test_ois_build_wants_graphs_for_tensorrt(
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


def test_the_inspector_s_words_are_understood() -> None:
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
