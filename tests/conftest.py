"""For all tests: what a shell leaves behind must not decide them; no skip where a GPU must be."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

#: Set by benchmarks/run_gpu.sh: a test of a GPU that is skipped has shown nothing, so it fails.
GPU_REQUIRED = "OIS_GPU_REQUIRED"

# A job that a script starts with `&` ignores Ctrl-C, and hands that on to its children; tests of
# Ctrl-C start programs that must notice it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Tokens of servers that tests start: not those of this user's own servers, nor among them.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="ois-tests-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Undo what a measurement sets up for a process of its own; the next file must not notice."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(gradients)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: in tiny tensors more would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spread the scenarios, which wait for servers and browsers, between the tests that compute.

    Only where several workers share the cores. A file stays together.
    """
    if not hasattr(config, "workerinput"):
        return
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    scenarios = Path(__file__).parent / "scenarios"
    places: dict[Path, float] = {}
    for waits in (False, True):
        paths = [path for path in files if path.is_relative_to(scenarios) == waits]
        places |= {path: (number + 0.5) / len(paths) for number, path in enumerate(paths)}
    items[:] = [item for path in sorted(files, key=places.__getitem__) for item in files[path]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_where_a_gpu_is_required(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_where_a_gpu_is_required(report, collector.path)  # a whole file that skips itself
    return report


def _fail_where_a_gpu_is_required(
    report: pytest.TestReport | pytest.CollectReport, file: Path
) -> None:
    in_gpu = file.parent == Path(__file__).parent / "gpu"
    if os.environ.get(GPU_REQUIRED) and in_gpu and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{GPU_REQUIRED} is set, and this did not run: {reason}"
