"""How much one caller may ask for: requests per second, requests at once, and wrong keys.

Counted in memory, per replica: N replicas let N times as much through, which is the point of having N.
The limits are far above what a client at full speed does (a small artifact is 4 requests of some ten calls;
1,000 of them by 32 clients are 500 calls/s on two cores); they keep one caller in a loop from taking a
replica from all others. A batch counts as many requests as it has calls, and is carried out if there is room
for all of them.

Whoever is refused is told when to come back (429, `Retry-After`). Wrong keys are counted by address, and
refuse no key that was right on this replica before: behind one proxy all clients have one address.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from ..errors import Unavailable

REQUESTS_PER_S = 2000.0
REQUESTS_BURST = 8000.0
AT_ONCE = 256
REFUSALS_PER_S = 1.0
REFUSALS_BURST = 60.0
MOST_CALLERS = 10_000  # remembered; the one that was quiet longest is forgotten first
AGAIN_S = 1.0  # for a caller with too many requests at once

K = TypeVar("K", bound=Hashable)


class TooMany(Unavailable):
    """Come back later."""

    http_status = 429

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Buckets(Generic[K]):
    """A token bucket for each key: `rate_per_s` on average, `burst` at once."""

    def __init__(
        self, rate_per_s: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._clock = clock
        self._left: OrderedDict[K, tuple[float, float]] = OrderedDict()  # tokens, as of when

    def wait_s(self, key: K, tokens: int = 1) -> float:
        """How long until there are so many tokens; 0 if there are."""
        lacking = min(tokens, self._burst) - self._tokens(key)
        return max(lacking, 0.0) / self._rate

    def take(self, key: K, tokens: int = 1) -> None:
        """Take tokens, also some that are not there yet."""
        self._left[key] = (max(self._tokens(key) - tokens, 0.0), self._clock())
        self._left.move_to_end(key)
        while len(self._left) > MOST_CALLERS:
            self._left.popitem(last=False)

    def _tokens(self, key: K) -> float:
        tokens, since = self._left.get(key, (self._burst, 0.0))
        return min(self._burst, tokens + (self._clock() - since) * self._rate)


class Limits:
    """Of all callers of one replica."""

    def __init__(
        self,
        *,
        requests_per_s: float = REQUESTS_PER_S,
        burst: float = REQUESTS_BURST,
        at_once: int = AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests: Buckets[int] = Buckets(requests_per_s, burst, clock)
        self._at_once = at_once
        self._under_way: dict[int, int] = {}

    @contextmanager
    def request(self, user_id: int) -> Iterator[None]:
        """One request of the user is carried out inside. Raises TooMany."""
        self._check(user_id, 1)
        under_way = self._under_way.get(user_id, 0)
        if under_way >= self._at_once:
            raise TooMany(
                f"{under_way} requests of this user are under way already: wait for one of them",
                AGAIN_S,
            )
        self._requests.take(user_id)
        self._under_way[user_id] = under_way + 1
        try:
            yield
        finally:
            self._under_way[user_id] -= 1
            if not self._under_way[user_id]:
                del self._under_way[user_id]

    def more(self, user_id: int, requests: int) -> None:
        """The request of the user that is being carried out is as good as so many more. Raises TooMany."""
        self._check(user_id, requests)
        self._requests.take(user_id, requests)

    def _check(self, user_id: int, requests: int) -> None:
        if wait_s := self._requests.wait_s(user_id, requests):
            raise TooMany("too many requests: slow down", math.ceil(wait_s))


class Refusals:
    """Wrong keys, by the address that they came from."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets: Buckets[str] = Buckets(REFUSALS_PER_S, REFUSALS_BURST, clock)

    def check(self, address: str) -> None:
        """Raise TooMany if so many wrong keys came from there that no other one is looked at."""
        if wait_s := self._buckets.wait_s(address):
            raise TooMany("too many wrong API keys from this address", math.ceil(wait_s))

    def note(self, address: str) -> None:
        self._buckets.take(address)
