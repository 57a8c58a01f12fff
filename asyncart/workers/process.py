"""One worker process, as the transfer sees it.

Promised: it is started, read and reaped by a thread of its own, so nothing here depends on which loop or
thread the transfer runs on, nor on the caller's signal handlers; it ends with its transfer (told to, then
killed by its handle after a bounded time) and with its parent (it reads the end of its pipe, and watches
who its parent is: a fork of the caller may hold the other end open). It is a fresh interpreter, not a
fork or a `multiprocessing` child: the caller's `__main__` is not imported again, and neither threads nor
locks are inherited. Not PR_SET_PDEATHSIG: the kernel sends it when the *thread* that started us ends.

Whatever goes wrong with the process itself is a WorkerLost: the transfer then does the work by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import IO, Any, Protocol

import anyio
import anyio.abc
import msgspec

from ..engine.tally import Tally
from ..engine.tasks import cleaned_up, task_group
from ..errors import AsyncartError, Unavailable
from . import wire

START_S = 20.0  # 0.13 s on an idle machine; then the transfer goes on without it
SILENCE_S = 60.0  # a worker gives a sign of life every second
CANCEL_S = 6.0  # to abort what was begun in the store (5 s), and to say so
LEAVE_S = 1.0  # from "go" to being gone: it only has to exit
PIPE_BYTES = 1 << 20  # the plan of a unit fits, so that its pipe is not a hundred wake-ups

logger = logging.getLogger("asyncart.workers")


class WorkerLost(Unavailable):
    """The process could not be started, died or fell silent; what it did last is not known."""


class Desk(Protocol):
    """The transfer's side of one worker: answers its questions, and hears what it did."""

    async def answer(self, verb: str, arguments: tuple[Any, ...]) -> object: ...
    def take_news(self, news: wire.More | wire.Remember) -> None: ...


def can_start() -> bool:
    """Whether `sys.executable` is an interpreter that can run our code.

    In a frozen application, and in programs that embed Python, it is something else altogether.
    """
    name = os.path.basename(sys.executable or "").lower()
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)


def command() -> list[str]:
    """A fresh interpreter that imports what this one imports, from the same places."""
    # -P: the working directory may hold modules with the names of ours.
    places = [place for place in sys.path if isinstance(place, str)]
    code = f"import sys; sys.path[:] = {places!r}; from {__package__}.main import main; main()"
    return [sys.executable, "-P", "-c", code]


