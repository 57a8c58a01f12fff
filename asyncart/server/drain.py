"""Leaving without anybody noticing: how a replica ends while clients go on.

On SIGTERM, in this order:

1. `/readyz` says no, so that whoever balances sends new connections elsewhere. Every answer from now on
   carries `Connection: close`, so that clients with an open connection make their next one elsewhere, too.
   New connections are still taken for a grace period: it takes balancers a moment to look;
2. then the listening socket is closed, and requests in flight are waited for;
3. connections that are idle then are closed, and the process exits with 0.

A second signal, or Ctrl-C on a terminal, leaves out the grace period. Nothing here loses data in any
case: a request that was cut off was either carried out or not, and is idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from functools import partial

import anyio


class Drain:
    """The state that everybody looks at. Used on one event loop."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._requested = asyncio.Event()
        self._hurried = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_draining(self) -> bool:
        return self._requested.is_set()

    def request(self, *, hurry: bool = False) -> None:
        """Begin to leave; asked again, or with `hurry`, without a grace period."""
        if hurry or self._requested.is_set():
            self._hurried.set()
        self._requested.set()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """A request is in flight inside."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def requested(self) -> None:
        """Return when it is time to begin to leave."""
        await self._requested.wait()

    async def grace(self, seconds: float) -> None:
        """Wait out the grace period, unless somebody is in a hurry."""
        with anyio.move_on_after(seconds):
            await self._hurried.wait()

    async def settled(self, seconds: float) -> bool:
        """Wait for the requests in flight; False if some are left after so long."""
        with anyio.move_on_after(seconds):
            await self._idle.wait()
        return not self.in_flight


@contextlib.contextmanager
def on_signals(drain: Drain) -> Iterator[None]:
    """SIGTERM begins to drain, SIGINT ends without grace."""
    loop = asyncio.get_running_loop()
    wanted = {signal.SIGTERM: False, signal.SIGINT: True}
    installed = []
    # Windows has no such handlers: there asyncio.Runner turns Ctrl-C into a cancellation
    with contextlib.suppress(NotImplementedError):
        for number, hurry in wanted.items():
            loop.add_signal_handler(number, partial(drain.request, hurry=hurry))
            installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
