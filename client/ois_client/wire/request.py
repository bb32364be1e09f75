"""Requests: the client writes a `Message`, the server reads a checked `Call`.

The format is described in `schema.py`. The reader checks everything that it can check without
the image's size. Later, `place_clicks` checks that clicks lie inside the image, and the engines
check that the coverage has the image's patch grid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import SLOTS
from ois_client.contract.errors import (
    IncompatibleServer,
    InvalidClick,
    InvalidImage,
    InvalidInput,
    TooManyClicks,
)
from ois_client.contract.geometry import Geometry
from ois_client.contract.images import DEFAULT_LIMITS, ImageLimits, Picture, load_image
from ois_client.contract.masks import MaskFormat
from ois_client.contract.transport import Answer, ClickRequest, Region
from ois_client.wire.schema import (
    CONTRACT,
    INPUTS,
    MODEL,
    ONESHOT_INPUTS,
    ONESHOT_MODEL,
    PARAMETERS,
    WANTS,
    Tensors,
    bytes_tensor,
    check_tensor,
    empty_tensor,
    mask_format_name,
    text_of,
)

_CLICK_OUTPUTS = ("INFO", "MASKS", "MASK_SIZES", "NEW_COVERAGE")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SESSION = re.compile(r"[\w.:@-]{0,128}", re.ASCII)

# -- the client writes ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A request ready to send: its tensors, its parameters, the outputs it requests, its model."""

    tensors: Tensors
    parameters: Mapping[str, str]
    outputs: tuple[str, ...]
    model: str = MODEL


def info_message(*, session: str = "") -> Message:
    """A request for the server's description."""
    return Message({}, _parameters(session), ("INFO",))


def encode_message(picture: Picture, *, session: str = "") -> Message:
    """A request to encode `picture`. A server that already has its features computes nothing."""
    return Message(
        {"DIGEST": bytes_tensor(picture.digest), **_picture_tensors(picture)},
        _parameters(session),
        ("INFO",),
    )


def click_message(
    request: ClickRequest,
    *,
    picture: Picture | None = None,
    mask_format: MaskFormat = MaskFormat.PACKED,
) -> Message:
    """A request for the masks of `request`. With `picture`, a server without the image encodes it.

    Raises `InvalidInput` if the session id is invalid.
    """
    want = [name for name in WANTS if getattr(request, f"want_{name}")]
    parameters = _parameters(request.session)
    if mask_format is not MaskFormat.PACKED:
        parameters["ois_mask_format"] = mask_format_name(mask_format)
    if want:
        parameters["ois_want"] = ",".join(want)
    if request.region is not None:
        parameters["ois_region"] = request.region.value
    outputs: tuple[str, ...] = _CLICK_OUTPUTS
    if request.answer is Answer.COARSE:
        parameters["ois_answer"] = request.answer.value
        outputs = tuple(name for name in outputs if name != "NEW_COVERAGE")
    tensors = {
        "DIGEST": bytes_tensor(request.digest),
        "POINTS": np.ascontiguousarray(request.points, dtype=np.float32),
        "LABELS": np.ascontiguousarray(request.labels, dtype=np.int32),
        "COVERAGE": np.ascontiguousarray(request.coverage, dtype=np.uint8),
        "HAS_PREVIOUS": np.ascontiguousarray(request.has_previous, dtype=np.bool_),
    }
    if picture is not None:
        tensors.update(_picture_tensors(picture))
    return Message(tensors, parameters, (*outputs, *(name.upper() for name in want)))


def oneshot_message(
    request: ClickRequest, picture: Picture, *, mask_format: MaskFormat = MaskFormat.PACKED
) -> Message:
    """`click_message` with the picture, for the model `ois_oneshot`, which stores nothing.

    Raises `InvalidInput` if the session id is invalid, or if `request` wants depth, logits or order
    maps, or a coarse answer, which this model does not return.
    """
    message = click_message(request, picture=picture, mask_format=mask_format)
    if "ois_want" in message.parameters:
        raise InvalidInput(
            f"got a request for {message.parameters['ois_want']} to {ONESHOT_MODEL}; it returns "
            "masks and coverage only. Open a session for the others"
        )
    if request.answer is Answer.COARSE:
        raise InvalidInput(
            f"got a request for a coarse answer to {ONESHOT_MODEL}; it returns full answers only"
        )
    given = dict(message.tensors)
    if not request.has_previous.any():  # the server then makes the same zeros
        del given["COVERAGE"], given["HAS_PREVIOUS"]
    tensors = {name: given.get(name, empty_tensor(INPUTS[name])) for name in ONESHOT_INPUTS}
    return Message(tensors, message.parameters, _CLICK_OUTPUTS, ONESHOT_MODEL)


