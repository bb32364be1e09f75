"""SAM 2.1 through its own `SAM2ImagePredictor` and mask generator, on single images.

One mask per click (`multimask_output=False`), as for SAM. Its default post-processing of the
decoder stays on: if the single mask is not stable, the best of three is taken, which are computed
anyway. The low-resolution logits of the previous click are the `mask_input`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from ois_benchmarks.contestants.base import Image, Mask, Place
from ois_benchmarks.contestants.code import Source, open_code
from ois_benchmarks.contestants.peers.sam import SamContestant
from ois_benchmarks.contestants.torch_peer import (
    arrays_of,
    identity_of,
    load_weights,
    prepare_torch,
    read_weights,
)
from ois_client.contract.clicks import Click
from ois_client.contract.errors import CheckpointError

SIDE = 1024
SOURCE = Source(
    repository="facebookresearch/sam2",
    commit="2b90b9f",
    module="sam2",
    pypi=("sam2", "1.1.0", "sam2"),
    needs={
        "hydra": "hydra-core",
        "omegaconf": "omegaconf",
        "antlr4": "antlr4-python3-runtime==4.9.3",
        "iopath": "iopath",
        "portalocker": "portalocker",
        "yaml": "pyyaml",
        "tqdm": "tqdm",
    },
    light=("torchvision",),
)


@dataclass(frozen=True, slots=True)
class Sam2Variant:
    """label: for tables. config: in the package."""

    label: str
    config: str


VARIANTS = {
    f"sam2.1-{name}": Sam2Variant(f"SAM 2.1 {label}", f"configs/sam2.1/sam2.1_hiera_{short}.yaml")
    for name, label, short in (
        ("tiny", "Hiera-T", "t"),
        ("small", "Hiera-S", "s"),
        ("base-plus", "Hiera-B+", "b+"),
        ("large", "Hiera-L", "l"),
    )
}


def open_sam2(place: Place, variant: Sam2Variant) -> Sam2Contestant:
    """Open SAM 2.1.

    Raises `NotHere` without its code, `CheckpointError` for weights of another network.
    """
    device = prepare_torch(place)
    code = open_code(SOURCE, place.checkout)
    network = importlib.import_module("sam2.build_sam").build_sam2(
        variant.config, device=str(device)
    )
    if place.weights is not None:
        state = read_weights(place.weights)
        if not isinstance(state, dict) or "model" not in state:
            raise CheckpointError(f"{place.weights}: expected a checkpoint with a `model` entry")
        load_weights(network, state["model"], place.weights)
    predictor = importlib.import_module("sam2.sam2_image_predictor").SAM2ImagePredictor(network)
    identity = identity_of(place, code, label=variant.label, family="sam2", input_size=(SIDE, SIDE))
    return Sam2Contestant(predictor, identity, code)


class Sam2Contestant(SamContestant):
    """A `SAM2ImagePredictor` as a contestant."""

    def click_each(self, points: Sequence[Click]) -> Mask:
        predictor = self.predictor
        xy, labels = arrays_of(points)
        _, given, kinds, _ = predictor._prep_prompts(
            xy[:, None], labels[:, None], None, None, normalize_coords=True
        )
        masks, _, _ = predictor._predict(given, kinds, multimask_output=False)
        found: Mask = (masks[:, 0] > 0).cpu().numpy()
        return found

    def automatic(self, image: Image, points_per_side: int) -> int:
        generator = importlib.import_module("sam2.automatic_mask_generator")
        made = generator.SAM2AutomaticMaskGenerator(
            self.network, points_per_side=points_per_side, points_per_batch=1
        )
        return len(made.generate(image))
