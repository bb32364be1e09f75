"""Where engines run, and what this version can make for it."""

from __future__ import annotations

from enum import StrEnum

from ois_client.errors import InvalidInput


class Target(StrEnum):
    """A place to run: its precisions, and why it cannot be exported for yet (or "")."""

    precisions: tuple[str, ...]
    missing: str

    CPU = ("cpu", ("fp32",), "")
    CUDA = (
        "cuda",
        (),
        "graphs for ONNX Runtime's CUDA provider are not written yet",
    )
    TENSORRT = (
        "tensorrt",
        (),
        "TensorRT needs strongly typed graphs of standard operators, not written yet",
    )

    def __new__(cls, value: str, precisions: tuple[str, ...], missing: str) -> Target:
        member = str.__new__(cls, value)
        member._value_ = value
        member.precisions = precisions
        member.missing = missing
        return member

    @classmethod
    def parse(cls, name: str) -> Target:
        """Raises `InvalidInput`, naming the known targets, for an unknown name."""
        for target in cls:
            if target.value == name:
                return target
        raise InvalidInput(f"got the target {name!r}; expected one of {', '.join(cls)}")

    def check(self, precision: str) -> None:
        """Raise `InvalidInput` when this version cannot export for the target."""
        if self.missing:
            raise InvalidInput(
                f"the target {self.value} is not there yet: {self.missing}. "
                "Use --target cpu, whose engines run on ONNX Runtime and OpenVINO"
            )
        if precision not in self.precisions:
            raise InvalidInput(
                f"got precision {precision!r}; the target {self.value} has "
                f"{', '.join(self.precisions)} (for bf16 on CPU, run the fp32 engines with "
                "--backend openvino --precision bf16)"
            )
