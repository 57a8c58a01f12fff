"""A contender's corner: an empty folder, a server of its own, and itself at work in both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.bucket import BUCKET, S3Server
from bench.case import OURS, Plan
from bench.data import Contents, contents, require_same
from bench.measure import Measurement, run
from bench.ours import Asyncart
from bench.peers import Peer, S3Peer
from bench.servers import Start, counters, since
from bench.workplace import remove

PREFIX = "corner"


class Corner:
    """`peer` is None for asyncart. What the server was asked meanwhile goes into a measurement's `extra`."""

    def __init__(self, place: Path, source: Path, server: S3Server, peer: S3Peer | None) -> None:
        self.name = OURS if peer is None else peer.name
        self.place, self.source, self.server = place, source, server
        self.target = place / "fetched"
        self.peer = peer
        self._stored: Contents | None = None  # of a source that is gone
        self.ours = Asyncart(place, {**server.environment(), "ASYNCART_OBJECTS": URL})
        if peer is not None:
            (place / "peer").mkdir()
            peer.connect(server, PREFIX)
            peer.reset(place / "peer", source)

    def takes(self, step: str) -> bool:
        return self.peer is None or step in self.peer.steps

    def store(self) -> Measurement:
        if self.peer is None:
            return self._counted(lambda: self.ours.log(self.source))
        command = self.peer.store()
        return self.peer.timed(self._counted(lambda: run(command)))

    def again(self) -> Measurement:
        if self.peer is None:
            return self.store()
        command = self.peer.again()
        return self.peer.timed(self._counted(lambda: run(command)))

    def fetch(self) -> Measurement:
        """Into `target`: what is there is left there, and what we fetched is compared byte by byte."""
        if self.peer is None:
            measurement = self._counted(lambda: self.ours.get(self.target))
            self._check(self.target)
            return measurement
        command = self.peer.fetch(self.target)
        measurement = self.peer.timed(self._counted(lambda: run(command)))
        self._check(self.peer.fetched(self.target))
        return measurement

    def drop_source(self) -> None:
        """Make room for what is fetched; what was stored is remembered by its digests."""
        self._stored = contents(self.source)
        remove(self.source)

    def _check(self, fetched: Path) -> None:
        if self._stored is not None:
            require_same(self._stored, fetched, compare_content=True)
        else:
            require_same(self.source, fetched, compare_content=self.peer is None)

    def forget_fetched(self) -> None:
        """The target and the cache are empty again."""
        remove(self.target)
        remove(self.ours.home / "cache")

    def _counted(self, call: Callable[[], Measurement]) -> Measurement:
        if not self.server.metrics_url:
            return call()
        before = counters(self.server.metrics_url)
        measurement = call()
        asked = since(before, counters(self.server.metrics_url))
        return replace(measurement, extra={**measurement.extra, **asked})


URL = f"s3://{BUCKET}/{PREFIX}"


def contenders(
    plan: Plan, round_index: int, *, without: Collection[str] = ()
) -> Sequence[S3Peer | None]:
    """None is asyncart. Another one is first in every round."""
    peers = [_s3(p) for p in plan.peers_for("store", round_index) if p.name not in without]
    everybody: list[S3Peer | None] = [None, *peers]
    first = round_index % len(everybody)
    return [*everybody[first:], *everybody[:first]]


def _s3(peer: Peer) -> S3Peer:
    assert isinstance(peer, S3Peer)
    return peer


@contextmanager
def corner(
    plan: Plan, root: Path, source: Path, start: Start, peer: S3Peer | None
) -> Iterator[Corner]:
    """A fresh server, and a folder; both are gone at the end. Raises Missing without a server program."""
    place = root / (OURS if peer is None else peer.name)
    place.mkdir()
    try:
        with start(root / "server", plan.cache) as server:
            yield Corner(place, source, server, peer)
    finally:
        remove(place)
