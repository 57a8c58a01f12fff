"""Run coroutines of `asyncart.aio` for callers that block.

One event loop on one daemon thread per process, started by the first call. What is promised:

- **Ctrl-C is safe.** An interrupt in the caller's thread cancels the call, waits (bounded) until its
  clean-up is done, and is then raised. A second interrupt abandons the call and is raised at once.
  `KeyboardInterrupt`, `SystemExit` and `GeneratorExit` of a `with` body are never thrown into the
  loop: the coroutine sees `BodyInterrupted`, an ordinary exception. A coroutine that raises them
  itself (a user's callback may call `sys.exit`) does not stop the loop; its caller gets them.
- **Fork is safe.** A child forgets the loop, its thread and its lock, and never finalises them: closing
  an inherited epoll descriptor would disturb the parent. The first call in the child starts afresh.
- **Errors arrive as themselves**: the only error of a task group without its ExceptionGroup; several
  as a `TransferError` that lists them.
- **One task per scope.** A `with` (or an iteration) that spans several bridged calls is held by one
  task from its beginning to its end, so that task groups and cancel scopes inside may live in it.
- **The caller's context variables** are seen by the call. A caller that runs an event loop of its own
  (Jupyter) is no special case, since this loop is elsewhere. A call from this loop's own thread would
  wait for itself: it is refused.
- **Exit**: what was registered with `at_exit` runs after the last ordinary thread has ended and while
  threads can still be started, then the loop is closed.

Not anyio's ready-made portal, but the same on a bare loop: the portal dies of a single
KeyboardInterrupt, and a call through it costs twice as much (50-70 us against 25-35 us here, of which
20 us are the two thread switches). The tasks of calls are owned by the loop thread's `works` instead
of a task group, whose `start_soon` alone takes 25 us.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Generic, NamedTuple, NoReturn, ParamSpec, TypeVar

import anyio

from .engine.tasks import collapsed
from .errors import AsyncartError, Invalid, Unavailable

log = logging.getLogger("asyncart.bridge")

CLEANUP_S = 10.0  # twice the 5 s that one shielded clean-up may take
EXIT_S = 30.0  # for each thing that is finished at exit: a catalog may be slow, but not for ever
CLOSE_S = 2.0  # at exit, for calls that daemon threads left behind
# A Ctrl-C that comes just before the thread falls asleep, or on Windows at any time, is only seen
# between two waits
_WAIT_SLICE_S = 0.2

P = ParamSpec("P")
T = TypeVar("T")


class BodyInterrupted(AsyncartError):
    """What an async context manager sees when the blocking `with` body was left by Ctrl-C or exit."""

    code = "interrupted"


def _name_of(function: Callable[..., object]) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))


# --- one loop, one thread ----------------------------------------------------------------------


class _Signal:
    """Set once by the loop, awaited by a blocking thread. A bare lock: the cheapest there is."""

    __slots__ = ("_lock", "is_set")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_set = False

    def set(self) -> None:
        if not self.is_set:
            self.is_set = True
            self._lock.release()

    def wait(self, timeout_s: float = threading.TIMEOUT_MAX) -> bool:
        while not self.is_set and timeout_s > 0:
            slice_s = min(_WAIT_SLICE_S, timeout_s)
            if self._lock.acquire(timeout=slice_s):
                self._lock.release()
            timeout_s -= slice_s
        return self.is_set


class _LoopThread:
    """The loop, its thread, and the work that runs there: it ends no earlier than all of it."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self.works: dict[_Work, asyncio.Task[None]] = {}
        self.id = 0
        self._started = _Signal()
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="asyncart-loop", daemon=True)

    def start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as error:
            raise Unavailable(f"asyncart's event loop cannot start now: {error}") from error

    def await_started(self) -> None:
        self._started.wait()
        if self._failure is not None:
            raise Unavailable(f"asyncart's event loop cannot start: {self._failure}")

    def _main(self) -> None:
        self.id = threading.get_ident()
        try:
            self.loop = _new_loop()
        except BaseException as error:  # no file descriptors left, for instance
            self._failure = error
            self._started.set()
            return
        # anyio keeps its worker threads for as long as the root task runs; it lives in no other task
        root = self.loop.create_task(self._serve())
        while not root.done():
            try:
                self.loop.run_until_complete(root)
            except (KeyboardInterrupt, SystemExit) as error:
                # raised by a child task or callback; a child's task group hands it to the caller too
                log.debug("the loop goes on after %r", error)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def _serve(self) -> None:
        self._started.set()
        await self._stop.wait()
        while self.works:
            for work in self.works:
                work.cancel_for_exit()
            await asyncio.wait(self.works.values())

    def begin(self, work: _Work) -> None:
        """Runs in the loop, in the caller's context: the task sees its variables."""
        if self._stop.is_set():
            work.cancel_for_exit()
        else:
            self.works[work] = self.loop.create_task(self._execute(work))

    async def _execute(self, work: _Work) -> None:
        try:
            await work.execute()
        finally:
            del self.works[work]
            work.finish()  # the last step, since the caller's thread goes on from here

    def close(self) -> None:
        self.await_started()
        with suppress(RuntimeError):  # closed already
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_S)


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform != "win32":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
            return loop
    return asyncio.new_event_loop()


