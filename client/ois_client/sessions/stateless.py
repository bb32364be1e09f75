"""One answer for one image without a session: the part of `Client.segment` that needs no server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.clicks import Click, pack_clicks
from ois_client.contract.errors import IncompatibleServer, InvalidInput
from ois_client.contract.images import Picture
from ois_client.contract.transport import ClickReply, ClickRequest, ModelInfo

#: The clicks on each of N objects, or those on one object.
Clicks = Sequence[Sequence[Click]] | Sequence[Click]
#: (gh, gw) uint8 for each of N objects; None where there is no previous mask.
Coverages = Sequence[NDArray[np.uint8] | None] | NDArray[np.uint8]


def stateless_request(
    picture: Picture, clicks: Clicks, coverage: Coverages | None, info: ModelInfo
) -> ClickRequest:
    """The request of `Client.segment`. info: the model of the server, which made `coverage`.

    Raises `InvalidClick`, `TooManyClicks`, and `InvalidInput` if the arrays do not fit.
    """
    objects = _by_object(clicks)
    points, labels = pack_clicks(objects, picture.width, picture.height)
    grid = info.fit(picture.width, picture.height).coverage_shape
    previous = [None] * len(objects) if coverage is None else list(coverage)
    if len(previous) != len(objects):
        raise InvalidInput(
            f"got the coverage of {len(previous)} masks for {len(objects)} objects; expected one "
            "for each object, or None where there is no previous mask"
        )
    for each in previous:
        if each is not None and (each.shape != grid or each.dtype != np.uint8):
            raise InvalidInput(
                f"got a coverage of shape {each.shape} and type {each.dtype}; expected {grid} "
                "uint8, as `ClickReply.coverage` has it for this image"
            )
    empty = np.zeros(grid, dtype=np.uint8)
    return ClickRequest(
        picture.digest,
        points,
        labels,
        np.stack([empty if each is None else each for each in previous]),
        np.array([each is not None for each in previous]),
    )


def _by_object(clicks: Clicks) -> list[list[Click]]:
    on_one: list[Click] = []
    on_each: list[list[Click]] = []
    for one in clicks:
        if isinstance(one, Click):
            on_one.append(one)
        else:
            on_each.append(list(one))
    if on_one and on_each:
        raise InvalidInput(
            "got clicks and lists of clicks; expected the clicks on one object, or a list of "
            "clicks for each object"
        )
    return [on_one] if on_one else on_each


def is_of_another_model(reply: ClickReply, info: ModelInfo) -> bool:
    """Whether the server now runs another model than `info`."""
    return reply.model_sha256 not in ("", info.model_sha256)


def check_first_round(request: ClickRequest) -> None:
    """Raise `IncompatibleServer` if another model than that of the reply made the coverage."""
    if request.has_previous.any():
        raise IncompatibleServer(
            "the server now runs another model than the one that made the coverage; a mask of one "
            "model cannot be refined by another. Segment the image again without coverage"
        )
