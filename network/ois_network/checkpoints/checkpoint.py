"""Checkpoint files, which describe the network that their weights belong to.

A checkpoint is a `.safetensors` file whose metadata has one entry, `ois`, a JSON object:

    schema       1
    config       `NetworkConfig.to_dict()`
    trained      false for random weights, whose masks mean nothing
    created      UTC time
    dtype        fp32 or fp16, the precision of stored parameters; buffers are always fp32
    training     notes of the trainer: data, steps, scores
    parent       sha256 of the file these weights were made from, or null
    parts_only   true if encoder and depth head are missing, see `depth_anything.assemble`
    base         sha256 of the values of encoder and depth head (`base_sha256`)

PyTorch files with `{"config": ..., "state_dict": ...}` can be loaded too; code in them is not run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ois_client.contract.errors import CheckpointError
from ois_network.checkpoints.weights_file import WeightsFile, read_weights, write_safetensors
from ois_network.config import NetworkConfig
from ois_network.network import OISNetwork
from ois_network.parameters import state_shapes

SCHEMA = 1
#: The parts that the paper freezes. A public Depth-Anything-V2 file contains them.
BASE_PARTS = ("encoder.", "depth_head.")
_LISTED = 5  # a message names at most this many wrong tensors


class StoredDtype(StrEnum):
    """The precision in which parameters are stored."""

    FP32 = "fp32"
    FP16 = "fp16"

    @property
    def torch(self) -> torch.dtype:
        return torch.float32 if self is StoredDtype.FP32 else torch.float16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint. network: fp32 on the CPU, in eval mode. sha256: of the file."""

    network: OISNetwork
    config: NetworkConfig
    trained: bool
    sha256: str
    metadata: dict[str, Any]


