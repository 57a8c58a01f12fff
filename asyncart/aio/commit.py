"""Log a draft: from its sources to a version in the catalog.

scan -> read, hash and store what is not known -> is there a version with this content? -> place the rest
-> manifest -> one catalog transaction. Until that transaction nothing is visible; after it everything is
durable. If the collector took something meanwhile (Conflict), the missing part is stored again, once.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import msgspec

from ..catalog.protocol import CollectionName, Committed, Draft
from ..engine import plan
from ..engine.fetch import relocated
from ..engine.listing import OVERWRITES, Listing
from ..engine.manifest import ContentDigest
from ..engine.scan import Removal, check_tree, scan
from ..engine.tree import Piece, write_manifest
from ..engine.upload import Uploader
from ..errors import Conflict, Invalid
from ..model import Entry, VersionInfo
from ..names import parents
from ..threads import check_cancelled
from ..workers import uploading
from ..workers.crew import Crew
from .drafting import Contents, ReferenceSource
from .ledger import Ledger
from .progress import ProgressCallback, Reporter, reporting
from .workspace import Workspace

ENTRIES_PER_PIECE = 512
logger = logging.getLogger("asyncart.log")


class Header(msgspec.Struct, frozen=True):
    """Everything about a draft but its content. All checked."""

    draft_id: str
    collection: CollectionName
    type: str
    description: str | None
    metadata: dict[str, Any]
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    run_id: str | None
    ttl_s: float | None = None


async def commit(
    workspace: Workspace, contents: Contents, header: Header, progress: ProgressCallback | None
) -> Committed:
    """Store the content and make it a version, or find the version that it is already."""
    async with reporting(progress, "scan", workspace.threads) as reporter:
        extra = await _extra_entries(workspace, contents)
        scanned_at_ns = time.time_ns()
        listing = await workspace.threads.run(_scan, workspace, contents, reporter)
        try:
            unknown = await workspace.threads.run(listing.unknown)
            async with (
                workspace.upload_crew(len(unknown)) as crew,
                workspace.session(header.collection.entity) as ledger,
            ):
                work = _Commit(workspace, ledger, listing, extra, header, reporter, crew)
                try:
                    committed = await work.run()
                except Conflict as error:
                    logger.info("%s: once more, because %s", header.collection.name, error)
                    listing.forget_placement()
                    await work.relocate_extra()
                    committed = await work.run()
        finally:
            with anyio.CancelScope(shield=True):
                await workspace.threads.run(
                    listing.remember,
                    workspace.stat_cache,
                    scanned_at_ns,
                    workspace.settings.drafts_dir,
                )
    _say(committed, header)
    return committed


def _scan(workspace: Workspace, contents: Contents, reporter: Reporter) -> Listing:
    def checkpoint(files: int) -> None:
        check_cancelled()
        reporter.files_total = files

    listing = scan(contents.sources, workspace.stat_cache, checkpoint)
    reporter.files_total, reporter.bytes_total = len(listing), sum(listing.sizes)
    return listing


class _Commit:
    def __init__(
        self,
        workspace: Workspace,
        ledger: Ledger,
        listing: Listing,
        extra: list[Entry],
        header: Header,
        reporter: Reporter,
        crew: Crew,
    ) -> None:
        self._workspace = workspace
        self._ledger = ledger
        self._listing = listing
        self._extra = extra
        self._header = header
        self._reporter = reporter
        self._crew = crew
        self._size = 0

    async def relocate_extra(self) -> None:
        """The version that the draft began with was deleted or compacted meanwhile: look where its
        contents lie now."""
        digests = {entry.digest for entry in self._extra if entry.extents}
        stored = await self._ledger.stored_contents(list(digests))
        self._extra = [
            relocated(entry, content)
            if entry.extents and (content := stored.get(entry.digest))
            else entry
            for entry in self._extra
        ]

    async def run(self) -> Committed:
        workspace, listing, header = self._workspace, self._listing, self._header
        store = await workspace.store()
        uploader = Uploader(
            store, self._ledger, workspace.budget, workspace.threads, self._reporter.tally
        )
        self._reporter.stage = "read"
        # Each of these walks through all rows: 20 to 100 ms for 1,000,000 files, so not on the loop.
        unknown = await workspace.threads.run(listing.unknown)
        self._count_unread(len(unknown))
        moved = self._reporter.tally.bytes_moved
        if unknown:
            await uploading.store(
                self._crew,
                uploader,
                self._ledger,
                workspace.threads,
                self._reporter.tally,
                listing,
                unknown,
            )
        digest = await workspace.threads.run(self._digest)
        found = None
        # Of a large file that is known, too, some chunks may be stored again.
        has_new = self._reporter.tally.bytes_moved > moved and not await workspace.threads.run(
            self._has_large, unknown
        )
        if not has_new:
            # Else content was stored that no version can have. (Or somebody logs the same at this moment:
            # then the commit finds that version.)
            found = await self._ledger.catalog.find_version(header.collection, digest)
        if found is not None and not found.is_damaged:
            return await self._commit(self._draft(digest))
        gone = await uploader.place_known(listing)
        if gone:
            await uploader.store(listing, gone)
            digest = await workspace.threads.run(self._digest)
        self._reporter.stage = "commit"
        location, totals = await write_manifest(
            store, self._ledger, workspace.threads, self._content()
        )
        object_ids = tuple(sorted({*totals.object_ids, location.object_id}))
        return await self._commit(
            msgspec.structs.replace(self._draft(digest), manifest=location, object_ids=object_ids)
        )

    async def _commit(self, draft: Draft) -> Committed:
        return await self._ledger.catalog.commit_version(self._ledger.session_id, draft)

    def _count_unread(self, unknown: int) -> None:
        """Files whose digest the stat cache knew are done already."""
        tally = self._reporter.tally
        known = len(self._listing) - unknown - tally.files
        if known > 0:
            tally.add(known, 0, 0, 0)

    def _draft(self, digest: bytes) -> Draft:
        header, listing = self._header, self._listing
        return Draft(
            id=header.draft_id,
            collection=header.collection,
            type=header.type,
            digest=digest,
            size=self._size,
            entry_count=len(listing) + len(self._extra),
            manifest=None,
            description=header.description,
            metadata=header.metadata,
            aliases=header.aliases,
            tags=header.tags,
            run_id=header.run_id,
            ttl_s=header.ttl_s,
        )

    def _has_large(self, rows: Sequence[int]) -> bool:
        sizes = self._listing.sizes
        return any(plan.is_large(sizes[row]) for row in rows)

    def _digest(self) -> bytes:
        """The version's digest, and its size on the way. Raises Invalid if a path has two contents."""
        listing = self._listing
        if self._extra:
            self._extra = _without_overwritten(listing, self._extra)
            check_tree([*listing.paths, *(entry.path for entry in self._extra)])
        self._size = sum(listing.sizes) + sum(entry.size for entry in self._extra)
        content = ContentDigest()
        if not self._extra:
            view = bytes(listing.digests)
            content.update_many(listing.paths, [view[i : i + 32] for i in range(0, len(view), 32)])
            return content.digest()
        pairs = [(path, listing.digest(row)) for row, path in enumerate(listing.paths)]
        pairs += [(entry.path, entry.digest) for entry in self._extra]
        pairs.sort()
        content.update_many([path for path, _ in pairs], [digest for _, digest in pairs])
        return content.digest()

    def _content(self) -> Iterator[Piece]:
        if not self._extra:
            return self._listing.pieces()
        entries = map(self._listing.entry, range(len(self._listing)))
        return _sliced(_merged(entries, self._extra))


