"""A cache on this machine for the objects of a remote store: see `folder` for what it promises."""

from .folder import CachedObject, ObjectCache, Removed, Statistics
from .store import CachedStore, uncached, with_cache

__all__ = [
    "CachedObject",
    "CachedStore",
    "ObjectCache",
    "Removed",
    "Statistics",
    "uncached",
    "with_cache",
]
