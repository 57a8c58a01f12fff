"""A file that the draft's author writes: `Artifact.new_file`."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import TYPE_CHECKING, Any

import aiofiles

from ..engine.tasks import Threads
from ..errors import Invalid

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
        self._local = await Threads().run(contents.new_file_path, settings)
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
                self._artifact._raise_if_logged("new_file")
                self._artifact._contents.add_file(
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