def _without_overwritten(listing: Listing, extra: Sequence[Entry]) -> list[Entry]:
    rows = {path: row for row, path in enumerate(listing.paths)}
    kept = []
    for entry in extra:
        row = rows.get(entry.path)
        if row is None:
            kept.append(entry)
        elif not listing.flags[row] & OVERWRITES and listing.digest(row) != entry.digest:
            origin = (
                entry.reference.uri if entry.reference else "the version that the draft began with"
            )
            raise Invalid(
                f"{entry.path} is in the draft twice with different content: as {listing.local_path(row)} and from {origin}; pass overwrite=True or remove() it first"
            )
    return kept


def _merged(entries: Iterator[Entry], extra: Sequence[Entry]) -> Iterator[Entry]:
    following = iter(extra)
    other = next(following, None)
    for entry in entries:
        while other is not None and other.path < entry.path:
            yield other
            other = next(following, None)
        yield entry
    if other is not None:
        yield other
        yield from following


def _sliced(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while some := list(itertools.islice(entries, ENTRIES_PER_PIECE)):
        yield some


async def _extra_entries(workspace: Workspace, contents: Contents) -> list[Entry]:
    """References, and what is left of the version that the draft began with; sorted, one per path."""
    base: list[Entry] = []
    if contents.base is not None:
        reader = workspace.manifest_reader(await workspace.store(), contents.base)
        async for entries in reader.steps():
            base += entries
    resolved: list[list[Entry]] = []
    asked = [source for source in contents.references if not isinstance(source, Removal)]
    if asked:
        from ..references import resolve_all

        resolved = await resolve_all(asked, threads=workspace.threads)
    if not base and not resolved:
        return []
    return await workspace.threads.run(_put_together, base, contents.references, resolved)


def _put_together(
    base: Sequence[Entry],
    references: Sequence[ReferenceSource | Removal],
    resolved: Sequence[list[Entry]],
) -> list[Entry]:
    found = {entry.path: entry for entry in base}
    added: dict[str, int] = {}  # references, by when
    removed: dict[str, int] = {}

    def is_gone(path: str) -> bool:
        since = added.get(path, -1)
        return any(removed.get(head, -1) > since for head in (path, *parents(path)))

    entries_of = iter(resolved)
    for at, source in enumerate(references):
        if isinstance(source, Removal):
            removed[source.path] = at
            continue
        for entry in next(entries_of):
            other = found.get(entry.path)
            if other is not None and other.digest != entry.digest and not is_gone(entry.path):
                raise Invalid(
                    f"{entry.path} is in the draft already with other content; remove() it first, or give the reference another name="
                )
            found[entry.path] = entry
            added[entry.path] = at
    return [found[path] for path in sorted(found) if not (removed and is_gone(path))]


def _say(committed: Committed, header: Header) -> None:
    version: VersionInfo = committed.version
    if committed.is_new:
        logger.info(
            "%s logged: %d files, %d bytes",
            version.qualified_name,
            version.entry_count,
            version.size,
        )
        return
    logger.info("%s unchanged", version.qualified_name)
    others = [
        what
        for what, given, is_other in (
            ("metadata", header.metadata, header.metadata != version.metadata),
            ("description", header.description, header.description != version.description),
            ("tags", header.tags, not set(header.tags) <= set(version.tags)),
            ("ttl", header.ttl_s, header.ttl_s != version.ttl_s),
        )
        if given and is_other
    ]
    if others:
        logger.warning(
            "%s has this content already, with other %s: it stays as it is; set artifact.%s and save() to change it",
            version.qualified_name,
            " and ".join(others),
            others[0],
        )
