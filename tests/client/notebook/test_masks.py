"""`%load_ext ois_client.notebook`: IPython shows masks as pictures, and other arrays as before."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ois_client.sessions.client import Client

pytest.importorskip("anywidget", reason="anywidget is not installed")

from IPython.core.interactiveshell import InteractiveShell

from ois_client.notebook.masks import LONGEST


@pytest.fixture(scope="module")
def shell() -> InteractiveShell:
    return InteractiveShell()


@pytest.fixture
def loaded(shell: InteractiveShell) -> Iterator[InteractiveShell]:
    shell.run_line_magic("load_ext", "ois_client.notebook")
    yield shell
    shell.run_line_magic("unload_ext", "ois_client.notebook")


def shown(shell: InteractiveShell, value: Any) -> np.ndarray[Any, Any] | None:
    """The picture that a notebook shows of a value; None if it shows text only."""
    data, _ = shell.display_formatter.format(value)  # type: ignore[union-attr]
    assert "text/plain" in data
    png = data.get("image/png")
    return None if png is None else np.asarray(Image.open(io.BytesIO(png)))


def test_the_mask_of_a_click_is_a_picture(loaded: InteractiveShell, client: Client) -> None:
    session = client.open(np.full((84, 112, 3), 100, dtype=np.uint8))
    mask = session.click(40, 40)
    for form in (mask, mask.astype(bool)):  # SAM's masks are bool
        np.testing.assert_array_equal(shown(loaded, form), mask * 255)
    np.testing.assert_array_equal(shown(loaded, mask * 0), mask * 0)


def test_a_large_mask_is_shown_smaller(loaded: InteractiveShell) -> None:
    mask = np.zeros((100, 2 * LONGEST), np.uint8)
    mask[:, :LONGEST] = 1
    picture = shown(loaded, mask)
    assert picture is not None
    assert picture.shape == (50, LONGEST)
    assert picture.mean() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((20, 20, 3), np.uint8),
        np.full((20, 20), 2, np.uint8),
        np.zeros((20, 20), np.float32),
        np.zeros((3, 20), np.uint8),
        np.zeros(0, np.uint8),
    ],
)
def test_other_arrays_are_text(loaded: InteractiveShell, array: np.ndarray[Any, Any]) -> None:
    assert shown(loaded, array) is None


def test_nothing_changes_without_the_extension(shell: InteractiveShell) -> None:
    assert shown(shell, np.ones((20, 20), np.uint8)) is None
