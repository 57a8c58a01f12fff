"""A balancer for replicas of a server, as small as one can be: `python -m bench.balancer PORT PORT...`.

With `--faults 0.01` it also breaks every hundredth request on purpose: before the replica hears of it, in
the middle of it, or after it was carried out and before the client learns that. One line per fault goes to
stdout.

It listens on the first port and passes connections on to the others in turn, byte by byte, on 127.0.0.1
only. Who gets one is decided by `/readyz`, asked every `ASK_S`; a replica that does not even take the
connection is passed over at once. While nobody is ready, new connections wait: that is what a client
notices of a short outage.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Sequence

ASK_S = 0.1
ANSWER_S = 2.0
PATIENCE_S = 30.0  # for any replica to be ready
HIGH_WATER_BYTES = 1 << 20
FAULTS = ("unheard", "torn", "unanswered")


class Balancer:
    def __init__(self, upstreams: Sequence[int], fault_rate: float = 0.0, seed: int = 0) -> None:
        self._upstreams = list(upstreams)
        self._fault_rate = fault_rate
        self._random = random.Random(seed)
        self._ready: set[int] = set()
        self._turn = 0
        self._changed = asyncio.Event()

    async def run(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Side(self), "127.0.0.1", port, backlog=1024, reuse_address=True
        )
        async with server, asyncio.TaskGroup() as group:
            for upstream in self._upstreams:
                group.create_task(self._watch(upstream))
            await server.serve_forever()

    async def connect(self, client: _Side) -> None:
        """Give the client's connection to a replica that takes it, or close it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while loop.time() < deadline:
            upstream = self._next()
            if upstream is None:
                self._changed.clear()
                try:
                    async with asyncio.timeout(deadline - loop.time()):
                        await self._changed.wait()
                except TimeoutError:
                    break
                continue
            try:
                await loop.create_connection(lambda: _Side(self, client), "127.0.0.1", upstream)
                return
            except OSError:
                self._ready.discard(upstream)
        client.close()

    def fault(self) -> str:
        """What is to go wrong with this request: nothing, mostly."""
        if self._random.random() >= self._fault_rate:
            return ""
        kind = self._random.choice(FAULTS)
        print(kind, flush=True)
        return kind

    def _next(self) -> int | None:
        ready = [port for port in self._upstreams if port in self._ready]
        if not ready:
            return None
        self._turn += 1
        return ready[self._turn % len(ready)]

    async def _watch(self, upstream: int) -> None:
        while True:
            if await _is_ready(upstream):
                self._ready.add(upstream)
                self._changed.set()
            else:
                self._ready.discard(upstream)
            await asyncio.sleep(ASK_S)


class _Side(asyncio.Protocol):
    """One end of a passed-on connection; `other` is the end at the other side of us."""

    def __init__(self, balancer: Balancer, other: _Side | None = None) -> None:
        self._balancer = balancer
        self._other = other
        self._is_client = other is None
        self._transport: asyncio.Transport | None = None
        self._early = bytearray()  # what a client sends before its replica is found
        self._loses_answer = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        if self._is_client:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._balancer.connect(self))
        elif self._other is not None:
            self._other.joined(self)

    def joined(self, upstream: _Side) -> None:
        self._other = upstream
        if self._transport is None:  # the client is gone meanwhile
            upstream.close()
        elif self._early:
            early = bytes(self._early)
            self._early.clear()
            self._pass_on(early)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early += data
        elif self._is_client:
            self._pass_on(data)
        elif self._other._loses_answer:
            self._other.abort()
        else:
            self._other.write(data)

    def _pass_on(self, data: bytes) -> None:
        """A request, or a piece of a large one, on its way to the replica."""
        assert self._other is not None
        kind = self._balancer.fault()
        if kind == "unanswered":
            self._loses_answer = True
        if kind != "unheard":
            self._other.write(data[: len(data) // 2] if kind == "torn" else data)
        if kind in ("unheard", "torn"):
            self.abort()

    def abort(self) -> None:
        """A reset, for the client; the replica sees its connection end."""
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._task is not None:
            self._task.cancel()
        if self._other is not None:
            self._other.close()

    def pause_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _is_ready(port: int) -> bool:
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(
                    b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
                )
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.balancer")
    parser.add_argument("port", type=int)
    parser.add_argument("upstreams", type=int, nargs="+")
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(_run(given.port, given.upstreams, given.faults, given.seed))


async def _run(port: int, upstreams: Sequence[int], fault_rate: float, seed: int) -> None:
    await Balancer(upstreams, fault_rate, seed).run(port)


if __name__ == "__main__":
    main()
