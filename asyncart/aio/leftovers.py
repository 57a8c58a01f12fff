"""What asyncart keeps on this machine for its own convenience: losing it costs time, never data.

The stat cache (digests of local files), whole objects fetched from a remote store, and the files that a
draft wrote itself, which a killed process leaves behind.
"""

from __future__ import annotations

import os

import msgspec

from ..config import Settings
from ..engine.statcache import StatCache
from ..stores.cache import ObjectCache
from . import draftfolder


class Leftover(msgspec.Struct, frozen=True):
    """One kind of it: where it lies, how many files it has, and their size in bytes."""

    name: str
    path: str
    files: int
    bytes: int


def leftovers(settings: Settings) -> list[Leftover]:
    """What there is; kinds that do not exist have no files. Nothing is created."""
    objects = object_cache(settings).objects()
    return [
        Leftover("stat cache", settings.statcache_path, *_measured(settings.statcache_path)),
        Leftover("objects", settings.cache_dir, len(objects), sum(each.bytes for each in objects)),
        Leftover("drafts", settings.drafts_dir, *_measured(settings.drafts_dir)),
    ]


def object_cache(settings: Settings) -> ObjectCache:
    """The cache for objects of a remote store; looking at it creates nothing."""
    return ObjectCache(settings.cache_dir, settings.cache_bytes)


def clear(settings: Settings) -> None:
    """Remove all of it but the drafts of processes that live."""
    if os.path.exists(settings.statcache_path):
        # Emptied, not unlinked: another process may be at work in it.
        cache = StatCache(settings.statcache_path)
        cache.clear()
        cache.close()
    object_cache(settings).clear()
    draftfolder.sweep(settings)


def _measured(path: str) -> tuple[int, int]:
    if os.path.isfile(path):
        return 1, os.stat(path).st_size
    files = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    return len(files), sum(_size(file) for file in files)


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:  # gone meanwhile
        return 0
