"""A file that the draft's author writes: `Artifact.new_file`."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Any

import aiofiles

from ..config import Settings
from ..engine.tasks import Threads
from ..errors import Invalid
from .drafting import Contents


class NewFile:
    """A file to be written in an `async with` block. It is added when the block ends well; if that
    raises, nothing is added and the space is freed."""

    def __init__(
        self,
        contents: Contents,
        name: str,
        mode: str,
        encoding: str | None,
        overwrite: bool,
        settings: Settings,
    ) -> None:
        if mode not in ("w", "wb"):
            raise Invalid(f"{name}: mode {mode!r} must be 'w' (text) or 'wb' (bytes)")
        self._contents = contents
        self._name = name
        self._mode = mode
        self._encoding = (encoding or "utf-8") if mode == "w" else encoding
        self._overwrite = overwrite
        self._settings = settings
        self._local = ""
        self._file: Any = None

    async def __aenter__(self) -> Any:
        self._local = await Threads().run(self._contents.new_file_path, self._settings)
        self._file = await aiofiles.open(self._local, self._mode, encoding=self._encoding)  # type: ignore[call-overload]
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
                self._contents.add_file(
                    self._local, self._name, is_immutable=True, overwrite=self._overwrite
                )
        except BaseException:
            self._remove()
            raise
        if error is not None:
            self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._local)
