"""`ois encode`: encodes images before their first click, into a server's store or a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from ois_cli import files, options
from ois_cli.batch.progress import EXIT_INCOMPLETE, Failure, counted, error_of_item, say_failures
from ois_cli.output import print_json, progress, say, warn
from ois_client.contract.errors import InvalidInput, UnknownImage
from ois_client.contract.files import write_files
from ois_client.contract.images import Picture, load_image
from ois_client.transports.address import is_server

if TYPE_CHECKING:
    from ois_client.contract.transport import Transport
    from ois_runtime.engines.features import FeatureFolder, FeaturesOf
    from ois_runtime.engines.pair import EnginePair

#: Suffixes that folders are searched for. A file that is named is always used.
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".mpo"),
)


HELP = """Encode images before their first click, so that the first click is fast.

With --url, the images are sent to a running server, which keeps their features while its store \
has space. With --output, the features are written to a folder, which is used by \
[b]ois annotate --features FOLDER[/b], [b]ois segment --features FOLDER[/b] and \
[b]Client("local:?features=FOLDER")[/b]. Features can be used only with the engines that made them.

Images that have features are skipped, so an interrupted run continues with the same command. \
Images that fail are listed; the exit code is then 3.

Example: [b]ois encode photos/ --recursive --output features[/b]

With a server: [b]ois encode photos/ --url grpc://host:8001[/b]
"""


class Destination(Protocol):
    """A place that keeps features."""

    def put(self, picture: Picture) -> bool:
        """Encode the picture unless its features exist. Returns whether they existed."""

    def summary(self) -> dict[str, Any]:
        """Return the destination's part of the report, after the last image."""


def register(app: typer.Typer) -> None:
    app.command("encode", help=HELP)(encode)


def encode(
    images: Annotated[
        list[Path], typer.Argument(help="Images and folders of images.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the features, one file per image.", show_default=False),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="A running server to prewarm: [b]grpc://host:8001[/b] or [b]http://host:8000[/b].",
            show_default=False,
        ),
    ] = None,
    token: options.Token = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also search subfolders.")
    ] = False,
    as_json: options.AsJson = False,
    engines: options.Engines = None,
    backend: options.Backend = "onnxruntime",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
) -> int:
    """See `HELP`."""
    if (output is None) == (url is None):
        raise InvalidInput(
            "got --output and --url, or neither; expected --output FOLDER or --url ADDRESS"
        )
    if url is not None and not is_server(url):
        raise InvalidInput(
            f"got --url {url}; expected a server's address, for example grpc://host:8001"
        )
    paths = find_images(images, recursive=recursive)
    started = time.monotonic()
    failures: list[Failure] = []
    existing = 0
    with (
        _to_server(url, token)
        if url
        else _to_folder(output or Path(), engines, backend, precision, threads) as place
    ):
        resume = "Encoded images are kept; run the same command again to continue"
        with counted("encoding", len(paths), resume) as counter:
            for path in paths:
                try:
                    existing += place.put(load_image(path))
                except Exception as error:
                    failures.append(Failure({"image": str(path)}, error_of_item(error)))
                    counter.add(failed=1)
                else:
                    counter.add()
        summary = place.summary()
    say_failures(failures, "; --json lists all of them")
    report = {
        "images": len(paths),
        "encoded": len(paths) - existing - len(failures),
        "already_there": existing,
        "failed": [failure.to_dict() for failure in failures],
        "seconds": round(time.monotonic() - started, 3),
        **summary,
    }
    if as_json:
        print_json(report)
    else:
        print(
            f"{report['encoded']} encoded, {existing} existed, {len(failures)} failed, in "
            f"{report['seconds']:.1f} s: {output or url}"
        )
    return EXIT_INCOMPLETE if failures else 0


