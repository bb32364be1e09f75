"""OIS in every engine, through `Client`, as users run it.

In process, a call includes everything that belongs to a click: checks, engine, resizing to the
picture, mask. `ois-server` is the same behind the embedded Triton server, over gRPC on loopback.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ois_benchmarks.contestants import regions
from ois_benchmarks.contestants.base import CHECKPOINT, NotHere, Place
from ois_benchmarks.contestants.prepared import write_int8
from ois_benchmarks.contestants.session import SessionContestant
from ois_benchmarks.latency.result import Cost, Identity
from ois_client.contract.errors import EngineError, InvalidInput
from ois_client.sessions.client import Client
from ois_network.checkpoints.checkpoint import Checkpoint, load_checkpoint
from ois_runtime.engines.backends import EngineOptions, Precision
from ois_runtime.engines.manifest import MANIFEST_FILE, EngineFile, Manifest

_GIVEN_BOX = (
    f"every click decodes a box of {regions.SHARE:.0%} of the picture around the positive clicks, "
    "because this network has no regions that passed the gate"
)
#: Enough for the features of a few images. Every encode is of an image that is not in the store.
_CACHE_BYTES = 2**29


@dataclass(frozen=True, slots=True, kw_only=True)
class OisVariant:
    """One way to run OIS.

    label: for tables. precision: "fp32", "bf16", "fp16" or "int8". rewritten: with the exact
    rewrites. served: behind the embedded server. gpu: runs on a GPU; the others run on the CPU,
    whatever `--device` says. region: "auto" decodes only where the mask can change.
    """

    label: str
    precision: str = "fp32"
    backend: str = ""
    rewritten: bool = True
    served: bool = False
    gpu: bool = False
    region: str = "full"


VARIANTS = {
    "ois-torch-unrewritten": OisVariant(label="PyTorch, as described", rewritten=False),
    "ois-torch": OisVariant(label="PyTorch", backend="torch"),
    "ois-onnxruntime": OisVariant(label="ONNX Runtime", backend="onnxruntime"),
    "ois-openvino-fp32": OisVariant(label="OpenVINO", backend="openvino"),
    "ois-openvino-bf16": OisVariant(label="OpenVINO bf16", backend="openvino", precision="bf16"),
    "ois-onnxruntime-region": OisVariant(
        label="ONNX Runtime, region", backend="onnxruntime", region="auto"
    ),
    "ois-openvino-bf16-region": OisVariant(
        label="OpenVINO bf16, region", backend="openvino", precision="bf16", region="auto"
    ),
    "ois-openvino-int8": OisVariant(label="OpenVINO int8", backend="openvino", precision="int8"),
    "ois-openvino-int8-region": OisVariant(
        label="OpenVINO int8, region", backend="openvino", precision="int8", region="auto"
    ),
    "ois-server": OisVariant(label="Triton on this machine", served=True),
    "ois-torch-cuda": OisVariant(
        label="PyTorch on the GPU", backend="torch", precision="fp16", gpu=True
    ),
    "ois-server-cuda": OisVariant(
        label="Triton on this machine, PyTorch on the GPU", precision="fp16", served=True, gpu=True
    ),
    "ois-tensorrt": OisVariant(label="TensorRT", backend="tensorrt", precision="fp16", gpu=True),
}


def open_ois(place: Place, variant: OisVariant) -> OisContestant:
    """Open OIS in one engine.

    Raises `NotHere` if the variant needs a GPU or plans that are missing, `EngineError` if the
    engines cannot be opened.
    """
    folder = place.engines
    if folder is None:
        raise InvalidInput("no folder with OIS's engines was given")
    if variant.gpu and place.device == "cpu":
        raise NotHere("it runs on a GPU; measure it with --device cuda")
    loaded = load_checkpoint(folder / CHECKPOINT)
    if variant.precision == "int8":
        folder = write_int8(folder, place.scratch / "int8")
    with ExitStack() as stack:
        try:
            client = stack.enter_context(_client(place, variant, folder, stack))
        except (EngineError, InvalidInput) as error:
            if variant.gpu:
                raise NotHere(str(error)) from error
            raise
        given_box = variant.region == "auto" and not _accepted(folder)
        return OisContestant(
            client,
            _identity(client, variant, loaded, given_box=given_box),
            loaded,
            stack.pop_all(),
            rewritten=variant.rewritten,
            served=variant.served,
        )


def _client(place: Place, variant: OisVariant, folder: Path, stack: ExitStack) -> Client:
    checkpoint = str(folder / CHECKPOINT)
    if variant.served:
        return _server(place, folder, stack, on_gpu=variant.gpu)
    if not variant.rewritten:
        from ois_benchmarks.contestants.unrewritten import open_transport

        return Client(open_transport(checkpoint, threads=place.threads))
    if variant.region == "auto" and not _accepted(folder):
        run = EngineOptions(threads=place.threads, precision=Precision.parse(variant.precision))
        return Client(
            regions.open_transport(folder, variant.backend, run, cache_bytes=_CACHE_BYTES)
        )
    options: dict[str, Any] = {
        "region": variant.region,
        "backend": variant.backend,
        "threads": place.threads,
        "precision": variant.precision,
        "cache_bytes": _CACHE_BYTES,
    }
    if variant.gpu:
        options["device"] = "cuda"
    if variant.backend == "tensorrt":
        folder = _plans(place)
    where = checkpoint if variant.backend == "torch" else str(folder)
    return Client(f"local:{where}", **options)


def _accepted(folder: Path) -> bool:
    """Whether the engines' regions passed their gate."""
    parts = Manifest.load(folder).region
    return parts is not None and parts.accepted


