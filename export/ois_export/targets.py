"""Where engines run: what each place takes, and why its graphs look as they do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from ois_export.graphs.lint import Rule
    from ois_network.attention import AttentionOps

#: Kernels of half precision want lengths and strides of 16 bytes.
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class GraphForm:
    """The shape of a target's graphs.

    opset: 20 for ONNX Runtime's CPU kernels and OpenVINO. 23 for the others: the first with an
    `Attention` operator, and from 22 on convolutions may be bf16.
    token_multiple: the encoder's tokens are filled up to a multiple of this and masked.
    key_multiple: the same for the keys of the click engine's attentions.
    """

    opset: int
    token_multiple: int = 1
    key_multiple: int = 1


class Target(StrEnum):
    """A place to run and the precisions that it has."""

    precisions: tuple[str, ...]

    CPU = ("cpu", ("fp32",))
    CUDA = ("cuda", ("fp32", "fp16"))
    TENSORRT = ("tensorrt", ("fp32", "fp16", "bf16"))

    def __new__(cls, value: str, precisions: tuple[str, ...]) -> Target:
        member = str.__new__(cls, value)
        member._value_ = value
        member.precisions = precisions
        return member

    @classmethod
    def parse(cls, name: str) -> Target:
        """Raises `InvalidInput`, naming the known targets, for an unknown name."""
        for target in cls:
            if target.value == name:
                return target
        raise InvalidInput(f"got the target {name!r}; expected one of {', '.join(cls)}")

    def check(self, precision: str) -> None:
        """Raise `InvalidInput` for a precision that the target does not have."""
        if precision in self.precisions:
            return
        why = {
            Target.CPU: " (for bf16 on CPU, run the fp32 engines with --backend openvino "
            "--precision bf16)",
            Target.CUDA: " (ONNX Runtime resizes no bf16 on CUDA; --target tensorrt has bf16)",
        }.get(self, "")
        raise InvalidInput(
            f"got precision {precision!r}; the target {self.value} has "
            f"{', '.join(self.precisions)}{why}"
        )

    def spells_attention_out(self, precision: str) -> bool:
        """Whether attention is MatMul, Softmax, MatMul in this target's graphs.

        TensorRT runs the operator `Attention` only where it has a fused kernel, which is in half
        precision, and fails to build otherwise.
        """
        return self is Target.TENSORRT and precision == "fp32"

    def attention(self, precision: str) -> AttentionOps:
        """The one form of attention in this target's graphs."""
        from ois_export.graphs.attention import ContribAttention, PlainAttention, StandardAttention

        if self is Target.CPU:
            return ContribAttention()
        return PlainAttention() if self.spells_attention_out(precision) else StandardAttention()

    def form(self, precision: str) -> GraphForm:
        """The form of this target's graphs.

        The click engine's attentions have a bias, whose rows kernels want aligned: 5329 keys
        become 5336. The encoder's self-attention has none: the fused kernels take any number of
        tokens, ONNX Runtime's flash kernel only without a mask, and a mask of the operator
        `Attention` would have tokens x tokens numbers. Only where attention is spelled out do
        its products have T columns, and a mask one row: there the tokens are filled up as well.
        """
        if self is Target.CPU:
            return GraphForm(20)
        tokens = _ALIGNED if self.spells_attention_out(precision) else 1
        return GraphForm(23, token_multiple=tokens, key_multiple=_ALIGNED)

    def rules(self) -> tuple[Rule, ...]:
        """The lint rules that this target's graphs must satisfy."""
        from ois_export.graphs.lint import CPU_RULES, CUDA_RULES

        if self is Target.TENSORRT:
            from ois_export.tensorrt.rules import TENSORRT_RULES

            return TENSORRT_RULES
        return CUDA_RULES if self is Target.CUDA else CPU_RULES
