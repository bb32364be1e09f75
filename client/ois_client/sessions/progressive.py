"""Progressive answers: the coarse answer of a click, requested beside the full one.

The full answer never depends on the coarse one: an error of the coarse request is ignored, and a
coarse answer that comes late is dropped. `CoarseThread` is for `Session`; `AsyncSession` has a
task instead.

A click that is answered within `COARSE_AFTER_S` gets no coarse request: nobody would see the coarse
mask, and where client and server share few cores, a second request takes time from the first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from ois_client.contract.errors import OISError
from ois_client.contract.transport import Answer, Cancellation, ClickReply, ClickRequest

#: How long a click waits for its full answer before it requests the coarse one.
COARSE_AFTER_S = 0.05

#: Called with a coarse reply.
Show = Callable[[ClickReply], object]


def coarse_request(request: ClickRequest) -> ClickRequest:
    """The request for the coarse answer to the same clicks, with masks only."""
    return replace(
        request, answer=Answer.COARSE, want_depth=False, want_logits=False, want_order=False
    )


class CoarseThread:
    """Requests the coarse answer in a thread of its own, `after_s` from now."""

    def __init__(
        self, ask: Callable[[Cancellation], ClickReply], show: Show, after_s: float
    ) -> None:
        """ask: performs the request. show: called in the thread, unless `end` was called before."""
        self._ask, self._show, self._after_s = ask, show, after_s
        self._cancellation = Cancellation()
        self._over = False
        self._showing = threading.Lock()
        threading.Thread(target=self._run, name="ois-coarse", daemon=True).start()

    def end(self) -> None:
        """The full answer is there, or nothing more will come. Waits while `show` runs."""
        self._over = True
        self._cancellation.cancel()
        with self._showing:
            pass

    def _run(self) -> None:
        try:
            self._cancellation.sleep(self._after_s)
            reply = self._ask(self._cancellation)
        except OISError:
            return
        with self._showing:
            if not self._over:
                self._show(reply)
