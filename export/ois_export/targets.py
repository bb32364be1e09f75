"""The targets that engines are exported for, and the form of each target's graphs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from ois_export.graphs.lint import Rule
    from ois_network.attention import AttentionOps

#: Half-precision kernels are fast if lengths and strides are multiples of 16 bytes.
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class GraphForm:
    """How a target's graphs are exported.

    opset: 20 for ONNX Runtime's CPU kernels and OpenVINO, 23 for the others. 23 is the first with
    an `Attention` operator; bf16 convolutions need 22.
    token_multiple: the encoder's tokens are padded to a multiple of this, and the padding masked.
    key_multiple: the same for the keys of the decoder's attentions.
    """

    opset: int
    token_multiple: int = 1
    key_multiple: int = 1


class Target(StrEnum):
    """A target and the precisions that it supports."""

    precisions: tuple[str, ...]

    CPU = ("cpu", ("fp32", "int8"))
    CUDA = ("cuda", ("fp32", "fp16"))
    TENSORRT = ("tensorrt", ("fp32", "fp16", "bf16"))

    def __new__(cls, value: str, precisions: tuple[str, ...]) -> Target:
        member = str.__new__(cls, value)
        member._value_ = value
        member.precisions = precisions
        return member

    @classmethod
    def parse(cls, name: str) -> Target:
        """Return the target with this name. Raises `InvalidInput` if there is none."""
        for target in cls:
            if target.value == name:
                return target
        raise InvalidInput(f"got the target {name!r}; expected one of {', '.join(cls)}")

    def check(self, precision: str) -> None:
        """Raise `InvalidInput` if the target does not support the precision."""
        if precision in self.precisions:
            return
        why = {
            Target.CPU: " (for bf16 on CPU, run the fp32 engines with --backend openvino "
            "--precision bf16)",
            Target.CUDA: " (ONNX Runtime cannot resize bf16 on CUDA; "
            "--target tensorrt supports bf16)",
        }.get(self, "")
        raise InvalidInput(
            f"got the precision {str(precision)!r}; the target {self.value} supports "
            f"{', '.join(self.precisions)}{why}"
        )

    def decomposes_attention(self, precision: str) -> bool:
        """Return whether this target's graphs use MatMul, Softmax, MatMul for attention.

        TensorRT has fused kernels for the operator `Attention` only in half precision; without
        one, the build fails.
        """
        return self is Target.TENSORRT and precision == "fp32"

    def attention(self, precision: str) -> AttentionOps:
        """Return the form of attention in this target's graphs."""
        from ois_export.graphs.attention import ContribAttention, PlainAttention, StandardAttention

        if self is Target.CPU:
            return ContribAttention()
        return PlainAttention() if self.decomposes_attention(precision) else StandardAttention()

    def form(self, precision: str) -> GraphForm:
        """Return the form of this target's graphs.

        The decoder's attentions have a bias, and kernels are faster if its rows are aligned: 5329
        keys become 5336. The encoder's self-attention has no bias, so its tokens are padded only
        where it is MatMul, Softmax, MatMul. Fused kernels take any number of tokens, and a mask
        would cost more than it gains: ONNX Runtime's flash kernel does not support one, and the
        operator `Attention` would need one of tokens x tokens.
        """
        if self is Target.CPU:
            return GraphForm(20)
        tokens = _ALIGNED if self.decomposes_attention(precision) else 1
        return GraphForm(23, token_multiple=tokens, key_multiple=_ALIGNED)

    def rules(self) -> tuple[Rule, ...]:
        """Return the lint rules that this target's graphs must satisfy."""
        from ois_export.graphs.lint import CPU_RULES, CUDA_RULES

        if self is Target.TENSORRT:
            from ois_export.tensorrt.rules import TENSORRT_RULES

            return TENSORRT_RULES
        return CUDA_RULES if self is Target.CUDA else CPU_RULES
