"""For all tests: what a shell in the background leaves behind must not decide them; one fixture."""

import signal
from collections.abc import Iterator

import pytest

# A job that a script starts with `&` ignores Ctrl-C, and hands that on to its children; tests of
# Ctrl-C start programs that must notice it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: in tiny tensors more would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
