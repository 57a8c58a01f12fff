"""A file that the draft's author writes: `Artifact.new_file`."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import aiofiles.threadpool

from ..config import Settings
from ..engine.tasks import cleaned_up, settled
from ..errors import Invalid
from ..threads import run_blocking
from .drafting import Contents
from .ledger import CLEANUP_S

if TYPE_CHECKING:
    from .artifact import Artifact


class NewFile:
    """A file to be written in an `async with` block. It is added when the block ends well; if that
    raises, nothing is added and the space is freed."""

    def __init__(
        self,
        artifact: Artifact,
        name: str,
        mode: str,
        encoding: str | None,
        overwrite: bool,
    ) -> None:
        if mode not in ("w", "wb"):
            raise Invalid(f"{name}: mode {mode!r} must be 'w' (text) or 'wb' (bytes)")
        self._artifact = artifact
        self._name = name
        self._mode = mode
        self._encoding = (encoding or "utf-8") if mode == "w" else encoding
        self._overwrite = overwrite
        self._local = ""
        self._file: Any = None

    async def __aenter__(self) -> Any:
        contents, settings = self._artifact._contents, self._artifact._settings()
        opened: list[tuple[str, IO[Any]]] = []
        try:
            await settled(
                partial(run_blocking, _opened, contents, settings, self._mode, self._encoding),
                opened.append,
            )
        except BaseException:
            for self._local, file in opened:
                file.close()
                await self._remove()
            raise
        ((self._local, file),) = opened
        self._file = aiofiles.threadpool.wrap(file)
        return self._file

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._file.close()
            if error is None:
                self._artifact._raise_if_logged("new_file")
                self._artifact._contents.add_file(
                    self._local, self._name, is_immutable=True, overwrite=self._overwrite
                )
        except BaseException:
            await self._remove()
            raise
        if error is not None:
            await self._remove()

    async def _remove(self) -> None:
        """In a thread: giving back the space of many GiB takes its time."""
        await cleaned_up(partial(run_blocking, _unlink, self._local), CLEANUP_S)


def _opened(
    contents: Contents, settings: Settings, mode: str, encoding: str | None
) -> tuple[str, IO[Any]]:
    local = contents.new_file_path(settings)
    return local, open(local, mode, encoding=encoding)  # closed by who asked for it


def _unlink(local: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(local)
