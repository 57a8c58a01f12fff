"""Artifacts that are logged while the caller goes on.

Everywhere else a task ends before the call that began it returns. Here it outlives that call, so that
somebody has to own it: the run. It holds the tasks, waits for them when it is finished, or cancels
them when it failed, and raises the errors that nobody waited for. Nothing fails silently.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio

from ..errors import AsyncartError, TransferError, Unavailable

if TYPE_CHECKING:
    from .artifact import Artifact

CLEANUP_S = 10.0  # twice what one shielded clean-up of the engine may take

logger = logging.getLogger("asyncart.log")


class PendingArtifact:
    """An artifact on its way: what `await run.log_artifact_in_background(...)` returns.

    Nobody has to wait for it: finishing the run does, and raises what went wrong.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._done = anyio.Event()
        self._error: BaseException | None = None
        self._is_noticed = False

    @property
    def is_done(self) -> bool:
        """Whether it is over, well or not: `wait` does not wait any more."""
        return self._done.is_set()

    async def wait(self) -> Artifact:
        """The logged artifact, durable. Raises what `log_artifact` would have raised.

        Waiting again is fine, and so is not to wait any longer: the artifact is logged all the same.
        """
        await self._done.wait()
        self._is_noticed = True
        if self._error is not None:
            raise self._error
        return self._artifact

    def _settle(self, error: BaseException | None) -> None:
        self._error = error
        self._done.set()

    def __repr__(self) -> str:
        state = "pending" if not self.is_done else "failed" if self._error else "logged"
        return f"<PendingArtifact {self._artifact.name} ({state})>"


class Background:
    """The tasks of one run. Those of a forked process's parent are the parent's."""

    def __init__(self) -> None:
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._tasks: dict[asyncio.Task[None], PendingArtifact] = {}
        self._failed: list[PendingArtifact] = []
        self._is_cancelling = False

    def start(
        self, artifact: Artifact, log: Callable[[], Coroutine[Any, Any, None]]
    ) -> PendingArtifact:
        """Begin `log()`, which makes the draft a version."""
        if self._pid != os.getpid():
            self._start_afresh()
        pending = PendingArtifact(artifact)
        task = asyncio.get_running_loop().create_task(log(), name=f"log {artifact.name}")
        artifact._loggings += 1  # from now on, not only when the task begins
        self._tasks[task] = pending
        task.add_done_callback(self._ended)
        return pending

    def _ended(self, task: asyncio.Task[None]) -> None:
        pending = self._tasks.pop(task)
        pending._artifact._loggings -= 1
        if task.cancelled():
            name = pending._artifact.name
            pending._settle(Unavailable(f"{name}: logging it was cancelled; log it again"))
            if not self._is_cancelling:
                logger.warning("%s: logging it was cancelled when its event loop ended", name)
            return
        pending._settle(task.exception())
        if pending._error is not None:
            self._failed.append(pending)

    def abandon(self) -> None:
        """Their loop is closed: what did not end before that never will."""
        self._tasks.clear()

    async def finish(self, *, cancel: bool) -> AsyncartError | Exception | None:
        """Wait for all, or cancel them; the error that nobody has been told of yet, if there is one.

        Being cancelled itself, it cancels them.
        """
        if self._pid != os.getpid():
            return None
        try:
            if cancel:
                await self._cancel()
            while self._tasks:
                await asyncio.wait(list(self._tasks))
        except BaseException:
            await self._cancel()
            raise
        failed = [pending for pending in self._failed if not pending._is_noticed]
        self._failed.clear()
        for pending in failed:
            pending._is_noticed = True
        return _joined([(pending._artifact.name, pending._error) for pending in failed])

    async def _cancel(self) -> None:
        self._is_cancelling = True
        for task in self._tasks:
            task.cancel()
        with anyio.move_on_after(CLEANUP_S, shield=True):
            while self._tasks:
                await asyncio.wait(list(self._tasks))


def _joined(failed: list[tuple[str, BaseException | None]]) -> Exception | None:
    errors = [error for _, error in failed if isinstance(error, Exception)]
    if len(errors) < 2:
        return errors[0] if errors else None
    names = ", ".join(name for name, _ in failed)
    return TransferError(
        f"{len(errors)} artifacts could not be logged in the background ({names}), the first because: {errors[0]}",
        errors,
    )
