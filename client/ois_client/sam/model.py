"""`OISModel`: takes the place of SAM's model in code that passes one to a predictor."""

from __future__ import annotations

from typing import Any, NoReturn

from ois_client.contract.transport import Transport
from ois_client.sessions.client import Client


class OISModel:
    """Takes the place of the network that SAM's `sam_model_registry` builds.

        sam = OISModel("grpc://host:8001")  # instead of sam_model_registry[...](checkpoint=...)
        sam.to(device="cuda")
        predictor = OISPredictor(sam)

    The network runs where the address says, and this object has no weights: it has the attributes
    that code around a predictor reads, and any other attribute of SAM's model raises an
    `AttributeError` that says so. `client` is the client to close or to open sessions with.
    """

    #: Masks are logits above this value.
    mask_threshold = 0.0
    image_format = "RGB"
    #: Results are computed here. `predict_torch` returns tensors on the device of its arguments.
    device = "cpu"

    def __init__(self, url: str | Transport | Client, **options: Any) -> None:
        """url, options: see `Client`; or a client, without options. Raises what `Client` raises."""
        self.client = url if isinstance(url, Client) else Client(url, **options)

    def to(self, device: object = None) -> OISModel:  # noqa: ARG002 - SAM's name
        """Return itself. It has no effect: the address says where the network runs."""
        return self

    def eval(self) -> OISModel:
        """Return itself: the network is never trained here."""
        return self

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"got OISModel.{name}; expected one of client, device, eval, image_format, "
            "mask_threshold, to. The network is not in this object: it runs where the client's "
            "address says. Use OISPredictor(model) or OISAutomaticMaskGenerator(model)",
            name=name,
            obj=self,
        )


def client_of(model: Client | OISModel) -> Client:
    """The client of a predictor's argument."""
    return model.client if isinstance(model, OISModel) else model
