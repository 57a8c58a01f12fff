"""Manifests in a store: written as a stream, read block by block.

One path out of 1,000,000 costs two small reads (footer, block). Walking all entries holds a few blocks at
a time. What a block or the footer says is proven by the digest that the catalog, or the footer, holds.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from blake3 import blake3

from ..errors import Corrupt, NotFound
from ..model import Entry, ManifestLocation, object_key
from ..stores.protocol import Store
from .fetch import is_right_at_last
from .index import Index
from .manifest import BlockInfo, ContentDigest, Footer, ManifestWriter, decode_block
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

    object_id = await _store_encoded(store, index, partial(threads.run, step))
    return encoder.location(object_id), encoder


async def rewrite_manifest(
    store: Store,
    index: Index,
    threads: Threads,
    steps: AsyncIterator[list[Entry]],
    change: Callable[[list[Entry]], list[Entry]],
) -> tuple[ManifestLocation, ManifestWriter, bytes]:
    """The same for entries that are read while they are written, each list changed on the way; with the
    digest of the version that the new manifest describes."""
    encoder, content = ManifestWriter(), ContentDigest()

    def encode(entries: list[Entry]) -> list[bytes]:
        changed = change(entries)
        content.update_many([e.path for e in changed], [e.digest for e in changed])
        return encoder.append(changed)

    async def step() -> tuple[list[bytes], bool]:
        entries = await anext(steps, None)
        if entries is None:
            return [await threads.run(encoder.finish)], True
        return await threads.run(encode, entries), False

    object_id = await _store_encoded(store, index, step)
    return encoder.location(object_id), encoder, content.digest()


async def _store_encoded(
    store: Store, index: Index, step: Callable[[], Awaitable[tuple[list[bytes], bool]]]
) -> str:
    """Write what the steps give, until one says that it was the last; the object's id."""
    async with task_group() as group:
        writer = ObjectWriter(store, index, group)
        try:
            is_last = False
            while not is_last:
                pieces, is_last = await step()
                if pieces:
                    digests = b"".join(blake3(piece).digest() for piece in pieces)
                    await writer.append([memoryview(piece) for piece in pieces], digests, _nothing)
            await writer.finish()
            await index.add_stored([(writer.object_id, writer.size, ())], [])
        except BaseException:
            await writer.abort()
            raise
    return writer.object_id


def _nothing() -> None:
    """The pieces are the writer's own: nobody reuses them."""


class _Moved(Exception):
    """The version has another manifest now: begin again there. Nobody outside sees this."""


