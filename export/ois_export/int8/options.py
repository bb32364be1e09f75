"""The options and limits of eight-bit engines. Importing this loads no quantiser."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ois_client.contract.errors import EngineError, InvalidInput
from ois_runtime.engines.backends import Precision
from ois_runtime.engines.manifest import Manifest

ROLES = ("encoder", "decoder")


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What eight bits may cost, in the mean over the objects of the gate.

    iou_drop: of the IoU with exact masks after 5 clicks. noc_rise: of the number of clicks to an
    IoU of 0.9 with them, at most 5. agreement: the smallest IoU between the masks after the same 5
    clicks.
    """

    iou_drop: float = 0.005
    noc_rise: float = 0.1
    agreement: float = 0.95

    @classmethod
    def of(cls, manifest: Manifest) -> GateLimits:
        """The limits of a network; wider ones if it is untrained.

        Its logits are near the threshold everywhere, so the same rounding changes more of a mask.
        """
        return cls() if manifest.trained else cls(iou_drop=0.3, noc_rise=3.0, agreement=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Options:
    """How engines are quantised.

    roles: the graphs, `encoder`, `decoder` or both. calibration: a folder of pictures like the ones
    to segment; None takes the sample photographs and a few procedural scenes.
    limits: of the gate; default `GateLimits.of`. scenes: how many procedural scenes the gate uses,
    besides the sample photographs.
    """

    roles: tuple[str, ...] = ROLES
    calibration: Path | None = None
    limits: GateLimits | None = None
    scenes: int = 12

    def __post_init__(self) -> None:
        if not self.roles or not set(self.roles) <= set(ROLES):
            raise InvalidInput(f"got the roles {self.roles}; expected encoder, decoder or both")
        if self.scenes < 1:
            raise InvalidInput(f"got {self.scenes} scenes; expected 1 or more")

    @classmethod
    def of(
        cls, precision: str, encoder: str | None, decoder: str | None, calibration: Path | None
    ) -> Int8Options | None:
        """The options of a command line; None if no graph is to be quantised.

        precision: of both graphs; encoder, decoder: of one, if it differs. Raises `InvalidInput` if
        one of them is neither fp32 nor int8, or pictures are given and nothing is quantised.
        """
        chosen = {"encoder": encoder or precision, "decoder": decoder or precision}
        if encoder or decoder:
            for role, name in chosen.items():
                if Precision.parse(name) not in (Precision.FP32, Precision.INT8):
                    raise InvalidInput(f"got {name} for the {role}; expected fp32 or int8")
        roles = tuple(role for role, name in chosen.items() if name == Precision.INT8)
        if roles:
            return cls(roles=roles, calibration=calibration)
        if calibration is not None:
            raise InvalidInput("got pictures for calibration; only the precision int8 uses them")
        return None


def require_packages() -> None:
    """Raise `EngineError` if a package is missing that only int8 engines need."""
    try:
        for module in ("onnxruntime.quantization", "scipy.ndimage"):
            import_module(module)
    except ImportError as error:
        raise EngineError(
            f"the precision int8 needs the package {error.name}, which cannot be imported here "
            f"({error}). Install it with: pip install 'ois-deploy[cpu,export]'"
        ) from error
