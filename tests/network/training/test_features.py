"""Features of a frozen encoder on disk, and the report of pairs that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ois_client.contract.errors import InvalidInput
from ois_network.initialise import build
from ois_network.training import state as state_module
from ois_network.training.config import (
    AugmentConfig,
    Stage,
)
from ois_network.training.data.collections import folders
from ois_network.training.data.features import FeatureCache
from ois_network.training.data.sources import PairSource, SceneSource
from ois_network.training.trainer import RunOptions, train
from support.network_scenes import MICRO
from support.training_runs import CACHED, RECIPE, metrics, run, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_cached_features_give_the_same_run(tmp_path: Path) -> None:
    config = CACHED.replace(stages=(Stage(longest=56, images=1, objects=1, steps=3),))
    cold, warm = (FeatureCache(tmp_path / "cache", config) for _ in range(2))
    first = weights(run(tmp_path / "a", config, features=cold))
    second = weights(run(tmp_path / "b", config, features=warm))
    assert (cold.hits, cold.misses) == (0, 3)
    assert (warm.hits, warm.misses) == (3, 0)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = FeatureCache(tmp_path / "cache", config)
    run(tmp_path / "c", config.replace(bf16=True), features=other)
    assert (other.hits, other.misses) == (0, 3)


def test_an_image_is_encoded_once_for_all_epochs(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 71, 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    mask = np.zeros((50, 71), dtype=np.uint8)
    mask[5:40, 8:60] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    config = CACHED.replace(stages=(Stage(longest=56, images=1, objects=1, epochs=5),))
    cache = FeatureCache(tmp_path / "cache", config)
    train(
        config,
        PairSource(folders(tmp_path, tmp_path / "masks"), MICRO, config),
        RunOptions(tmp_path / "run", workers=0, say=lambda _text: None),
        start=build(MICRO, seed=1),
        features=cache,
    )
    assert (cache.hits, cache.misses) == (4, 1)


def test_features_that_training_would_change_are_not_cached(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="encoder"):
        FeatureCache(tmp_path, RECIPE)
    with pytest.raises(InvalidInput, match=r"images = 1"):
        FeatureCache(tmp_path, CACHED)
    augmented = CACHED.replace(stages=CACHED.stages[1:], augment=AugmentConfig())
    with pytest.raises(InvalidInput, match=r"augment\.on"):
        FeatureCache(tmp_path, augmented)


def test_unusable_pairs_are_reported(tmp_path: Path) -> None:
    class Holed(SceneSource):
        def sample(self, *arguments: Any) -> Any:
            import dataclasses

            return dataclasses.replace(super().sample(*arguments), skipped=("empty mask: x",))

    said: list[str] = []
    train(
        RECIPE,
        Holed(MICRO, RECIPE),
        RunOptions(tmp_path, workers=0, say=said.append),
        start=build(MICRO),
    )
    assert any("1 pairs could not be used" in line and "empty mask: x" in line for line in said)
    assert metrics(tmp_path)[-1]["skipped"] == {"empty mask: x": 10}
    assert state_module.load_state(tmp_path).skipped == {"empty mask: x": 10}
