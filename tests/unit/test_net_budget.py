"""The byte budget: bounded, fair, safe to cancel, shared by loops in several threads."""

from __future__ import annotations

import asyncio
import io
import random
import threading

import anyio
import pytest

from asyncart.errors import Invalid
from asyncart.net import budget as budget_module
from asyncart.net.budget import KEPT_BYTES, SMALLEST_CLASS, Budget, class_bytes, process_budget

MIB = 1 << 20


@pytest.mark.parametrize(
    "nbytes",
    sorted(
        {
            near
            for power in range(10, 31)
            for quarter in (4, 5, 6, 7)
            for near in ((1 << power) * quarter // 4 + d for d in (-1, 0, 1))
        }
        | {0, 1}
    ),
)
def test_a_class_holds_what_it_serves_and_wastes_at_most_a_quarter(nbytes: int) -> None:
    size = class_bytes(nbytes)
    assert size >= max(nbytes, SMALLEST_CLASS)
    assert size <= max(SMALLEST_CLASS, nbytes * 5 // 4 + 1)
    assert class_bytes(size) == size
    assert size % 4096 == 0


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 4097, 3 * MIB + 1])
async def test_a_lease_has_exactly_the_bytes_asked_for(nbytes: int) -> None:
    budget = Budget(8 * MIB)
    async with budget.lease(nbytes) as view:
        assert len(view) == nbytes
        view[:] = b"\xff" * nbytes
        assert budget.used_bytes == class_bytes(nbytes)
    assert budget.used_bytes == 0
    with pytest.raises(ValueError, match="released"):
        len(view)


async def test_touched_pages_are_used_again() -> None:
    """The second lease of a class sees the first one's bytes: no new mapping was made."""
    budget = Budget(8 * MIB)
    async with budget.lease(MIB) as view:
        view[-3:] = b"old"
    async with budget.lease(MIB) as view:
        assert bytes(view[-3:]) == b"old"
    assert budget.held_bytes == MIB
    budget.trim()
    assert budget.held_bytes == 0
    async with budget.lease(MIB) as view:
        assert bytes(view[-3:]) == b"\0\0\0"


async def test_a_transfer_leaves_little_behind() -> None:
    budget = Budget(256 * MIB)
    leases = [await budget.take(8 * MIB) for _ in range(30)]
    for lease in leases[1:]:
        lease.release()
    await budget.shrink()
    assert (budget.used_bytes, budget.held_bytes) == (8 * MIB, KEPT_BYTES)
    with anyio.CancelScope() as scope:
        leases = [await budget.take(8 * MIB) for _ in range(30)]
        for lease in leases:
            lease.release()
        scope.cancel()
        await budget.shrink()
    assert budget.held_bytes == KEPT_BYTES


async def test_sizes_that_vary_use_the_same_pages() -> None:
    """Ranges of 12 to 16 MiB: after the largest came once, nothing is mapped any more."""
    budget = Budget(64 * MIB)
    sizes = random.Random(5)
    full = [await budget.take(16 * MIB) for _ in range(4)]
    for lease in full:
        lease.buffer[:3] = b"old"
        lease.release()
    for _ in range(20):
        leases = [await budget.take(sizes.randint(8 * MIB, 16 * MIB)) for _ in range(4)]
        assert [bytes(lease.buffer[:3]) for lease in leases] == [b"old"] * 4
        assert budget.used_bytes == budget.held_bytes == budget.limit_bytes
        for lease in leases:
            lease.release()
    assert budget.used_bytes == 0
    async with budget.lease(7 * MIB) as view:  # less than half of what is there
        assert bytes(view[:3]) == b"\0\0\0"
        assert budget.used_bytes == 7 * MIB


async def test_idle_buffers_make_room_for_other_sizes() -> None:
    """Leased and kept buffers together stay within the limit."""
    budget = Budget(4 * MIB)
    leases = [await budget.take(MIB) for _ in range(4)]
    for lease in leases:
        lease.release()
    async with budget.lease(3 * MIB):
        assert budget.held_bytes <= budget.limit_bytes


@pytest.mark.parametrize("nbytes", [-1, 4 * MIB + 1, 1 << 40])
async def test_what_can_never_be_granted_is_refused_at_once(nbytes: int) -> None:
    with pytest.raises(Invalid, match="bytes"):
        async with Budget(4 * MIB).lease(nbytes):
            pass


async def test_the_whole_budget_can_be_one_lease() -> None:
    """Also where the limit is no size class."""
    budget = Budget(5 * MIB - 4096 * 3)
    async with budget.lease(5 * MIB - 4096 * 3):
        assert budget.used_bytes == budget.limit_bytes


