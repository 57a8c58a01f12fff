"""Give back the dead bytes of objects that are still needed for a little: copy that, and let them go.

For objects that may hold dead bytes (see `catalog.compaction`) the manifests of the versions that reach
them are read, as few as it takes to decide (see `engine.compact`). The live pieces of what is worth it are
copied, verified, into new objects; every version that reached one gets a new manifest; one transaction
moves them all. A version stays what it was: digest, entries, metadata, number. Killed at any point, all
that is left are objects that no version reaches, which the next collections delete.

Readers need not stop. The emptied objects are only condemned here; a later collection deletes them. Who
still reads by the old manifest then finds the content by its digest, as for damaged objects, and the
manifest by asking the catalog again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import msgspec

from ..catalog.protocol import Catalog, Compaction, LooseObject, Reaching, Rewritten, StoredObject
from ..engine import compact as decide
from ..engine.compact import Survey, Surveyed, User
from ..engine.move import Mover
from ..engine.tasks import Threads
from ..engine.tree import ManifestReader, rewrite_manifest
from ..errors import Corrupt
from ..model import Chunk, Content, Entry, VersionInfo
from ..net.budget import Budget
from ..stores.cache import uncached
from ..stores.protocol import Store
from .ledger import Ledger

PASS_OBJECTS = 1024  # looked at together: 64 GiB of packs

logger = logging.getLogger("asyncart.collect")


class CompactionReport(msgspec.Struct, frozen=True):
    """What compaction did, or would do: `objects` of `nbytes` were emptied, `copied_bytes` of which live
    on in new ones; `versions` are the full names of those whose manifests were rewritten."""

    objects: int = 0
    nbytes: int = 0
    copied_bytes: int = 0
    versions: tuple[str, ...] = ()

    def __add__(self, other: CompactionReport) -> CompactionReport:
        return CompactionReport(
            self.objects + other.objects,
            self.nbytes + other.nbytes,
            self.copied_bytes + other.copied_bytes,
            (*self.versions, *(name for name in other.versions if name not in self.versions)),
        )


async def compact(
    catalog: Catalog, store: Store, budget: Budget, threads: Threads, *, dry_run: bool = False
) -> CompactionReport:
    """Empty what is mostly dead. Safe beside writers, readers, and another compaction."""
    work = _Compactor(catalog, uncached(store), budget, threads)
    report, after = CompactionReport(), 0
    while loose := await catalog.loose_objects(after, PASS_OBJECTS):
        report += await work.look_at(loose, dry_run=dry_run)
        put_off = [each.number for each in loose if each.object_id in work.put_off]
        after = min(put_off) - 1 if put_off else loose[-1].number
    return report


class _Plan(NamedTuple):
    """What to empty for one entity, and the versions that have to be moved for it."""

    entity: str
    victims: list[Surveyed]
    versions: list[VersionInfo]


class _Compactor:
    def __init__(self, catalog: Catalog, store: Store, budget: Budget, threads: Threads) -> None:
        self._catalog = catalog
        self._store = store
        self._budget = budget
        self._threads = threads
        self.put_off: set[str] = set()

    async def look_at(self, loose: Sequence[LooseObject], *, dry_run: bool) -> CompactionReport:
        """Decide about these objects, and do it; those in `put_off` are left for the next call."""
        reaching = await self._catalog.versions_reaching([each.number for each in loose])
        survey = await self._survey(loose, reaching)
        self.put_off = set(survey.put_off)
        plans = _plans(loose, reaching, survey)
        if dry_run:
            return sum(map(_as_planned, plans), CompactionReport())
        chosen = {victim.object_id for plan in plans for victim in plan.victims}
        settled = [each for each in loose if each.object_id not in chosen | self.put_off]
        await self._catalog.mark_compact(settled)
        report = CompactionReport()
        for plan in plans:
            report += await self._carry_out(plan)
        return report

    async def _survey(self, loose: Sequence[LooseObject], reaching: Sequence[Reaching]) -> Survey:
        survey = Survey({each.object_id: each.size for each in loose})
        users = _users(loose, reaching)
        infos = {each.version.id: each.version for each in reaching}
        survey.settle(info.manifest.object_id for info in infos.values())  # all of it is needed
        done: set[str] = set()
        while (user := decide.next_user(users, survey, done)) is not None:
            done.add(user.version_id)
            try:
                async for entries in self._entries(infos[user.version_id]):
                    await self._threads.run(survey.add, entries)
            except Corrupt as error:  # what it needs is unknown: nothing of it may go
                logger.warning("not compacted: %s", error)
                survey.settle(user.object_ids)
        return survey

    def _entries(self, version: VersionInfo) -> AsyncIterator[list[Entry]]:
        """By the manifest that was seen, whatever became of the version: `Catalog.compact` compares."""

        async def damaged(object_id: str) -> str:
            await self._catalog.mark_damaged([object_id])
            return version.qualified_name

        return ManifestReader(self._store, version.manifest, self._threads, damaged).steps()

    async def _carry_out(self, plan: _Plan) -> CompactionReport:
        async with Ledger.open(self._catalog, plan.entity) as ledger:
            mover = Mover(self._store, ledger, self._budget, self._threads)
            await mover.copy(plan.victims)
            if mover.damaged:
                await self._catalog.mark_damaged(mover.damaged)
            rewrite = _Rewrite(self, ledger, mover)
            rewritten = [
                new
                for version in plan.versions
                if (new := await rewrite.version(version)) is not None
            ]
            compacted = await self._catalog.compact(
                ledger.session_id,
                Compaction(
                    emptied=tuple(sorted(mover.moves)),
                    objects=tuple(rewrite.objects()),
                    contents=tuple(rewrite.contents.values()),
                    versions=tuple(rewritten),
                ),
            )
        sizes = {victim.object_id: victim.size for victim in plan.victims}
        names = {version.id: version.qualified_name for version in plan.versions}
        return CompactionReport(
            objects=len(compacted.condemned),
            nbytes=sum(sizes[object_id] for object_id in compacted.condemned),
            copied_bytes=mover.copied_bytes,
            versions=tuple(names[version_id] for version_id in compacted.version_ids),
        )


class _Rewrite:
    """New manifests for versions, and what the catalog has to know of the contents that moved."""

    def __init__(self, compactor: _Compactor, ledger: Ledger, mover: Mover) -> None:
        self._compactor = compactor
        self._ledger = ledger
        self._mover = mover
        self._chunks: dict[str, dict[int, Chunk]] = {name: {} for name, _ in mover.stored}
        self.contents: dict[bytes, Content] = {}

    async def version(self, version: VersionInfo) -> Rewritten | None:
        """None if it cannot be read: then it stays where it is, and keeps what it needs."""
        compactor = self._compactor
        try:
            location, totals, digest = await rewrite_manifest(
                compactor._store,
                self._ledger,
                compactor._threads,
                compactor._entries(version),
                self._moved,
            )
        except Corrupt as error:
            logger.warning("not compacted: %s", error)
            return None
        if digest != version.digest:
            logger.error("%s: its manifest is not that of its digest", version.qualified_name)
            return None
        object_ids = tuple(sorted(totals.object_ids))
        return Rewritten(version.id, version.manifest, location, object_ids)

    def _moved(self, entries: list[Entry]) -> list[Entry]:
        return [self._moved_entry(entry) for entry in entries]

    def _moved_entry(self, entry: Entry) -> Entry:
        new = decide.moved(entry, self._mover.moves)
        if new is not entry and new.digest not in self.contents:
            self.contents[new.digest] = Content(new.digest, new.size, new.extents, new.chunks)
            if new.chunks:
                for object_id, place, digest in decide.pieces_of(new):
                    if object_id in self._chunks:
                        self._chunks[object_id][place.offset] = Chunk(digest, place.length)
        return new

    def objects(self) -> list[StoredObject]:
        return [
            StoredObject(
                name,
                size,
                tuple((chunk, offset) for offset, chunk in sorted(self._chunks[name].items())),
            )
            for name, size in self._mover.stored
        ]


def _users(loose: Sequence[LooseObject], reaching: Sequence[Reaching]) -> list[User]:
    names = {each.number: each.object_id for each in loose}
    return [
        User(
            each.version.id,
            each.version.manifest.size,
            frozenset(names[number] for number in each.objects),
        )
        for each in reaching
    ]


def _plans(
    loose: Sequence[LooseObject], reaching: Sequence[Reaching], survey: Survey
) -> list[_Plan]:
    """What is worth it, by entity: a session writes for one."""
    users = _users(loose, reaching)
    entities = {each.object_id: each.entity for each in loose}
    by_entity: dict[str, list[Surveyed]] = {}
    for victim in decide.chosen(survey.result(), users):
        by_entity.setdefault(entities[victim.object_id], []).append(victim)
    plans = []
    for entity, victims in by_entity.items():
        ids = {victim.object_id for victim in victims}
        touched = [
            each.version
            for each, user in zip(reaching, users, strict=True)
            if not ids.isdisjoint(user.object_ids)
        ]
        plans.append(_Plan(entity, victims, touched))
    return plans


def _as_planned(plan: _Plan) -> CompactionReport:
    return CompactionReport(
        objects=len(plan.victims),
        nbytes=sum(victim.size for victim in plan.victims),
        copied_bytes=sum(victim.live_bytes for victim in plan.victims),
        versions=tuple(version.qualified_name for version in plan.versions),
    )
