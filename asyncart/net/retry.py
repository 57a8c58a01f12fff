"""Decide what follows a failed attempt, and drive the two hot verbs accordingly.

`decide` is arithmetic on what happened so far: no clock, no chance, no I/O. `Transfer` is the one place
that loops: sign, wait for a turn, attempt, decide. Promised to its callers:

- transient failures (408, 409, 425, 429, 5xx, lost connections, stalls) are repeated after a full-jitter
  back-off of 100 ms to 20 s, not before `Retry-After`, until there was no progress for `patience_s`;
- a GET that broke in its body continues behind the bytes that arrived, if it is still the same object;
- 401 and 403 are signed anew once (presigned URLs expire, clocks are wrong); other 4xx are never repeated;
- an answer that is no answer to the question (wrong range, error page with status 200) is repeated four
  times, because some servers behind one name may be sane: then it is an error;
- repeats of all transfers together are limited per second, so that a broken store is not hammered by
  hundreds of streams; who finds the limit reached waits longer, and fails only by its own patience;
- the log says that something is repeated when it takes more than a moment (see `notice`);
- what leaves is one of `asyncart.errors`, with what failed, on what, why and what to do. Never a query
  string: it contains the signature.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from asyncart.errors import (
    AsyncartError,
    Conflict,
    Corrupt,
    Denied,
    Full,
    NotFound,
    TransferError,
    Unavailable,
)

from .notice import Notice
from .pace import Pace, Rate
from .plane import (
    AttemptError,
    DataPlane,
    Reason,
    ResponseHead,
    error_code,
    malformed,
)

logger = logging.getLogger("asyncart.transfer")

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 20.0
PATIENCE_S = 120.0  # without progress: four stalls, or a restart of the store
MALFORMED_RETRIES = 4
PROGRESS_BYTES = 64 << 10  # an attempt that brought less counts as one that brought nothing
RETRIES_PER_S = 20.0  # of all transfers together, after a burst
RETRY_BURST = 200.0

# Codes that say "sign it again" under a status other than 401 and 403 (S3 answers 400 to old tokens).
_SIGN_AGAIN = frozenset({"ExpiredToken", "RequestTimeTooSkewed", "TokenRefreshRequired"})


class Step(enum.Enum):
    RETRY = "retry"
    RE_SIGN = "re-sign"
    GIVE_UP = "give up"


class History(NamedTuple):
    """What one operation went through since its last progress."""

    failures: int = 0
    malformed: int = 0
    was_re_signed: bool = False
    elapsed_s: float = 0.0


class Decision(NamedTuple):
    step: Step
    delay_s: float = 0.0


def decide(
    error: AttemptError,
    history: History,
    *,
    jitter: float,
    patience_s: float = PATIENCE_S,
) -> Decision:
    """The step after `error`; `history` does not count it yet. `jitter` is in 0..1."""
    if error.status in (401, 403) or error_code(error.body) in _SIGN_AGAIN:
        return Decision(Step.GIVE_UP if history.was_re_signed else Step.RE_SIGN)
    if not error.is_transient:
        return Decision(Step.GIVE_UP)
    if error.reason is Reason.MALFORMED and history.malformed >= MALFORMED_RETRIES:
        return Decision(Step.GIVE_UP)
    delay = max(backoff_s(history.failures, jitter), retry_after_s(error.headers))
    if history.elapsed_s + delay > patience_s:
        return Decision(Step.GIVE_UP)
    return Decision(Step.RETRY, delay)


def backoff_s(failures: int, jitter: float) -> float:
    """Full jitter: anything between nothing and a ceiling that doubles with every failure."""
    ceiling = FIRST_BACKOFF_S * 2.0 ** min(failures, 16)
    return jitter * min(ceiling, LONGEST_BACKOFF_S)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """`Retry-After` in seconds; a date counts from the answer's own `Date`, as our clock may be wrong."""
    said = headers.get("retry-after", "").strip()
    if said.isdecimal():
        return float(said[:9])
    try:
        until = parsedate_to_datetime(said)
        return max(0.0, (until - parsedate_to_datetime(headers["date"])).total_seconds())
    except (KeyError, TypeError, ValueError):
        return 0.0


class RetryBudget:
    """How many repeats all transfers may make together: a burst, then so many per second.

    A reservation never fails; it says how long to wait for it. Threads may share one.
    """

    def __init__(self, per_s: float = RETRIES_PER_S, burst: float = RETRY_BURST) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = 0.0
        self._lock = threading.Lock()

    def reserve(self, now: float) -> float:
        """Take one; returns the seconds until it is there."""
        with self._lock:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
            self._at = now
            self._tokens -= 1.0
            return max(0.0, -self._tokens / self._per_s)


class Signed(NamedTuple):
    """A request that the store will accept for a while."""

    url: str
    headers: Mapping[str, str]


# Called before every attempt, so it should be cheap while the last answer still holds. The argument is
# the failure that makes a new signature necessary (its `Date` header tells the server's clock), or None.
Sign = Callable[[AttemptError | None], Awaitable[Signed]]