def save_checkpoint(
    network: OISNetwork,
    path: str | Path,
    *,
    dtype: StoredDtype | str = StoredDtype.FP32,
    trained: bool,
    notes: Mapping[str, Any] | None = None,
    parent: str | None = None,
    parts_only: bool = False,
) -> str:
    """Write `network` to `path` (.safetensors) in one step and return the file's sha256.

    notes: JSON values, stored as `training`. parent: sha256 of the checkpoint it was made from.
    parts_only: leave out the encoder and the depth head. Raises `CheckpointError` if weights are
    not finite or too large for fp16, and `OutputError` if the file cannot be written.
    """
    dtype = StoredDtype(dtype)
    parameters = {name for name, _ in network.named_parameters()}
    tensors = {}
    for name, tensor in network.state_dict().items():
        if parts_only and name.startswith(BASE_PARTS):
            continue
        tensor = tensor.detach().cpu().float()
        # Buffers stay exact: a rounded Fourier matrix would change every position embedding.
        tensors[name] = tensor.to(dtype.torch) if name in parameters else tensor
    hint = "store it as fp32" if dtype is StoredDtype.FP16 else "training has diverged"
    _check_finite(tensors, f"the network cannot be saved as {dtype}", hint)
    header = {
        "schema": SCHEMA,
        "config": network.config.to_dict(),
        "trained": trained,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dtype": str(dtype),
        "training": dict(notes or {}),
        "parent": parent,
        "parts_only": parts_only,
        "base": base_sha256(network.state_dict()),
    }
    return write_safetensors(path, tensors, {"ois": json.dumps(header)})


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint. Raises `CheckpointError` if `path` is not one, or without encoder."""
    weights = read_weights(path)
    header = read_header(weights)
    if header["parts_only"]:
        raise CheckpointError(
            f"{weights.path} contains trained parts only, without encoder and depth head; join "
            "it with its Depth-Anything-V2 file: `ois checkpoint assemble DEPTH_ANYTHING.pth "
            f"--parts {weights.path} -o OUT.safetensors`"
        )
    config = config_of(header, str(weights.path))
    network = network_of(config, weights.tensors, str(weights.path))
    return Checkpoint(network, config, header["trained"], weights.sha256, header)


def read_header(weights: WeightsFile) -> dict[str, Any]:
    """The header of a checkpoint, with `config`, `trained` and `parts_only` checked.

    Raises `CheckpointError` if the file is not a checkpoint of this schema.
    """
    where = weights.path
    header: Any
    if "ois" in weights.header:
        try:
            header = json.loads(weights.header["ois"])
        except (ValueError, TypeError):
            raise CheckpointError(
                f"{where} has damaged OIS metadata (not JSON); download it again"
            ) from None
    elif isinstance(weights.header.get("config"), Mapping):
        header = {"schema": SCHEMA, **weights.header}
    else:
        raise CheckpointError(f"{where} {_not_ours(weights.tensors)}")
    if not isinstance(header, dict) or not isinstance(header.get("config"), Mapping):
        raise CheckpointError(
            f"{where} has OIS metadata without a network config; use another checkpoint"
        )
    schema = header.get("schema")
    if schema != SCHEMA:
        raise CheckpointError(
            f"{where} has schema {schema!r}; this version reads {SCHEMA}. Update ois-deploy"
        )
    # Anything but true counts as untrained.
    header["trained"] = header.get("trained") is True
    header["parts_only"] = header.get("parts_only") is True
    header["config"] = dict(header["config"])
    return header


def config_of(header: Mapping[str, Any], source: str) -> NetworkConfig:
    """The network config of a header. Raises `CheckpointError`, naming `source`, if invalid."""
    try:
        return NetworkConfig.from_dict(header["config"])
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    except (ArithmeticError, ValueError, TypeError) as error:
        raise CheckpointError(f"{source}: invalid network config: {error}") from None


def network_of(config: NetworkConfig, tensors: Mapping[str, Tensor], source: str) -> OISNetwork:
    """A network of `config` with exactly these tensors, in fp32 on the CPU, in eval mode.

    source: where the tensors come from, for messages. Raises `CheckpointError` if names or shapes
    are not those of the network, or a value is NaN or infinite.
    """
    try:
        # Shapes only: a damaged config could need more memory than the machine has.
        expected = state_shapes(config)
    except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        raise CheckpointError(
            f"{source}: no network can be built from its config: {error}"
        ) from None
    problems = differences(expected, tensors)
    if problems:
        raise CheckpointError(
            f"{source} does not contain the network that its config describes "
            f"({config.name}): " + "; ".join(problems)
        )
    _check_finite(tensors, f"{source} is damaged", "use another checkpoint")
    network = OISNetwork(config)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval()


def differences(
    expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> list[str]:
    """How names and shapes differ from the expected ones, one line per kind of difference."""
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshaped = [
        f"{name} got {tuple(tensors[name].shape)} expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshaped))
    return [f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds if names]


def base_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the names, shapes and values of encoder and depth head.

    Values are rounded to fp16 first, so that an fp32 file and its fp16 copy have the same sha256.
    """
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if name.startswith(BASE_PARTS)):
        tensor = tensors[name].detach().cpu().to(torch.float16).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


_ASSEMBLE = (
    "it contains the encoder and the depth head only: make a whole network from it with "
    "`ois checkpoint assemble FILE --parts TRAINED.safetensors -o OUT.safetensors`"
)
_OTHER = "OIS cannot run its weights"


@dataclass(frozen=True, slots=True)
class Signature:
    """A family of checkpoints. Each of `prefixes` is the beginning of some tensor's name."""

    family: str
    prefixes: tuple[str, ...]
    advice: str = _OTHER


#: The first that matches counts, so a family comes before the one that it extends.
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
        "OIS also needs a depth head: use a Depth-Anything-V2 file, which contains both",
    ),
)


def recognise(names: Iterable[str]) -> Signature | None:
    """The family of a checkpoint whose tensors have these names, or None if unknown."""
    names = list(names)
    for signature in SIGNATURES:
        if all(any(name.startswith(p) for name in names) for p in signature.prefixes):
            return signature
    return None


def _not_ours(tensors: Mapping[str, Tensor]) -> str:
    known = recognise(tensors)
    if known is not None:
        return f"looks like a checkpoint of {known.family}, not of OIS; {known.advice}"
    return (
        "has no OIS metadata; convert a checkpoint of another OIS implementation with "
        "`ois checkpoint convert FILE --mapping MAP.toml -o OUT.safetensors`"
    )


def _check_finite(tensors: Mapping[str, Tensor], what: str, hint: str) -> None:
    # Minimum and maximum are NaN if any value is. `isfinite` on every value is ten times slower.
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all()
    ]
    if bad:
        raise CheckpointError(f"{what}: NaN or infinite values in {_listed(bad)}; {hint}")


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
