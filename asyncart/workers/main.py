"""The worker's side: a process that stores and fetches files for a transfer of its parent.

Promised: it starts fast (no SQLAlchemy, no HTTP unless the store needs it), says nothing on the terminal,
does not mind the terminal's Ctrl-C (the parent hears it, and tells), and never outlives its parent: the end
of its input, or another parent than at its start, is its end, at once. What it leaves then is what a killed
process leaves: temporary files and unfinished objects that the next attempt or the sweep takes care of.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import anyio
import msgspec

from ..engine.statcache import Known, StatCache, packed
from ..engine.tally import Tally
from ..engine.tasks import Threads
from ..engine.upload import Uploader
from ..model import Chunk, Content, Entry, Extent, PendingUpload, UploadPart
from ..net.budget import Budget
from ..stores import open_configured
from ..stores.cache import with_cache
from ..stores.protocol import Store
from . import wire
from .cargo import listing_of, packed_results

REPORT_S = 0.1
HEARTBEAT_S = 1.0


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The pipes become ours alone, so that a stray print of some library cannot garble them.
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(nowhere, fd)
    os.close(nowhere)
    asyncio.run(_serve(source, sink))


class Line:
    """The connection to the transfer."""

    def __init__(self, sink: BinaryIO) -> None:
        self.orders: asyncio.Queue[wire.ToWorker] = asyncio.Queue()
        self.steps: asyncio.Queue[wire.Step | wire.End] = asyncio.Queue()
        self._scope: anyio.CancelScope | None = None
        self._is_cancelled = False
        self._sink = sink
        self._lock = threading.Lock()
        self._open: dict[int, asyncio.Future[wire.Answer | wire.Refusal]] = {}
        self._number = 0

    def send(self, message: wire.FromWorker) -> None:
        """From any thread. The transfer always reads, so this does not wait for long."""
        frame = wire.encode(message)
        with self._lock:
            self._sink.write(frame)
            self._sink.flush()

    async def ask(self, verb: str, *arguments: Any) -> Any:
        """The transfer's answer; raises what it raised."""
        self._number += 1
        number, answered = self._number, asyncio.get_running_loop().create_future()
        self._open[number] = answered
        try:
            self.send(wire.Question(number, verb, wire.raw(arguments)))
            reply = await answered
        finally:
            del self._open[number]
        if isinstance(reply, wire.Refusal):
            raise wire.error_of(reply.error)
        _, kind = wire.VERBS[verb]
        return msgspec.msgpack.decode(reply.result, type=kind)

    @contextmanager
    def cancellable(self) -> Iterator[None]:
        """The block ends early if the transfer says so. A transfer that cancelled sends nothing more."""
        with anyio.CancelScope() as self._scope:
            if self._is_cancelled:
                self._scope.cancel()
            yield

    def take(self, message: wire.ToWorker) -> None:
        """What the transfer says, on the event loop."""
        match message:
            case wire.Answer() | wire.Refusal():
                answered = self._open.get(message.number)
                if answered is not None and not answered.done():
                    answered.set_result(message)
            case wire.Step() | wire.End():
                self.steps.put_nowait(message)
            case wire.Cancel():
                self._is_cancelled = True  # it may come before the order was begun
                if self._scope is not None:
                    self._scope.cancel()
            case wire.Leave():
                os._exit(0)
            case _:
                self.orders.put_nowait(message)


class RemoteIndex:
    """Implements `engine.index.Index`: the transfer's, by way of the line."""

    def __init__(self, line: Line) -> None:
        self._ask = line.ask

    async def stored_contents(self, digests: Sequence[bytes]) -> dict[bytes, Content]:
        if not digests:
            return {}
        found: dict[bytes, Content] = await self._ask("stored_contents", list(digests))
        return found

    async def stored_chunks(self, digests: Sequence[bytes]) -> dict[bytes, Extent]:
        if not digests:
            return {}
        found: dict[bytes, Extent] = await self._ask("stored_chunks", list(digests))
        return found

    async def register_upload(self, object_id: str, token: str, resume_key: str) -> None:
        await self._ask("register_upload", object_id, token, resume_key)

    async def adopt_or_register(self, object_id: str, resume_key: str) -> PendingUpload | None:
        pending: PendingUpload | None = await self._ask("adopt_or_register", object_id, resume_key)
        return pending

    async def note_parts(self, object_id: str, parts: Sequence[UploadPart]) -> None:
        await self._ask("note_parts", object_id, list(parts))

    async def forget_upload(self, object_id: str) -> None:
        await self._ask("forget_upload", object_id)

    async def add_stored(
        self,
        objects: Sequence[tuple[str, int, Sequence[tuple[Chunk, int]]]],
        contents: Sequence[Content],
    ) -> None:
        await self._ask("add_stored", list(objects), list(contents))


