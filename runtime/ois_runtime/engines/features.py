"""Features on disk: what an encoder made of many images, so that clicks need no encoder.

    FEATURES/
        features.json           the model that all of them are of
        <digest>.safetensors    one image's `ImageState`; its header says of what, for which model

Arrays are kept in fp16 and read back in the type that the decoder takes. That halves the
folder and costs nothing one would see: with `ois-tiny` on the sample photographs, 48 objects of 1
to 5 clicks refined twice, masks agree with those of the fp32 features to an IoU of 0.9995 or more
(mean 0.9999); keeping the depth in fp32 changed neither number. Kept as they are: `depth_min` and
`depth_max`, by which depth is divided, and an array with values beyond fp16's range.

Features are worthless to any other model, so the reader refuses them: by `model_sha256`, which
is over both engines, and by `preprocess_version`. The sha256 of the engines' manifest is
recorded too, but two exports of equal engines have different manifests and equal features.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ois_client.contract.errors import InvalidInput, OISError
from ois_client.contract.geometry import PREPROCESS_VERSION, Geometry
from ois_client.contract.images import Picture
from ois_runtime.engines.backends import EngineBackend
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.manifest import MANIFEST_FILE, Manifest, sha256_of

FEATURES_FILE = "features.json"
SUFFIX = ".safetensors"
SCHEMA = 1

_KEPT_AS_THEY_ARE = ("depth_min", "depth_max")
_LARGEST = float(np.finfo(np.float16).max)
_BACKENDS = (EngineBackend.ONNXRUNTIME, EngineBackend.OPENVINO)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FeaturesOf:
    """What `features.json` and the header of each file say: the model behind the features."""

    network: str
    model_sha256: str
    manifest_sha256: str
    preprocess_version: str
    schema: int = SCHEMA

    @classmethod
    def engines(cls, folder: str | Path) -> Self:
        """Raises `EngineError` when the engine folder is missing or damaged."""
        manifest = Manifest.load(folder)
        return cls(
            manifest.name,
            manifest.model_sha256,
            sha256_of(Path(folder) / MANIFEST_FILE),
            manifest.preprocess_version,
        )

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Raises `InvalidInput` when `folder` is not one of features."""
        path = Path(folder) / FEATURES_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            found = cls(**{field.name: data[field.name] for field in dataclasses.fields(cls)})
        except FileNotFoundError:
            raise InvalidInput(
                f"no features in {folder}: expected a folder with {FEATURES_FILE}. Make one with: "
                f"ois encode PHOTOS --output {folder}"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{path} is not readable ({type(error).__name__}: {error}). Make the features "
                "again with `ois encode`, in another folder"
            ) from error
        if found.schema != SCHEMA:
            raise InvalidInput(
                f"{path} has schema {found.schema!r}; this version reads {SCHEMA}. Make the "
                "features again with `ois encode`, in another folder"
            )
        return found

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def check(self, manifest: Manifest, place: str | Path) -> None:
        """Raise `InvalidInput` when these features are not for the engines of `manifest`."""
        if self.model_sha256 != manifest.model_sha256:
            raise InvalidInput(
                f"the features in {place} were made by the model {self.network} "
                f"({str(self.model_sha256)[:12]}…); these engines are {manifest.name} "
                f"({manifest.model_sha256[:12]}…), which cannot use them. Name the engines they "
                "were made by, or run `ois encode` with these into another folder"
            )
        if self.preprocess_version != PREPROCESS_VERSION:
            raise InvalidInput(
                f"the features in {place} were made with the preprocessing "
                f"{self.preprocess_version!r}; this version does {PREPROCESS_VERSION!r}. Run "
                "`ois encode` again, into another folder"
            )


class FeatureFolder:
    """Reads the features of one model. Thread-safe: it holds nothing but names."""

    def __init__(self, folder: str | Path, manifest: Manifest) -> None:
        """Raises `InvalidInput` when there are no features, or those of another model."""
        self.folder = Path(folder)
        self._manifest = manifest
        FeaturesOf.read(folder).check(manifest, folder)

    def path(self, digest: str) -> Path:
        """Where the features of the image with this `Picture.digest` are, or would be."""
        return self.folder / f"{digest}{SUFFIX}"

    def __contains__(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def __len__(self) -> int:
        """How many images have features here."""
        return sum(1 for path in self.folder.glob(f"*{SUFFIX}") if _DIGEST.fullmatch(path.stem))

    def load(self, digest: str) -> ImageState:
        """The features of an image.

        Raises `InvalidInput` when its file is missing, damaged, of another image or of another
        model.
        """
        path = self.path(digest)
        try:
            return self._load(path, digest)
        except OISError:
            raise
        except Exception as error:  # safetensors' errors share no base class of their own
            raise InvalidInput(
                f"the features {path} are damaged ({type(error).__name__}: {error}). Delete the "
                "file and run `ois encode` again"
            ) from error

    def _load(self, path: Path, digest: str) -> ImageState:
        from safetensors import safe_open

        manifest = self._manifest
        types = {spec.name: np.dtype(spec.dtype) for spec in manifest.encoder.outputs}
        with safe_open(path, framework="numpy") as file:
            header: dict[str, Any] = json.loads(file.metadata()["ois"])
            FeaturesOf(**header["features_of"]).check(manifest, path)
            if header["digest"] != digest:
                raise InvalidInput(f"{path} holds the features of {header['digest']}; rename it")
            arrays: dict[str, NDArray[Any]] = {
                name: file.get_tensor(name).astype(dtype, copy=False)
                for name, dtype in types.items()
            }
        width, height = (int(header[side]) for side in ("width", "height"))
        geometry = Geometry.fit(width, height, longest=manifest.longest, patch=manifest.patch)
        return ImageState(arrays, geometry)


def check_backend(backend: EngineBackend) -> None:
    """Raise `InvalidInput` for a backend that keeps its states on a device, not in arrays."""
    if backend not in _BACKENDS:
        raise InvalidInput(
            f"got the backend {backend}; features on disk are for {' and '.join(_BACKENDS)}"
        )


def pack_features(state: ImageState, picture: Picture, features_of: FeaturesOf) -> bytes:
    """The contents of `FeatureFolder.path(picture.digest)`."""
    from safetensors.numpy import save

    header = {
        "features_of": dataclasses.asdict(features_of),
        "digest": picture.digest,
        "width": picture.width,
        "height": picture.height,
    }
    arrays = {name: _half(name, array) for name, array in state.arrays.items()}
    return save(arrays, metadata={"ois": json.dumps(header)})


def _half(name: str, array: NDArray[Any]) -> NDArray[Any]:
    fits = array.dtype == np.float32 and bool((np.abs(array) <= _LARGEST).all())
    if name in _KEPT_AS_THEY_ARE or not fits:
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(array, dtype=np.float16)
