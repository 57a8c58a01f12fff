"""References: entries whose bytes stay where they are.

    entries = await resolve("file:///data/images", name="images")
    await fetch(entries[0], target, allow_file_references=True)

A registry says which resolver knows which scheme; a URI of any other scheme is recorded as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import anyio

from asyncart.engine.target import Target
from asyncart.engine.tasks import Threads, task_group
from asyncart.errors import Invalid
from asyncart.model import Entry

from .protocol import MAX_OBJECTS, Resolver
from .uris import check_uri, scheme_of

if TYPE_CHECKING:
    from asyncart.net.aiohttp_plane import AiohttpPlane

__all__ = [
    "MAX_OBJECTS",
    "Resolver",
    "check_uri",
    "fetch",
    "fetch_all",
    "register",
    "resolve",
    "resolve_all",
]

# References resolved or fetched at a time; a guess: one 4 MiB buffer each, and polite to a single web server.
AT_ONCE = 8


class Means:
    """What resolvers work with, for the length of one operation. `plane` is made when first asked for."""

    def __init__(
        self,
        *,
        threads: Threads | None = None,
        plane: AiohttpPlane | None = None,
        allow_file_references: bool = True,
    ) -> None:
        self.threads = threads if threads is not None else Threads()
        self.allow_file_references = allow_file_references
        self._given_plane = plane
        self._own_plane: AiohttpPlane | None = None

    @property
    def plane(self) -> AiohttpPlane:
        if self._given_plane is not None:
            return self._given_plane
        if self._own_plane is None:
            from asyncart.net.aiohttp_plane import AiohttpPlane  # aiohttp takes 160 ms to import

            self._own_plane = AiohttpPlane()
        return self._own_plane

    async def __aenter__(self) -> Means:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._own_plane is not None:
            with anyio.move_on_after(5, shield=True):
                await self._own_plane.aclose()


def _files(means: Means) -> Resolver:
    from .files import Files

    return Files(means.threads, is_allowed=means.allow_file_references)


def _web(means: Means) -> Resolver:
    from .web import Web

    return Web(means.plane, means.threads)


def _recorded(means: Means) -> Resolver:
    from .recorded import Recorded

    return Recorded()


_RESOLVERS: dict[str, Callable[[Means], Resolver]] = {"file": _files, "http": _web, "https": _web}


def register(scheme: str, make: Callable[[Means], Resolver]) -> None:
    """Resolve URIs of that scheme by `make(means)` from now on."""
    _RESOLVERS[scheme.lower()] = make


def resolver_for(uri: str, means: Means) -> Resolver:
    return _RESOLVERS.get(scheme_of(uri), _recorded)(means)


async def resolve(
    uri: str,
    *,
    name: str | None = None,
    checksum: bool = True,
    max_objects: int | None = None,
    threads: Threads | None = None,
    plane: AiohttpPlane | None = None,
) -> list[Entry]:
    """The entries that a URI stands for, sorted by path.

    `name` is the path in the artifact, or the prefix if the URI is a directory; by default the last part of
    the URI. With `checksum=False` only the URI is recorded, and nothing is opened or asked for.
    """
    async with Means(threads=threads, plane=plane) as means:
        return await _resolve(means, uri, name, checksum, max_objects)


class Asked(Protocol):
    """What `resolve` takes, in one piece."""

    @property
    def uri(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def checksum(self) -> bool: ...
    @property
    def max_objects(self) -> int | None: ...


async def resolve_all(
    asked: Sequence[Asked], *, threads: Threads | None = None, plane: AiohttpPlane | None = None
) -> list[list[Entry]]:
    """`resolve` of many, several at once, over shared connections; the entries of each, in their order."""
    found: list[list[Entry]] = [[] for _ in asked]
    queue = iter(enumerate(asked))

    async def work(means: Means) -> None:
        for index, each in queue:
            found[index] = await _resolve(
                means, each.uri, each.name, each.checksum, each.max_objects
            )

    async with Means(threads=threads, plane=plane) as means, task_group() as group:
        for _ in range(min(AT_ONCE, len(asked))):
            group.start_soon(work, means)
    return found


async def _resolve(
    means: Means, uri: str, name: str | None, checksum: bool, max_objects: int | None
) -> list[Entry]:
    check_uri(uri)
    limit = MAX_OBJECTS if max_objects is None else max_objects
    if limit < 1:
        raise Invalid(f"max_objects={limit}: it must be at least 1")
    resolver = resolver_for(uri, means)
    return await resolver.resolve(uri, name=name, checksum=checksum, max_objects=limit)


async def fetch(
    entry: Entry,
    target: Target,
    *,
    allow_file_references: bool = False,
    threads: Threads | None = None,
    plane: AiohttpPlane | None = None,
) -> os.stat_result | None:
    """Write what the entry refers to below the target; gives the stat of the file.

    None, and a warning in the log, for URIs that asyncart only records. Conflict if the source changed since
    it was logged. Denied for a `file://` reference unless `allow_file_references`: whoever logged the
    artifact chose the path, and on another machine it may hold something private.
    """
    async with Means(
        threads=threads, plane=plane, allow_file_references=allow_file_references
    ) as means:
        return await _fetch(entry, target, means)


async def fetch_all(
    entries: Iterable[Entry],
    target: Target,
    *,
    allow_file_references: bool = False,
    threads: Threads | None = None,
    plane: AiohttpPlane | None = None,
) -> list[Entry]:
    """`fetch` of many, several at once, over shared connections; gives those that are only recorded."""
    skipped: list[Entry] = []
    queue = iter(entries)

    async def work(means: Means) -> None:
        for entry in queue:
            written = await _fetch(entry, target, means)
            if written is None:
                skipped.append(entry)

    async with (
        Means(threads=threads, plane=plane, allow_file_references=allow_file_references) as means,
        task_group() as group,
    ):
        for _ in range(AT_ONCE):
            group.start_soon(work, means)
    return sorted(skipped, key=lambda entry: entry.path)


async def _fetch(entry: Entry, target: Target, means: Means) -> os.stat_result | None:
    if entry.reference is None:
        raise Invalid(f"{entry.path} is stored, not a reference: download it")
    uri = check_uri(entry.reference.uri)  # it may come from a manifest that somebody else wrote
    return await resolver_for(uri, means).fetch(entry, target)
