"""Run one coroutine as the whole work of a process, and end it promptly when it is asked to end.

The first Ctrl-C (or SIGTERM) cancels the work, which cleans up after itself. `GRACE_S` later the process
is gone in any case: what a stuck disk or reader kept us from removing is a temp file that says whose it
is, and the next run removes or continues it. The second one does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import anyio

from ..aio import Api
from .failures import Interrupted
from .options import Options

T = TypeVar("T")

GRACE_S = 1.7  # "within two seconds", less what the interpreter takes to leave
SHOW_CURSOR = "\x1b[?25h"


def with_api(options: Options, work: Callable[[Api], Awaitable[T]]) -> T:
    """Run the work on an Api of the options' home, entity and project."""

    async def whole() -> T:
        api = Api(
            entity=options.entity, project=options.project, home=options.home, **options.settings
        )
        async with api:
            return await work(api)

    return run(options, whole)


def run(options: Options, work: Callable[[], Awaitable[T]]) -> T:
    """The result of the work. Raises Interrupted after a signal, once the work has cleaned up."""
    _configure_logging(options.verbosity)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_supervised(work))


async def _supervised(work: Callable[[], Awaitable[T]]) -> T:
    result: list[T] = []
    with anyio.CancelScope() as scope, _signals(scope) as arrived:
        try:
            result.append(await work())
        except Exception:
            if not arrived:
                raise  # an error while it is being cancelled is part of the interruption
    if arrived:
        raise Interrupted(128 + arrived[0])
    return result[0]


@contextlib.contextmanager
def _signals(scope: anyio.CancelScope) -> Iterator[list[int]]:
    """Cancel the scope at the first signal; the list holds it then."""
    arrived: list[int] = []
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if arrived:
            _leave(128 + arrived[0])
        arrived.append(number)
        scope.cancel()
        timer = threading.Timer(GRACE_S, _leave, [128 + number])
        timer.daemon = True
        timer.start()

    wanted = [signal.SIGINT, signal.SIGTERM]
    try:
        for number in wanted:
            loop.add_signal_handler(number, on_signal, number)
    except NotImplementedError:  # Windows: asyncio.Runner turns Ctrl-C into a cancellation itself
        wanted = []
    try:
        yield arrived
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)
            if arrived:
                signal.signal(
                    number, signal.SIG_DFL
                )  # while we leave, the second one kills at once


def _leave(code: int) -> None:
    """End the process now, whatever it is doing."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), SHOW_CURSOR.encode())
    os._exit(code)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows, or a platform without a wheel
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


def _configure_logging(verbosity: int) -> None:
    logger = logging.getLogger("asyncart")
    logger.setLevel(LEVELS.get(verbosity, logging.DEBUG))
    if not logger.handlers:
        logger.addHandler(_ToStderr())
        logger.propagate = False


class _ToStderr(logging.Handler):
    """Looks stderr up at each line: a progress bar puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        from .words import printable

        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"asyncart: {printable(record.getMessage())}\n")
