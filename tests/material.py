"""What tests are made of: bytes that a seed decides, trees of files, ids of objects."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from asyncart.model import new_object_id


def content(seed: object, size: int) -> bytes:
    """The same for the same seed; nothing of it deduplicates or compresses."""
    return random.Random(str(seed)).randbytes(size)


def write_tree(folder: Path, tree: Mapping[str, bytes | str]) -> Path:
    """Write these files below the folder."""
    for path, data in tree.items():
        local = folder / path
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def read_tree(folder: Path | str) -> dict[str, bytes]:
    """The files below the folder."""
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@contextmanager
def memory_folder(otherwise: Path) -> Iterator[Path]:
    """A folder in memory where there is a /dev/shm: for what tests the order of writes, not the disk."""
    parent = "/dev/shm" if os.path.isdir("/dev/shm") else str(otherwise)
    folder = Path(tempfile.mkdtemp(prefix="asyncart-test-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fresh_object() -> str:
    """An id that no object has."""
    return new_object_id(time.time_ns() // 1_000_000)
