"""The function for CVAT's agents. It needs no Nuclio and works with a CVAT on another machine.

cvat-cli function create-native "OIS" --function-file agent.py -p url=str:grpc://ois:8001
cvat-cli function run-agent ID --function-file agent.py -p url=str:grpc://ois:8001
"""

from __future__ import annotations

from collections.abc import Sequence

from cvat_sdk import auto_annotation as cvat
from PIL import Image

from cvat_format import Points, clicks_in_order
from ois_client import Client
from ois_client.contract.images import Picture, load_image
from ois_client.formats.cvat import cvat_of_mask
from ois_client.sessions.replay import RecentSessions, replay


class OISInteraction:
    """Implements `InteractionFunction` of CVAT's SDK."""

    spec = cvat.InteractionFunctionSpec(min_pos_points=1, min_neg_points=0)

    def __init__(self, client: Client) -> None:
        self._recent = RecentSessions(client)

    def preprocess_image(
        self,
        context: cvat.InteractionFunctionContext,  # noqa: ARG002 - CVAT's interface
        image: Image.Image,
    ) -> Picture:
        """Encode the image. The agent passes the result to every `detect` on this image."""
        picture = load_image(image)
        with self._recent.session(picture.digest, picture.pixels):
            return picture

    def detect(
        self,
        context: cvat.InteractionFunctionContext,  # noqa: ARG002
        pp_image: Picture,
        prompts: cvat.InteractionPrompts,
    ) -> Sequence[cvat.InteractionResultShape]:
        """Return one mask, or none if the mask is empty."""
        points = Points(tuple(prompts.pos_points), tuple(prompts.neg_points))
        with self._recent.session(pp_image.digest, pp_image.pixels) as session:
            clicks = clicks_in_order(points, session.clicks(), pp_image.width, pp_image.height)
            mask = replay(session, clicks)
        if not mask.any():
            return []
        return [cvat.InteractionResultShape(type="mask", points=cvat_of_mask(mask))]


def create(url: str = "local:") -> OISInteraction:
    """Create the function. `cvat-cli` passes its `-p` parameters as arguments."""
    return OISInteraction(Client(url))