async def test_first_come_first_served() -> None:
    """A large lease is not overtaken by small ones that would fit."""
    budget = Budget(4 * MIB)
    first = await budget.take(3 * MIB)
    order: list[str] = []

    async def want(name: str, nbytes: int) -> None:
        async with budget.lease(nbytes):
            order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(want("large", 4 * MIB))
        await asyncio.sleep(0)
        group.create_task(want("small", MIB))
        await asyncio.sleep(0)
        assert budget.try_take(MIB) is None
        assert order == []
        first.release()
    assert order == ["large", "small"]
    assert budget.used_bytes == 0
    assert budget.peak_bytes == 4 * MIB


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancelled_wait_takes_nothing(steps: int) -> None:
    """Cancelled before, while and after it is granted: the budget is whole, and others are served."""
    budget = Budget(2 * MIB)
    held = await budget.take(2 * MIB)
    got: list[int] = []

    async def want(nbytes: int) -> None:
        async with budget.lease(nbytes):
            got.append(nbytes)

    async with asyncio.TaskGroup() as group:
        victim = group.create_task(want(2 * MIB))
        await asyncio.sleep(0)
        group.create_task(want(MIB))
        await asyncio.sleep(0)
        if steps == 5:
            victim.cancel()
        held.release()
        for _ in range(steps):
            await asyncio.sleep(0)
        victim.cancel()
    assert MIB in got
    assert budget.used_bytes == 0


async def test_a_cancelled_giant_unblocks_those_behind_it() -> None:
    """Without anything being released."""
    budget = Budget(2 * MIB)
    async with budget.lease(MIB):
        giant = asyncio.get_running_loop().create_task(budget.take(2 * MIB))
        await asyncio.sleep(0)
        behind = asyncio.get_running_loop().create_task(budget.take(MIB))
        await asyncio.sleep(0)
        giant.cancel()
        async with asyncio.timeout(5):
            (await behind).release()
        assert giant.cancelled()


async def test_ownership_moves_and_release_is_idempotent() -> None:
    """Whoever holds the lease at last releases it; a lost one releases itself."""
    budget = Budget(2 * MIB)
    lease = await budget.take(MIB)
    await asyncio.to_thread(lease.release)
    lease.release()
    assert budget.used_bytes == 0
    lost = await budget.take(MIB)
    del lost
    assert budget.used_bytes == 0


async def test_a_buffer_in_the_hands_of_a_running_call_is_not_used_again() -> None:
    """A call that reads from it or writes into it after the lease does so where nobody else looks."""
    budget = Budget(4 * MIB)
    lease = await budget.take(MIB)
    lease.buffer[:3] = b"abc"

    class Source(io.RawIOBase):
        """Is handed the view by a C call that is still running when the lease ends."""

        def readable(self) -> bool:
            return True

        def readinto(self, view: memoryview) -> int:  # type: ignore[override]
            lease.release()
            view[:3] = b"xyz"
            return 3

    with io.BufferedReader(Source(), 1) as reader:
        assert reader.readinto1(lease.buffer) == 3
    assert budget.used_bytes == 0
    assert budget.held_bytes == 0
    async with budget.lease(MIB) as other:
        assert bytes(other[:3]) == b"\0\0\0"


def test_loops_in_several_threads_share_one_budget() -> None:
    """Never above the limit, everybody is served, nothing is left."""
    budget = Budget(4 * MIB)
    above: list[int] = []
    done = []

    async def worker(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            async with budget.lease(chance.randrange(1, 2 * MIB)) as view:
                view[0] = 1
                if budget.used_bytes > budget.limit_bytes:
                    above.append(budget.used_bytes)
                await asyncio.sleep(0)
        done.append(seed)

    async def main(base: int) -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for each in range(5):
                group.create_task(worker(base + each))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(main(n))) for n in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 15
    assert above == []
    assert budget.used_bytes == 0
    assert budget.held_bytes <= budget.limit_bytes


def test_a_waiter_whose_loop_is_gone_is_passed_over() -> None:
    """Its share goes to the next one."""
    budget = Budget(MIB)
    loop = asyncio.new_event_loop()
    held = loop.run_until_complete(budget.take(MIB))
    task = loop.create_task(budget.take(MIB))
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def next_one() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            waiting = group.create_task(budget.take(MIB))
            await asyncio.sleep(0)
            held.release()
            (await waiting).release()

    asyncio.run(next_one())
    assert budget.used_bytes == 0
    task.get_coro().close()


def test_the_process_has_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit is the largest that was asked for so far; a forked child starts anew."""
    monkeypatch.setattr(budget_module, "_process", None)
    mine = process_budget(7 * MIB)
    assert process_budget(6 * MIB) is mine
    assert mine.limit_bytes == 7 * MIB
    assert process_budget(9 * MIB) is mine
    assert mine.limit_bytes == 9 * MIB
    monkeypatch.setattr(budget_module.os, "getpid", lambda: -1)
    assert process_budget(7 * MIB) is not mine
    assert process_budget(7 * MIB).limit_bytes == 7 * MIB


async def test_who_waits_is_served_when_the_budget_grows() -> None:
    """A second run with a larger limit lets the first one's transfers go on, too."""
    budget = Budget(2 * MIB)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        held = await budget.take(2 * MIB)
        waiting = group.create_task(budget.take(MIB))
        await asyncio.sleep(0)
        budget.grow(MIB)  # it is larger already
        assert budget.limit_bytes == 2 * MIB
        budget.grow(3 * MIB)
        (await waiting).release()
        held.release()
    assert budget.used_bytes == 0
    assert budget.peak_bytes == 3 * MIB


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(Invalid, match="positive"):
        Budget(0)
