"""Random data, the edits that the cases make to it, and whether two trees are the same.

Fresh random bytes every time: nothing compresses, and nothing deduplicates but what a case repeats on
purpose. File times matter here: asyncart (like git) does not trust a file that was modified within
two seconds of being scanned, so `settle` waits that long before anything is logged that is to be
remembered.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

from .measure import CommandFailed

SMALL_FILE_BYTES = (1 << 10, 19 << 10)
FILES_PER_FOLDER = 1000
BLOCK_BYTES = 8 << 20
RACY_S = 2.1  # a little more than the two seconds of the rule


def make_small_files(
    root: Path, count: int, size_bytes: tuple[int, int] = SMALL_FILE_BYTES, *, seed: int = 0
) -> int:
    """`count` files of sizes spread evenly over the range, 1,000 to a folder; returns their bytes."""
    sizes = random.Random(seed)
    total = 0
    for index in range(count):
        path = small_file(root, index)
        if index % FILES_PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        size = sizes.randint(*size_bytes)
        path.write_bytes(os.urandom(size))
        total += size
    return total


def small_file(root: Path, index: int) -> Path:
    return root / f"{index // FILES_PER_FOLDER:04d}" / f"{index:07d}.bin"


def make_large_files(root: Path, count: int, size_bytes: int) -> int:
    """Two at a time: os.urandom, which gives 0.4 GB/s per core, releases the GIL."""
    root.mkdir(parents=True)
    paths = [root / f"part-{index}.bin" for index in range(count)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: write_random(path, size_bytes), paths))
    return count * size_bytes


def write_random(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size_bytes, BLOCK_BYTES):
            file.write(os.urandom(min(BLOCK_BYTES, size_bytes - start)))


def change_some(root: Path, count: int, *, every: int = 100) -> int:
    """Rewrite every `every`-th small file in place, with other bytes of the same size; returns bytes."""
    changed = 0
    for index in range(0, count, every):
        path = small_file(root, index)
        size = path.stat().st_size
        path.write_bytes(os.urandom(size))
        changed += size
    return changed


# The three edits of a large file: each makes the edited copy from the untouched original.


def overwrite_one_percent(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    size = source.stat().st_size
    with target.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 100))


def insert_one_kilobyte(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(os.urandom(1024))
        shutil.copyfileobj(reader, writer, BLOCK_BYTES)


def append_ten_percent(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("ab") as file:
        file.write(os.urandom(source.stat().st_size // 10))


EDITS: dict[str, Callable[[Path, Path], None]] = {
    "changed": overwrite_one_percent,
    "inserted": insert_one_kilobyte,
    "appended": append_ten_percent,
}


def settle() -> None:
    """Everything written so far is on disk, and older than the racy rule's two seconds."""
    started = time.monotonic()
    os.sync()
    time.sleep(max(0.0, RACY_S - (time.monotonic() - started)))


def files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield Path(folder, name)


def size_bytes(root: Path) -> int:
    """Sum of the sizes of all files under the folder (not of the blocks that they occupy)."""
    return sum(path.lstat().st_size for path in files(root)) if root.exists() else 0


Contents = dict[Path, tuple[int, bytes]]


def contents(root: Path, *, read: bool = True) -> Contents:
    """Size and digest of every file, by its path in the folder; of files that are not read, only the size."""
    return {
        path.relative_to(root): (
            path.stat().st_size,
            blake3().update_mmap(path).digest() if read else b"",
        )
        for path in files(root)
    }


def difference(left: Path | Contents, right: Path, *, compare_content: bool) -> str | None:
    """The first difference between two trees of regular files, in words; None if there is none.

    The left one may be gone, if its contents were taken before that (and read, if they are compared).
    """
    known = left if isinstance(left, dict) else contents(left, read=compare_content)
    found = contents(right, read=compare_content)
    if names := known.keys() ^ found.keys():
        return f"{len(names)} paths are in one only, such as {min(names)}"
    return next((f"{name} differs" for name in sorted(known) if known[name] != found[name]), None)


class WrongCopy(CommandFailed):
    """What was fetched is not what was stored."""


def require_same(source: Path | Contents, fetched: Path, *, compare_content: bool) -> None:
    if found := difference(source, fetched, compare_content=compare_content):
        raise WrongCopy(f"{fetched} is not what was stored: {found}")