def _plans(place: Place) -> Path:
    """The one folder of engines in `place.plans`, which may be that folder itself."""
    if place.plans is None:
        raise NotHere(
            "no TensorRT engines were given; build them with `ois build`, then use --plans FOLDER"
        )
    found = sorted({*place.plans.glob(MANIFEST_FILE), *place.plans.glob(f"*/{MANIFEST_FILE}")})
    if len(found) != 1:
        names = ", ".join(each.parent.name for each in found) or "none"
        raise NotHere(
            f"got {len(found)} built engines in {place.plans} ({names}); expected the folder of one"
        )
    return found[0].parent


def _server(place: Place, folder: Path, stack: ExitStack, *, on_gpu: bool) -> Client:
    from ois_export.repository import write_repository
    from ois_runtime.embedded.options import ServerOptions
    from ois_runtime.embedded.server import EmbeddedServer

    options = ServerOptions(cache_bytes=_CACHE_BYTES)
    if on_gpu:
        options = replace(options, device="cuda", checkpoint=folder / CHECKPOINT)
        folder = write_unloaded_engines(place.scratch / "repository", folder / CHECKPOINT)
    write_repository(folder, Manifest.load(folder))
    return Client(stack.enter_context(EmbeddedServer(folder, options)).grpc_url)


def write_unloaded_engines(folder: Path, checkpoint: Path) -> Path:
    """Write an engine folder for a server that runs the checkpoint itself.

    Its manifest is complete, but its engines are empty files: exporting them takes minutes, and
    such a server does not load them. Returns `folder`.
    """
    from ois_runtime.torch.engine import checkpoint_manifest

    folder.mkdir(parents=True)

    def empty(role: str) -> EngineFile:
        (folder / f"{role}.onnx").touch()
        return EngineFile(f"{role}.onnx", hashlib.sha256(b"").hexdigest(), 0)

    manifest = checkpoint_manifest(checkpoint, load_checkpoint(checkpoint))
    replace(manifest, encoder=empty("encoder"), decoder=empty("decoder")).save(folder)
    return folder


def _identity(
    client: Client, variant: OisVariant, loaded: Checkpoint, *, given_box: bool
) -> Identity:
    info = client.info
    warnings = (_GIVEN_BOX,) if given_box else ()
    longest = loaded.config.longest
    return Identity(
        label=f"OIS {loaded.config.name}, {variant.label}",
        family="ois",
        engine=info.engine,
        precision=variant.precision,
        source=f"ois-deploy {metadata.version('ois-deploy')}",
        weights=loaded.config.name if loaded.trained else "random",
        sha256=info.model_sha256,
        input_size=(longest, longest),
        warnings=warnings,
    )


#: How the engines describe themselves whose graphs are exported for CPUs.
_CPU_GRAPHS = ("onnxruntime", "openvino")


class OisContestant(SessionContestant):
    """OIS of a checkpoint that is here, so that its work can be counted."""

    def __init__(
        self,
        client: Client,
        identity: Identity,
        loaded: Checkpoint,
        resources: ExitStack,
        *,
        rewritten: bool,
        served: bool,
    ) -> None:
        super().__init__(client, identity, resources, served=served)
        self._config = loaded.config
        self._rewritten = rewritten
        self._parameters = sum(each.numel() for each in loaded.network.parameters())

    def cost(self) -> Cost:
        """Half precision counts as half the bytes of fp32; the few fp32 tensors are neglected."""
        from ois_network.flops import click_flops, cpu_click_flops
        from ois_network.split import Rewrites

        geometry = self._open().geometry
        rows = click_flops(self._config, geometry.network_height, geometry.network_width)
        row = rows[0]
        if self._rewritten:
            # The last row caches K and V, which engines do not do by default.
            row = rows[-1] if Rewrites().effective(self._config).cached_kv else rows[-2]
        if self._rewritten and self.identity.engine.startswith(_CPU_GRAPHS):
            size = geometry.network_height, geometry.network_width
            row = cpu_click_flops(self._config, *size) or row
        share = 1 if self.identity.precision == "fp32" else 2
        return Cost(
            parameters=self._parameters,
            encode_flops=row.encode_flops,
            encode_bytes=row.encode_bytes // share,
            click_flops=row.click_flops,
            click_bytes=row.click_bytes // share,
        )