class Worker:
    """Starts at once, in the background. Belongs to one event loop; `close` it on every exit."""

    def __init__(self, opening: wire.Open) -> None:
        self.is_lost = False
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[wire.FromWorker | None] = asyncio.Queue()
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._gone = asyncio.Event()
        self._lock = threading.Lock()  # guards the process against being killed when it is reaped
        self._process: subprocess.Popen[bytes] | None = None
        self._is_unwanted = False
        self._end = "did not start"
        self._is_ready = False
        self._has_begun = False
        self._has_stopped = False
        self.send(opening)
        try:
            threading.Thread(target=self._keep, name="asyncart-worker", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is shutting down
            self._has_ended()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def send(self, message: wire.ToWorker) -> None:
        """Never waits: a thread writes. Nothing is sent to a worker that is dismissed."""
        self._outbox.put(wire.encode(message))

    async def work(self, order: wire.ToWorker, desk: Desk, tally: Tally) -> wire.FromWorker:
        """Have it do this; returns its result. Cancelling, or an error, waits until it has cleaned up.

        Raises what the work raised in the worker; WorkerLost if the process is not there (any more), then
        the tally is as it was before.
        """
        counted = Tally()
        try:
            await self._wait_until_ready()
            self._has_begun, self._has_stopped = True, False
            self.send(order)
            async with task_group() as group:
                return await self._attend(desk, tally, counted, group)
        except WorkerLost:
            self.is_lost = True
            self.kill()
            tally.add(
                -counted.files, -counted.bytes, -counted.bytes_deduplicated, -counted.bytes_moved
            )
            raise
        except BaseException:
            if self._has_begun and not self._has_stopped:
                await cleaned_up(partial(self._cancel, desk), CANCEL_S)
            if not self._has_stopped:
                self.is_lost = True
                self.kill()
            raise

    def dismiss(self) -> None:
        """Let it go; `close` waits until it is gone. Again is fine."""
        self.send(wire.Leave())
        self._outbox.put(None)

    def kill(self) -> None:
        with self._lock:
            self._is_unwanted = True
            if self._process is not None and self._process.returncode is None:
                self._process.kill()

    async def close(self) -> None:
        """Gone, and reaped, on return; bounded."""
        self.dismiss()
        try:
            if not await self._gone_within(LEAVE_S):
                self.kill()
                await self._gone_within(CANCEL_S)
        except BaseException:
            self.kill()
            raise

    # the conversation

    async def _wait_until_ready(self) -> None:
        while not self._is_ready:
            self._is_ready = isinstance(await self._receive(START_S), wire.Ready)

    async def _receive(self, timeout_s: float) -> wire.FromWorker:
        message = None
        with anyio.move_on_after(timeout_s) as waiting:
            message = await self._inbox.get()
        if waiting.cancelled_caught:
            self._end = f"gave no sign of life for {timeout_s:.0f} s"
            self.kill()
        if message is None:
            self._inbox.put_nowait(None)  # for whoever asks again
            raise WorkerLost(f"a worker process {self._end}")
        return message

    async def _attend(
        self, desk: Desk, tally: Tally, counted: Tally, group: anyio.abc.TaskGroup
    ) -> wire.FromWorker:
        """Serve the worker until it has a result."""
        while True:
            match message := await self._receive(SILENCE_S):
                case wire.Question():
                    group.start_soon(self._answer, desk.answer, message)
                case wire.Progressed():
                    for each in (tally, counted):
                        each.add(message.files, message.nbytes, message.deduplicated, message.moved)
                case wire.More() | wire.Remember():
                    desk.take_news(message)
                case wire.Failed():
                    self._has_stopped = True
                    raise wire.error_of(message.error)
                case wire.Stored() | wire.Fetched() | wire.Stopped():
                    self._has_stopped = True
                    return message
                case wire.Ready():
                    pass

    async def _answer(
        self,
        answer: Callable[[str, tuple[Any, ...]], Awaitable[object]],
        question: wire.Question,
    ) -> None:
        kind, _ = wire.VERBS[question.verb]
        try:
            result = await answer(
                question.verb, msgspec.msgpack.decode(question.arguments, type=kind)
            )
        except AsyncartError as error:
            self.send(wire.Refusal(question.number, wire.failure_of(error)))
        else:
            self.send(wire.Answer(question.number, wire.raw(result)))

    async def _cancel(self, desk: Desk) -> None:
        """Have it stop what it does, and answer what it asks while it cleans up."""
        self.send(wire.Cancel())
        async with task_group() as group:
            while not self._has_stopped:
                try:
                    message = await self._receive(CANCEL_S)
                except WorkerLost:
                    return
                match message:
                    case wire.Question():
                        group.start_soon(self._answer, desk.answer, message)
                    case wire.Remember():
                        desk.take_news(message)
                    case wire.Stopped() | wire.Failed() | wire.Stored() | wire.Fetched():
                        self._has_stopped = True
                    case _:
                        pass

    async def _gone_within(self, timeout_s: float) -> bool:
        with anyio.move_on_after(timeout_s):
            await self._gone.wait()
        return self._gone.is_set()

    # the threads

    def _keep(self) -> None:
        """Start the process, hand on what it says, reap it."""
        try:
            process = subprocess.Popen(
                command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if logger.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,
                pipesize=PIPE_BYTES,
            )
        except Exception as error:  # whatever it is (OSError, a shutdown): there is no process
            self._end = f"did not start: {error}"
            self._tell(self._has_ended)
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with self._lock:
            self._process = process
            if self._is_unwanted:
                process.kill()
        writer = threading.Thread(target=self._write, args=(process.stdin,), daemon=True)
        writer.start()
        with process.stdout:
            try:
                while (body := wire.read_frame(process.stdout)) is not None:
                    if not self._tell(self._inbox.put_nowait, wire.decode_from_worker(body)):
                        process.kill()  # its loop was closed under it
            except msgspec.DecodeError:
                process.kill()  # not one of ours
        self._outbox.put(None)
        status = self._reaped(process)
        writer.join()
        self._end = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
        self._tell(self._has_ended)

    def _reaped(self, process: subprocess.Popen[bytes]) -> int:
        """Its exit status. It has closed its pipe, so that it is as good as gone."""
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        with self._lock:
            return process.wait()

    def _write(self, pipe: IO[bytes]) -> None:
        try:
            with pipe:
                while (frame := self._outbox.get()) is not None:
                    pipe.write(frame)
                    pipe.flush()
        except OSError:
            pass  # the other end is gone, which its reader will tell

    def _tell(self, call: Callable[..., None], *arguments: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            return False
        return True

    def _has_ended(self) -> None:
        self._inbox.put_nowait(None)
        self._gone.set()
