"""Both graph backends compute the same from one engine folder, and explain their errors."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ois_client.contract.clicks import Click, Prompts, fill_slots
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.backends import EngineBackend, EngineOptions, Precision, load_engines
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import EngineFile, Manifest
from ois_runtime.engines.pair import EnginePair
from support.tiny_engines import LONGEST, PATCH, TABLE, disk_logits, write_engines

GEOMETRY = Geometry.fit(56, 42, longest=LONGEST, patch=PATCH)  # image pixel = network pixel
GRID = (3, 4)

#: The backends that run graphs. PyTorch runs a checkpoint instead.
GRAPH_BACKENDS = [EngineBackend.ONNXRUNTIME, EngineBackend.OPENVINO]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module", params=GRAPH_BACKENDS)
def engines(request: pytest.FixtureRequest, folder: Path) -> EnginePair:
    return load_engines(folder, request.param, EngineOptions(threads=1))


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (42, 56, 3), dtype=np.uint8)


def decode(
    engines: EnginePair, state: ImageState, objects: list[list[Click]], coverage: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    points, labels = fill_slots(objects, state.geometry)
    has_previous = np.full(len(objects), coverage is not None)
    if coverage is None:
        coverage = np.zeros((len(objects), *GRID), dtype=np.uint8)
    return engines.decode(state, Prompts(points, labels, coverage, has_previous))


def test_the_encoder_gets_the_image_and_the_position_matrices(engines: EnginePair) -> None:
    image = picture()
    state = engines.encode(image, GEOMETRY)
    rows, columns = GEOMETRY.position_matrices(TABLE)
    np.testing.assert_allclose(state.arrays["depth"][0], image.mean(axis=2), atol=1e-3)
    np.testing.assert_allclose(state.arrays["position"][0], rows @ columns.T, atol=1e-5)
    assert state.arrays["depth_max"] == state.arrays["depth"].max()
    assert state.nbytes == (42 * 56 + 1 + 1 + 12) * 4


def test_the_decoder_gets_every_prompt_and_broadcasts_one_state(engines: EnginePair) -> None:
    state = engines.encode(picture(), GEOMETRY)
    objects = [
        [Click(10, 20)],
        [Click(10, 20), Click(30, 20), Click(5, 5, positive=False)],
    ]
    logits, new_coverage = decode(engines, state, objects, None)
    np.testing.assert_allclose(logits[0], disk_logits((10, 20), (42, 56), 12), atol=1e-4)
    np.testing.assert_allclose(logits[1], disk_logits((20, 20), (42, 56), 10), atol=1e-4)
    for one, coverage in zip(logits, new_coverage, strict=True):
        expected = coverage_of_mask(one > 0, GEOMETRY)
        assert np.abs(expected.astype(int) - coverage).max() <= 1
        np.testing.assert_array_equal(expected == 0, coverage == 0)
        np.testing.assert_array_equal(expected == 255, coverage == 255)
    covered = np.full((2, *GRID), 255, dtype=np.uint8)
    logits, _ = decode(engines, state, objects, covered)
    np.testing.assert_allclose(logits[0], disk_logits((10, 20), (42, 56), 18), atol=1e-4)


def test_one_pair_serves_every_shape(engines: EnginePair) -> None:
    for width, height in ((56, 14), (14, 56), (56, 56)):
        geometry = Geometry.fit(width, height, longest=LONGEST, patch=PATCH)
        state = engines.encode(np.zeros((height, width, 3), dtype=np.uint8), geometry)
        assert state.arrays["depth"].shape == (1, height, width)


def test_threads_share_a_pair(engines: EnginePair) -> None:
    state = engines.encode(picture(), GEOMETRY)

    def click(x: int) -> np.ndarray:
        return decode(engines, state, [[Click(x, 20)]], None)[0][0]

    with ThreadPoolExecutor(8) as pool:
        for x, logits in enumerate(pool.map(click, range(56))):
            np.testing.assert_allclose(logits, disk_logits((x, 20), (42, 56), 12), atol=1e-4)


def test_a_result_stays_when_the_engine_runs_again(engines: EnginePair) -> None:
    state = engines.encode(picture(), GEOMETRY)
    first, _ = decode(engines, state, [[Click(10, 20)]], None)
    kept = first.copy()
    engines.encode(picture(1), GEOMETRY)
    decode(engines, state, [[Click(40, 20)]], None)
    np.testing.assert_array_equal(first, kept)


def test_a_state_is_read_only(engines: EnginePair) -> None:
    state = engines.encode(picture(), GEOMETRY)
    with pytest.raises(ValueError, match="read-only"):
        state.arrays["depth"][:] = 0


def test_wrong_arrays_are_named(engines: EnginePair) -> None:
    state = engines.encode(picture(), GEOMETRY)
    with pytest.raises(InvalidInput, match="image of shape"):
        engines.encode(np.zeros((42, 42, 3), dtype=np.uint8), GEOMETRY)
    points, labels = fill_slots([[Click(1, 1)]], GEOMETRY)
    prompts = Prompts(points, labels, np.zeros((1, *GRID), np.uint8), np.zeros(1, bool))
    engines.decode(state, prompts)
    for name, wrong in (
        ("points", points[:, :5]),
        ("labels", labels.astype(np.int64)),
        ("coverage", prompts.coverage.astype(np.float32)),
        ("coverage", prompts.coverage.transpose(0, 2, 1)),
        ("has_previous", np.zeros(2, bool)),
    ):
        with pytest.raises(InvalidInput, match=f"got {name} of shape"):
            engines.decode(state, replace(prompts, **{name: wrong}))


def test_the_description_names_library_version_and_precision(engines: EnginePair) -> None:
    library, version, precision = engines.description.split()
    assert library in {backend.package for backend in EngineBackend}
    assert version[0].isdigit()
    assert precision == "fp32"


@pytest.mark.parametrize("backend", GRAPH_BACKENDS)
@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_a_file_that_is_no_graph_is_an_engine_error(
    tmp_path: Path, backend: EngineBackend, role: str
) -> None:
    manifest = Manifest.load(write_engines(tmp_path))
    path = tmp_path / f"{role}.onnx"
    path.write_bytes(path.read_bytes()[:200])
    replace(manifest, **{role: EngineFile.of(path)}).save(tmp_path)
    with pytest.raises(EngineError, match=rf"cannot load .*{role}\.onnx"):
        load_engines(tmp_path, backend)


def test_engines_of_two_exports_do_not_load_together(tmp_path: Path) -> None:
    manifest = Manifest.load(write_engines(tmp_path))
    replace(manifest, decoder=manifest.encoder).save(tmp_path)
    with pytest.raises(EngineError, match=r"do not exist: image.*lacks the outputs logits"):
        load_engines(tmp_path)


def test_an_unknown_backend_and_a_precision_it_lacks_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="onnxruntime, openvino"):
        EngineBackend.parse("tensorflow")
    with pytest.raises(InvalidInput, match="fp32"):
        load_engines(folder, EngineBackend.ONNXRUNTIME, EngineOptions(precision=Precision.BF16))
    with pytest.raises(InvalidInput, match="0 threads"):
        EngineOptions(threads=0)


def test_there_is_one_spelling_of_a_precision_and_old_scripts_still_run() -> None:
    assert [str(precision) for precision in Precision] == ["fp32", "fp16", "bf16", "int8"]
    for text, precision in (("f32", "fp32"), ("f16", "fp16"), ("bf16", "bf16")):
        assert Precision.parse(text) is EngineOptions(precision=text).precision  # type: ignore[arg-type]
        assert Precision.parse(text) == precision
    with pytest.raises(InvalidInput, match="'f8'; expected one of fp32, fp16, bf16, int8"):
        Precision.parse("f8")


def test_bf16_runs_where_the_cpu_has_it_and_is_refused_elsewhere(folder: Path) -> None:
    from ois_runtime.engines.openvino import native_bf16

    options = EngineOptions(precision=Precision.BF16)
    if not native_bf16():
        with pytest.raises(EngineError, match="no native bfloat16"):
            load_engines(folder, EngineBackend.OPENVINO, options)
        return
    engines = load_engines(folder, EngineBackend.OPENVINO, options)
    state = engines.encode(picture(), GEOMETRY)
    logits, _ = decode(engines, state, [[Click(10, 20)]], None)
    np.testing.assert_allclose(logits[0], disk_logits((10, 20), (42, 56), 12), atol=0.5)
    assert engines.description.endswith("bf16")


def test_compiled_engines_are_kept_when_asked(folder: Path, tmp_path: Path) -> None:
    options = EngineOptions(compiled_cache=tmp_path / "compiled")
    load_engines(folder, EngineBackend.OPENVINO, options)
    assert list((tmp_path / "compiled").iterdir())


@pytest.mark.parametrize(
    ("backend", "device", "extra"),
    [
        *((backend, backend.devices[0], backend.extra) for backend in EngineBackend),
        (EngineBackend.ONNXRUNTIME, "cuda:1", "gpu"),
    ],
)
def test_a_missing_package_names_the_extra_to_install(
    folder: Path, backend: EngineBackend, device: str, extra: str
) -> None:
    # In a child process, because this process has already imported the package.
    script = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from ois_client.contract.errors import EngineError\n"
        "from ois_runtime.engines.backends import EngineBackend, EngineOptions, load_engines\n"
        "backend = EngineBackend.parse(sys.argv[2])\n"
        "options = EngineOptions(device=sys.argv[4], precision=backend.precisions[0])\n"
        "try: load_engines(sys.argv[3], backend, options)\n"
        "except EngineError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, backend.package, backend.value, str(folder), device],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"pip install 'ois-deploy[{extra}]'" in done.stdout
