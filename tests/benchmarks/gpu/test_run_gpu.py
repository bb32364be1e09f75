"""benchmarks/run_gpu.sh is checked without a GPU: commands, time limits, single steps, report."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from packaging.requirements import Requirement

from ois_cli.main import app, main
from ois_network.checkpoints.checkpoint import save_checkpoint
from support.extras import PROJECT
from support.network_scenes import MICRO, random_network

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "benchmarks" / "run_gpu.sh"
#: Time limits in seconds: of all steps together, and of one command on a borrowed machine.
ALL_S, COMMAND_S = 28 * 60, 600
#: What a first command of ten minutes runs, most of it well within its limits.
FIRST = [
    "gpu",
    "ceilings",
    "engine",
    "profile",
    "kernels",
    "engine-kernels",
    "compiled",
    "spc",
    "sat",
]
FIRST_S = 720
REHEARSAL = ROOT / "tests" / "support" / "gpu_rehearsal"


def script(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHON": sys.executable, "SCRATCH": "SCRATCH", **environment},
    )


def plan(folder: Path, *steps: str, **environment: str) -> dict[str, tuple[int, list[str]]]:
    """Time limit in seconds and command of every step, by name."""
    done = script("--dry-run", str(folder), *steps, **environment)
    assert done.returncode == 0, done.stderr
    lines = (line.split("\t") for line in done.stdout.splitlines())
    return {name: (int(limit), shlex.split(words)) for name, limit, words in lines}


STEPS = plan(Path("RESULTS"))


@pytest.mark.parametrize("step", STEPS)
def test_every_command_is_accepted_by_its_program(step: str) -> None:
    _, words = STEPS[step]
    assert words[0] == sys.executable
    if words[1] == "-c":
        compile(words[2], step, "exec")
    elif words[2] == "ois_cli.main":
        _parse_ois(words[3:])
    else:
        assert words[2] == "pytest"
        files = [word for word in words[3:] if word.startswith("tests/")]
        assert files
        assert all((ROOT / file).is_file() for file in files)


def _parse_ois(words: Sequence[str]) -> None:
    """Parse the words as the command line does, without running the command."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"ois {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    command.make_context(command.name, rest)


def test_contestants_and_paces_exist_and_the_gpu_comes_first() -> None:
    from ois_benchmarks.contestants.registry import CONTESTANTS, FAST, wants_export

    for step in ("spc", "sat", "session", "spc-trt"):  # on the GPU, and one size
        _, words = STEPS[step]
        named = [words[place + 1] for place, word in enumerate(words) if word == "-c"]
        assert set(named) <= {*CONTESTANTS, *FAST}
        assert not any(wants_export(name) for name in named), "an export takes minutes"
        assert not any(name.endswith("-onnx") for name in named), "those run on the CPU"
        assert words[words.index("--device") + 1] == "cuda"
        assert words[words.index("--size") + 1] == "1024x1024"
    spc = STEPS["spc"][1]
    assert spc.index("ois-torch-cuda") < spc.index("segnext-sax2") < spc.index("sam-vitb")
    # A ratio counts only against the best form of a peer.
    shipped = [name for name in spc if f"{name}-fp16" in FAST]
    assert {f"{name}-fp16" for name in shipped} - {"hqsam-vitb-fp16"} <= set(spc)


def test_all_steps_stay_within_the_time_limit() -> None:
    limits = [limit for limit, _ in STEPS.values()]
    assert sum(limits) < ALL_S
    assert max(limits) <= COMMAND_S / 2  # so that two fit, with the machine's start
    assert sum(STEPS[name][0] for name in FIRST) <= FIRST_S


def test_the_most_telling_steps_come_first_and_have_one_name() -> None:
    assert list(STEPS)[: len(FIRST)] == FIRST
    assert list(plan(Path("RESULTS"), "first")) == FIRST
    assert list(plan(Path("RESULTS"), "first", "parity")) == [*FIRST, "parity"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_script_runs_on_a_cpu_with_a_tiny_network_and_a_stand_in_clock(tmp_path: Path) -> None:
    """`OIS_REHEARSE=all`, as `make test-gpu-image` sets it, also runs the other first steps."""
    report = ["report"] if find_spec("matplotlib") else []
    steps = ["gpu", "engine", "profile", *report]
    if os.environ.get("OIS_REHEARSE") == "all":
        # `kernels` needs a compiler for a GPU; `engine-kernels` is `engine` once more.
        steps = [*(name for name in FIRST if "kernels" not in name), *report]
    file = tmp_path / "micro.safetensors"
    save_checkpoint(random_network(MICRO, seed=1), file, trained=False)
    tiny = {"DEVICE": "cpu", "CHECKPOINT": str(file), "SIZE": "112x112", "PICTURE": "96x96"}
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "results"), *steps],
        capture_output=True,
        text=True,
        timeout=1200,
        env={
            **os.environ,
            **tiny,
            "WRITE": "",
            "OBJECTS": "1 2",
            "CONTESTANTS": "ois-torch-cuda",
            "PATIENCE": "20",
            "PYTHON": sys.executable,
            "SCRATCH": str(tmp_path / "scratch"),
            "CARRIED": str(tmp_path / "none"),
            "PYTHONPATH": os.pathsep.join((str(REHEARSAL), str(ROOT / "tests"))),
        },
    )
    assert done.returncode == 0, done.stderr
    summary = (tmp_path / "results" / "summary.txt").read_text().splitlines()
    said = {line.split()[0]: line for line in summary[1:]}
    logs = {name: (tmp_path / "results" / f"{name}.log").read_text()[-2000:] for name in steps}
    assert all(said[name].endswith(" ok") for name in steps), (said, logs)
    engine = json.loads((tmp_path / "results" / "gpu-engine-vitb.json").read_text())
    assert [row["objects"] for row in engine["rows"]] == [0, 1, 2]
    assert engine["rows"][1]["replay"]["median"] == 10.0
    profile = json.loads((tmp_path / "results" / "profile.json").read_text())
    assert any("conv" in kernel["name"] for kernel in profile["click"])
    for name in {"spc", "sat"} & set(steps):
        measured = json.loads((tmp_path / "results" / f"{name}-vitb-gpu.json").read_text())
        (row,) = measured["rows"]
        assert row["figures"]
    with tarfile.open(tmp_path / "results" / "results.tar.gz") as packed:
        names = {"./summary.txt", "./profile.json", *(f"./{name}.html" for name in report)}
        assert names <= set(packed.getnames())


