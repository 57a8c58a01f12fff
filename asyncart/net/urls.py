"""Signed URLs of a server's objects: asked for lazily, many at once, and kept while they hold.

Promised: a URL that is handed out holds for a while yet; questions that come at the same time travel
together; one object that may not be had does not spoil the answer for the others. Kept are at most
`MOST_KEPT` URLs, in memory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.lowlevel

from asyncart import wire
from asyncart.errors import Conflict, Denied, Invalid, NotFound

if TYPE_CHECKING:
    from .control import ServerClient

MOST_KEPT = 20_000  # about 600 bytes each
MARGIN_S = 60.0  # a URL has to hold until the request begins, on a store whose clock is not ours


class _Key(NamedTuple):
    object_id: str
    method: wire.UrlMethod
    part: int | None = None
    token: str = ""
    offset: int = 0


class _Kept(NamedTuple):
    url: wire.SignedUrl
    until: float


class SignedUrls:
    """Belongs to one event loop, as its client does."""

    def __init__(self, client: ServerClient) -> None:
        self._client = client
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._wanted: dict[_Key, wire.WantedUrl] = {}
        self._alone: set[_Key] = set()  # may not be had, or was asked for with one of those
        self._round: anyio.Event | None = None  # set when the question under way is answered

    def keep(self, urls: Iterable[wire.SignedUrl]) -> None:
        """URLs of whole objects, which came with another answer."""
        for url in urls:
            self._keep(_Key(url.object_id, url.method), url)

    def _keep(self, key: _Key, url: wire.SignedUrl) -> None:
        until = time.monotonic() + url.ttl_s - min(MARGIN_S, url.ttl_s / 4)
        self._kept[key] = _Kept(url, until)
        self._kept.move_to_end(key)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def forget(self, wanted: wire.WantedUrl) -> None:
        """It was refused, or has served its purpose."""
        self._kept.pop(_key(wanted), None)

    async def get(
        self, wanted: wire.WantedUrl, ahead: Sequence[wire.WantedUrl] = ()
    ) -> wire.SignedUrl:
        """The URL; `ahead` are others that will be wanted soon, asked for on the way. Raises NotFound."""
        key = _key(wanted)
        while (found := self._fresh(key)) is None:
            if self._round is not None:
                self._wanted.setdefault(key, wanted)
                await self._round.wait()
            elif key in self._alone:
                self._alone.discard(key)
                return await self._sign_one(wanted)
            else:
                self._wanted.setdefault(key, wanted)
                for each in ahead:
                    if self._fresh(_key(each)) is None:
                        self._wanted.setdefault(_key(each), each)
                await self._sign_round(key)
        return found

    def _fresh(self, key: _Key) -> wire.SignedUrl | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= time.monotonic():
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept.url

    async def _sign_one(self, wanted: wire.WantedUrl) -> wire.SignedUrl:
        (url,) = await self._ask([wanted])
        return url

    async def _sign_round(self, own: _Key) -> None:
        """Ask for what is wanted by now; the others wait for `_round`, then look again."""
        self._round = done = anyio.Event()
        batch: dict[_Key, wire.WantedUrl] = {}
        try:
            await anyio.lowlevel.checkpoint()  # whoever is ready to ask joins in
            for key in list(self._wanted)[: wire.MAX_URLS]:
                batch[key] = self._wanted.pop(key)
            await self._ask(list(batch.values()))
        except (Conflict, Denied, Invalid, NotFound):
            if list(batch) == [own]:
                raise
            # One of them, nobody knows which: each asker learns about its own.
            if len(self._alone) > MOST_KEPT:
                self._alone.clear()
            self._alone.update(batch)
        finally:
            self._round = None
            done.set()

    async def _ask(self, wanted: Sequence[wire.WantedUrl]) -> list[wire.SignedUrl]:
        answer = await self._client.ask(
            wire.SignedUrls, "sign_urls", wire.SignUrls(wanted=list(wanted))
        )
        for each, url in zip(wanted, answer.urls, strict=True):
            self._keep(_key(each), url)
        return answer.urls


def _key(wanted: wire.WantedUrl) -> _Key:
    return _Key(wanted.object_id, wanted.method, wanted.part, wanted.token, wanted.offset)
