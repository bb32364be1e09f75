"""`ois encode`: many images ahead of their clicks, into a server's store or a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from ois_cli import files, options
from ois_cli.batch import EXIT_INCOMPLETE, Failure, counted, error_of_item, say_failures
from ois_cli.output import print_json, progress, say, warn
from ois_client.contract.errors import InvalidInput, UnknownImage
from ois_client.contract.files import write_files
from ois_client.contract.images import Picture, load_image
from ois_client.transports.address import is_server

if TYPE_CHECKING:
    from ois_client.contract.transport import Transport
    from ois_runtime.engines.features import FeatureFolder, FeaturesOf
    from ois_runtime.engines.pair import EnginePair

#: What a folder is searched for; a file that is named is always taken.
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".mpo"),
)


HELP = """Encode images ahead of their clicks, so that the first click need not wait.

With --url, the images are sent to a running server, which keeps their features as long as its \
store has room. With --output, the features are written to a folder: clicks find them there with \
[b]ois annotate --features FOLDER[/b], [b]ois segment --features FOLDER[/b] or \
[b]Client("local:?features=FOLDER")[/b]. They are for the engines that made them; others refuse \
them.

What is there already is not made again, so an interrupted run goes on where it was. An image that \
fails is told and left out; the exit code is then 3.
"""


class Store(Protocol):
    """Where features go."""

    def put(self, picture: Picture) -> bool:
        """Encode the picture, unless its features are there already; whether they were."""

    def finish(self) -> dict[str, Any]:
        """What the report says of it."""


def register(app: typer.Typer) -> None:
    app.command("encode", help=HELP)(encode)


def encode(
    images: Annotated[
        list[Path], typer.Argument(help="Images, and folders of images.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the features, a file an image.", show_default=False),
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
        bool, typer.Option("--recursive", "-r", help="Search folders below folders too.")
    ] = False,
    as_json: options.AsJson = False,
    engines: options.Engines = None,
    backend: options.Backend = "onnxruntime",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
) -> int:
    """See `HELP`."""
    if (output is None) == (url is None):
        raise InvalidInput("expected one of --output FOLDER and --url ADDRESS")
    if url is not None and not is_server(url):
        raise InvalidInput(f"got --url {url}; expected a server's, for example grpc://host:8001")
    paths = find_images(images, recursive=recursive)
    started = time.monotonic()
    failures: list[Failure] = []
    there = 0
    with (
        _to_server(url, token)
        if url
        else _to_folder(output or Path(), engines, backend, precision, threads) as store
    ):
        go_on = "What is encoded stays; the same command goes on from there"
        with counted("encoding", len(paths), go_on) as counter:
            for path in paths:
                try:
                    there += store.put(load_image(path))
                except Exception as error:
                    failures.append(Failure({"image": str(path)}, error_of_item(error)))
                    counter.add(failed=1)
                else:
                    counter.add()
        about = store.finish()
    say_failures(failures, "; --json names them all")
    report = {
        "images": len(paths),
        "encoded": len(paths) - there - len(failures),
        "already_there": there,
        "failed": [failure.to_dict() for failure in failures],
        "seconds": round(time.monotonic() - started, 3),
        **about,
    }
    if as_json:
        print_json(report)
    else:
        print(
            f"{report['encoded']} encoded, {there} there already, {len(failures)} failed, in "
            f"{report['seconds']:.1f} s: {output or url}"
        )
    return EXIT_INCOMPLETE if failures else 0


def find_images(given: list[Path], *, recursive: bool) -> list[Path]:
    """Files as they are named, folders as the images in them, in order and each once.

    Raises `InvalidInput` when a folder has none or cannot be read. Whether a file is an image is
    not looked at.
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
            raise InvalidInput(f"the folder {path} cannot be read: {error.strerror}") from error
        if not inside:
            deeper = "" if recursive else "; --recursive looks into folders below it"
            raise InvalidInput(
                f"no image in the folder {path} (names that end in {', '.join(SUFFIXES)}){deeper}"
            )
        for image in inside:
            found.setdefault(image.resolve(), image)
    return list(found.values())


@contextmanager
def _to_server(url: str, token: str | None) -> Iterator[Server]:
    from ois_client.transports.address import connect

    transport = connect(url, {} if token is None else {"token": token})
    try:
        yield Server(transport)
    finally:
        transport.close()


class Server:
    """The store of a running server."""

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

    def finish(self) -> dict[str, Any]:
        """The oldest leaves a full store first: while the first image is there, all are."""
        all_there = self._first is None or self._holds(self._first)
        if not all_there:
            warn(
                "the first image is out of the server's store again, which has no room for all of "
                "them; give it more (ois serve --cache-bytes), or prewarm fewer at a time"
            )
        return {"model_sha256": self._info.model_sha256, "all_there": all_there}

    def _holds(self, picture: Picture) -> bool:
        from ois_client.contract.clicks import Click
        from ois_client.contract.geometry import Geometry
        from ois_client.sessions.history import SessionState

        longest, patch = self._info.longest, self._info.patch
        fit = Geometry.fit(picture.width, picture.height, longest=longest, patch=patch)
        pending = SessionState(picture.digest, fit).begin({0: Click(0, 0)})
        try:
            self._transport.click(pending.request)
        except UnknownImage:
            return False
        return True


@contextmanager
def _to_folder(
    folder: Path, engines: Path | None, backend: str, precision: str, threads: int | None
) -> Iterator[Folder]:
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
    yield Folder(FeatureFolder(folder, pair.manifest), features_of, pair)


class Folder:
    """Files of features."""

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
        image, fit = preprocess(picture, longest=manifest.longest, patch=manifest.patch)
        data = pack_features(self._engines.encode(image, fit), picture, self._features_of)
        write_files({self._features.path(picture.digest): data})
        self._bytes += len(data)
        return False

    def finish(self) -> dict[str, Any]:
        say(f"{len(self._features)} images have features in {self._features.folder}")
        return {"model_sha256": self._features_of.model_sha256, "bytes_written": self._bytes}
