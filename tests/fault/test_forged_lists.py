"""A version whose list of files is not that of its digest: told by whoever reads all of it, however long."""

from __future__ import annotations

import pytest
from material import content, read_tree
from workplace import KIB, Place, Tree, numbered

from asyncart import aio
from asyncart.engine import tree as reading
from asyncart.errors import Corrupt

FILES = 30  # in eight blocks (`scale_down`)
MESSAGE = r"data:v0: .* lists other files .* log the same content again"


@pytest.fixture(autouse=True)
def one_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are steps before the last one."""
    monkeypatch.setattr(reading, "READ_BYTES", 1)


async def put(place: Place, run: aio.Run, tree: Tree, name: str = "data") -> aio.Artifact:
    source = place.source(tree)
    source.mkdir(exist_ok=True)  # of no file
    return await run.log_artifact(place.artifact(source, name))


async def forged(place: Place, run: aio.Run, promised: Tree, listed: Tree) -> aio.Artifact:
    """data:v0, whose digest is that of one tree and whose list is that of the other."""
    other = await put(place, run, listed)
    right = await put(place, run, promised, "twin")
    place.execute(
        f"UPDATE versions SET digest = x'{right.digest}' WHERE digest = x'{other.digest}'"
    )
    return await run.use_artifact("data:v0")


def last_block(tree: Tree) -> set[str]:
    return set(sorted(tree)[-(len(tree) % 4 or 4) :])


@pytest.mark.parametrize("position", [0, FILES // 2, FILES - 1])
@pytest.mark.parametrize("change", ["content", "missing", "more"])
async def test_any_single_file_tells(place: Place, change: str, position: int) -> None:
    """What was published on the way is what its entry said; the last step is not handed out."""
    promised = numbered(range(FILES))
    path = f"f{position:03}"
    listed = dict(promised)
    if change == "content":
        listed[path] = content("other", 1 * KIB)
    elif change == "missing":
        del listed[path]
    else:
        listed[path + "x"] = content("other", 1 * KIB)
    async with place.init() as run:
        artifact = await forged(place, run, promised, listed)
        for attempt in range(2):  # the second time most of them are there already
            target = place.folder / "target"
            with pytest.raises(Corrupt, match=MESSAGE):
                await artifact.download(target)
            published = read_tree(target)
            assert published.items() <= listed.items()
            assert not published.keys() & last_block(listed), attempt
        with pytest.raises(Corrupt, match=MESSAGE):
            await artifact.verify()
        with pytest.raises(Corrupt, match=MESSAGE):
            await artifact.checkout(place.fresh("target"))
        assert (await put(place, run, promised)).version == "v0"
        again = await run.use_artifact("data:v0")
        assert read_tree(await again.download(place.fresh("target"))) == promised


@pytest.mark.parametrize("is_empty", ["listed", "promised"])
async def test_an_empty_list_tells_as_well(place: Place, is_empty: str) -> None:
    some = numbered(range(3))
    promised, listed = (some, {}) if is_empty == "listed" else ({}, some)
    async with place.init() as run:
        artifact = await forged(place, run, promised, listed)
        target = place.fresh("target")
        with pytest.raises(Corrupt, match=MESSAGE):
            await artifact.download(target)
        assert read_tree(target) == {}
        assert (await put(place, run, promised)).version == "v0"
        again = await run.use_artifact("data:v0")
        assert read_tree(await again.download(place.fresh("target"))) == promised


async def test_an_honest_list_of_many_steps_is_right(place: Place) -> None:
    tree = numbered(range(FILES))
    async with place.init() as run:
        artifact = await run.log_artifact(place.artifact(tree))
        for _ in range(2):
            assert read_tree(await artifact.download(place.folder / "target")) == tree
        assert (await artifact.verify()).is_ok
        await artifact.checkout(place.folder / "target")


@pytest.mark.parametrize("steps", ["one", "several"])
async def test_whoever_began_with_the_forged_list_gets_the_healed_one(
    local_place: Place, steps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once if nothing was handed out; the healed list is never called damaged for the other one's sake."""
    place = local_place
    if steps == "one":
        monkeypatch.setattr(reading, "READ_BYTES", 1 << 20)
    promised, listed = numbered(range(FILES)), numbered(range(1, FILES))
    async with place.init() as run:
        artifact = await forged(place, run, promised, listed)
        await artifact.get_entry("f001")  # it knows where the forged list lies
        with pytest.raises(Corrupt, match=MESSAGE):
            await (await run.use_artifact("data:v0")).download(place.fresh("target"))
        await put(place, run, promised)

        if steps == "several":
            with pytest.raises(Corrupt, match="was healed meanwhile; read the version again"):
                await artifact.download(place.fresh("target"))
        assert read_tree(await artifact.download(place.fresh("target"))) == promised
        assert place.query("SELECT is_damaged FROM versions") == [(0,), (0,)]
