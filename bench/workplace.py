"""Folders for the data of a run: enough space is checked before, and all is gone after."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TMPFS = Path("/dev/shm")
SPARE_BYTES = 1 << 30  # a guess: room for others on the same disk


class NoSpace(RuntimeError):
    """The case does not fit; it is skipped and says so."""


@contextmanager
def workplace(parent: Path, need_bytes: int) -> Iterator[Path]:
    """A fresh folder under `parent`, removed on the way out, whatever happens."""
    if not parent.is_dir():
        raise NoSpace(f"{parent} does not exist; name another folder with --dir")
    free = shutil.disk_usage(parent).free
    if free < need_bytes + SPARE_BYTES:
        raise NoSpace(
            f"{parent} has {free / 1e9:.1f} GB free and this case needs"
            f" {(need_bytes + SPARE_BYTES) / 1e9:.1f} GB; name another folder with --dir"
        )
    root = Path(tempfile.mkdtemp(prefix="asyncart-bench-", dir=parent))
    try:
        yield root
    finally:
        remove(root)


def remove(path: Path) -> None:
    """Delete a folder tree or a file, also where a contender made it read-only."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)
