"""All work on a GPU is started by one thread, clicks first."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ois_runtime.torch.gpu_thread import GpuThread, in_new_thread


def name() -> str:
    return threading.current_thread().name


def test_one_thread_runs_what_many_ask_for() -> None:
    thread = GpuThread()
    with ThreadPoolExecutor(6) as pool:
        idents = list(pool.map(lambda n: (thread.call(threading.get_ident, 0), n)[0], range(60)))
    assert len(set(idents)) == 1
    assert threading.get_ident() not in idents
    assert thread.call(torch.is_inference_mode_enabled, 0)


def test_a_click_passes_the_encodes_that_wait() -> None:
    thread = GpuThread()
    started, go = threading.Event(), threading.Event()
    order: list[str] = []

    def hold() -> None:
        started.set()
        go.wait(10)

    with ThreadPoolExecutor(4) as pool:
        pool.submit(thread.call, hold, 0)
        started.wait(10)
        for word, priority in (("encode 1", 0), ("encode 2", 0), ("click", -1)):
            waiting = thread._jobs.qsize()
            pool.submit(thread.call, lambda word=word: order.append(word), priority)
            while thread._jobs.qsize() == waiting:
                time.sleep(0.001)
        go.set()
    assert order == ["click", "encode 1", "encode 2"]


@pytest.mark.parametrize("run", [lambda f: GpuThread().call(f, 0), in_new_thread])
def test_an_error_reaches_the_caller_and_keeps_nothing_alive(run) -> None:  # type: ignore[no-untyped-def]
    held: list[weakref.ref[torch.Tensor]] = []

    def fails() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise RuntimeError("this one")

    gc.disable()  # what only the garbage collector would free does not count
    try:
        with pytest.raises(RuntimeError, match="this one") as caught:
            run(fails)
        del caught
        time.sleep(0.01)
        assert held[0]() is None
    finally:
        gc.enable()


def test_the_thread_ends_with_its_owner() -> None:
    thread = GpuThread()
    inner = thread.call(threading.current_thread, 0)
    assert inner.is_alive()
    del thread
    inner.join(10)
    assert not inner.is_alive()


def test_a_new_thread_is_new_each_time() -> None:
    local = threading.local()

    def first() -> bool:
        known = hasattr(local, "known")
        local.known = True
        return known

    assert not first()
    assert first()
    assert [in_new_thread(first) for _ in range(2)] == [False, False]
    assert in_new_thread(name) == "ois-gpu-capture"
