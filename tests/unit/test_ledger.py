"""A writer's lease: renewed while its block runs, whatever a catalog that is away for a moment says."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest

from asyncart.aio import ledger
from asyncart.aio.ledger import Ledger
from asyncart.errors import Conflict, Unavailable


class Leases:
    """A catalog that answers renewals with these errors, one after the other, then well."""

    def __init__(self, *answers: Exception | None) -> None:
        self._answers = list(answers)
        self.answered = anyio.Event()
        self.ended: list[str] = []

    async def begin_session(self, entity: str) -> str:
        return f"session of {entity}"

    async def renew_session(self, session_id: str) -> None:
        answer = self._answers.pop(0) if self._answers else None
        if not self._answers:
            self.answered.set()
        if answer is not None:
            raise answer

    async def end_session(self, session_id: str) -> None:
        self.ended.append(session_id)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SESSION_TTL_S", 0.003)


async def test_a_renewal_that_fails_is_repeated_by_the_next_one() -> None:
    leases = Leases(Unavailable("away"), Unavailable("still away"), None)
    async with Ledger.open(cast(Any, leases), "me") as writer:
        with anyio.fail_after(10):
            await leases.answered.wait()
        assert writer.session_id == "session of me"
    assert leases.ended == ["session of me"]


async def test_a_lease_that_is_over_ends_the_block() -> None:
    leases = Leases(Unavailable("away"), Conflict("it is over; log again"))
    with pytest.raises(Conflict, match="it is over"):  # noqa: PT012
        async with Ledger.open(cast(Any, leases), "me"):
            with anyio.fail_after(10):
                await anyio.sleep_forever()
    assert leases.ended == ["session of me"]
