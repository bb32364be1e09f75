"""The values of `--point` are parsed to clicks on objects."""

from __future__ import annotations

import pytest

from ois_cli.clicking import ObjectClick
from ois_client.contract.clicks import Click
from ois_client.contract.errors import InvalidClick


@pytest.mark.parametrize(
    ("text", "number", "click"),
    [
        ("512,300", 1, Click(512, 300)),
        ("512.5, 300,+", 1, Click(512.5, 300)),
        ("80,40,-", 1, Click(80, 40, positive=False)),
        ("2:512,300", 2, Click(512, 300)),
        (" 12 : 3,4,-", 12, Click(3, 4, positive=False)),
    ],
)
def test_a_point_names_object_position_and_sign(text: str, number: int, click: Click) -> None:
    assert ObjectClick.parse(text) == ObjectClick(number, click)


@pytest.mark.parametrize("text", ["", "5", "0:1,2", "256:1,2", "a:1,2", "1:", "1,2,x", "2:1;2"])
def test_a_malformed_point_is_an_error(text: str) -> None:
    with pytest.raises(InvalidClick):
        ObjectClick.parse(text)
