"""Manifests in a store: written as a stream, read block by block.

One path out of 1,000,000 costs two small reads (footer, block). Walking all entries holds a few blocks at
a time. What a block or the footer says is proven by the digest that the catalog, or the footer, holds.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from blake3 import blake3

from ..errors import Corrupt, NotFound
from ..model import Entry, ManifestLocation, object_key
from ..stores.protocol import Store, forget_cached
from .index import Index
from .manifest import BlockInfo, Footer, ManifestWriter, decode_block
from .objects import ObjectWriter
from .records import PlainFiles
from .tasks import Threads, task_group

T = TypeVar("T")

PIECES_PER_STEP = 16  # blocks of 512 entries: some milliseconds of a worker thread
READ_BYTES = 1 << 20  # neighbouring blocks that are read at once


Piece = PlainFiles | Sequence[Entry]


async def write_manifest(
    store: Store, index: Index, threads: Threads, content: Iterable[Piece]
) -> tuple[ManifestLocation, ManifestWriter]:
    """Store the manifest of this content (sorted by path); its location, and the writer's totals."""
    encoder = ManifestWriter()
    source = iter(content)

    def step() -> tuple[list[bytes], bool]:
        finished: list[bytes] = []
        some = list(itertools.islice(source, PIECES_PER_STEP))
        for piece in some:
            if isinstance(piece, PlainFiles):
                finished += encoder.append_plain(piece)
            else:
                finished += encoder.append(piece)
        return (finished, False) if some else ([encoder.finish()], True)

    async with task_group() as group:
        writer = ObjectWriter(store, index, group)
        try:
            is_last = False
            while not is_last:
                pieces, is_last = await threads.run(step)
                if pieces:
                    digests = b"".join(blake3(piece).digest() for piece in pieces)
                    await writer.append([memoryview(piece) for piece in pieces], digests, _nothing)
            await writer.finish()
            await index.add_stored([(writer.object_id, writer.size, ())], [])
        except BaseException:
            await writer.abort()
            raise
    return encoder.location(writer.object_id), encoder


def _nothing() -> None:
    """The pieces are the writer's own: nobody reuses them."""


class ManifestReader:
    """The entries of one version. Blocks that were read last stay decoded for the next look.

    When the manifest is wrong or gone, `damaged` is told the object's id and answers whose it is: the
    Corrupt error that follows begins with that.
    """

    def __init__(
        self,
        store: Store,
        location: ManifestLocation,
        threads: Threads,
        damaged: Callable[[str], Awaitable[str]],
    ) -> None:
        self._store = store
        self._location = location
        self._threads = threads
        self._damaged = damaged
        self._footer: Footer | None = None
        self._last: tuple[BlockInfo, dict[str, Entry]] | None = None

    async def footer(self) -> Footer:
        if self._footer is None:
            where = self._location
            self._footer = await self._decoded(
                where.size - where.footer_bytes, where.footer_bytes, partial(Footer.decode, where)
            )
        return self._footer

    async def find(self, path: str) -> Entry | None:
        """The entry of that path, or None."""
        block = (await self.footer()).find(path)
        if block is None:
            return None
        if self._last is None or self._last[0] != block:
            decode = partial(decode_block, block)
            entries = await self._decoded(block.offset, block.length, decode)
            self._last = block, {entry.path: entry for entry in entries}
        return self._last[1].get(path)

    async def steps(self, prefix: str = "") -> AsyncIterator[list[Entry]]:
        """All entries whose path starts with the prefix, in order, some thousands at a time."""
        for blocks in _neighbours((await self.footer()).blocks(prefix)):
            length = sum(block.length for block in blocks)
            entries = await self._decoded(blocks[0].offset, length, partial(_decode, blocks))
            if prefix:
                entries = [entry for entry in entries if entry.path.startswith(prefix)]
            if entries:
                yield entries

    async def _decoded(self, offset: int, length: int, decode: Callable[[memoryview], T]) -> T:
        """What these bytes say; `decode` raises Corrupt for wrong ones."""
        async with self._told():
            try:
                return await self._threads.run(decode, await self._read(offset, length))
            except Corrupt:
                if not await forget_cached(self._store, object_key(self._location.object_id)):
                    raise
            return await self._threads.run(decode, await self._read(offset, length))

    @asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        try:
            yield
        except (NotFound, Corrupt) as error:
            whose = await self._damaged(self._location.object_id)
            raise Corrupt(
                f"{whose}: its list of files is damaged ({error}); log the same content again to heal it"
            ) from error

    async def _read(self, offset: int, length: int) -> memoryview:
        buffer = memoryview(bytearray(length))
        await self._store.read_into(object_key(self._location.object_id), offset, buffer)
        return buffer


def _decode(blocks: Sequence[BlockInfo], data: memoryview) -> list[Entry]:
    entries: list[Entry] = []
    start = blocks[0].offset
    for block in blocks:
        entries += decode_block(
            block, data[block.offset - start : block.offset - start + block.length]
        )
    return entries


def _neighbours(blocks: Iterable[BlockInfo]) -> Iterable[list[BlockInfo]]:
    run: list[BlockInfo] = []
    for block in blocks:
        if run and block.offset + block.length - run[0].offset > READ_BYTES:
            yield run
            run = []
        run.append(block)
    if run:
        yield run
