"""The function for CVAT's agents. It needs no Nuclio and works with a CVAT on another machine.

README.md has the commands. `cvat-cli` loads this file alone, from any folder, once more in a worker
process: it must not import its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cvat_sdk import auto_annotation as cvat
from PIL import Image

from ois_client import Click, Client, OISError
from ois_client.contract.images import Picture, load_image
from ois_client.environment import open_client
from ois_client.formats.cvat import cvat_of_mask
from ois_client.sessions.replay import RecentSessions, in_order, replay


class OISInteraction:
    """Implements `InteractionFunction` of CVAT's SDK. Its results are `shapes`, not `mask`."""

    spec = cvat.InteractionFunctionSpec(min_pos_points=1, min_neg_points=0)

    def __init__(self, client: Client) -> None:
        self._recent = RecentSessions(client)

    def preprocess_image(
        self,
        context: cvat.InteractionFunctionContext,  # noqa: ARG002 - CVAT's interface
        image: Image.Image,
    ) -> Picture:
        """Encode the image. The agent passes the result to every `detect` on this image.

        With a region of interest, the image is that region. Raises `BadFunctionError`.
        """
        with _errors_in_words():
            picture = load_image(image)
            with self._recent.session(picture.digest, picture.pixels):
                return picture

    def detect(
        self,
        context: cvat.InteractionFunctionContext,  # noqa: ARG002
        pp_image: Picture,
        prompts: cvat.InteractionPrompts,
    ) -> Sequence[cvat.InteractionResultShape]:
        """Return one mask, or none if the mask is empty. Raises `BadFunctionError`."""
        size = {"width": pp_image.width, "height": pp_image.height}
        with (
            _errors_in_words(),
            self._recent.session(pp_image.digest, pp_image.pixels) as session,
        ):
            clicks = in_order(
                [Click.on_canvas(x, y, True, **size) for x, y in prompts.pos_points],
                [Click.on_canvas(x, y, False, **size) for x, y in prompts.neg_points],
                session.clicks(),
            )
            mask = replay(session, clicks)
        if not mask.any():
            return []
        return [cvat.InteractionResultShape(type="mask", points=cvat_of_mask(mask))]


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Raise our errors as CVAT's. Its agent shows the annotator "Unknown error" for any other."""
    try:
        yield
    except OISError as error:
        raise cvat.BadFunctionError(str(error)) from error


def create(url: str = "local:") -> OISInteraction:
    """Create the function. `cvat-cli` passes its `-p` parameters as arguments. $OIS_TOKEN is the
    token of a server that requires one.

    Ends the program with a sentence if there is no server: `cvat-cli` would show a traceback.
    """
    try:
        return OISInteraction(open_client(url))
    except OISError as error:
        raise SystemExit(f"error: {error}") from error
