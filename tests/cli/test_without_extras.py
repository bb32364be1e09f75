"""Every command of a base install names the extra that it lacks, as an error of the user."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from ois_cli import extras as module
from ois_cli.extras import EXTRAS, missing_extra
from support.documents import ROOT
from support.extras import requirements
from support.installed import base_site, python
from support.tiny_engines import write_engines

_OBJECT = "colorbox-dachshund.jpg:dachshund"

#: Command line -> the extras that its message must name. {e}: engines; {c}: a checkpoint.
LACKING = {
    "segment photo.jpg --point 3,3 --out m.png --engines {e}": "cpu",
    "annotate c.jsonl -o a.json --url local:{e}": "cpu",
    "annotate c.jsonl -o a.json --url local:{e} --ray": "ray",
    "annotate s3://bucket/c.jsonl -o a.json --url local:{e}": "ray",
    "encode . --engines {e} --output features": "cpu",
    "encode . --engines {e} --output features --ray --workers 2": "ray",
    "encode s3://bucket/photos --engines {e} --output features": "ray",
    "label photo.jpg -o l.json --teacher {e}/encoder.onnx {e}/decoder.onnx": "cpu",
    "train tiny -o run": "train",
    "export": "cpu,export",
    "export {c}": "cpu,export",
    "lint {e}/decoder.onnx": "export",
    "build {e}": "tensorrt",
    "build {e} --print-trtexec": "tensorrt",
    "demo": "cpu,demo",
    "demo --sheet sheets": "cpu,demo",
    "demo --engines {e} --no-browser": "cpu,demo",
    "show attention photo.jpg -p 3,3 -o x.png": "cpu,bench",
    f"show rounds OIS=local:{{e}} --data photos --object {_OBJECT} -o x.png": "cpu,bench",
    "checkpoint inspect ois-photo": "network",
    "checkpoint inspect --network vitb": "network",
    "checkpoint assemble {c} -o o.safetensors": "network",
    "checkpoint convert {c} --mapping c.jsonl -o o.safetensors": "network",
    "bench spc": "cpu,bench",
    "bench sat": "cpu,bench",
    "bench quality local:{e} --data photos --clicks 1": "cpu,bench",
    "bench engines": "cpu,bench",
    "bench batch --engines {e} -o b.json": "ray",
    "bench flops --network vitb": "cpu,bench",
    "bench report": "cpu,bench",
    "bench ablation {c}": "cpu,bench",
    "bench switched-off {c}": "cpu,bench",
    "serve --engines {e}": "serve",
}
#: Commands that need engines first. Their advice must work in a folder without anything.
WITHOUT_ENGINES = (
    "segment photo.jpg --point 3,3 --out m.png",
    "encode . --output features",
    "bench load",
    "bench paths",
    "bench overhead",
    "serve",
)
#: Runs command lines from a JSON list, each in this process.
RUN = """
import contextlib, io, json, sys
from ois_cli.main import main
found = []
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line.split())
    found.append([code, out.getvalue() + err.getvalue()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Command line -> its exit code and what it printed, in a base install."""
    folder = tmp_path_factory.mktemp("user")
    engines = write_engines(tmp_path_factory.mktemp("engines"))
    shutil.copy(ROOT / "export/ois_export/photos/coffee.jpg", folder / "photo.jpg")
    (folder / "c.jsonl").write_text('{"image": "photo.jpg", "points": [[1, 2]], "labels": [1]}')
    site = base_site(tmp_path_factory.mktemp("base") / "site")
    places = {"e": engines, "c": ROOT / "models" / "ois-tiny.safetensors"}
    lines = [*LACKING, *WITHOUT_ENGINES]
    given = [line.format(**places) for line in lines]
    done = python(site, RUN, json.dumps(given), cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, map(tuple, json.loads(done.stdout.splitlines()[-1])), strict=True))


@pytest.mark.parametrize("line", LACKING)
def test_the_message_names_the_extra(line: str, said: dict[str, tuple[int, str]]) -> None:
    code, text = said[line]
    assert code == 2, text
    assert "Traceback" not in text
    assert "defect" not in text
    assert f"'ois-deploy[{LACKING[line]}]'" in text
    if package := re.search(r"needs the package ([\w-]+)", text):
        extras = LACKING[line].split(",")
        assert any(package[1] in requirements(extra) for extra in extras), text


@pytest.mark.parametrize("line", WITHOUT_ENGINES)
def test_advice_names_no_file_of_a_checkout(line: str, said: dict[str, tuple[int, str]]) -> None:
    code, text = said[line]
    assert code == 2, text
    assert re.search(r"ois export( |\b)", text)
    assert "models/" not in text
    assert "defect" not in text


def test_every_extra_in_the_table_exists() -> None:
    for extras in EXTRAS.values():
        for extra in extras.split(","):
            assert requirements(extra)


def test_a_user_of_the_gpu_runtime_is_not_told_to_install_the_other_over_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "version", lambda name: {"onnxruntime-gpu": "1.31.1"}[name])
    error = ModuleNotFoundError("No module named 'psutil'", name="psutil")
    assert "'ois-deploy[gpu,bench]'" in str(missing_extra(error, ["bench", "kernels"]))
    error = ModuleNotFoundError("No module named 'openvino'", name="openvino")
    assert "'ois-deploy[cpu]'" in str(missing_extra(error, ["label"]))
