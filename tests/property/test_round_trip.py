"""Any tree survives logging and downloading bit by bit, in any order of versions.

The engine's sizes are divided by 1024, so that files around every boundary (pack, batch, block, chunk,
range) are a few kilobytes.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from material import memory_folder

from asyncart import aio
from asyncart.engine import chunking, listing, objects, plan, upload
from asyncart.errors import NotFound
from asyncart.names import check_entry_path

KIB = 1 << 10
LARGE = plan.PACK_FILE_BYTES // KIB
BLOCK = plan.BLOCK_BYTES // KIB
PACK = plan.PACK_BYTES // KIB
MAX_CHUNK = chunking.MAX_BYTES // KIB
EDGES = [0, 1, MAX_CHUNK, LARGE, BLOCK, 2 * BLOCK, PACK]
SIZES = sorted({max(0, edge + step) for edge in EDGES for step in (-1, 0, 1)})


@pytest.fixture(autouse=True)
def small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PACK_FILE_BYTES", "PACK_BYTES", "BATCH_BYTES", "BLOCK_BYTES", "RANGE_BYTES"):
        monkeypatch.setattr(plan, name, getattr(plan, name) // KIB)
    monkeypatch.setattr(plan, "GAP_BYTES", KIB)
    monkeypatch.setattr(plan, "BATCH_FILES", 3)
    monkeypatch.setattr(objects, "MULTIPART_BYTES", objects.MULTIPART_BYTES // KIB)
    for name in ("MIN_BYTES", "AVERAGE_BYTES", "MAX_BYTES"):
        monkeypatch.setattr(chunking, name, getattr(chunking, name) // KIB)
    shorter = functools.partial(chunking.select_runs, min_run_bytes=KIB)
    monkeypatch.setattr(upload, "select_runs", shorter)
    monkeypatch.setattr(listing, "BLOCK_ENTRIES", 3)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with memory_folder(tmp_path) as made:
        yield made


def is_allowed(path: str) -> bool:
    try:
        return check_entry_path(path) == path
    except ValueError:
        return False


# A file is (seed, size, is_executable, way): few seeds, so that contents repeat and share their chunks.
contents = st.tuples(st.integers(0, 3), st.sampled_from(SIZES) | st.integers(0, 3 * BLOCK))
files = st.tuples(
    contents, st.booleans(), st.sampled_from(["plain", "plain", "plain", "link", "edited"])
)
component = st.sampled_from(["a", "b", "Zz", "ü", "日本", "with space", ".hidden", "x.tar.gz"]) | (
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12)
)
path = st.lists(component, min_size=1, max_size=3).map("/".join).filter(is_allowed)
trees = st.dictionaries(path, files, max_size=8)


def data_of(content: tuple[int, int], way: str) -> bytes:
    seed, size = content
    data = bytearray(blake3(b"%d" % seed).digest(length=size))
    if way == "edited" and size:
        data[size // 2] ^= 0xFF
    return bytes(data)


Expected = dict[str, tuple[bytes, bool]]
Tree = dict[str, tuple[tuple[int, int], bool, str]]


def without_clashes(tree: Tree) -> list[str]:
    """Paths none of which is a folder of another."""
    kept: list[str] = []
    for path in sorted(tree):
        if not any(path.startswith(other + "/") for other in kept):
            kept.append(path)
    return kept


def write(folder: Path, tree: Tree) -> Expected:
    """Write the tree; what a download of it must bring back: path -> (bytes, is it executable)."""
    expected: Expected = {}
    folder.mkdir(parents=True)
    apart = folder.with_name(folder.name + ".linked")
    apart.mkdir()
    for number, path in enumerate(without_clashes(tree)):
        content, is_executable, way = tree[path]
        local = folder / path
        local.parent.mkdir(parents=True, exist_ok=True)
        data = data_of(content, way)
        real = apart / str(number) if way == "link" else local
        real.write_bytes(data)
        real.chmod(0o755 if is_executable else 0o644)
        if way == "link":
            local.symlink_to(real)
        expected[path] = data, is_executable
    return expected


def read(folder: Path) -> Expected:
    found = {}
    for local in folder.rglob("*"):
        if local.is_dir():
            continue
        assert not local.is_symlink()
        mode = local.stat().st_mode
        found[local.relative_to(folder).as_posix()] = local.read_bytes(), bool(mode & stat.S_IXUSR)
    return found


def stored_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / "store").rglob("*") if path.is_file())


ROUND_TRIP = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@ROUND_TRIP
@given(st.lists(trees, min_size=1, max_size=3), st.randoms(use_true_random=False))
@example([{"a": ((0, LARGE), False, "plain")}], None)
@example([{f"f{size}": ((1, size), False, "plain") for size in SIZES}], None)
@example([{f"f{size}": ((1, size), True, "link") for size in SIZES}] * 2, None)
@example([{"a/a": ((0, 0), False, "plain")}, {"a": ((0, 0), False, "plain")}], None)
@example([{"a": ((0, 0), False, "plain")}, {"a/a": ((0, 0), False, "plain")}], None)
def test_any_tree_survives(root: Path, versions: list[Tree], random: Random | None) -> None:
    """Log several trees as versions of one collection, download them in any order: the same bits.

    Equal trees are one version, and no content that was known is stored again.
    """
    where = Path(tempfile.mkdtemp(dir=root))

    async def round_trip() -> None:
        run = await aio.init(project="p", home=where / "home", store=str(where / "store"))
        logged: list[tuple[str, Expected]] = []
        known: set[bytes] = set()
        numbers: dict[str, str] = {}
        async with run:
            for number, tree in enumerate(versions):
                expected = write(where / f"source{number}", tree)
                artifact = aio.Artifact("data", "dataset")
                artifact.add_dir(where / f"source{number}")
                before = stored_bytes(where)
                await run.log_artifact(artifact)
                assert artifact.size == sum(len(data) for data, _ in expected.values())
                assert artifact.file_count == len(expected)
                key = artifact.digest
                assert numbers.setdefault(key, artifact.version) == artifact.version
                assert artifact.version == f"v{list(numbers).index(key)}"
                fresh = {data for data, _ in expected.values()} - known
                await check_growth(artifact, stored_bytes(where) - before, fresh)
                known |= fresh
                logged.append((artifact.version, expected))
            shared = where / "shared"
            if random is not None:
                random.shuffle(logged)
            for version, expected in logged:
                artifact = await run.use_artifact(f"data:{version}")
                target = where / f"target-{version}-{len(os.listdir(where))}"
                await artifact.download(target)
                assert bits(read(target)) == bits(expected)
                await artifact.checkout(shared)  # over whatever version was there before
                assert bits(read(shared)) == bits(expected)
                for path, (data, _) in expected.items():
                    entry = await artifact.get_entry(path)
                    assert await entry.read() == data
                    assert await entry.read(len(data) // 3, 700) == data[len(data) // 3 :][:700]
                    assert entry.digest == blake3(data).hexdigest()
                assert (await artifact.verify()).is_ok

    try:
        asyncio.run(round_trip())
    finally:
        shutil.rmtree(where, ignore_errors=True)


def bits(tree: Expected) -> dict[str, bytes]:
    """Without the modes: of trees that differ in nothing else, the first one logged is the version."""
    return {path: data for path, (data, _) in tree.items()}


async def check_growth(artifact: aio.Artifact, grown: int, fresh: set[bytes]) -> None:
    """Only contents that were not known are stored, at most once each, beside the manifest.

    Copies of one large file that are read side by side may each send their first block.
    """
    workspace = artifact._workspace_or_raise()
    manifest_bytes = artifact._version_info("manifest").manifest.size
    copies = (workspace.threads.count - 1) * BLOCK
    has_large = any(len(data) >= LARGE for data in fresh)
    allowed = sum(map(len, fresh)) + (copies if has_large else 0)
    assert grown <= allowed + manifest_bytes


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(path, st.booleans(), min_size=1, max_size=6))
def test_the_executable_bit_survives(modes: dict[str, bool]) -> None:
    """Each file comes back executable or not, also where an earlier download had it otherwise."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    where = Path(tempfile.mkdtemp(prefix="asyncart-bits-", dir=base))

    async def round_trip() -> None:
        tree = {
            p: ((number, 50), is_set, "plain") for number, (p, is_set) in enumerate(modes.items())
        }
        expected = write(where / "source", tree)
        async with aio.init(project="p", home=where / "home") as run:
            artifact = aio.Artifact("data", "dataset")
            artifact.add_dir(where / "source")
            await run.log_artifact(artifact)
            for _ in range(2):
                await artifact.download(where / "target")
                assert read(where / "target") == expected
                for p in expected:
                    (where / "target" / p).chmod(0o644 if expected[p][1] else 0o755)

    try:
        asyncio.run(round_trip())
    finally:
        shutil.rmtree(where, ignore_errors=True)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["log", "log", "use", "alias", "delete"]),
        st.integers(0, 3),
        st.sampled_from(["best", "prod"]),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(OPERATIONS)
