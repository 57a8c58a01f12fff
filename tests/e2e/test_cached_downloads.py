"""Artifacts in a bucket, with the cache in front: what is fetched once is fetched once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_shell import Shell
from material import read_tree, write_tree
from services import S3Server

from asyncart import aio, config, stores
from asyncart.errors import Corrupt
from asyncart.model import new_object_id
from asyncart.stores.cache import CachedStore, ObjectCache, objectfile
from asyncart.stores.protocol import Store
from asyncart.stores.s3 import S3Store
from asyncart.stores.wrappers import CountingStore

MIB = 1 << 20


class Home:
    """One user's home; `asked` counts what reaches the bucket since it was cleared last."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.asked: CountingStore | None = None
        self._serial = 0
        self.url = url

    def api(self, **settings: Any) -> aio.Api:
        return aio.Api(project="p", home=self.folder / "home", store=self.url, **settings)

    def settings(self) -> config.Settings:
        return config.load(home=str(self.folder / "home"), objects=self.url, project="p")

    def cache(self) -> ObjectCache:
        settings = self.settings()
        return ObjectCache(settings.cache_dir, settings.cache_bytes)

    def fresh(self) -> Path:
        self._serial += 1
        return self.folder / f"out{self._serial}"

    def clear(self) -> None:
        assert self.asked is not None
        self.asked.clear()

    @property
    def requests(self) -> dict[str, int]:
        assert self.asked is not None
        return dict(self.asked.requests)

    def damage(self) -> int:
        """Flip bytes at the ends and in the middle of every cached object; returns how many objects."""
        files = list((self.folder / "home" / "cache" / "objects").iterdir())
        for file in files:
            fd = os.open(file, os.O_RDWR)
            for start, stop in objectfile.read_spans(fd):
                for position in {start, (start + stop) // 2, stop - 1}:
                    at = objectfile.HEADER_BYTES + position
                    os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 0xFF]), at)
            os.close(fd)
        return len(files)


