"""A transport without a network whose masks are disks around the clicks, for tests of sessions."""

import numpy as np

from ois_client.contract.clicks import unpack_clicks
from ois_client.contract.coverage import coverage_of_mask
from ois_client.contract.errors import UnknownImage
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_client.contract.transport import ClickReply, EncodeReply, ModelInfo

IMAGE = np.zeros((60, 80, 3), dtype=np.uint8)
RADIUS = 8


class Disks:
    """Positive clicks draw disks, negative clicks erase them."""

    def __init__(self) -> None:
        self.images: dict[str, Geometry] = {}
        self.requests: list = []
        self.encodes = 0
        self.fail_next: list[Exception] = []
        self.closed = 0
        self.longest = 140
        self.preprocess_version = PREPROCESS_VERSION
        self.inside = 0
        self.most_inside = 0

    def info(self):
        return ModelInfo(
            "disks",
            self.longest,
            14,
            self.preprocess_version,
            "0" * 64,
            trained=False,
            engine="numpy",
        )

    def encode(self, picture):
        picture.pixels()
        self.encodes += 1
        cached = picture.digest in self.images
        self.images[picture.digest] = Geometry.fit(
            picture.width, picture.height, longest=self.longest
        )
        return EncodeReply(picture.digest, cached, {"encode": 1.0})

    def click(self, request, picture=None):
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        try:
            return self._click(request, picture)
        finally:
            self.inside -= 1

    def _click(self, request, picture):
        self.requests.append(request)
        if self.fail_next:
            raise self.fail_next.pop(0)
        if picture is not None:
            self.encode(picture)
        if request.digest not in self.images:
            raise UnknownImage(f"no features for {request.digest}")
        fit = self.images[request.digest]
        objects = unpack_clicks(request.points, request.labels, fit.width, fit.height)
        masks = np.stack([disks(clicks, fit.width, fit.height) for clicks in objects])
        coverage = np.stack([coverage_of_mask(mask, fit) for mask in masks])
        depth = np.zeros((fit.network_height, fit.network_width), dtype=np.float32)
        return ClickReply(
            masks,
            coverage,
            {"decode": 1.0},
            depth if request.want_depth else None,
            np.stack([depth] * len(masks)) if request.want_logits else None,
        )

    def close(self):
        self.closed += 1


def disks(clicks, width=80, height=60):
    mask = np.zeros((height, width), dtype=np.uint8)
    y, x = np.indices(mask.shape)
    for click in clicks:
        mask[(x - click.x) ** 2 + (y - click.y) ** 2 <= RADIUS**2] = click.positive
    return mask


def click(session, click, **options):
    return session.click(click.x, click.y, click.positive, **options)
