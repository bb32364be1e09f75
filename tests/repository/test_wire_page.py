"""The tables of docs/wire.md are those of the code and of Triton's configurations."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from ois_client.contract.images import load_image
from ois_client.contract.transport import ModelInfo
from ois_client.wire import INPUTS, ONESHOT_INPUTS, OUTPUTS, PARAMETERS, ReplyInfo
from support.documents import ROOT

PAGE = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([A-Z_]+)` \| ([A-Z0-9]+) \| \[([^\]]+)\] \|", re.MULTILINE)
#: Triton's names in config.pbtxt that differ from those on the wire.
TYPES = {"TYPE_STRING": "BYTES"}
TENSOR = re.compile(r'name: "(\w+)"\s+data_type: (\w+)\s+dims: \[ ([-\d, ]+) \]')


def rows(title: str) -> dict[str, tuple[str, int]]:
    """name -> (datatype, rank) of the table in a chapter."""
    chapter = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return {name: (kind, len(dims.split(","))) for name, kind, dims in ROW.findall(chapter)}


def configured(model: str) -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, int]]]:
    """The inputs and the outputs in the model's config.pbtxt."""
    text = (ROOT / "triton_models" / model / "config.pbtxt").read_text(encoding="utf-8")
    inputs, outputs = text.split("output [", 1)
    found = []
    for part in (inputs, outputs.split("\n]", 1)[0]):
        tensors = TENSOR.findall(part)
        found.append(
            {
                name: (TYPES.get(kind, kind.removeprefix("TYPE_")), len(dims.split(",")))
                for name, kind, dims in tensors
            }
        )
    return found[0], found[1]


def test_every_tensor_of_ois_segment_is_described() -> None:
    inputs, outputs = configured("ois_segment")
    assert rows("Inputs") == inputs
    assert rows("Outputs") == outputs
    for table, known in ((inputs, INPUTS), (outputs, OUTPUTS)):
        assert table == {n: (spec.datatype, len(spec.dims)) for n, spec in known.items()}


def test_ois_oneshot_is_what_the_page_says() -> None:
    """The same inputs without DIGEST; the first four outputs and SIZE."""
    inputs, outputs = configured("ois_oneshot")
    described = rows("Inputs")
    assert inputs == {name: described[name] for name in ONESHOT_INPUTS}
    first_four = dict(list(rows("Outputs").items())[:4])
    assert outputs == first_four | {"SIZE": ("INT32", 1)}
    assert set(configured("ois_encode")[0]) == {"IMAGE", "IMAGE_SHAPE"}


@pytest.mark.parametrize(
    "name", [*PARAMETERS, *ModelInfo.__dataclass_fields__, *ReplyInfo.__dataclass_fields__]
)
def test_every_parameter_and_every_field_of_info_is_named(name: str) -> None:
    assert name == "model" or f"`{name}`" in PAGE  # `model` is not a field of the JSON


def test_the_digest_of_raw_samples() -> None:
    """Of files, tests/scenarios/server/test_wire_page.py runs the page's command."""
    raw = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    assert "`raw:HxWxC:`" in PAGE
    expected = hashlib.sha256(b"raw:48x64x3:" + raw.tobytes()).hexdigest()
    assert load_image(raw).digest == expected