@pytest.fixture
def home(tmp_path: Path, aws_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = Home(tmp_path, f"s3://{aws_environment.bucket}/{os.urandom(6).hex()}")
    open_store = stores.open_store

    async def counted(url: str, **options: Any) -> Store:
        home.asked = CountingStore(await open_store(url, **options))
        return home.asked

    monkeypatch.setattr(stores, "open_store", counted)
    monkeypatch.setenv("ASYNCART_WORKERS", "0")  # counted are the requests of this process
    return home


def files() -> dict[str, bytes]:
    numbers = random.Random(7)
    small = {f"small/{n:03}": numbers.randbytes(1000 * n) for n in range(40)}
    return {**small, "large.bin": numbers.randbytes(35 * MIB)}


async def log(home: Home, tree: dict[str, bytes]) -> None:
    start = aio.init(project="p", home=home.folder / "home", store=home.url)
    async with start as run:
        artifact = aio.Artifact("data", "dataset")
        artifact.add_dir(write_tree(home.fresh(), tree))
        await run.log_artifact(artifact)


async def test_a_second_folder_costs_no_request(home: Home) -> None:
    """The first download asks for each byte once; nothing of it is asked for again, by any way to read."""
    tree = files()
    await log(home, tree)
    async with home.api() as api:
        artifact = await api.artifact("data:latest")
        home.clear()
        assert read_tree(Path(await artifact.download(home.fresh()))) == tree
        assert home.asked is not None
        assert home.asked.bytes["read_into"] <= sum(map(len, tree.values())) + MIB
    async with home.api() as api:
        artifact = await api.artifact("data:latest")
        assert read_tree(Path(await artifact.download(home.fresh()))) == tree
        entry = await artifact.get_entry("small/012")
        assert await entry.read() == tree["small/012"]
        entry = await artifact.get_entry("large.bin")
        assert await entry.read(20 * MIB - 5, 10) == tree["large.bin"][20 * MIB - 5 : 20 * MIB + 5]
        assert home.requests == {}
    assert home.cache().statistics().hits > 5


async def test_one_file_does_not_pull_its_pack(home: Home) -> None:
    tree = files()
    await log(home, tree)
    async with home.api() as api:
        entry = await (await api.artifact("data:latest")).get_entry("small/012")
        home.clear()
        assert await entry.read() == tree["small/012"]
        assert home.asked is not None
        assert home.asked.bytes["read_into"] == len(tree["small/012"])


async def test_what_is_uploaded_is_not_cached(home: Home) -> None:
    """It is on this machine already: the disk is not used twice."""
    await log(home, {"a": b"a" * 100})
    assert home.cache().objects() == []


async def test_a_damaged_cache_heals_itself(home: Home) -> None:
    """Manifest, pack and large file, all wrong: dropped, fetched again once, and no object is marked."""
    tree = files()
    await log(home, tree)
    async with home.api() as api:
        await (await api.artifact("data:latest")).download(home.fresh())
    assert home.damage() == 3
    async with home.api() as api:
        artifact = await api.artifact("data:latest")
        home.clear()
        assert read_tree(Path(await artifact.download(home.fresh()))) == tree
        assert home.asked is not None
        assert home.asked.bytes["read_into"] <= 2 * sum(map(len, tree.values()))
    async with home.api() as api:
        artifact = await api.artifact("data:latest")
        assert not artifact._version_info("x").is_damaged
        assert home.asked is not None
        home.clear()
        await artifact.download(home.fresh())
        assert home.requests.get("read_into", 0) <= 2  # what two readers dropped for each other
        assert (await artifact.verify()).is_ok


@pytest.mark.parametrize("path", ["small/012", "large.bin"])
async def test_reading_one_file_heals_too(home: Home, path: str) -> None:
    tree = files()
    await log(home, tree)
    async with home.api() as api:
        await (await (await api.artifact("data:latest")).get_entry(path)).read()
    home.damage()
    async with home.api() as api:
        entry = await (await api.artifact("data:latest")).get_entry(path)
        assert await entry.read() == tree[path]
        home.clear()
        assert await entry.read() == tree[path]
        assert home.requests == {}


async def test_damage_in_the_bucket_is_found_behind_a_good_cache(home: Home) -> None:
    """Verifying what is stored does not look into the cache; reading goes on with what is right there."""
    tree = files()
    await log(home, tree)
    async with home.api() as api:
        artifact = await api.artifact("data:latest")
        await artifact.download(home.fresh())
        entry = await artifact.get_entry("small/012")
        extent = entry._entry.extents[0]
        assert home.asked is not None
        objects = (await home.asked.list_page()).objects
        pack = next(item for item in objects if item.key.endswith(extent.object_id))
        await home.asked.write(pack.key, [memoryview(bytes(pack.size))])
        assert await entry.read() == tree["small/012"]
        found = await artifact.verify()
        assert set(found.damaged) == {p for p in tree if p.startswith("small/")} - {"small/000"}
        home.cache().clear()
        with pytest.raises(Corrupt, match="small/"):
            await artifact.download(home.fresh())


@pytest.mark.parametrize("workers", [0, 2])
async def test_a_large_download_takes_from_the_cache_but_adds_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """It would drive out everything else, and be written to the disk twice."""
    tree = files()
    await log(home, tree)
    monkeypatch.setenv("ASYNCART_CACHE_BYTES", str(4 * 30 * MIB))
    monkeypatch.setenv("ASYNCART_WORKERS", str(workers))
    async with home.api() as api:
        artifact = await api.artifact("data:latest")
        await artifact.download(home.fresh(), path_prefix="small")
        kept = home.cache().objects()
        assert len(kept) == 2, "the manifest and the pack"
        home.clear()
        full = Path(await artifact.download(home.fresh()))
        assert read_tree(full) == tree
        assert home.cache().objects() == kept
        if not workers:
            assert home.asked is not None
            assert home.asked.bytes["read_into"] == len(tree["large.bin"])
        (full / "small" / "012").unlink()  # little is missing now: a small download
        home.cache().clear()
        await artifact.download(full)
        assert sum(each.bytes for each in home.cache().objects()) < 100_000
        assert len(home.cache().objects()) == 2


async def test_a_limit_of_nothing_means_no_cache(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {"a": b"a" * 1000}
    await log(home, tree)
    monkeypatch.setenv("ASYNCART_CACHE_BYTES", "0")
    async with home.api() as api:
        artifact = await api.artifact("data:latest")
        for _ in range(2):
            home.clear()
            assert read_tree(Path(await artifact.download(home.fresh()))) == tree
            assert home.requests["read_into"] >= 1
    assert not (home.folder / "home" / "cache").exists()


async def test_the_bucket_tells_how_large_an_object_is(home: Home, tmp_path: Path) -> None:
    """So nothing of an object that is too large enters the cache."""
    real = await S3Store.open(home.url)
    store = CachedStore(real, ObjectCache(tmp_path / "cache", 8 * MIB, keep_free_bytes=0))
    try:
        keys = [f"objects/0{n}/{'0' * 31}{n}" for n in range(2)]
        for key, size in zip(keys, (2 * MIB, 2 * MIB + 1), strict=True):
            await store.write(key, [memoryview(bytes(size))])
            await store.read_into(key, 1000, memoryview(bytearray(1000)))
        assert [each.object_id for each in store.cache.objects()] == [keys[0][-32:]]
    finally:
        await store.aclose()


async def test_processes_share_one_cache(home: Home) -> None:
    """Four processes download at once, then one more: all right, and the last one asks for nothing."""
    tree = files()
    await log(home, tree)
    script = """
import sys, anyio
from asyncart import aio
async def main():
    async with aio.Api(project="p") as api:
        await (await api.artifact("data:latest")).download(sys.argv[1])
anyio.run(main)
"""
    environment = {
        **os.environ,
        "ASYNCART_HOME": str(home.folder / "home"),
        "ASYNCART_OBJECTS": home.url,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    targets = [home.fresh() for _ in range(4)]
    run_all([[sys.executable, "-c", script, str(target)] for target in targets], environment)
    assert all(read_tree(target) == tree for target in targets)
    async with home.api() as api:
        artifact = await api.artifact("data:latest")
        assert read_tree(Path(await artifact.download(home.fresh()))) == tree
        assert home.requests == {}


def run_all(commands: list[list[str]], environment: dict[str, str]) -> None:
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(120) for process in processes] == [0] * len(commands)


# --- asyncart cache ---


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def fill(shell: Shell, count: int) -> list[str]:
    """Objects of 1 MiB each, the first one used longest ago; returns their ids."""
    cache = ObjectCache(shell.home / "cache", 1 << 30, keep_free_bytes=0)
    ids = [new_object_id(n) for n in range(count)]
    for number, object_id in enumerate(ids):
        cache.add(object_id, 0, memoryview(bytes(MIB)))
        os.utime(shell.home / "cache" / "objects" / object_id, (number, number))
    cache.read(ids[0], 0, memoryview(bytearray(1000)))
    os.utime(shell.home / "cache" / "objects" / ids[0], (0, 0))
    cache.save_statistics()
    return ids


def test_the_command_lists_prunes_and_clears(shell: Shell) -> None:
    ids = fill(shell, 4)
    found = shell.json("cache", "ls", "--objects")
    assert found["limit_bytes"] == config.load().cache_bytes
    assert found["statistics"] == {"hits": 1, "hit_bytes": 1000, "misses": 0, "missed_bytes": 0}
    assert [each["object_id"] for each in found["objects"]] == ids[::-1]
    (kind,) = [kind for kind in found["kinds"] if kind["name"] == "objects"]
    assert kind["files"] == 4
    assert kind["bytes"] == sum(each["bytes"] for each in found["objects"]) >= 4 * MIB
    text = shell("cache", "ls", "--objects")
    assert all(object_id in text for object_id in ids)
    assert "(100 %)" in text
    assert shell("cache", "prune") == "0 objects removed, 0 B freed\n"
    assert shell.json("cache", "prune", "--to", "2.5M")["removed_objects"] == 2
    assert "not a size" in shell.run("cache", "prune", "--to", "some").stderr
    left = shell.json("cache", "ls", "--objects")["objects"]
    assert [each["object_id"] for each in left] == [ids[3], ids[2]]
    assert "--yes" in shell.error("cache", "clear", code=5)
    assert shell.json("cache", "clear", "--yes")["freed_bytes"] >= 2 * MIB
    assert shell.json("cache", "ls", "--objects")["objects"] == []


def test_listing_an_empty_cache_makes_nothing(shell: Shell) -> None:
    shell("cache", "ls", "--objects")
    shell("cache", "prune")
    assert not shell.home.exists()
    shell.write("asyncart.toml", "cache_bytes = 0")
    assert "not cached" in shell("cache", "ls")
