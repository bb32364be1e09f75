"""The trunk's results are computed once for two requests with the same prompts, in either order."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import numpy as np
import pytest

from ois_client.contract.clicks import SLOTS, Prompts
from ois_client.contract.errors import EngineError
from ois_client.contract.geometry import Geometry
from ois_runtime.engines.image_state import ImageState
from ois_runtime.engines.pair import HostPrompts
from ois_runtime.engines.region.sharing import TrunkResult, TrunkResults


def state() -> ImageState:
    depth = np.zeros((1, 14, 28), dtype=np.float32)
    ends = np.zeros(1, dtype=np.float32)
    arrays = {"depth": depth, "depth_min": ends, "depth_max": ends.copy()}
    return ImageState(arrays, Geometry(28, 14, 2, 1))


def prompts(x: float = 1) -> HostPrompts:
    return Prompts(
        np.full((1, SLOTS, 2), x, dtype=np.float32),
        np.ones((1, SLOTS), dtype=np.int32),
        np.zeros((1, 1, 2), dtype=np.uint8),
        np.zeros(1, dtype=np.bool_),
    )


class Trunk:
    """Counts its runs. started, go: to hold a run."""

    def __init__(self) -> None:
        self.runs = 0
        self.fails = 0
        self.started, self.go = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self) -> TrunkResult:
        self.runs += 1
        self.started.set()
        assert self.go.wait(5)
        if self.fails:
            self.fails -= 1
            raise EngineError("broken")
        return TrunkResult(np.zeros((1, 2, 4, 8), np.float32), np.zeros((1, 4, 8), np.float32))


def use(results: TrunkResults, at: ImageState, which: HostPrompts, trunk: Trunk, keep: bool) -> int:
    """The id of the result, which is the same for those who share it."""
    with results.shared(at, which, trunk, keep=keep) as found:
        return id(found.path)


def test_the_full_answer_finds_what_the_coarse_one_kept_and_drops_it() -> None:
    results, trunk, at = TrunkResults(), Trunk(), state()
    first = use(results, at, prompts(), trunk, keep=True)
    assert len(results) == 1
    assert use(results, at, prompts(), trunk, keep=False) == first
    assert (trunk.runs, len(results)) == (1, 0)
    use(results, at, prompts(), trunk, keep=False)
    assert (trunk.runs, len(results)) == (2, 0)


@pytest.mark.parametrize("coarse_first", [True, False])
def test_whoever_comes_second_waits_for_the_first(coarse_first: bool) -> None:
    results, trunk, at = TrunkResults(), Trunk(), state()
    trunk.go.clear()
    found: list[int] = []

    def run(keep: bool) -> Callable[[], None]:
        return lambda: found.append(use(results, at, prompts(), trunk, keep))

    threads = [threading.Thread(target=run(keep)) for keep in (coarse_first, not coarse_first)]
    threads[0].start()
    assert trunk.started.wait(5)
    threads[1].start()
    trunk.go.set()
    for thread in threads:
        thread.join(5)
    # Only a coarse answer that begins after the full one has ended computes again.
    assert len(found) == 2
    assert trunk.runs == 1 or not coarse_first


def test_a_coarse_answer_during_the_full_one_computes_nothing() -> None:
    results, trunk, at = TrunkResults(), Trunk(), state()
    with results.shared(at, prompts(), trunk, keep=False) as found:
        assert use(results, at, prompts(), trunk, keep=True) == id(found.path)
    assert (trunk.runs, len(results)) == (1, 0)


def test_other_prompts_and_other_images_share_nothing() -> None:
    results, trunk, at = TrunkResults(), Trunk(), state()
    use(results, at, prompts(), trunk, keep=True)
    use(results, at, prompts(2), trunk, keep=True)
    use(results, state(), prompts(), trunk, keep=True)
    assert trunk.runs == 3


def test_who_waits_for_a_run_that_fails_tries_itself() -> None:
    results, trunk, at = TrunkResults(), Trunk(), state()
    trunk.fails = 1
    trunk.go.clear()
    first = threading.Thread(target=_fails, args=(results, at, trunk))
    first.start()
    assert trunk.started.wait(5)
    second: list[int] = []
    other = threading.Thread(
        target=lambda: second.append(use(results, at, prompts(), trunk, keep=False))
    )
    other.start()
    trunk.go.set()
    first.join(5)
    other.join(5)
    assert len(second) == 1
    assert (trunk.runs, len(results)) == (2, 0)


def _fails(results: TrunkResults, at: ImageState, trunk: Trunk) -> None:
    with pytest.raises(EngineError):
        use(results, at, prompts(), trunk, keep=True)


def test_results_are_bounded_in_number_and_bytes_and_end_with_their_image() -> None:
    trunk, at = Trunk(), state()
    size = trunk().nbytes
    for results in (TrunkResults(most=2), TrunkResults(2 * size)):
        for x in range(4):
            use(results, at, prompts(x), trunk, keep=True)
        assert len(results) == 2
        runs = trunk.runs
        use(results, at, prompts(3), trunk, keep=True)  # the newest are kept
        assert trunk.runs == runs
    nothing = TrunkResults(size - 1)
    use(nothing, at, prompts(), trunk, keep=True)
    assert len(nothing) == 0
    del at
    gc.collect()
    use(results, state(), prompts(), trunk, keep=False)
    assert len(results) == 0
