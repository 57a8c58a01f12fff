"""What tests are made of: bytes that a seed decides, trees of files, ids of objects."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
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


def fresh_object() -> str:
    """An id that no object has."""
    return new_object_id(time.time_ns() // 1_000_000)
