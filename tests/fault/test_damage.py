"""Wrong, missing or shortened objects: found by ordinary reads, named, never handed out, and healed."""

from __future__ import annotations

import pytest
from material import content, read_tree
from workplace import KIB, Place, small_tree, temps_below

from asyncart import aio
from asyncart.errors import AsyncartError, Corrupt, TransferError
from asyncart.model import object_key

PLACES = {"first": 0.0, "second": 0.1, "middle": 0.5, "last but one": 0.9, "last": 1.0}
HARMS = [*PLACES, "one byte short", "empty", "gone"]


def harmed(data: bytes, harm: str) -> bytes | None:
    if harm in PLACES:
        position = round(PLACES[harm] * (len(data) - 1))
        return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]
    return {"one byte short": data[:-1], "empty": b"", "gone": None}[harm]


def reached_by(place: Place, number: int) -> list[str]:
    """Keys of the objects of that version, the manifest last."""
    rows = place.query(
        "SELECT object_id, object_id = manifest_object_id FROM objects"
        " JOIN version_objects ON objects.id = object"
        " JOIN versions ON versions.id = version_id"
        f" WHERE number = {number} ORDER BY 2, 1"
    )
    return [object_key(str(object_id)) for object_id, _ in rows]


async def damage(place: Place, key: str, harm: str) -> None:
    if place.memory is not None:
        data = harmed(place.memory.objects[key], harm)
        if data is None:
            del place.memory.objects[key]
        else:
            place.memory.objects[key] = data
        return
    await place.workspace().aclose()  # files that are open for reading would not notice
    path = place.files()[key]
    data = harmed(path.read_bytes(), harm)
    path.chmod(0o644)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


def is_about_damage(error: AsyncartError) -> bool:
    if isinstance(error, TransferError):
        return all(isinstance(each, Corrupt) for each in error.failures)
    return isinstance(error, Corrupt)


@pytest.mark.parametrize("harm", HARMS)
async def test_every_object_damaged(place: Place, harm: str) -> None:
    """Download, single reads and verify tell; nothing wrong appears; logging again heals both versions."""
    old = small_tree("damage")
    new = {**old, "a/two": content("changed", 5 * KIB), "z/new": content("new", 300)}
    sources = [place.source(old), place.source(new)]
    async with place.init() as run:
        for source in sources:
            await run.log_artifact(place.artifact(source))
        for index in range(len(reached_by(place, 0))):
            keys = reached_by(place, 0)
            is_manifest = index == len(keys) - 1
            await damage(place, keys[index], harm)

            artifact = await run.use_artifact("data:v0")
            target = place.fresh("target")
            with pytest.raises((Corrupt, TransferError)) as caught:
                await artifact.download(target)
            assert is_about_damage(caught.value)
            assert "log the same content again" in str(caught.value)
            named = "data:v0" if is_manifest else "object"
            assert named in str(caught.value)
            found = {p: data for p, data in read_tree(target).items() if p in old}
            assert found.items() <= old.items()
            assert set(read_tree(target)) - set(found) == {
                p for p in read_tree(target) if p.rpartition("/")[2] in temps_below(target)
            }

            if is_manifest:
                with pytest.raises(Corrupt, match="data:v0"):
                    await artifact.verify()
            else:
                wrong = set((await artifact.verify()).damaged)
                assert wrong
                for path, data in old.items():
                    entry = await artifact.get_entry(path)
                    if path in wrong:
                        with pytest.raises(Corrupt, match=path):
                            await entry.read()
                    else:
                        assert await entry.read() == data

            for number, (source, tree) in enumerate(zip(sources, (old, new), strict=True)):
                healed = await run.log_artifact(place.artifact(source))
                assert healed.version == f"v{number}"
                target = place.fresh("target")
                await (await run.use_artifact(f"data:v{number}")).download(target)
                assert read_tree(target) == tree
                assert (await healed.verify()).is_ok


@pytest.mark.parametrize("kind", ["small", "large"])
async def test_reading_one_entry_marks_the_damage(place: Place, kind: str) -> None:
    """`entry.read` alone is enough for the next log to heal; the other version is then readable, too."""
    tree = {"file": content(kind, 900 if kind == "small" else 40 * KIB)}
    async with place.init() as run:
        source = place.source(tree)
        artifact = await run.log_artifact(place.artifact(source))
        other = await run.log_artifact(place.artifact({**tree, "more": b"more"}))
        key = reached_by(place, 0)[0]
        await damage(place, key, "middle")
        with pytest.raises(Corrupt, match="file"):
            await (await artifact.get_entry("file")).read()
        assert (await run.log_artifact(place.artifact(source))).version == "v0"
        again = await run.use_artifact("data:v0")
        assert await (await again.get_entry("file")).read() == tree["file"]
        # the other version still points to the damaged object; the reader finds the healed one
        assert await (await other.get_entry("file")).read() == tree["file"]
        target = place.fresh("target")
        await other.download(target)
        assert read_tree(target) == {**tree, "more": b"more"}


async def test_every_copy_is_damaged(place: Place) -> None:
    """When the substitute is wrong, too, the error names the file, and logging heals."""
    tree = {"file": content("copies", 900), "large": content("copies", 40 * KIB)}
    async with place.init() as run:
        source = place.source(tree)
        artifact = await run.log_artifact(place.artifact(source))
        other = await run.log_artifact(place.artifact({**tree, "more": b"more"}))
        for _ in range(2):
            keys = reached_by(place, 0)[:-1]
            for key in keys:
                await damage(place, key, "middle")
            for each in (other, artifact):
                with pytest.raises((Corrupt, TransferError)) as caught:
                    await each.download(place.fresh("target"))
                assert is_about_damage(caught.value)
                await each.verify()
            await run.log_artifact(place.artifact(source))
            artifact = await run.use_artifact("data:v0")
            assert (await artifact.verify()).is_ok
        target = place.fresh("target")
        await other.download(target)
        assert read_tree(target) == {**tree, "more": b"more"}


async def test_a_folder_is_compared_byte_by_byte(local_place: Place) -> None:
    """`verify(root)` names every missing, extra and different file."""
    place = local_place
    tree = small_tree("verify")
    async with place.init() as run:
        artifact: aio.Artifact = await run.log_artifact(place.artifact(tree))
        target = place.fresh("target")
        await artifact.download(target)
        assert (await artifact.verify(target)).is_ok
        for path in tree:
            if not tree[path]:
                continue
            good = (target / path).read_bytes()
            (target / path).write_bytes(bytes([good[0] ^ 1]) + good[1:])
            report = await artifact.verify(target)
            assert (report.different, report.missing, report.extra) == ((path,), (), ())
            (target / path).unlink()
            (target / f"{path}.extra").write_bytes(good)
            report = await artifact.verify(target)
            assert (report.missing, report.extra) == ((path,), (f"{path}.extra",))
            (target / f"{path}.extra").rename(target / path)
        assert (await artifact.verify(target)).is_ok