def test_versions_aliases_and_lineage_follow_a_dict(operations: list[tuple[str, int, str]]) -> None:
    """Log, use, move aliases and delete, in any order: what a dict says is what the library says."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    where = Path(tempfile.mkdtemp(prefix="asyncart-model-", dir=base))

    async def play() -> None:
        live: dict[int, int] = {}  # number -> content
        aliases: dict[str, int] = {}
        next_number = 0
        inputs: list[int] = []
        outputs: list[int] = []
        async with aio.init(project="p", home=where / "home") as run:
            for what, which, alias in operations:
                if what == "log":
                    source = where / f"file{which}"
                    source.write_bytes(b"%d" % which)
                    artifact = aio.Artifact("data", "dataset")
                    artifact.add_file(source, "file")
                    await run.log_artifact(artifact, aliases=[alias])
                    number = next((n for n, c in live.items() if c == which), next_number)
                    if number == next_number:
                        next_number += 1
                    live[number] = which
                    aliases[alias] = aliases["latest"] = number
                    assert artifact.version == f"v{number}"
                    if number not in outputs:
                        outputs.append(number)
                    continue
                selector = alias if what == "alias" else f"v{which}"
                number = aliases.get(alias, -1) if what == "alias" else which
                if number not in live:
                    with pytest.raises(NotFound):
                        await run.use_artifact(f"data:{selector}")
                    continue
                found = await run.use_artifact(f"data:{selector}")
                if number not in inputs:
                    inputs.append(number)
                assert found.version == f"v{number}"
                assert await (await found.get_entry("file")).read() == b"%d" % live[number]
                assert set(found.aliases) == {a for a, n in aliases.items() if n == number}
                if what == "alias":
                    found.aliases = ["moved"]
                    await found.save()
                    aliases = {a: n for a, n in aliases.items() if n != number or a == "latest"}
                    aliases["moved"] = number
                elif what == "delete":
                    await found.delete(delete_aliases=True)
                    del live[number]
                    aliases = {a: n for a, n in aliases.items() if n in live}
                    if live:
                        aliases.setdefault("latest", max(live))
            produced = [a.version for a in await run.logged_artifacts()]
            consumed = [a.version for a in await run.used_artifacts()]
            assert set(produced) >= {f"v{n}" for n in outputs if n in live}
            assert set(consumed) >= {f"v{n}" for n in inputs if n in live}
            api = aio.Api(home=where / "home", project="p")
            for number in range(next_number):
                assert await api.artifact_exists(f"data:v{number}") == (number in live)

    try:
        asyncio.run(play())
    finally:
        shutil.rmtree(where, ignore_errors=True)
