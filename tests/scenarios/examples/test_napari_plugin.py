"""The real napari with our plugin, as a person with a mouse uses it, on a virtual X server.

napari has its own environment (`support/environments.py`), and `support/desktop/napari_clicks.py`
drives its window. Every mask is compared with that of the same clicks in a session here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ois_client import Client
from ois_client.sessions.session import Session
from ois_runtime.engines.local import open_transport
from support.documents import ROOT
from support.environments import environment
from support.tiny_engines import write_engines

DRIVER = ROOT / "tests" / "support" / "desktop" / "napari_clicks.py"
PIXELS = np.random.default_rng(8).integers(0, 256, (120, 160, 3), dtype=np.uint8)
STACK = np.random.default_rng(9).integers(0, 4000, (3, 120, 160), dtype=np.uint16)

pytestmark = pytest.mark.skipif(
    shutil.which("Xvfb") is None, reason="no X server here: apt-get install xvfb libxcb-cursor0"
)


@contextmanager
def x_server() -> Iterator[str]:
    """A virtual screen -> its DISPLAY. napari draws with OpenGL, which needs one."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
    process = subprocess.Popen(
        command, pass_fds=(write,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(write)
    try:
        with os.fdopen(read) as numbers:
            yield f":{numbers.readline().strip()}"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def seen(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What napari showed in each step of the scenario."""
    python = environment("napari", "napari[pyqt6]==0.9.*", "-e", f"{ROOT}[cpu]")
    home = tmp_path_factory.mktemp("home")
    pictures = ROOT / "artefacts"
    pictures.mkdir(exist_ok=True)
    with x_server() as display:
        settings = {"DISPLAY": display, "QT_QPA_PLATFORM": "xcb", "HOME": str(home)}
        settings["NAPARI_CONFIG"] = str(home / "settings.yaml")
        ran = subprocess.run(
            [str(python), str(DRIVER), f"local:{folder}", str(pictures / "napari.png")],
            env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )
    if "Could not load the Qt platform plugin" in ran.stderr:
        pytest.skip("Qt lacks libraries of the system: apt-get install libxcb-cursor0")
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with Client(open_transport(str(folder))) as client:
        yield client


def plane(step: dict[str, Any], label: int, place: tuple[int, ...] = ()) -> np.ndarray:
    """The mask of a label on a plane."""
    mask = np.zeros((120, 160), dtype=np.uint8)
    pixels = [p for p in step["objects"].get(str(label), []) if tuple(p[: len(place)]) == place]
    mask[tuple(np.array(pixels, dtype=int).reshape(-1, len(place) + 2).T[-2:])] = 1
    return mask


def click_as(session: Session, step: dict[str, Any], number: int, obj: int | None = None) -> Any:
    """Repeat the click that the step shows as its number `number`."""
    *_, y, x = step["clicks"][number]
    return session.click(x, y, step["green"][number], obj)


def test_clicks_become_labels(seen: dict[str, Any], client: Client) -> None:
    session = client.open(PIXELS)
    one, two = seen["one click"], seen["a right click"]
    assert np.allclose(one["clicks"], [[60, 80]], atol=1)
    assert (one["green"], two["green"]) == ([True], [True, False])
    np.testing.assert_array_equal(plane(one, 1), click_as(session, one, 0))
    np.testing.assert_array_equal(plane(two, 1), click_as(session, two, 1))
    assert {"photo", "objects of photo", "clicks"} == set(one["layers"])


def test_undo_and_redo_are_keys(seen: dict[str, Any]) -> None:
    for again, before in (("undone", "one click"), ("done again", "a right click")):
        for part in ("objects", "clicks", "green"):
            assert seen[again][part] == seen[before][part]


def test_a_second_object_leaves_the_first(seen: dict[str, Any], client: Client) -> None:
    first, both = seen["done again"], seen["a second object"]
    assert both["objects"]["1"] == first["objects"]["1"]
    assert both["green"] == [True, False]  # Alt removes
    session = client.open(PIXELS)
    for number in range(2):
        mask = click_as(session, both, number)
    np.testing.assert_array_equal(plane(both, 2), mask & ~plane(first, 1))


def test_a_drag_is_no_click(seen: dict[str, Any]) -> None:
    assert seen["a drag moves the picture"]
    assert seen["after a drag"] == seen["a second object"]


def test_errors_are_notifications_and_objects_stay(seen: dict[str, Any]) -> None:
    background, server = seen["errors"]
    assert "label 0 is the background" in background
    assert "no OIS server answers at grpc://127.0.0.1:1" in server
    assert seen["after errors"]["objects"] == seen["a second object"]["objects"]


def test_a_label_of_another_layer_is_corrected_on_its_plane(
    seen: dict[str, Any], client: Client
) -> None:
    step = seen["a plane of a stack"]
    assert {pixel[0] for pixel in step["objects"]["5"]} == {1}
    grey = np.clip(STACK[1] * (255 / 4000), 0, 255).round().astype(np.uint8)
    session = client.open(np.repeat(grey[..., None], 3, axis=-1))
    given = np.zeros((120, 160), dtype=np.uint8)
    given[40:60, 40:60] = 1
    session.start_from(given)
    np.testing.assert_array_equal(plane(step, 5, (1,)), click_as(session, step, 0))


def test_the_view_in_3d_is_refused_in_words(seen: dict[str, Any]) -> None:
    [words] = seen["in 3D"]
    assert "Show the layer in 2D" in words