def test_results_are_packed_after_every_step(tmp_path: Path) -> None:
    """The machine goes away in the third step."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *gpu-profile*) sleep 60;; *) echo done;; esac\n')
    python.chmod(0o755)
    results = tmp_path / "results"
    with subprocess.Popen(
        ["bash", str(SCRIPT), str(results), "ceilings", "engine", "profile"],
        env={**os.environ, "PYTHON": str(python), "SCRATCH": str(tmp_path / "scratch")},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        try:
            deadline = time.monotonic() + 60
            while not (results / "profile.log").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
    with tarfile.open(results / "results.tar.gz") as packed:
        names = packed.getnames()
        summary = packed.extractfile("./summary.txt")
        assert summary is not None
        said = summary.read().decode()
    assert {"./ceilings.log", "./engine.log"} <= set(names)
    assert not any("results.tar.gz" in name for name in names)
    assert [line.split()[0] for line in said.splitlines()[1:]] == ["ceilings", "engine"]


def test_what_was_carried_is_found(tmp_path: Path) -> None:
    (tmp_path / "carried" / "peers" / "segnext").mkdir(parents=True)
    found = plan(tmp_path, "spc", CARRIED=str(tmp_path / "carried"))
    words = found["spc"][1]
    assert f"segnext={tmp_path}/carried/peers/segnext" in words


def test_copies_of_clones_have_code_and_the_commit_only(tmp_path: Path) -> None:
    """`pip` is replaced: an index is not needed to test the rest of `prepare_gpu.sh`."""
    clone = tmp_path / "clones" / "segnext"
    (clone / "isegm").mkdir(parents=True)
    (clone / "isegm" / "model.py").write_text("x = 1\n")
    (clone / "LICENSE").write_text("free")
    (clone / "picture.png").write_bytes(b"p" * 10)
    (clone / "weights.py").write_bytes(b"#" * 2_000_000)
    (tmp_path / "clones" / "other").mkdir()
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >> ' + str(tmp_path / "asked") + "\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT.with_name("prepare_gpu.sh")), str(tmp_path / "clones"),
         str(tmp_path / "out")],
        capture_output=True, text=True, env={**os.environ, "PYTHON": str(python)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not used: other" in done.stderr
    copied = tmp_path / "out" / "peers" / "segnext"
    assert {str(path.relative_to(copied)) for path in copied.rglob("*") if path.is_file()} == {
        "isegm/model.py", "LICENSE", "COMMIT"
    }  # fmt: skip
    wheels, peers = (tmp_path / "asked").read_text().splitlines()
    assert "--python-version 3.12" in wheels
    assert "torch" not in wheels.split()
    assert "--no-deps" in peers
    assert "--no-deps" not in wheels  # pip finds what a new version of a package needs
    carried = {Requirement(word).name for word in wheels.split() if ">=" in word}
    base = {Requirement(word).name for word in PROJECT["dependencies"]}
    assert base - carried == {"numpy", "tritonclient"}  # the machine's own; for servers
    from ois_benchmarks.contestants.code import _version

    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert _version(copied) == (head.stdout.strip(), False)


def test_the_first_import_of_gpu_libraries_has_enough_time() -> None:
    """From a cold disk, `import torch` takes most of a minute. If `gpu` fails, everything ends."""
    assert STEPS["gpu"][0] >= 120
    assert min(STEPS[step][0] for step in ("ceilings", "click")) >= 45


def test_parity_covers_the_engine_and_the_kernels() -> None:
    assert STEPS["parity"][1][-2:] == ["tests/gpu/test_engine.py", "tests/gpu/test_kernels.py"]


def test_every_step_has_its_own_name() -> None:
    text = SCRIPT.read_text()
    assert text.count("step gpu ") == 1
    names = [line.split()[1] for line in text.splitlines() if line.strip().startswith("step ")]
    assert sorted([*names, "gpu"]) == sorted(STEPS)


def test_a_step_reads_only_what_earlier_steps_wrote() -> None:
    order = list(STEPS)
    for reader, writers in {
        "engine-kernels": ["kernels"],
        "plugin": ["kernels", "profile-trt"],
        "spc-trt": ["graphs-trt", "build-trt"],
        "report": [name for name in STEPS if name != "report"],
    }.items():
        assert all(order.index(writer) < order.index(reader) for writer in writers)
    written = {word for _, words in STEPS.values() for word in words}
    from ois_benchmarks.gpu import layers

    for file in (layers.PROFILE, layers.LAYERS, "kernels.json"):
        assert f"RESULTS/{file}" in written


def test_clones_of_peers_are_used_if_present(tmp_path: Path) -> None:
    (tmp_path / "peers" / "segnext").mkdir(parents=True)
    found = plan(tmp_path, "spc", "sat", PEERS=str(tmp_path / "peers"))
    assert list(found) == ["spc", "sat"]
    for _, words in found.values():
        assert words.count("--checkout") == 1
        assert words[words.index("--checkout") + 1] == f"segnext={tmp_path}/peers/segnext"


def test_an_unused_folder_of_peers_is_reported(tmp_path: Path) -> None:
    for name in ("segnext", "SimpleClick", "sam-hq"):
        (tmp_path / "peers" / name).mkdir(parents=True)
    script(str(tmp_path), "plugin", SCRATCH=str(tmp_path), PEERS=str(tmp_path / "peers"))
    summary = (tmp_path / "summary.txt").read_text()
    names = "its folders must be named segnext sam hqsam simpleclick"
    assert summary.count("not used: ") == 2
    for name in ("SimpleClick", "sam-hq"):
        assert f"not used: {name} in PEERS; {names}" in summary
    script(str(tmp_path), "plugin", SCRATCH=str(tmp_path), PEERS=str(tmp_path / "none"))
    assert f"PEERS is {tmp_path}/none, but there is no such folder" in (
        (tmp_path / "summary.txt").read_text()
    )


def test_an_unknown_step_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = script(str(tmp_path), "engine", "speed", SCRATCH=str(tmp_path))
    assert done.returncode == 2
    assert "got the step speed; expected some of gpu ceilings engine" in done.stderr
    assert not (tmp_path / "summary.txt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_run_ends_at_the_first_step(tmp_path: Path) -> None:
    done = script(str(tmp_path), SCRATCH=str(tmp_path))
    assert done.returncode == 2
    assert "no usable GPU" in done.stderr
    summary = (tmp_path / "summary.txt").read_text()
    assert "gpu " in summary
    assert "ceilings" not in summary


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_partial_run_reports_failures_and_remaining_steps(tmp_path: Path) -> None:
    done = script(str(tmp_path), "ceilings", "spc-trt", SCRATCH=str(tmp_path))
    assert done.returncode == 0
    said = (tmp_path / "summary.txt").read_text()
    assert "error: this measurement needs an NVIDIA GPU" in said
    assert (tmp_path / "ceilings.log").is_file()
    if "skipped" in said:
        assert "spc-trt        skipped: no TensorRT here" in said
    left = said.partition("not requested:")[2]
    assert "engine (80 s)" in left
    assert "ceilings" not in left


def test_the_summary_names_a_package_that_the_doctor_misses(tmp_path: Path) -> None:
    """The summary quotes the last line of the log, so the doctor prints the reason last."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "from ois_cli import packages\n"
        "packages.PACKAGES = (packages.Package('no-such', 'no_such', '', 'x'),)\n"
    )
    script(str(tmp_path), "doctor", SCRATCH=str(tmp_path), PYTHONPATH=str(tmp_path / "site"))
    (line,) = [
        line
        for line in (tmp_path / "summary.txt").read_text().splitlines()
        if line.startswith("doctor ")
    ]
    reason = "broken parts of the base install: no-such; pip install 'ois-deploy'"
    assert line.endswith(f"failed (1): {reason}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_step_that_measured_nothing_has_failed(tmp_path: Path) -> None:
    done = script(str(tmp_path), "parity", "cold-start", SCRATCH=str(tmp_path))
    assert done.returncode == 0
    summary = (tmp_path / "summary.txt").read_text().splitlines()
    said = dict(line.split(maxsplit=1) for line in summary)
    assert "failed (1)" in said["parity"]
    assert "passed" not in said["parity"]
    assert "skipped" not in said["parity"]
    assert "failed (1)" in said["cold-start"]
    assert "nothing was measured; each row gives the reason" in said["cold-start"]
    assert "needs an NVIDIA GPU that PyTorch can use" in (tmp_path / "parity.log").read_text()


@pytest.mark.skipif(find_spec("pytriton") is None, reason="the embedded server is not installed")
def test_steps_are_skipped_with_the_reason_if_the_server_cannot_start(tmp_path: Path) -> None:
    """The server is installed, but with NumPy 2, whose metadata come first on the path."""
    about = tmp_path / "site" / "numpy-2.4.0.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.4.0\n")
    found = os.pathsep.join((str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")))
    done = script(str(tmp_path), "session", "serving", SCRATCH=str(tmp_path), PYTHONPATH=found)
    assert done.returncode == 0
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    skipped = "skipped: no usable embedded server here: the embedded server needs NumPy 1.26; this"
    for step, line in zip(("session", "serving"), lines[1:3], strict=True):
        assert line.startswith(f"{step:14} {skipped} environment has 2.4.0")


def test_a_gpu_test_file_that_skips_itself_fails_if_a_gpu_is_required(tmp_path: Path) -> None:
    """As with `pytest.importorskip` at the top of a file; other tests may be skipped."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    skips = "import pytest\npytest.skip('no such library', allow_module_level=True)\n"
    (tmp_path / "gpu").mkdir()
    for name in ("gpu/test_whole.py", "test_other.py"):
        (tmp_path / name).write_text(skips)
    words = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    for name, environment, code, said in (
        ("gpu/test_whole.py", {"OIS_GPU_REQUIRED": "1"}, 2, "did not run: Skipped: no such"),
        ("gpu/test_whole.py", {"OIS_GPU_REQUIRED": ""}, 5, "1 skipped"),
        ("test_other.py", {"OIS_GPU_REQUIRED": "1"}, 5, "1 skipped"),
    ):
        done = subprocess.run(
            [*words, name], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert said in done.stdout


def test_the_report_accepts_the_folder_with_all_files(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cold start and the table of kernels are not part of the report, and do not stop it."""
    replay = {"median": 900.0, "low": 890.0, "high": 910.0}
    row = {"objects": 1, "replay": replay, "call_us": 1000.0, "floor_us": 250.0, "masks": replay}
    row |= {"bound": "arithmetic"}
    engine = {"network": "vitb", "weights": "random", "engine": "torch", "size": "1022x1022"}
    engine |= {"benchmark": "gpu-engine", "rows": [row], "shapes": [], "machine": {"gpu": "H100"}}
    (results / "gpu-engine-vitb.json").write_text(json.dumps(engine))
    call = {"objects": 1, "keys": 5329, "heads": 8, "channels": 256, "dtype": "float16"}
    row = {"call": call, "kernels_cold": replay, "torch_cold": replay, "fused_us": 800.0}
    row |= {"floor_us": 250.0}
    kernels = {"benchmark": "kernels", "rows": [row], "machine": {"gpu": "H100"}}
    others = {"kernels": kernels, "cold-start": {"benchmark": "cold-start"}, "measured": {}}
    for name, document in others.items():
        (results / f"{name}.json").write_text(json.dumps(document))
    (results / "summary.txt").write_text("gpu ok")
    _, words = plan(results, "report")["report"]
    assert main(words[3:]) == 0
    assert (results / "report.html").is_file()
    text = (results / "report.md").read_text()
    assert "Seconds per click" in text
    assert "| click, 1 objects | 900 (890 to 910) | 250 | 28% | arithmetic |" in text
    assert "Masked attention on a GPU" in text
    said = capsys.readouterr().err
    assert "left out measured.json" in said
    assert "cold-start" not in said  # ignored silently