class RelayedCache(StatCache):
    """The machine's stat cache, which only the transfer writes: two that merge one row lose news."""

    def __init__(self, path: str, line: Line) -> None:
        super().__init__(path)
        self._line = line

    def merged(self, folder: str, device: int, files: Iterable[Known]) -> bytes:
        return packed(device, list(files))

    def save(self, folders: Iterable[tuple[str, bytes]]) -> None:
        self._line.send(wire.Remember(list(folders)))


class Reported(Tally):
    """A tally whose additions are told to the transfer now and then."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line
        self._told = (0, 0, 0, 0)

    def report(self) -> bool:
        """Tell the news, if there are any."""
        now = (self.files, self.bytes, self.bytes_deduplicated, self.bytes_moved)
        if now == self._told:
            return False
        news = [new - old for new, old in zip(now, self._told, strict=True)]
        self._line.send(wire.Progressed(*news))
        self._told = now
        return True

    async def keep_reporting(self) -> None:
        spoke_at = time.monotonic()
        while True:
            await anyio.sleep(REPORT_S)
            if self.report():
                spoke_at = time.monotonic()
            elif time.monotonic() - spoke_at >= HEARTBEAT_S:
                self._line.send(wire.Progressed(0, 0, 0, 0))
                spoke_at = time.monotonic()


async def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    line = Line(sink)
    loop = asyncio.get_running_loop()
    threading.Thread(target=_listen, args=(source, loop, line), daemon=True).start()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    opening = await line.orders.get()
    assert isinstance(opening, wire.Open)
    store = await open_configured(
        opening.store_url,
        stall_timeout_s=opening.stall_timeout_s,
        limit_rate_bytes=opening.limit_rate_bytes,
        checksum=opening.checksum,
        api_key=opening.api_key,
        allow_insecure_http=opening.allow_insecure_http,
    )
    store = with_cache(store, opening.cache_dir, opening.cache_bytes)
    line.send(wire.Ready())
    budget, threads = Budget(opening.memory_bytes), Threads(opening.threads)
    while True:
        await _obey(await line.orders.get(), line, store, budget, threads)


def _listen(source: BinaryIO, loop: asyncio.AbstractEventLoop, line: Line) -> None:
    while (body := wire.read_frame(source)) is not None:
        loop.call_soon_threadsafe(line.take, wire.decode_to_worker(body))
    os._exit(0)  # the transfer is gone


def _watch_parent(parent: int) -> None:
    """The pipe does not end if a fork of the parent lives on and holds it open."""
    while os.getppid() == parent:
        time.sleep(HEARTBEAT_S)
    os._exit(0)


async def _obey(
    order: wire.ToWorker, line: Line, store: Store, budget: Budget, threads: Threads
) -> None:
    """Do it, and send what came of it."""
    tally = Reported(line)
    result: wire.FromWorker = wire.Stopped()
    with line.cancellable():
        async with anyio.create_task_group() as reporting:
            reporting.start_soon(tally.keep_reporting)
            try:
                match order:
                    case wire.Files():
                        result = await _store(order, line, store, budget, threads, tally)
                    case wire.Fetch():
                        result = await _fetch(order, line, store, budget, threads, tally)
            except Exception as error:  # it is the transfer's to raise
                result = wire.Failed(wire.failure_of(error))
            reporting.cancel_scope.cancel()
    tally.report()
    line.send(result)


async def _store(
    files: wire.Files, line: Line, store: Store, budget: Budget, threads: Threads, tally: Tally
) -> wire.Stored:
    listing = listing_of(files)
    uploader = Uploader(store, RemoteIndex(line), budget, threads, tally)
    await uploader.store(listing, list(range(len(listing))))
    return packed_results(listing, files)


async def _fetch(
    fetch: wire.Fetch, line: Line, store: Store, budget: Budget, threads: Threads, tally: Tally
) -> wire.Fetched:
    from ..engine.download import Downloader  # 15 ms that an upload need not wait for
    from ..engine.target import Target

    async def relocate(object_id: str, entry: Entry) -> Content | None:
        content: Content | None = await line.ask("relocate", object_id, entry)
        return content

    target = Target(fetch.root)
    cache = RelayedCache(fetch.statcache_path, line)
    try:
        downloader = Downloader(store, target, cache, budget, threads, relocate, tally)
        await downloader.run(_steps(line))
    finally:
        cache.close()
        target.close()
    return wire.Fetched()


async def _steps(line: Line) -> AsyncIterator[list[Entry]]:
    while isinstance(step := await line.steps.get(), wire.Step):
        line.send(wire.More())
        yield step.entries