def _parameters(session: str) -> dict[str, str]:
    if not _SESSION.fullmatch(session):
        raise InvalidInput(
            f"got the session id {session!r}; expected at most 128 of A-Z a-z 0-9 _ . : @ -"
        )
    parameters = {"ois_contract": str(CONTRACT)}
    if session:
        parameters["ois_session"] = session
    return parameters


def _picture_tensors(picture: Picture) -> Tensors:
    tensors: Tensors = {"IMAGE": np.frombuffer(picture.data, dtype=np.uint8)}
    if picture.format == "raw":
        channels = len(picture.data) // (picture.width * picture.height)
        shape = (picture.height, picture.width, channels)
        tensors["IMAGE_SHAPE"] = np.array(shape, dtype=np.int32)
    return tensors


# -- the server reads -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A request from a client, checked as far as possible without the image's size.

    digest: names the image; None only in a request for the description.
    picture: the image, if the request contains it; its digest is `digest`.
    points, labels: (N, P, 2) float32 and (N, P) int32, 1 <= N, 1 <= P <= 48; None to only encode.
    Their values are not checked yet: `place_clicks` does that.
    coverage, has_previous: (N, any, any) uint8 and (N) bool; both or neither.
    want: a subset of `WANTS`.
    """

    digest: str | None
    picture: Picture | None = None
    points: NDArray[np.float32] | None = None
    labels: NDArray[np.int32] | None = None
    coverage: NDArray[np.uint8] | None = None
    has_previous: NDArray[np.bool_] | None = None
    mask_format: MaskFormat = MaskFormat.PACKED
    want: frozenset[str] = frozenset()
    session: str = ""
    region: Region | None = None
    answer: Answer = Answer.FULL

    @property
    def objects(self) -> int:
        """N; 0 if there are no clicks."""
        return 0 if self.points is None else len(self.points)

    def click_request(self, geometry: Geometry) -> ClickRequest:
        """The clicks as a `ClickRequest`. If there is no coverage, these are first clicks.

        The engines check that the coverage has the image's patch grid, as they do for transports
        in this process. Raises `InvalidInput` if there are no clicks.
        """
        if self.digest is None or self.points is None or self.labels is None:
            raise InvalidInput("got a request without clicks; expected POINTS and LABELS")
        coverage, has_previous = self.coverage, self.has_previous
        if coverage is None or has_previous is None:
            shape = (self.objects, *geometry.coverage_shape)
            coverage = np.zeros(shape, dtype=np.uint8)
            has_previous = np.zeros(self.objects, dtype=np.bool_)
        return ClickRequest(
            self.digest,
            self.points,
            self.labels,
            coverage,
            has_previous,
            want_depth="depth" in self.want,
            want_logits="logits" in self.want,
            want_order="order" in self.want,
            session=self.session,
            region=self.region,
            answer=self.answer,
        )


def read_call(
    tensors: Mapping[str, NDArray[Any]],
    parameters: Mapping[str, Any] | None = None,
    *,
    max_objects: int = 32,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Call:
    """Check the tensors and parameters of a request. An absent input has no key.

    Raises `InvalidInput` or one of its subclasses if anything differs from the table in
    `schema.py`, and `IncompatibleServer` if the client uses another contract.
    """
    options = _read_parameters(parameters or {})
    for name, array in tensors.items():
        check_tensor(INPUTS, name, array)
    digest = _read_digest(tensors)
    picture = _read_picture(tensors, limits)
    if digest is not None and picture is not None and digest != picture.digest:
        raise InvalidImage(
            f"got the DIGEST {digest} with an IMAGE whose digest is {picture.digest}; the image "
            "was damaged in transit, or the digest is of another image"
        )
    if picture is not None:
        digest = picture.digest
    clicks = _read_clicks(tensors, max_objects)
    if clicks and digest is None:
        raise InvalidInput("got clicks without DIGEST or IMAGE; expected the image they are for")
    return Call(digest, picture, **clicks, **options)


def _read_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a `Call`. Other keys are Triton's; an unknown key with `ois_` is a typo."""
    ours = {key: str(value) for key, value in parameters.items() if key.startswith("ois_")}
    unknown = sorted(ours.keys() - set(PARAMETERS))
    if unknown:
        raise InvalidInput(
            f"got the unknown parameter {unknown[0][:80]!r}; expected one of {PARAMETERS}"
        )
    contract = ours.get("ois_contract", str(CONTRACT))
    if contract != str(CONTRACT):
        raise IncompatibleServer(
            f"the client uses contract {contract[:20]!r}, this server {CONTRACT}; install the "
            "same release of ois-deploy on both sides"
        )
    forms = {mask_format_name(form): form for form in MaskFormat}
    form = forms.get(ours.get("ois_mask_format", mask_format_name(MaskFormat.PACKED)))
    if form is None:
        raise InvalidInput(
            f"got ois_mask_format {ours['ois_mask_format'][:80]!r}; expected one of {[*forms]}"
        )
    want = frozenset(filter(None, ours.get("ois_want", "").split(",")))
    if not want <= set(WANTS):
        raise InvalidInput(f"got ois_want {ours['ois_want'][:80]!r}; expected some of {WANTS}")
    session = ours.get("ois_session", "")
    _parameters(session)
    region = Region.parse(ours["ois_region"][:80]) if "ois_region" in ours else None
    answer = Answer.parse(ours.get("ois_answer", Answer.FULL)[:80])
    return {
        "mask_format": form,
        "want": want,
        "session": session,
        "region": region,
        "answer": answer,
    }


