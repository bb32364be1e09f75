"""A widget to click on an image in Jupyter, VS Code and other notebooks that run anywidget.

The page sends clicks and commands; this side applies them to a session and sends back one picture
of all masks. It works over every transport, because a session does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray
from PIL import Image

from ois_client.contract.errors import InvalidInput, OISError
from ois_client.formats.colours import OBJECT_COLOURS
from ois_client.sessions.session import Session

#: The image is shown at most this large, in pixels. Clicks are in pixels of the original.
SHOWN = 1280
_OPACITY = 115  # of 255

_HERE = Path(__file__).parent


class ClickWidget(anywidget.AnyWidget):
    """Shows a session's image; every click refines the chosen object's mask.

        widget = ClickWidget(client.open("photo.jpg"))
        widget                    # left click adds, right click removes
        widget.session.masks      # {object: (H, W) uint8}

    Undo, redo and further objects are buttons and keys (U, R, N). The session can be changed from
    Python at the same time; call `refresh` to show it.
    """

    _esm = _HERE / "widget.js"
    _css = _HERE / "widget.css"

    #: what is shown: the image as JPEG, all masks as a PNG with alpha, both at shown size
    image = traitlets.Bytes().tag(sync=True)
    overlay = traitlets.Bytes().tag(sync=True)
    #: [width, height] of the original, in whose pixels clicks are
    size = traitlets.List(traitlets.Int()).tag(sync=True)
    #: {"id", "colour", "share", "clicks": [[x, y, positive], ...]} for each object
    objects: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    #: id of the object that clicks go to
    chosen = traitlets.Int(0).tag(sync=True)
    #: one line for the person: the last result or error
    status = traitlets.Unicode("").tag(sync=True)
    #: how many messages of the page have been answered; the page knows from it that it waits
    answered = traitlets.Int(0).tag(sync=True)

    def __init__(self, session: Session, **options: Any) -> None:
        """session: of `Client.open`. options: of ipywidgets, such as `layout`.

        Raises `InvalidImage` if the image cannot be decoded.
        """
        self.session = session
        pixels = Image.fromarray(session.picture.pixels())
        scale = min(1.0, SHOWN / max(pixels.size))
        width, height = (max(1, round(side * scale)) for side in pixels.size)
        self._shown = width, height
        if scale < 1:
            pixels = pixels.resize(self._shown, Image.Resampling.LANCZOS)
        super().__init__(
            image=_encoded(pixels, "JPEG", quality=92),
            size=[session.picture.width, session.picture.height],
            status="Click on an object: left adds, right removes",
            **options,
        )
        self._commands: dict[str, Callable[[Mapping[str, Any]], str]] = {
            "click": self._click,
            "undo": self._undo,
            "redo": self._redo,
            "new": self._new,
            "choose": self._choose,
        }
        self.on_msg(self._receive)
        self.refresh()

    def refresh(self) -> None:
        """Show the session as it is now."""
        session = self.session
        ids = session.objects or (0,)
        overlay = np.zeros((self._shown[1], self._shown[0], 4), dtype=np.uint8)
        objects = []
        for number, obj in enumerate(ids):
            colour = OBJECT_COLOURS[number % len(OBJECT_COLOURS)]
            clicks = session.clicks(obj)
            mask = session.mask(obj)
            overlay[_reduced(mask, self._shown)] = (*colour, _OPACITY)
            objects.append(
                {
                    "id": obj,
                    "colour": "#{:02x}{:02x}{:02x}".format(*colour),
                    "share": float(mask.mean()),
                    "clicks": [[click.x, click.y, click.positive] for click in clicks],
                }
            )
        if self.chosen not in ids:
            self.chosen = ids[-1]
        self.objects = objects
        self.overlay = _encoded(Image.fromarray(overlay), "PNG")

    # -- what the page sends -----------------------------------------------------------------

    def _receive(self, _widget: Any, message: Any, _buffers: Any) -> None:
        try:
            kind = message.get("kind") if isinstance(message, Mapping) else None
            command = self._commands.get(str(kind))
            if command is None:
                raise InvalidInput(
                    f"got the message {kind!r}; expected {', '.join(self._commands)}"
                )
            self.status = command(message)
        except OISError as error:
            self.status = f"{error}"
        finally:  # whatever happened, the page must not wait for ever
            self.refresh()
            self.answered += 1

    def _click(self, message: Mapping[str, Any]) -> str:
        x, y, positive = (message.get(name) for name in ("x", "y", "positive"))
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (x, y))
        if not numbers or not isinstance(positive, bool):
            raise InvalidInput(
                f"got the click {x}, {y}, {positive}; expected two numbers and a sign"
            )
        mask = self.session.click(float(x), float(y), positive, self.chosen)  # type: ignore[arg-type]
        count = len(self.session.clicks(self.chosen))
        return f"{mask.mean():.1%} of the image after {count} click{'s' * (count != 1)}"

    def _undo(self, _message: Mapping[str, Any]) -> str:
        self.session.undo(self.chosen)
        return "undone"

    def _redo(self, _message: Mapping[str, Any]) -> str:
        self.session.redo(self.chosen)
        return "redone"

    def _new(self, _message: Mapping[str, Any]) -> str:
        self.chosen = self.session.new_object()
        return "Click on the new object"

    def _choose(self, message: Mapping[str, Any]) -> str:
        wanted = message.get("object")
        if wanted not in (self.session.objects or (0,)) or isinstance(wanted, bool):
            raise InvalidInput(f"got the object {wanted!r}; expected one of {self.session.objects}")
        self.chosen = int(wanted)
        return f"clicks go to object {wanted}"


def _reduced(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask at `size` (width, height): where half of a pixel or more is inside."""
    picture = Image.fromarray(mask * np.uint8(255))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BOX)
    return np.asarray(picture) > 127


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
