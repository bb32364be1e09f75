"""Whose checkpoint is this? Known by the names of its tensors, for messages that help."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_ASSEMBLE = (
    "it holds the encoder and the depth head only: make a whole network of it with "
    "`ois checkpoint assemble FILE --parts TRAINED.safetensors -o OUT.safetensors`"
)
_OTHER = "OIS cannot run its weights"


@dataclass(frozen=True, slots=True)
class Signature:
    """A family of checkpoints: every prefix in `prefixes` starts some tensor's name."""

    family: str
    prefixes: tuple[str, ...]
    advice: str = _OTHER


#: In order: the first that fits wins, so a family comes before the one it extends.
SIGNATURES = (
    Signature("Depth-Anything-V2", ("pretrained.patch_embed.", "depth_head.projects."), _ASSEMBLE),
    Signature(
        "Depth-Anything in transformers' layout",
        ("backbone.embeddings.patch_embeddings.", "neck.reassemble_stage."),
        "use the original depth_anything_v2_vit*.pth with `ois checkpoint assemble`",
    ),
    Signature("SAM 2", ("sam_mask_decoder.", "image_encoder.trunk.")),
    Signature("HQ-SAM", ("mask_decoder.hf_token.", "mask_decoder.")),
    Signature("SAM", ("image_encoder.", "prompt_encoder.", "mask_decoder.")),
    Signature("SegNext", ("visual_prompts_encoder.", "fusion_blocks.")),
    Signature("SimpleClick", ("patch_embed_coords.", "backbone.")),
    Signature(
        "DINOv2",
        ("patch_embed.proj.", "blocks.0.ls1.gamma"),
        "OIS also needs a depth head: use a Depth-Anything-V2 file, which contains DINOv2",
    ),
)


def recognise(names: Iterable[str]) -> Signature | None:
    """The family whose tensors have these names; None for an unknown one."""
    names = list(names)
    for signature in SIGNATURES:
        if all(any(name.startswith(p) for name in names) for p in signature.prefixes):
            return signature
    return None
