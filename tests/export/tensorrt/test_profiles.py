"""Profiles have the shapes that engines get, and Triton warms up every profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from ois_client.contract.errors import (
    InvalidInput,
)
from ois_client.contract.geometry import Geometry
from ois_export.parity.reference import open_reference
from ois_export.repository import write_repository
from ois_export.tensorrt.build import plan_profiles
from ois_export.tensorrt.profiles import Objects, Shapes, input_shape
from ois_runtime.engines.manifest import Manifest, TensorSpec
from support.tensorrt.builds import RANGES, build
from support.tensorrt.fake import APIS, FakeTensorRT


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


def test_one_shape_gives_a_profile_of_only_that_shape(graphs: Path) -> None:
    shape = Shapes.parse("112x70", Manifest.load(graphs))
    assert shape.lowest == shape.best == shape.highest == (5, 8)


def test_triton_warms_every_profile_at_the_shapes_it_is_tuned_for(
    graphs: Path, tmp_path: Path
) -> None:
    folder = build(graphs, tmp_path, FakeTensorRT(APIS[-1]), ranges=RANGES)
    manifest = Manifest.load(folder)
    best = {"encoder": [(5, 8, 1), (8, 5, 1)], "decoder": [(5, 8, 1), (5, 8, 3), (8, 5, 1)]}
    best["decoder"].append((8, 5, 3))  # in the order of `plan_profiles`
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
    for role in ("encoder", "decoder"):  # on a CPU they would take seconds at every start
        graph = write_repository(graphs, Manifest.load(graphs), tmp_path) / f"ois_{role}"
        config = text_format.Parse((graph / "config.pbtxt").read_text(), ModelConfig())
        assert config.input
        assert not config.model_warmup


@pytest.mark.parametrize(("name", "sides"), [("detail1", (80, 128)), ("detail2", (40, 64))])
def test_a_map_of_details_has_the_stride_in_its_name(name: str, sides: tuple[int, int]) -> None:
    spec = TensorSpec(name, "FP32", (1, 8, "rows", "columns"))
    assert input_shape(spec, (5, 8), 1, 16) == (1, 8, *sides)