def find_images(given: list[Path], *, recursive: bool) -> list[Path]:
    """Return the given files and the images in the given folders, in order, each once.

    recursive: also search subfolders. Files are not opened. Raises `InvalidInput` if a folder has
    no image or cannot be read.
    """
    found: dict[Path, Path] = {}
    for path in given:
        if not path.is_dir():
            found.setdefault(path.resolve(), path)
            continue
        try:
            below = path.rglob("*") if recursive else path.iterdir()
            inside = sorted(p for p in below if p.suffix.lower() in SUFFIXES and p.is_file())
        except OSError as error:
            raise InvalidInput(
                f"the folder {path} cannot be read: {error.strerror}; check its permissions"
            ) from error
        if not inside:
            deeper = "" if recursive else "; --recursive searches its subfolders"
            raise InvalidInput(
                f"got the folder {path} without an image; expected names that end in "
                f"{', '.join(SUFFIXES)}{deeper}"
            )
        for image in inside:
            found.setdefault(image.resolve(), image)
    return list(found.values())


@contextmanager
def _to_server(url: str, token: str | None) -> Iterator[ServerStore]:
    from ois_client.transports.connect import connect

    transport = connect(url, {} if token is None else {"token": token})
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
        self._info = transport.info()
        check_compatible(self._info)
        self._first: Picture | None = None

    def put(self, picture: Picture) -> bool:
        cached = self._transport.encode(picture).cached
        self._first = self._first or picture
        return cached

    def summary(self) -> dict[str, Any]:
        # A full store drops the oldest image first, so if the first is there, all are.
        all_there = self._first is None or self._holds(self._first)
        if not all_there:
            warn(
                "the server's store has no room for all images and dropped the first; enlarge it "
                "(ois serve --cache-bytes) or encode fewer images at a time"
            )
        return {"model_sha256": self._info.model_sha256, "all_there": all_there}

    def _holds(self, picture: Picture) -> bool:
        from ois_client.contract.clicks import Click
        from ois_client.sessions.history import SessionState

        fit = self._info.fit(picture.width, picture.height)
        pending = SessionState(picture.digest, fit).begin({0: Click(0, 0)})
        try:
            self._transport.click(pending.request)
        except UnknownImage:
            return False
        return True


@contextmanager
def _to_folder(
    folder: Path, engines: Path | None, backend: str, precision: str, threads: int | None
) -> Iterator[FeatureFiles]:
    from ois_runtime.engines.backends import EngineBackend, EngineOptions, Precision, load_engines
    from ois_runtime.engines.features import FEATURES_FILE, FeatureFolder, FeaturesOf, check_backend
    from ois_runtime.engines.local import default_engine_folder

    library = EngineBackend.parse(backend)
    check_backend(library)
    source = engines or default_engine_folder()
    features_of = FeaturesOf.engines(source)
    settings = EngineOptions(threads=threads, precision=Precision.parse(precision))
    with progress("loading the engines"):
        pair = load_engines(source, library, settings)
    files.make_folder(folder)
    if not (folder / FEATURES_FILE).exists():
        write_files({folder / FEATURES_FILE: features_of.to_json().encode()})
    yield FeatureFiles(FeatureFolder(folder, pair.manifest), features_of, pair)


class FeatureFiles:
    """A folder of feature files."""

    def __init__(
        self, features: FeatureFolder, features_of: FeaturesOf, engines: EnginePair
    ) -> None:
        self._features, self._features_of, self._engines = features, features_of, engines
        self._bytes = 0

    def put(self, picture: Picture) -> bool:
        from ois_runtime.engines.features import pack_features
        from ois_runtime.engines.pixels import preprocess

        if picture.digest in self._features:
            return True
        manifest = self._engines.manifest
        image, fit = preprocess(picture, manifest.fit)
        data = pack_features(self._engines.encode(image, fit), picture, self._features_of)
        write_files({self._features.path(picture.digest): data})
        self._bytes += len(data)
        return False

    def summary(self) -> dict[str, Any]:
        say(f"{len(self._features)} images have features in {self._features.folder}")
        return {"model_sha256": self._features_of.model_sha256, "bytes_written": self._bytes}