class _Finisher(NamedTuple):
    """See `at_exit`."""

    finish: Callable[[], Awaitable[object]]
    in_children: bool
    is_wanted: Callable[[], bool]


class Bridge:
    """The way from blocking callers to the loop. A process has one: use the functions below."""

    def __init__(self) -> None:
        self.is_inherited = False  # True in a forked child: the loop belongs to the parent
        self._lock = threading.Lock()
        self._thread: _LoopThread | None = None
        self._finishers: list[_Finisher] = []

    @property
    def is_started(self) -> bool:
        return self._thread is not None

    def thread(self) -> _LoopThread:
        """The loop thread, started by whoever asks first."""
        thread = self._thread
        if thread is None:
            with self._lock:
                thread = self._thread
                if thread is None:
                    thread = _LoopThread()
                    thread.start()
                    self._thread = thread
        thread.await_started()
        return thread

    def add_finisher(self, finisher: _Finisher) -> None:
        self._finishers.append(finisher)

    def for_child(self) -> Bridge:
        """The bridge of a process that was forked from this one's."""
        self.is_inherited = True
        bridge = Bridge()
        bridge._finishers = [each for each in self._finishers if each.in_children]
        return bridge

    def run_finishers(self) -> None:
        """The latest first. One that fails is logged: there is nobody left to raise it to."""
        while self._finishers:
            finish, _, is_wanted = self._finishers.pop()
            if self.is_started or is_wanted():
                try:
                    call(_within_limit, finish)
                except Exception:
                    log.exception("%s failed at exit", _name_of(finish))

    def close(self) -> None:
        """Cancel what still runs, close the loop, end the thread. The next call starts a new one."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()


# --- what runs on it ---------------------------------------------------------------------------


class _Work:
    """One task on the loop, and the blocking thread that waits for it.

    `done` is set when the task has ended, its clean-up included; `awaited` at the same time, if the
    task did not set it before.
    """

    def __init__(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.done = self.awaited = _Signal()
        self._body = body
        self._bridge: Bridge | None = None  # None: not handed over yet
        self._is_exiting = False
        self._scope: anyio.CancelScope | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_inherited(self) -> bool:
        return self._bridge is not None and self._bridge.is_inherited

    def run(self) -> None:
        """Hand the task to the loop and wait for what is `awaited`."""
        bridge = _bridge
        thread = bridge.thread()
        if thread.id == threading.get_ident():
            self._refuse()
        try:
            self._bridge, self._loop = bridge, thread.loop
            self.on_loop(thread.begin, self)
            self.awaited.wait()
        except BaseException:  # KeyboardInterrupt, or whatever a signal handler raises
            self.stop()
            raise

    def wait(self) -> None:
        """Wait for what is `awaited` of a task that runs already."""
        try:
            self.awaited.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancel, and wait for the clean-up; another interrupt ends the wait at once."""
        self.cancel()
        self.await_cleanup()

    def await_cleanup(self) -> None:
        if not self.is_inherited and not self.done.wait(CLEANUP_S):
            log.warning("%s: still cleaning up after %.0f s: left behind", self.name, CLEANUP_S)

    def cancel(self) -> None:
        """Ask the task to end; never waits, never raises."""
        with suppress(Unavailable):
            self.on_loop(self._cancel)

    def on_loop(self, function: Callable[..., None], *args: object) -> None:
        """Have the loop call the function. Calls keep their order."""
        if self._loop is None or self.is_inherited:
            return
        try:
            self._loop.call_soon_threadsafe(function, *args, context=contextvars.copy_context())
        except RuntimeError as error:
            raise Unavailable(f"{self.name}: asyncart's event loop is closed: {error}") from error

    def reraise(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # no cycle error -> traceback -> frame -> error

    def _refuse(self) -> NoReturn:
        raise Invalid(
            f"{self.name}: a blocking call on asyncart's own event loop would wait for itself;"
            " in code that runs there, await the call of asyncart.aio instead"
        )

    async def execute(self) -> None:
        if self.done.is_set:  # interrupted before it began
            return
        try:
            with anyio.CancelScope() as self._scope:
                await self._body()
            if self._scope.cancelled_caught:
                self.error = self._cancelled()
        except asyncio.CancelledError:  # raised by the code itself: nobody else cancels the task
            self.error = self._cancelled()
        except BaseException as error:
            # KeyboardInterrupt and SystemExit too: they are the caller's business, not the loop's
            self.error = collapsed(error) if isinstance(error, BaseExceptionGroup) else error

    def _cancelled(self) -> Unavailable:
        why = "because the program ends" if self._is_exiting else "from inside"
        return Unavailable(f"{self.name}: cancelled {why}")

    def cancel_for_exit(self) -> None:
        self._is_exiting = True
        if self._scope is None:
            self.error = self._cancelled()
        self._cancel()

    def _cancel(self) -> None:
        if self._scope is None:
            self.finish()
        else:
            self._scope.cancel()

    def finish(self) -> None:
        self.done.set()
        self.awaited.set()


class Scope(Generic[T]):
    """A blocking `with` over an async context manager; one task enters, holds and leaves it."""

    def __init__(
        self, name: str, open_manager: Callable[[], AbstractAsyncContextManager[T, bool | None]]
    ) -> None:
        self._open = open_manager
        self._value: list[T] = []
        self._leave = asyncio.Event()
        self._body_error: Exception | None = None
        self._was_suppressed = False
        self._work = _Work(name, self._hold)

    async def _hold(self) -> None:
        async with self._open() as value:
            self._value.append(value)
            self._work.awaited.set()
            await self._leave.wait()
            if self._body_error is not None:
                raise self._body_error
        self._was_suppressed = self._body_error is not None

    def __enter__(self) -> T:
        self._work.awaited = _Signal()
        self._work.run()
        if not self._value:
            self._work.reraise()
        return self._value.pop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        work = self._work
        if work.is_inherited:  # a forked child leaves the body; the scope is the parent's
            return False
        is_interrupt = error is not None and not isinstance(error, Exception)
        if error is not None:
            self._body_error = error if isinstance(error, Exception) else _stand_in(error)
        work.awaited = work.done
        with suppress(Unavailable):  # the loop was closed, and the scope with it
            work.on_loop(self._leave.set)
        if is_interrupt:
            work.await_cleanup()
        else:
            work.wait()
        if work.error is self._body_error and error is not None:
            work.error = None
            error.__traceback__ = traceback  # without the loop's frames
        elif is_interrupt and work.error is not None and not isinstance(error, GeneratorExit):
            # Ctrl-C must stay a Ctrl-C, or `except Exception: continue` around us would eat it
            assert error is not None
            error.add_note(f"and its clean-up failed: {type(work.error).__name__}: {work.error}")
            work.error = None
        work.reraise()
        return self._was_suppressed and not is_interrupt


def _stand_in(interrupt: BaseException) -> BodyInterrupted:
    error = BodyInterrupted(f"the body was left by {type(interrupt).__name__}")
    error.__cause__ = interrupt
    return error


class Stream(Iterator[T]):
    """A blocking iteration over an async one; one task owns it, however long the caller pauses.

    The loop knows the pump only, so that a stream nobody holds any more ends its task.
    """

    def __init__(self, name: str, source: Callable[[], AsyncIterable[T]]) -> None:
        self._pump = _Pump(name, source)

    def __next__(self) -> T:
        return self._pump.take()

    def __del__(self) -> None:
        # may run on any thread, the loop's included: it must not wait
        if not self._pump.work.done.is_set:
            self._pump.work.cancel()


class _Pump(Generic[T]):
    def __init__(self, name: str, source: Callable[[], AsyncIterable[T]]) -> None:
        self.work = _Work(name, self._run)
        self._source = source
        self._items: list[T] = []
        self._wanted = asyncio.Event()
        self._is_running = False

    async def _run(self) -> None:
        items = aiter(self._source())
        try:
            async for item in items:
                self._wanted.clear()
                self._items.append(item)
                self.work.awaited.set()
                await self._wanted.wait()
        finally:
            # here, in its own task: the garbage collector would close it in another
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    def take(self) -> T:
        work = self.work
        if work.done.is_set:
            raise StopIteration
        if work.is_inherited:
            raise Invalid(f"{work.name}: begun in the parent process; begin another iteration here")
        work.awaited = _Signal()
        if self._is_running:
            work.on_loop(self._wanted.set)
            work.wait()
        else:
            self._is_running = True
            work.run()
        if self._items:
            return self._items.pop()
        work.reraise()
        raise StopIteration


async def _within_limit(finish: Callable[[], Awaitable[object]]) -> None:
    with anyio.fail_after(EXIT_S):
        await finish()


# --- the public functions ----------------------------------------------------------------------


def call(function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Await `function(*args, **kwargs)` on the loop; block until it has returned or raised."""
    result: list[T] = []

    async def body() -> None:
        result.append(await function(*args, **kwargs))

    work = _Work(_name_of(function), body)
    work.run()
    work.reraise()
    return result.pop()


def scope(
    open_manager: Callable[P, AbstractAsyncContextManager[T, bool | None]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Scope[T]:
    """`async with open_manager(...)` for a blocking `with`."""
    return Scope(_name_of(open_manager), lambda: open_manager(*args, **kwargs))


def iterate(
    source: Callable[P, AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> Iterator[T]:
    """`async for` over `source(...)` for a blocking `for`."""
    return Stream(_name_of(source), lambda: source(*args, **kwargs))


def at_exit(
    finish: Callable[[], Awaitable[object]],
    *,
    in_children: bool = False,
    is_wanted: Callable[[], bool] = lambda: False,
) -> None:
    """Await `finish()` on the loop when the program ends, if the loop was used at all, or `is_wanted()`.

    What a forked child inherits is its parent's to finish; with `in_children` it is awaited in the
    child, too, if that used a loop of its own: for what finishes only things of its own process.

    It is awaited for `EXIT_S` at most, and after every ordinary (non-daemon) thread has ended: it must
    not be what one of them waits for.
    """
    # a loop that is started at exit needs it, and by then it cannot be imported any more
    import concurrent.futures.thread  # noqa: F401

    _bridge.add_finisher(_Finisher(finish, in_children, is_wanted))


def is_started() -> bool:
    return _bridge.is_started


def close() -> None:
    """End the loop and its thread; the next call starts anew."""
    _bridge.close()


# --- fork and exit -----------------------------------------------------------------------------

_bridge = Bridge()
_inherited: list[Bridge] = []  # kept for ever, so that nothing of the parent's is finalised


def _forget_in_child() -> None:
    global _bridge
    _inherited.append(_bridge)
    _bridge = _bridge.for_child()


def _begin_exit() -> None:
    """Called when the main thread has ended, before ordinary threads are joined.

    Python >= 3.12 starts no thread once those have ended, and finishing a run needs some; yet they
    may still use their runs. So one more ordinary thread waits for all others and then finishes.
    """
    try:
        threading.Thread(target=_finish_after_the_others, name="asyncart-exit").start()
    except RuntimeError:
        # Python 3.12.0 to 3.12.2 start no thread even now: do what the threads at hand allow
        _bridge.run_finishers()


def _finish_after_the_others() -> None:
    spared = (threading.current_thread(), threading.main_thread())
    while others := [t for t in threading.enumerate() if not t.daemon and t not in spared]:
        for thread in others:
            thread.join()
    _bridge.run_finishers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
# Unlike atexit this also runs at the end of multiprocessing's forked workers. Without it (it is
# not documented, though as old as concurrent.futures' own use of it) atexit has to do.
if hasattr(threading, "_register_atexit"):
    with suppress(RuntimeError):  # imported during the shutdown
        threading._register_atexit(_begin_exit)
else:
    atexit.register(_begin_exit)
atexit.register(close)
