"""The plugin's widget: clicks in napari's canvas become labels.

A label is an object. Clicks go to the label that is selected in the Labels layer, so napari's own
spinner, picker and "new label" choose objects. A label that already has pixels is refined from
them: masks from other plugins can be corrected by clicks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from magicgui import widgets
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error

from ois_client.contract.errors import InvalidInput, OISError
from ois_client.contract.masks import Mask
from ois_client.environment import open_client
from ois_client.napari.planes import (
    Place,
    changes,
    check_axes,
    picture_of,
    place_of,
    points_of,
)
from ois_client.sessions.client import Client
from ois_client.sessions.session import Session

if TYPE_CHECKING:
    import napari

#: Planes whose clicks are remembered. A label of an older plane is refined from its pixels.
MOST_PLANES = 32
_GREEN, _RED = "#2ecc40", "#ff4136"
_HINT = "Left click adds, right click or Alt removes"


@dataclass(slots=True)
class _Plane:
    """One plane of an image. objects: label -> the session's object."""

    picture: Any
    session: Session | None = None
    objects: dict[int, int] = field(default_factory=dict)


class ClickToSegment(widgets.Container):
    """Click on a picture, get the object in a Labels layer, click again to refine it."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._viewer = napari_viewer
        self.server_box = widgets.LineEdit(
            value="local:",
            label="server",
            tooltip="grpc://HOST:8001, http://HOST:8000, or local:ENGINES on this machine",
        )
        self.image_box = widgets.create_widget(annotation="napari.layers.Image", label="image")
        self.labels_box = widgets.create_widget(
            annotation="napari.layers.Labels | None", label="labels"
        )
        self.active_box = widgets.CheckBox(value=True, text="click to segment")
        self.undo_button = widgets.PushButton(text="Undo (U)")
        self.redo_button = widgets.PushButton(text="Redo (R)")
        self.new_button = widgets.PushButton(text="New object (N)")
        self.status_label = widgets.Label(value=_HINT)
        buttons = widgets.Container(
            widgets=[self.undo_button, self.redo_button, self.new_button],
            layout="horizontal",
            labels=False,
        )
        super().__init__(
            widgets=[
                self.server_box,
                self.image_box,
                self.labels_box,
                self.active_box,
                buttons,
                self.status_label,
            ]
        )
        self.undo_button.changed.connect(lambda: self._step("undo"))
        self.redo_button.changed.connect(lambda: self._step("redo"))
        self.new_button.changed.connect(self._new)
        self._client: Client | None = None
        self._address = ""
        self._planes: OrderedDict[tuple[object, ...], _Plane] = OrderedDict()
        self._shown: Any = None  # the Points layer
        self._waiting: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._busy = False
        napari_viewer.mouse_drag_callbacks.append(self._pressed)
        self.native.destroyed.connect(self._closed)

    @property
    def busy(self) -> bool:
        """Whether clicks are still being answered."""
        return self._busy or bool(self._waiting)

    def click(self, position: tuple[float, ...], positive: bool) -> None:
        """Add a click to the selected label. position: in the image layer's data.

        Errors appear as napari's notifications, and earlier clicks are kept.
        """

        def prepare() -> None:
            layer = self._image_layer()
            place, x, y = place_of(position, _shape(layer))
            labels = self._labels_layer(layer)
            label = int(labels.selected_label)
            if label == 0:
                raise InvalidInput("the label 0 is the background; choose another label")
            plane = self._plane(layer, place)
            before = (labels.data[place] == label).astype("uint8")
            address = str(self.server_box.value)
            self._submit(
                lambda: self._answer(plane, address, label, before, x, y, positive),
                lambda mask: self._show(labels, label, place, plane, mask),
            )

        self._guarded(prepare)

    # -- napari's events ---------------------------------------------------------------------

    def _pressed(self, viewer: Any, event: Any) -> Iterator[None]:
        """A mouse button without a movement is a click; with one, napari's own pan and zoom."""
        layer = self.image_box.value
        selected = viewer.layers.selection.active
        if not self.active_box.value or layer is None or event.button not in (1, 2):
            return
        if selected is not None and getattr(selected, "mode", "pan_zoom") != "pan_zoom":
            return  # a person paints or edits
        yield
        while event.type == "mouse_move":
            return
        positive = event.button == 1 and "Alt" not in event.modifiers
        self.click(tuple(layer.world_to_data(event.position)), positive)

    def _closed(self) -> None:
        if self._pressed in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._pressed)
        if self._client is not None:
            self._client.close()

    # -- layers ------------------------------------------------------------------------------

    def _image_layer(self) -> Any:
        layer = self.image_box.value
        if layer is None:
            raise InvalidInput("there is no image; open one in napari")
        check_axes(self._viewer.dims.displayed, len(_shape(layer)))
        return layer

    def _labels_layer(self, image: Any) -> Any:
        """The chosen Labels layer, or a new one. It has U, R and N as keys."""
        labels = self.labels_box.value
        if labels is None:
            import numpy as np

            labels = self._viewer.add_labels(
                np.zeros(_shape(image), dtype=np.uint16),
                name=f"objects of {image.name}",
                affine=image.affine,
                scale=image.scale,
                translate=image.translate,
                rotate=image.rotate,
                shear=image.shear,
            )
            labels.preserve_labels = True  # a new object does not take pixels of others
            self.labels_box.reset_choices()
            self.labels_box.value = labels
        if labels.data.shape != _shape(image):
            raise InvalidInput(
                f"the labels have the shape {labels.data.shape}; expected {_shape(image)}, as the "
                "image. Choose other labels, or none to get new ones"
            )
        for key, act in (("U", self.undo_button), ("R", self.redo_button), ("N", self.new_button)):
            labels.bind_key(key, lambda _layer, act=act: act.native.click(), overwrite=True)
        return labels

    def _plane(self, layer: Any, place: Place) -> _Plane:
        key = (id(layer), place, tuple(layer.contrast_limits or ()), str(self.server_box.value))
        plane = self._planes.get(key)
        if plane is None:
            data = layer.data[0] if layer.multiscale else layer.data
            limits = tuple(layer.contrast_limits or (0, 255))
            plane = self._planes[key] = _Plane(picture_of(data, place, layer.rgb, limits))
        self._planes.move_to_end(key)
        while len(self._planes) > MOST_PLANES:
            self._planes.popitem(last=False)
        return plane

    # -- one request after another, outside the window's thread -----------------------------

    def _submit(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._waiting.append((work, done))
        self._next()

    def _next(self) -> None:
        if self._busy or not self._waiting:
            return
        self._busy = True
        work, done = self._waiting.popleft()

        def returned(answer: tuple[Any, OISError | None]) -> None:
            result, error = answer
            if error is None:
                done(result)
            else:
                self.status_label.value = "failed; earlier clicks are kept"
                show_error(str(error))

        def finished() -> None:
            self._busy = False
            self._next()

        self.status_label.value = "working ..."
        worker = create_worker(lambda: _caught(work), _start_thread=False)
        worker.returned.connect(returned)
        worker.finished.connect(finished)
        worker.start()

    def _answer(
        self,
        plane: _Plane,
        address: str,
        label: int,
        before: Mask,
        x: float,
        y: float,
        positive: bool,
    ) -> Mask:
        """Click -> the object's mask. Runs in a thread of its own, one at a time."""
        if self._client is None or address != self._address:
            client = open_client(address)
            if self._client is not None:
                self._client.close()
            self._client, self._address = client, address
        if plane.session is None:
            plane.session = self._client.open(plane.picture)
        session = plane.session
        if label not in plane.objects:
            obj = session.new_object()
            if before.any():
                session.start_from(before, obj)
            plane.objects[label] = obj
        return session.click(x, y, positive, plane.objects[label])

    def _step(self, name: str) -> None:
        """Undo or redo the selected label's last click on the plane that is shown."""

        def prepare() -> None:
            layer, labels = self._image_layer(), self.labels_box.value
            if labels is None:
                return
            label = int(labels.selected_label)
            place = tuple(self._viewer.dims.current_step[: len(_shape(layer)) - 2])
            plane = self._plane(layer, place)
            if plane.session is None or label not in plane.objects:
                raise InvalidInput(f"label {label} has no click on this plane")
            session, obj = plane.session, plane.objects[label]
            self._submit(
                lambda: getattr(session, name)(obj),
                lambda mask: self._show(labels, label, place, plane, mask),
            )

        self._guarded(prepare)

    def _new(self) -> None:
        """Select a label that no pixel has."""
        labels = self.labels_box.value
        if labels is None:
            return
        used = [label for plane in self._planes.values() for label in plane.objects]
        labels.selected_label = max([int(labels.data.max()), *used]) + 1
        self.status_label.value = f"click on object {labels.selected_label}"

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OISError as error:
            show_error(str(error))

    def _show(self, labels: Any, label: int, place: Place, plane: _Plane, mask: Mask) -> None:
        where, values = changes(labels.data[place], label, mask, labels.preserve_labels)
        if where[0].size:
            import numpy as np

            leading = tuple(np.full(where[0].shape, index) for index in place)
            labels.data_setitem((*leading, *where), values)
        assert plane.session is not None
        clicks = plane.session.clicks(plane.objects[label])
        self._show_clicks(labels, points_of(clicks, place), [click.positive for click in clicks])
        count = f"{len(clicks)} click{'s' * (len(clicks) != 1)}"
        self.status_label.value = f"object {label}: {mask.mean():.1%} of the image, {count}"

    def _show_clicks(self, labels: Any, points: Any, positive: list[bool]) -> None:
        if self._shown is None or self._shown not in self._viewer.layers:
            self._shown = self._viewer.add_points(
                ndim=labels.ndim,
                name="clicks",
                size=max(3, max(labels.data.shape[-2:]) / 60),
                border_color="white",
                affine=labels.affine,
                scale=labels.scale,
                translate=labels.translate,
                rotate=labels.rotate,
                shear=labels.shear,
            )
            self._viewer.layers.selection.active = labels
        self._shown.data = points
        if len(points):
            self._shown.face_color = [_GREEN if one else _RED for one in positive]


def _caught(work: Callable[[], Any]) -> tuple[Any, OISError | None]:
    """The result or the error: napari would show an error that is raised as a defect."""
    try:
        return work(), None
    except OISError as error:
        return None, error


def _shape(layer: Any) -> tuple[int, ...]:
    """Of the layer's data, without colour channels."""
    shape = tuple(layer.data[0].shape if layer.multiscale else layer.data.shape)
    return shape[:-1] if layer.rgb else shape
