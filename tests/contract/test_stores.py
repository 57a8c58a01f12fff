"""What every object store does, whatever is behind it.

Sizes go around the boundaries of buffers and parts: 0, 1, n-1, n, n+1.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest
import store_kinds
from store_kinds import read, send, views

from asyncart.errors import AsyncartError, Corrupt, NotFound
from asyncart.model import new_object_id, object_key
from asyncart.stores.protocol import Store

BLOCK = 65_536


@pytest.fixture(params=store_kinds.KINDS, ids=lambda kind: kind.__name__)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    kind: Callable[[Path], AbstractAsyncContextManager[Store]] = request.param
    if kind in store_kinds.ON_SERVER:
        request.getfixturevalue("aws_environment")
    async with kind(tmp_path) as opened:
        yield opened


def key() -> str:
    return object_key(new_object_id(1_700_000_000_000))


def sizes_around(block: int) -> list[int]:
    return [0, 1, block - 1, block, block + 1]


@pytest.mark.parametrize("size", sizes_around(BLOCK))
async def test_a_whole_object_comes_back_as_it_was(store: Store, size: int) -> None:
    """write, sizes and read_into agree on every byte."""
    name, data = key(), os.urandom(size)
    await store.write(name, views(data))
    assert await store.sizes([name]) == {name: size}
    assert await read(store, name, size) == data


async def test_buffers_are_joined_in_order(store: Store) -> None:
    """Many buffers, empty ones among them, more than one system call takes, make one object."""
    name, pieces = key(), [os.urandom(n % 7) for n in range(2500)]
    await store.write(name, views(*pieces))
    data = b"".join(pieces)
    assert await read(store, name, len(data)) == data


async def test_no_buffers_make_an_empty_object(store: Store) -> None:
    name = key()
    await store.write(name, [])
    assert await store.sizes([name]) == {name: 0}


async def test_buffers_may_be_slices_and_of_other_items(store: Store) -> None:
    """A memoryview need not be of single bytes, nor begin at the start of its owner."""
    name = key()
    numbers = memoryview(bytes(range(16))).cast("I")
    await store.write(name, [numbers, memoryview(b"--abc--")[2:5]])
    assert await read(store, name, 19) == bytes(range(16)) + b"abc"
    target = memoryview(bytearray(16)).cast("I")
    await store.read_into(name, 0, target)
    assert target == numbers


async def test_buffers_may_be_reused_after_write_and_part(store: Store) -> None:
    """The store keeps no reference: what is changed afterwards does not change the object."""
    name, other = key(), key()
    buffer = bytearray(b"a" * 100)
    await store.write(name, [memoryview(buffer)])
    upload = await store.begin_upload(other)
    await upload.part(0, 0, [memoryview(buffer)])
    buffer[:] = b"b" * 100
    await upload.complete(100)
    assert await read(store, name, 100) == b"a" * 100
    assert await read(store, other, 100) == b"a" * 100
    buffer.extend(b"c")  # raises BufferError while anybody still exports it


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 9999])
async def test_ranges(store: Store, offset: int) -> None:
    """Any range inside the object, down to one byte."""
    name, data = key(), os.urandom(10_000)
    await store.write(name, views(data))
    for length in {0, 1, 2, (10_000 - offset) // 2, 10_000 - offset}:
        if offset + length <= 10_000:
            assert await read(store, name, length, offset) == data[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(0, 101), (99, 2), (100, 1), (5000, 1)])
async def test_a_range_beyond_the_end_is_corrupt(store: Store, offset: int, length: int) -> None:
    """The catalog said that the bytes are there: an object that is too short is damaged, by name."""
    name = key()
    await store.write(name, views(os.urandom(100)))
    with pytest.raises(Corrupt, match=name):
        await read(store, name, length, offset)


async def test_reading_a_missing_object_names_it(store: Store) -> None:
    name = key()
    with pytest.raises(NotFound, match=name):
        await read(store, name, 1)


async def test_sizes_leaves_out_what_is_missing(store: Store) -> None:
    names = [key() for _ in range(5)]
    for n, name in enumerate(names[:3]):
        await store.write(name, views(b"x" * n))
    assert await store.sizes(names) == {names[0]: 0, names[1]: 1, names[2]: 2}
    assert await store.sizes([]) == {}


async def test_a_repeated_write_gives_the_same_object(store: Store) -> None:
    """An answer may get lost, so writing again must be possible."""
    name = key()
    await store.write(name, views(b"same"))
    await store.write(name, views(b"same"))
    assert await read(store, name, 4) == b"same"


# Uploads in parts


@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_parts_become_one_object(store: Store, count: int, last: int) -> None:
    """All parts but the last have at least the smallest size; the last one may be shorter."""
    part = max(store.part_bytes, 1000)
    pieces = [os.urandom(part) for _ in range(count)]
    pieces[-1] = pieces[-1][:last]
    name = key()
    await send(store, name, pieces)
    data = b"".join(pieces)
    assert await store.sizes([name]) == {name: len(data)}
    assert await read(store, name, len(data)) == data


async def test_an_upload_without_parts_is_an_empty_object(store: Store) -> None:
    name = key()
    await send(store, name, [])
    assert await store.sizes([name]) == {name: 0}


async def test_an_object_is_invisible_until_complete(store: Store) -> None:
    name = key()
    upload = await store.begin_upload(name, 10)
    await upload.part(0, 0, views(b"0123456789"))
    assert await store.sizes([name]) == {}
    assert (await store.list_page()).objects == []
    with pytest.raises(NotFound):
        await read(store, name, 1)
    await upload.complete(10)
    assert [item.key for item in (await store.list_page()).objects] == [name]


async def test_parts_may_come_concurrently_in_any_order_and_again(store: Store) -> None:
    """A part that was sent twice (its answer was lost) counts once."""
    part = max(store.part_bytes, 1000)
    pieces = [os.urandom(part) for _ in range(6)] + [os.urandom(17)]
    name = key()
    upload = await store.begin_upload(name, sum(map(len, pieces)))
    todo = [*range(7), 2, 6, 0]
    random.Random(1).shuffle(todo)
    async with anyio.create_task_group() as group:
        for index in todo:
            group.start_soon(upload.part, index, index * part, views(pieces[index]))
    await upload.complete(6 * part + 17)
    assert await read(store, name, 6 * part + 17) == b"".join(pieces)


async def test_a_part_may_have_many_buffers(store: Store) -> None:
    part = max(store.part_bytes, 1000)
    data = os.urandom(part + 3)
    name = key()
    upload = await store.begin_upload(name)
    await upload.part(0, 0, views(data[:10], b"", data[10:part]))
    await upload.part(1, part, views(data[part : part + 1], data[part + 1 :]))
    await upload.complete(len(data))
    assert await read(store, name, len(data)) == data


async def test_a_size_hint_that_was_wrong_changes_nothing(store: Store) -> None:
    for hint in (0, 1, 100_000):
        name = key()
        upload = await store.begin_upload(name, hint)
        await upload.part(0, 0, views(b"abc"))
        await upload.complete(3)
        assert await store.sizes([name]) == {name: 3}
        assert await read(store, name, 3) == b"abc"


async def test_complete_refuses_a_size_that_the_parts_do_not_have(store: Store) -> None:
    """A part that never came must not end as an object with a hole."""
    part = max(store.part_bytes, 1000)
    for wrong in (part, 2 * part - 1, 2 * part + 1):
        name = key()
        upload = await store.begin_upload(name, 2 * part)
        await upload.part(0, 0, views(os.urandom(part)))
        await upload.part(1, part, views(os.urandom(part)))
        with pytest.raises(AsyncartError, match=name):
            await upload.complete(wrong)
        assert await store.sizes([name]) == {}
        await upload.abort()


async def test_complete_refuses_a_gap(store: Store) -> None:
    part = max(store.part_bytes, 1000)
    name = key()
    upload = await store.begin_upload(name, 3 * part)
    await upload.part(0, 0, views(os.urandom(part)))
    await upload.part(2, 2 * part, views(os.urandom(part)))
    with pytest.raises(AsyncartError, match=name):
        await upload.complete(3 * part)
    await upload.abort()
    assert await store.sizes([name]) == {}


async def test_complete_may_be_repeated(store: Store) -> None:
    """Its answer may get lost; the second one finds the object there and is content."""
    name = key()
    upload = await store.begin_upload(name, 3)
    await upload.part(0, 0, views(b"abc"))
    await upload.complete(3)
    await upload.complete(3)
    await upload.abort()  # too late: the object stays
    assert await read(store, name, 3) == b"abc"


async def test_an_aborted_upload_leaves_nothing(store: Store) -> None:
    name = key()
    upload = await store.begin_upload(name, 3)
    await upload.part(0, 0, views(b"abc"))
    await upload.abort()
    await upload.abort()
    assert await store.sizes([name]) == {}
    assert await store.resume_upload(name, upload.token) is None
    with pytest.raises(NotFound, match=name):
        await upload.part(1, 3, views(b"def"))
    with pytest.raises(NotFound, match=name):
        await upload.complete(3)


async def test_an_upload_is_continued_by_its_token(store: Store) -> None:
    """Parts that the first attempt sent are not sent again by the second one."""
    part = max(store.part_bytes, 1000)
    pieces = [os.urandom(part), os.urandom(part), os.urandom(5)]
    name = key()
    first = await store.begin_upload(name, 2 * part + 5)
    await first.part(0, 0, views(pieces[0]))
    await first.part(2, 2 * part, views(pieces[2]))
    second = await store.resume_upload(name, first.token)
    assert second is not None
    assert (second.key, second.token) == (name, first.token)
    await second.part(1, part, views(pieces[1]))
    await second.complete(2 * part + 5)
    assert await read(store, name, 2 * part + 5) == b"".join(pieces)


async def test_a_continued_upload_may_end_earlier_than_the_first_attempt(store: Store) -> None:
    """The content became shorter meanwhile: parts that lie behind its end are no part of the object."""
    part = max(store.part_bytes, 1000)
    pieces = [os.urandom(part), os.urandom(7), os.urandom(part)]
    name = key()
    first = await store.begin_upload(name)
    await first.part(0, 0, views(pieces[0]))
    await first.part(1, part, views(pieces[2]))
    await first.part(2, 2 * part, views(pieces[2]))
    second = await store.resume_upload(name, first.token)
    assert second is not None
    await second.part(1, part, views(pieces[1]))
    await second.complete(part + 7)
    assert await read(store, name, part + 7) == pieces[0] + pieces[1]
    assert await store.sizes([name]) == {name: part + 7}


@pytest.mark.parametrize("token", ["", "nonsense", "../../etc/passwd", ".x.0-1-2.tmp"])
async def test_a_token_that_nobody_knows_means_begin_anew(store: Store, token: str) -> None:
    assert await store.resume_upload(key(), token) is None


async def test_a_token_belongs_to_its_key(store: Store) -> None:
    upload = await store.begin_upload(key(), 1)
    assert await store.resume_upload(key(), upload.token) is None
    await upload.abort()


# Listing and deleting


async def test_pages_hold_every_object_once_in_key_order(store: Store) -> None:
    """Whatever the page length, also where it divides the number of objects."""
    names = sorted(key() for _ in range(6))
    for n, name in enumerate(names):
        await store.write(name, views(b"x" * n))
    for limit in (1, 2, 3, 5, 6, 7):
        listed, after = [], ""
        while True:
            page = await store.list_page(after=after, limit=limit)
            assert len(page.objects) <= limit
            listed += page.objects
            if page.next is None:
                break
            after = page.next
        assert [(item.key, item.size) for item in listed] == [(n, i) for i, n in enumerate(names)]
        assert all(item.modified_at > 1_600_000_000 for item in listed)


@pytest.mark.parametrize(
    "names",
    [
        ["a/b", "a/b2", "a/c/d", "b/a", "b0", "c/d/e/f"],
        ["a-b", "a/b", "a/b2", "a/c/d", "a0", "b/a"],  # `a` is before `a-b`, but `a/` is behind it
    ],
    ids=["folders", "folders between files"],
)
async def test_a_prefix_is_plain_text_and_may_end_inside_a_name(
    store: Store, names: list[str]
) -> None:
    """Order is that of whole keys. No key of ours has a folder for a neighbour."""
    if store.url.startswith("s3:") and "a-b" in names:
        pytest.skip("the order of such keys is the server's; SeaweedFS sorts folder by folder")
    for name in names:
        await store.write(name, views(b"1"))
    for prefix in ("", "a", "a/", "a/b", "a/c", "a/c/", "a0", "b", "c", "a/b2"):
        page = await store.list_page(prefix)
        assert [item.key for item in page.objects] == [n for n in names if n.startswith(prefix)]
        for after in names:
            page = await store.list_page(prefix, after)
            expected = [n for n in names if n.startswith(prefix) and n > after]
            assert [item.key for item in page.objects] == expected


async def test_an_empty_store_has_one_empty_page(store: Store) -> None:
    page = await store.list_page()
    assert (page.objects, page.next) == ([], None)


async def test_delete_takes_many_and_does_not_mind_missing_ones(store: Store) -> None:
    names = [key() for _ in range(4)]
    for name in names:
        await store.write(name, views(b"x"))
    await read(store, names[0], 1)
    await store.delete([*names[:3], key()])
    await store.delete([names[0]])
    await store.delete([])
    assert await store.sizes(names) == {names[3]: 1}
    with pytest.raises(NotFound):
        await read(store, names[0], 1)


# Many at once, and stopping early


async def test_parallel_readers_of_many_objects(store: Store) -> None:
    """More objects and readers than any bound inside."""
    names = {key(): os.urandom(500) for _ in range(100)}
    for name, data in names.items():
        await store.write(name, views(data))

    async def check(name: str, offset: int) -> None:
        assert await read(store, name, 100, offset) == names[name][offset : offset + 100]

    async with anyio.create_task_group() as group:
        for name in names:
            for offset in (0, 123, 400):
                group.start_soon(check, name, offset)


@pytest.mark.parametrize(
    "verb", ["write", "begin_upload", "part", "complete", "read_into", "sizes"]
)
@pytest.mark.parametrize("how", ["scope", "task"])
async def test_a_cancelled_verb_leaves_nothing_behind(store: Store, verb: str, how: str) -> None:
    """By a cancel scope of anyio or by asyncio's own Task.cancel(): the buffer is free, and after
    the abort nothing is stored but what was complete."""
    name, there = key(), key()
    data = bytearray(os.urandom(max(store.part_bytes, 1 << 20)))
    await store.write(there, views(b"there"))
    upload = await store.begin_upload(name, len(data))
    if verb == "complete":
        await upload.part(0, 0, [memoryview(data)])

    async def call() -> None:
        match verb:
            case "write":
                await store.write(name, [memoryview(data)])
            case "begin_upload":
                await store.begin_upload(key(), len(data))
            case "part":
                await upload.part(0, 0, [memoryview(data)])
            case "complete":
                await upload.complete(len(data))
            case "read_into":
                await store.read_into(there, 0, memoryview(data)[:5])
            case "sizes":
                await store.sizes([there])

    for steps in (0, 1, 2, 3, 4, 5, 20, 100):
        await _cancel_after(call, steps, how)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()  # closed transports and cancelled tasks unwind
        assert is_free(data)
    await upload.abort()
    left = [item.key for item in (await store.list_page()).objects]
    assert left in ([there], sorted([there, name]))
    assert verb in ("write", "complete") or left == [there]
    if name in left:
        assert await read(store, name, len(data)) == data


def is_free(data: bytearray) -> bool:
    """Whether no thread and no socket holds it any more; only then can its length change."""
    for is_last in (False, True):
        try:
            data.append(0)
        except BufferError:
            if is_last:
                return False
            gc.collect()  # tracebacks hold frames, which hold views
        else:
            data.pop()
            break
    return True


async def _cancel_after(call: Callable[[], object], steps: int, how: str) -> None:
    """Begin the call and cancel it after some turns of the event loop."""
    if how == "scope":
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(call())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()


async def test_presigned_urls_exist_or_not(store: Store) -> None:
    """None, or an absolute URL that names the object."""
    name = key()
    await store.write(name, views(b"x"))
    url = await store.presign(name)
    assert url is None or (url.startswith("http") and name.rpartition("/")[2] in url)


async def test_the_url_names_the_store(store: Store) -> None:
    assert "://" in store.url
