"""Bring a version's entries into a folder, and compare a folder with a version."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from ..engine import tidy
from ..engine.download import Downloader, LinkMode, Present
from ..engine.fetch import find_damaged
from ..engine.manifest import BlockInfo
from ..engine.statcache import StatCache
from ..engine.tally import Tally
from ..engine.target import TEMPORARY, Target
from ..engine.tasks import Threads, settled
from ..errors import Invalid, NotFound
from ..model import Content, Entry
from ..stores.cache import uncached
from ..workers import downloading
from .progress import ProgressCallback, reporting
from .workspace import Workspace

if TYPE_CHECKING:
    from .artifact import Artifact


SAMPLE = 64  # stats, to see whether a download is a fresh one


class Selection(msgspec.Struct, frozen=True):
    """Which paths of an artifact: below a prefix, matching any `include` and no `exclude` glob.

    Globs are matched against the whole path; `*` also matches `/`, as in W&B and fnmatch.
    """

    prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def filter(self) -> Callable[[str], bool] | None:
        """A test for paths; None if everything below the prefix is wanted."""
        if not self.include and not self.exclude:
            return None
        include, exclude = _any_of(self.include), _any_of(self.exclude)
        return lambda path: (not self.include or include(path)) and not exclude(path)


def selection(
    prefix: str | None, include: str | Sequence[str] | None, exclude: str | Sequence[str] | None
) -> Selection:
    return Selection(prefix or "", _globs(include), _globs(exclude))


def _globs(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _any_of(globs: Sequence[str]) -> Callable[[str], bool]:
    if not globs:
        return lambda path: False
    match = re.compile("|".join(fnmatch.translate(glob) for glob in globs)).match
    return lambda path: match(path) is not None


async def download(
    artifact: Artifact,
    folder: str,
    chosen: Selection,
    progress: ProgressCallback | None,
    allow_file_references: bool,
    link: LinkMode = "reflink",
) -> None:
    """Make the chosen entries present in the folder."""
    if link not in ("reflink", "hardlink"):
        raise Invalid(f"link={link!r}: it must be 'reflink' or 'hardlink'")
    workspace = artifact._workspace_or_raise()
    reader = await artifact._reader()
    footer = await reader.footer()
    async with reporting(progress, "download", workspace.threads) as reporter:
        if chosen == Selection():
            reporter.files_total = footer.entry_count
            reporter.bytes_total = footer.total_size
        references: list[Entry] = []
        odd: set[str] = set()

        def steps() -> AsyncIterator[list[Entry]]:
            references.clear()
            wanted = reader.steps(chosen.prefix)
            return _chosen(workspace.threads, wanted, chosen.filter(), references, odd)

        async with _target(workspace, folder) as target:
            blocks = footer.blocks(chosen.prefix)
            absent = await workspace.threads.run(_absent, target, blocks, chosen.filter())
            async with workspace.crew(absent if link == "reflink" else 0) as crew:
                await downloading.fetch(
                    crew,
                    await _downloader(artifact, workspace, target, reporter.tally, link),
                    steps,
                    target=target,
                    cache=workspace.stat_cache,
                    statcache_path=workspace.settings.statcache_path,
                    threads=workspace.threads,
                    relocate=partial(workspace.relocate, artifact.entity),
                    tally=reporter.tally,
                )
            await _fetch_references(references, target, artifact, allow_file_references)
            if chosen == Selection() and reporter.tally.bytes_moved:
                # Not when nothing was missing: then nothing was killed here, and the walk would cost
                # as much as the rest.
                await workspace.threads.run(partial(target.remove_temps, keep=odd))


def _absent(
    target: Target, blocks: Sequence[BlockInfo], is_wanted: Callable[[str], bool] | None
) -> int:
    """How many of the wanted entries are not there, estimated from the first one of some blocks."""
    sample = blocks[:: -(-len(blocks) // SAMPLE) or 1]
    absent = [
        block
        for block in sample
        if (is_wanted is None or is_wanted(block.first_path))
        and target.stat(block.first_path) is None
    ]
    return sum(block.entry_count for block in blocks) * len(absent) // max(1, len(sample))


async def download_entries(
    artifact: Artifact, folder: str, entries: Sequence[Entry], allow_file_references: bool
) -> None:
    """Make single entries present in the folder."""
    workspace = artifact._workspace_or_raise()
    async with _target(workspace, folder) as target:
        downloader = await _downloader(artifact, workspace, target, Tally())
        files = [entry for entry in entries if entry.reference is None]
        await downloader.run(_once(files))
        references = [entry for entry in entries if entry.reference is not None]
        skipped = await _fetch_references(references, target, artifact, allow_file_references)
    for entry in skipped:
        uri = entry.reference.uri if entry.reference else ""
        raise Invalid(
            f"{entry.path} is only recorded: asyncart does not open {uri}; get it from there"
        )


@asynccontextmanager
async def _target(workspace: Workspace, folder: str) -> AsyncIterator[Target]:
    opened: list[Target] = []
    try:
        await settled(partial(workspace.threads.run, Target, folder), opened.append)
        yield opened[0]
    finally:
        for target in opened:
            target.close()


async def _downloader(
    artifact: Artifact,
    workspace: Workspace,
    target: Target,
    tally: Tally,
    link: LinkMode = "reflink",
) -> Downloader:
    async def relocate(object_id: str, entry: Entry) -> Content | None:
        return await workspace.relocate(artifact.entity, object_id, entry)

    return Downloader(
        await workspace.store(),
        target,
        workspace.stat_cache,
        workspace.budget,
        workspace.threads,
        relocate,
        tally,
        link,
    )


async def _once(entries: list[Entry]) -> AsyncIterator[list[Entry]]:
    yield entries


async def _chosen(
    threads: Threads,
    steps: AsyncIterator[list[Entry]],
    is_wanted: Callable[[str], bool] | None,
    references: list[Entry],
    odd: set[str],
) -> AsyncIterator[list[Entry]]:
    """The wanted files. References are collected, and paths that look like temporary files of ours."""

    def choose(entries: list[Entry]) -> list[Entry]:
        if is_wanted is not None:
            entries = [entry for entry in entries if is_wanted(entry.path)]
        references.extend([entry for entry in entries if entry.reference is not None])
        odd.update([entry.path for entry in entries if entry.path.endswith(TEMPORARY)])
        return [entry for entry in entries if entry.reference is None]

    async for entries in steps:
        # Globs take 15 ms for the 25,000 entries of a step: not on the loop.
        yield await threads.run(choose, entries)


async def _fetch_references(
    entries: Sequence[Entry], target: Target, artifact: Artifact, allow_file_references: bool
) -> list[Entry]:
    """Fetch what references point to; those that are only recorded are returned (and logged)."""
    if not entries:
        return []
    from ..references import fetch_all

    workspace = artifact._workspace_or_raise()
    is_allowed = allow_file_references or workspace.is_own_catalog
    if is_allowed:
        entries = await workspace.threads.run(_not_there, entries, target, workspace.stat_cache)
    return await fetch_all(
        entries, target, allow_file_references=is_allowed, threads=workspace.threads
    )


def _not_there(entries: Sequence[Entry], target: Target, cache: StatCache) -> list[Entry]:
    """Without those whose content is in the folder already: by its stat, or else by reading it."""
    found: list[Entry] = []
    contents: list[Entry] = []
    for entry in entries:
        is_content = entry.reference is not None and entry.reference.digest_is_content
        (contents if is_content else found).append(entry)
    present = Present(target, cache)
    found += present.missing(contents)
    present.save()
    return found


class Verification(msgspec.Struct, frozen=True):
    """What `verify` found; paths, sorted. `is_ok` when nothing is missing or different.

    `extra` files do not belong to the artifact; they make `is_ok` False only for a folder.
    `damaged` entries are stored with wrong bytes (only when the stored objects were verified).
    """

    checked: int
    missing: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        return not (self.missing or self.different or self.extra or self.damaged)


async def verify_folder(artifact: Artifact, folder: str) -> Verification:
    """Compare every file of the folder with the artifact, by reading all of them."""
    workspace = artifact._workspace_or_raise()
    reader = await artifact._reader()
    if not await workspace.threads.run(os.path.isdir, folder):
        raise NotFound(f"{folder} does not exist: download the artifact there first")
    checked = 0
    expected: set[str] = set()
    missing: list[str] = []
    different: list[str] = []
    run = workspace.threads.run
    async with _target(workspace, folder) as target:
        async for entries in reader.steps():
            gone, wrong = await run(tidy.compared, target, entries)
            missing += gone
            different += wrong
            checked += len(entries)
            expected.update(entry.path for entry in entries)
        extra = await run(tidy.extra, target, expected)
    return Verification(checked, tuple(missing), tuple(different), tuple(extra))


async def checkout(artifact: Artifact, folder: str) -> None:
    """Make the folder exactly this version: download, and delete what does not belong to it."""
    workspace = artifact._workspace_or_raise()
    reader = await artifact._reader()
    paths = {entry.path async for entries in reader.steps() for entry in entries}
    async with _target(workspace, folder) as target:
        await workspace.threads.run(tidy.clear_the_way, target, paths)
    await download(artifact, folder, Selection(), None, False)
    async with _target(workspace, folder) as target:
        await workspace.threads.run(tidy.remove_extra, target, paths)


async def verify_stored(artifact: Artifact) -> Verification:
    """Read every stored byte of the artifact and check it; damaged objects are marked, so that logging
    the same content again heals them. What a cache holds does not count."""
    workspace = artifact._workspace_or_raise()
    store = uncached(await workspace.store())
    catalog = await workspace.catalog()
    info = artifact._version_info("content")
    while True:
        checked = 0
        bad: list[str] = []
        reader = workspace.manifest_reader(store, info)
        async for entries in reader.steps():
            found = await find_damaged(store, workspace.threads, entries)
            await catalog.mark_damaged(sorted({object_id for _, object_id in found}))
            bad += [entry.path for entry, _ in found]
            checked += len(entries)
        # Compacted meanwhile: what was not there any more was not this version's.
        if not bad or (now := await catalog.get_version(info.id)).manifest == info.manifest:
            return Verification(checked, damaged=tuple(sorted(bad)))
        info = now