class ManifestReader:
    """The entries of one version. Blocks that were read last stay decoded for the next look.

    Whoever reads all of them learns, before the last ones are handed out, whether they give `digest`, the
    version's: what was read is what somebody wrote, but that may be the list of other files. They are hashed
    in the thread that decodes them: 28 ms more for 100,000 entries, which take 230 to decode.

    Compaction may move a version to another manifest, which says the same, and delete the old one: then
    `elsewhere` tells where it is now, and reading goes on there. It raises NotFound for a deleted version.

    When the manifest is wrong or gone, `damaged` is told the object's id and answers whose it is: the
    Corrupt error that follows begins with that. So a list of other files is healed like any damage.
    """

    def __init__(
        self,
        store: Store,
        location: ManifestLocation,
        threads: Threads,
        damaged: Callable[[str], Awaitable[str]],
        elsewhere: Callable[[], Awaitable[ManifestLocation]] | None = None,
        digest: bytes | None = None,
    ) -> None:
        self._store = store
        self._location = location
        self._threads = threads
        self._damaged = damaged
        self._elsewhere = elsewhere
        self._digest = digest
        self._footer: Footer | None = None
        self._last: tuple[BlockInfo, dict[str, Entry]] | None = None

    async def footer(self) -> Footer:
        while True:
            with contextlib.suppress(_Moved):
                return await self._read_footer()

    async def _read_footer(self) -> Footer:
        if self._footer is None:
            where = self._location
            self._footer = await self._decoded(
                where.size - where.footer_bytes, where.footer_bytes, partial(Footer.decode, where)
            )
        return self._footer

    async def find(self, path: str) -> Entry | None:
        """The entry of that path, or None."""
        while True:
            with contextlib.suppress(_Moved):
                return await self._find(path)

    async def _find(self, path: str) -> Entry | None:
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
        last = ""
        whole = None
        while True:
            if not (last or prefix or self._digest is None):
                whole = _Whole(self._location)
            with contextlib.suppress(_Moved):
                # Closed with the outer one, and not a turn of the loop later.
                async with contextlib.aclosing(self._steps(prefix, last, whole)) as steps:
                    async for entries in steps:
                        last = entries[-1].path
                        yield entries
                return

    async def _steps(
        self, prefix: str, after: str, whole: _Whole | None
    ) -> AsyncGenerator[list[Entry], None]:
        wanted = [
            block
            for block in (await self.footer()).blocks(prefix)
            if block.end_path is None or block.end_path > after
        ]
        runs = list(_neighbours(wanted))
        if not runs:
            await self._compare(whole, bool(after))
        for blocks in runs:
            length = sum(block.length for block in blocks)
            decode = partial(_decode, blocks, prefix, after, whole)
            entries = await self._decoded(blocks[0].offset, length, decode)
            if blocks is runs[-1]:
                await self._compare(whole, bool(after) or blocks is not runs[0])
            if entries:
                yield entries

    async def _compare(self, whole: _Whole | None, is_handed_out: bool) -> None:
        """Now that all of them were read, and perhaps all but the last ones handed out."""
        if whole is None or whole.content.digest() == self._digest:
            return
        if not await self._has_moved() and whole.began_at == self._location:
            raise await self._wrong("it lists other files than the version's digest says")
        if not is_handed_out:
            raise _Moved
        raise Corrupt(
            f"manifest {whole.began_at.object_id}: it was wrong, and was healed meanwhile; read the version again"
        )

    async def _decoded(self, offset: int, length: int, decode: Callable[[memoryview], T]) -> T:
        """What these bytes say; `decode` raises Corrupt for wrong ones."""
        found: list[T] = []
        wrong: list[Corrupt] = []

        async def attempt() -> bool:
            data = await self._read(offset, length)
            try:
                found.append(await self._threads.run(decode, data))
            except Corrupt as error:
                wrong.append(error)
            return bool(found)

        async with self._told():
            if not await is_right_at_last(self._store, self._location.object_id, attempt):
                raise wrong[-1]
        return found[0]

    @asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        try:
            yield
        except (NotFound, Corrupt) as error:
            if await self._has_moved():
                raise _Moved from error
            raise await self._wrong(str(error)) from error

    async def _has_moved(self) -> bool:
        """Whether the version has another manifest now; that is the one to read from then on."""
        if self._elsewhere is None or (now := await self._elsewhere()) == self._location:
            return False
        self._location, self._footer, self._last = now, None, None
        return True

    async def _wrong(self, why: str) -> Corrupt:
        whose = await self._damaged(self._location.object_id)
        return Corrupt(
            f"{whose}: its list of files is damaged ({why}); log the same content again to heal it"
        )

    async def _read(self, offset: int, length: int) -> memoryview:
        buffer = memoryview(bytearray(length))
        await self._store.read_into(object_key(self._location.object_id), offset, buffer)
        return buffer


class _Whole:
    """The digest of all entries while they are read, and the manifest that they were read from first."""

    def __init__(self, began_at: ManifestLocation) -> None:
        self.began_at = began_at
        self.content = ContentDigest()


def _decode(
    blocks: Sequence[BlockInfo], prefix: str, after: str, whole: _Whole | None, data: memoryview
) -> list[Entry]:
    """Those that start with the prefix and follow `after`."""
    entries: list[Entry] = []
    start = blocks[0].offset
    for block in blocks:
        entries += decode_block(
            block, data[block.offset - start : block.offset - start + block.length]
        )
    if prefix:
        entries = [entry for entry in entries if entry.path.startswith(prefix)]
    if after:
        entries = [entry for entry in entries if entry.path > after]
    if whole is not None:  # last of all: what was wrong is decoded once more, and hashed once
        whole.content.update_many(
            [entry.path for entry in entries], [entry.digest for entry in entries]
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
