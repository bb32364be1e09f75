"""Encode an image into a server's store or into a folder, unless its features are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ois_cli import files
from ois_cli.batch.places import source_of
from ois_cli.batch.progress import error_of_item
from ois_cli.output import progress
from ois_client.contract.errors import OISError, UnknownImage
from ois_client.contract.files import write_files
from ois_client.contract.images import Picture, load_image
from ois_client.contract.transport import ModelInfo

if TYPE_CHECKING:
    from ois_client.contract.transport import Transport
    from ois_runtime.engines.features import FeatureFolder, FeaturesOf
    from ois_runtime.engines.pair import EnginePair


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of an image. existed: it had features. bytes_written: of its new features."""

    image: str
    existed: bool = False
    bytes_written: int = 0
    error: OISError | None = None


class Store(Protocol):
    """A place that keeps features."""

    @property
    def info(self) -> ModelInfo: ...

    def put(self, picture: Picture) -> int | None:
        """Encode the picture, unless its features exist -> the bytes written; None if they did."""


class Encoder:
    """Encodes images into a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def info(self) -> ModelInfo:
        return self._store.info

    def process(self, item: str) -> Iterator[Encoded]:
        """Yield what became of the image at a place. Raises the errors that end the run."""
        try:
            written = self._store.put(load_image(source_of(item)))
        except Exception as error:
            yield Encoded(item, error=error_of_item(error))
        else:
            yield Encoded(item, written is None, written or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToServer:
    """The work of filling the store of the server at `url`."""

    url: str
    token: str | None = None

    @contextmanager
    def open(self) -> Iterator[Encoder]:
        with self._store() as store:
            yield Encoder(store)

    def holds(self, place: str) -> bool:
        """Whether the server has the features of the image."""
        with self._store() as store:
            return store.holds(load_image(source_of(place)))

    @contextmanager
    def _store(self) -> Iterator[ServerStore]:
        from ois_client.transports.connect import connect

        transport = connect(self.url, {} if self.token is None else {"token": self.token})
        try:
            yield ServerStore(transport)
        finally:
            transport.close()


class ServerStore:
    """The feature store of a running server."""

    def __init__(self, transport: Transport) -> None:
        """Raises what `Transport.info` raises."""
        from ois_client.contract.transport import check_compatible

        self._transport = transport
        self.info = transport.info()
        check_compatible(self.info)

    def put(self, picture: Picture) -> int | None:
        return None if self._transport.encode(picture).cached else 0

    def holds(self, picture: Picture) -> bool:
        from ois_client.contract.clicks import Click
        from ois_client.sessions.history import SessionState

        fit = self.info.fit(picture.width, picture.height)
        pending = SessionState(picture.digest, fit).begin({0: Click(0, 0)})
        try:
            self._transport.click(pending.request)
        except UnknownImage:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ToFolder:
    """The work of writing features to `folder`; the other fields are those of the engines."""

    folder: Path
    engines: Path | None = None
    backend: str = "onnxruntime"
    precision: str = "fp32"
    threads: int | None = None

    @contextmanager
    def open(self) -> Iterator[Encoder]:
        from ois_runtime.engines.backends import (
            EngineBackend,
            EngineOptions,
            Precision,
            load_engines,
        )
        from ois_runtime.engines.features import (
            FEATURES_FILE,
            FeatureFolder,
            FeaturesOf,
            check_backend,
        )
        from ois_runtime.engines.local import default_engine_folder

        library = EngineBackend.parse(self.backend)
        check_backend(library)
        source = self.engines or default_engine_folder()
        features_of = FeaturesOf.engines(source)
        settings = EngineOptions(threads=self.threads, precision=Precision.parse(self.precision))
        with progress("loading the engines"):
            pair = load_engines(source, library, settings)
        files.make_folder(self.folder)
        if not (self.folder / FEATURES_FILE).exists():
            write_files({self.folder / FEATURES_FILE: features_of.to_json().encode()})
        folder = FeatureFolder(self.folder, pair.manifest)
        yield Encoder(FolderStore(folder, features_of, pair))


class FolderStore:
    """A folder of feature files."""

    def __init__(
        self, features: FeatureFolder, features_of: FeaturesOf, engines: EnginePair
    ) -> None:
        self._features, self._features_of, self._engines = features, features_of, engines
        self.info = engines.manifest.model_info(engines.description)

    def put(self, picture: Picture) -> int | None:
        from ois_runtime.engines.features import pack_features
        from ois_runtime.engines.pixels import preprocess

        if picture.digest in self._features:
            return None
        image, fit = preprocess(picture, self._engines.manifest.fit)
        data = pack_features(self._engines.encode(image, fit), picture, self._features_of)
        write_files({self._features.path(picture.digest): data})
        return len(data)