def _read_digest(tensors: Mapping[str, NDArray[Any]]) -> str | None:
    if "DIGEST" not in tensors:
        return None
    text = text_of(tensors["DIGEST"])
    if not _DIGEST.fullmatch(text):
        raise InvalidInput(f"got the DIGEST {text[:80]!r}; expected sha256 as 64 hex digits")
    return text


def _read_picture(tensors: Mapping[str, NDArray[Any]], limits: ImageLimits) -> Picture | None:
    image, shape = tensors.get("IMAGE"), tensors.get("IMAGE_SHAPE")
    if image is None:
        if shape is not None:
            raise InvalidInput("got IMAGE_SHAPE without IMAGE; expected both or neither")
        return None
    if shape is None:
        if image.nbytes > limits.max_bytes:
            raise InvalidImage(
                f"got an image of {image.nbytes} bytes; the limit is {limits.max_bytes}. Scale "
                "the image down"
            )
        return load_image(image.tobytes(), limits)
    sides = tuple(int(side) for side in shape[:4])
    if len(sides) != 3 or sides[2] not in (1, 3) or min(sides) < 1:
        raise InvalidImage(
            f"got IMAGE_SHAPE {sides}; expected (H, W, C) with H, W >= 1 and C = 1 or 3"
        )
    height, width, channels = sides
    if image.size != height * width * channels:
        raise InvalidImage(
            f"got {image.size} bytes of raw samples; IMAGE_SHAPE {sides} needs "
            f"{height * width * channels}"
        )
    return load_image(image.reshape(sides[:2] if channels == 1 else sides), limits)


def check_objects(count: int, max_objects: int) -> None:
    """Raise `InvalidInput` for a request with no object or more than `max_objects`."""
    if not 1 <= count <= max_objects:
        raise InvalidInput(
            f"got {count} objects in one request; expected 1 to {max_objects}. Send more in "
            "further requests"
        )


def _read_clicks(tensors: Mapping[str, NDArray[Any]], max_objects: int) -> dict[str, Any]:
    points, labels = tensors.get("POINTS"), tensors.get("LABELS")
    coverage, has_previous = tensors.get("COVERAGE"), tensors.get("HAS_PREVIOUS")
    if points is None:
        extra = [name for name in ("LABELS", "COVERAGE", "HAS_PREVIOUS") if name in tensors]
        if extra:
            raise InvalidInput(f"got {extra[0]} without POINTS; expected clicks")
        return {}
    if labels is None or labels.shape != points.shape[:2]:
        raise InvalidClick(
            f"got POINTS of shape {points.shape} and LABELS "
            f"{'missing' if labels is None else f'of shape {labels.shape}'}; expected (N, P, 2) "
            "and (N, P)"
        )
    count, most = labels.shape
    check_objects(count, max_objects)
    if most < 1:
        raise InvalidInput("got objects without a click; expected at least one click each")
    if most > SLOTS:
        raise TooManyClicks(f"got {most} clicks on an object; there are {SLOTS} slots")
    if (coverage is None) != (has_previous is None):
        raise InvalidInput("got one of COVERAGE and HAS_PREVIOUS; expected both or neither")
    for name, array in (("COVERAGE", coverage), ("HAS_PREVIOUS", has_previous)):
        if array is not None and len(array) != count:
            raise InvalidInput(f"got {name} of {len(array)} objects; POINTS has {count}")
    return {
        "points": points,
        "labels": labels,
        "coverage": coverage,
        "has_previous": has_previous,
    }