class Transfer:
    """The two hot verbs, repeated until they succeed or there is no point in going on.

    `what` in both is the object's name for messages ("s3://bucket/key").
    """

    def __init__(
        self,
        plane: DataPlane,
        *,
        pace: Pace | None = None,
        rate: Rate | None = None,
        retries: RetryBudget | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.plane = plane
        self.pace = pace if pace is not None else Pace()
        self.rate = rate
        self.patience_s = patience_s
        self._retries = retries if retries is not None else RetryBudget()
        self._notice = Notice(logger)

    async def get_range(
        self, what: str, sign: Sign, offset: int, buffer: memoryview
    ) -> ResponseHead:
        """Fill the buffer with the object's bytes from `offset` on."""
        received = 0
        etag: str | None = None
        buffer = buffer.cast("B")

        async def attempt(signed: Signed) -> tuple[ResponseHead, int]:
            nonlocal received, etag
            left = buffer[received:]
            try:
                head = await self.plane.get_range(
                    signed.url, signed.headers, offset + received, left
                )
                check_same(etag, head)
            except AttemptError as error:
                if error.received:
                    now_etag = error.headers.get("etag")
                    if etag is not None and now_etag != etag:
                        # the tail of another object behind the head of the first
                        received, etag, error.received = 0, None, 0
                    else:
                        received, etag = received + error.received, now_etag
                elif error.reason is Reason.MALFORMED:
                    received, etag = 0, None
                raise
            return head, len(left)

        return await self._repeat("reading", what, sign, attempt, lambda: len(buffer) - received)

    async def put(self, what: str, sign: Sign, buffers: Sequence[memoryview]) -> ResponseHead:
        """Store the concatenated buffers under what the signed URL names."""
        size = sum(view.nbytes for view in buffers)

        async def attempt(signed: Signed) -> tuple[ResponseHead, int]:
            return await self.plane.put(signed.url, signed.headers, buffers), size

        return await self._repeat("writing", what, sign, attempt, lambda: size)

    async def _repeat(
        self,
        doing: str,
        what: str,
        sign: Sign,
        attempt: Callable[[Signed], Awaitable[tuple[ResponseHead, int]]],
        size: Callable[[], int],
    ) -> ResponseHead:
        history = History()
        since = time.monotonic()
        why_sign: AttemptError | None = None
        while True:
            signed = await sign(why_sign)
            try:
                return await self._once(signed, attempt, size())
            except AttemptError as error:
                now = time.monotonic()
                if error.received >= PROGRESS_BYTES:
                    since, history = now, History(was_re_signed=history.was_re_signed)
                history = history._replace(elapsed_s=now - since)
                decision = decide(
                    error,
                    history,
                    jitter=random.random(),
                    patience_s=self.patience_s,
                )
                delay = decision.delay_s
                if decision.step is Step.RETRY:
                    delay = max(delay, self._retries.reserve(now))
                if decision.step is Step.GIVE_UP or history.elapsed_s + delay > self.patience_s:
                    raise public_error(doing, what, error, history) from error
                if decision.step is Step.RETRY:
                    self._notice.repeating(
                        f"{what}: {doing} failed: {error}",
                        now_s=now,
                        elapsed_s=history.elapsed_s,
                        delay_s=delay,
                        patience_s=self.patience_s,
                        is_throttled=is_throttled(error),
                    )
                why_sign = error if decision.step is Step.RE_SIGN else None
                history = after(history, error, decision)
            await asyncio.sleep(delay)

    async def _once(
        self,
        signed: Signed,
        attempt: Callable[[Signed], Awaitable[tuple[ResponseHead, int]]],
        size: int,
    ) -> ResponseHead:
        """One attempt, when pace and rate allow it; tells the pace how it went."""
        if self.rate is not None:
            await self.rate.take(size)
        async with self.pace.slot(signed.url) as slot:
            try:
                head, moved = await attempt(signed)
            except AttemptError as error:
                slot.failed(error.received, is_throttled=is_throttled(error))
                if self.rate is not None:
                    self.rate.give_back(size - error.received)
                raise
            slot.succeeded(moved)
            return head


def after(history: History, error: AttemptError, decision: Decision) -> History:
    """The history that the next decision sees."""
    return history._replace(
        failures=history.failures + 1,
        malformed=history.malformed + (error.reason is Reason.MALFORMED),
        was_re_signed=history.was_re_signed or decision.step is Step.RE_SIGN,
    )


def is_throttled(error: AttemptError) -> bool:
    """Whether the store asks for fewer requests."""
    return error.status in (429, 503)


def check_same(etag: str | None, head: ResponseHead) -> None:
    """Raise unless the rest of a body comes from the object that the front came from."""
    if etag is not None and head.headers.get("etag") != etag:
        raise malformed(head, "the object changed while it was read")


def public_error(doing: str, what: str, error: AttemptError, history: History) -> AsyncartError:
    """What the caller of the store sees, by what can be done about it."""
    tries = history.failures + 1
    often = f" ({tries} attempts, {history.elapsed_s:.0f} s)" if tries > 1 else ""
    failed = f"{what}: {doing} failed: {error}{often}"
    status = error.status
    if error.reason is Reason.TLS:
        return Denied(f"{failed}; check the endpoint's name and the trusted certificates")
    if error.reason is Reason.MALFORMED:
        return TransferError(
            f"{failed}; the store, or a proxy before it, does not answer as it should", [error]
        )
    if status is None or (error.is_transient and status != 409):
        return Unavailable(f"{failed}; check the network and the store, then run it again")
    if status in (404, 410):
        return NotFound(f"{what}: not in the store ({error.detail})")
    if status in (401, 403):
        return Denied(f"{failed}; check the credentials, their rights and this machine's clock")
    if status in (409, 412):
        return Conflict(f"{failed}; somebody else writes the same object: run it again")
    if status == 507:
        return Full(f"{failed}; the store's disk is full: its administrator has to make room")
    if status == 416:
        return Corrupt(f"{what}: shorter than the range asked for ({error.detail})")
    return TransferError(f"{failed}; the store does not accept the request", [error])
