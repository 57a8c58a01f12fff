"""download, checkout, verify, files, get_entry and manifest: what comes back, and what is left alone."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from api_fixtures import found, tree
from colours import entered, got

import asyncart
from asyncart.errors import Corrupt, Denied, Invalid, NotFound
from asyncart.model import Progress

pytestmark = pytest.mark.usefixtures("here")

FILES: dict[str, bytes | str] = {
    "images/cat.png": "cat",
    "images/dog.png": "dog!",
    "images/raw/cat.raw": "raw",
    "imagesque.txt": "not in the folder",
    "readme.md": "words",
}
BYTES = {path: str(content).encode() for path, content in FILES.items()}


@pytest.fixture
async def artifact(face: Any, here: Path) -> Any:
    """A logged artifact with FILES; its run is finished."""
    tree(here, {f"data/{path}": content for path, content in FILES.items()})
    async with entered(face.init("p")) as run:
        return await got(run.log_artifact("data", name="data", type="dataset"))


def chosen(*prefixes: str) -> dict[str, bytes]:
    return {path: content for path, content in BYTES.items() if path.startswith(prefixes)}


# --- where to -----------------------------------------------------------------------------------


async def test_the_default_folder_carries_name_and_version(artifact: Any, here: Path) -> None:
    folder = await got(artifact.download())
    assert folder == os.path.join("artifacts", "data:v0")
    assert found(folder) == BYTES
    assert await got(artifact.download()) == folder


@pytest.mark.parametrize("as_path", [str, Path])
async def test_a_folder_of_ones_own_is_made_and_returned(
    artifact: Any, here: Path, as_path: Any
) -> None:
    assert await got(artifact.download(as_path("a/b/c"))) == os.path.join("a", "b", "c")
    assert found("a/b/c") == BYTES


async def test_artifacts_dir_can_be_configured(
    artifact: Any, here: Path, monkeypatch: pytest.MonkeyPatch, face: Any
) -> None:
    monkeypatch.setenv("ASYNCART_ARTIFACTS_DIR", "elsewhere")
    async with entered(face.Api(project="p")) as api:
        folder = await got((await got(api.artifact("data"))).download())
    assert folder == os.path.join("elsewhere", "data:v0")
    assert found(folder) == BYTES


async def test_a_target_that_is_a_file_is_refused_and_left_alone(artifact: Any, here: Path) -> None:
    tree(here, {"taken": "mine"})
    with pytest.raises(Exception, match="taken") as caught:
        await got(artifact.download("taken"))
    assert isinstance(caught.value, asyncart.errors.AsyncartError)
    assert Path("taken").read_text() == "mine"


# --- what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"path_prefix": "images/"}, chosen("images/")),
        ({"path_prefix": "images"}, chosen("images")),
        ({"path_prefix": "images/raw/cat.raw"}, chosen("images/raw/")),
        ({"path_prefix": "nothing"}, {}),
        ({"include": "*.png"}, chosen("images/cat.png", "images/dog.png")),
        ({"include": ["*.md", "*/raw/*"]}, chosen("images/raw", "readme")),
        ({"exclude": "*.png"}, chosen("images/raw", "imagesque", "readme")),
        ({"include": "images/*", "exclude": ["*/raw/*", "*dog*"]}, chosen("images/cat.png")),
        ({"path_prefix": "images/", "include": "*cat*"}, chosen("images/cat", "images/raw")),
        ({"include": []}, BYTES),
    ],
)
async def test_a_selection_brings_that_and_nothing_else(
    artifact: Any, selection: dict[str, Any], expected: dict[str, bytes]
) -> None:
    await got(artifact.download("out", **selection))
    assert found("out") == expected


async def test_files_entries_and_manifest_tell_what_is_there(artifact: Any, here: Path) -> None:
    assert [e.path for e in await got(artifact.files())] == sorted(FILES)
    assert [e.path for e in await got(artifact.files("images/"))] == sorted(chosen("images/"))
    entry = await got(artifact.get_entry("images/dog.png"))
    assert (entry.path, entry.size, entry.is_reference) == ("images/dog.png", 4, False)
    assert entry == await got(artifact.get_path("images/dog.png"))
    with pytest.raises(LookupError, match=r"data:v0 has no 'images'.*files\(\)"):
        await got(artifact.get_entry("images"))
    with pytest.raises(Invalid, match="not a reference"):
        entry.ref_target()
    manifest = artifact.manifest
    assert await got(manifest.count()) == artifact.file_count == len(FILES)
    assert list(await got(manifest.entries("images/raw"))) == ["images/raw/cat.raw"]
    assert await got(manifest.get("readme.md")) is not None
    assert await got(manifest.get("readme")) is None


async def test_one_entry_can_be_downloaded_alone(artifact: Any, here: Path) -> None:
    entry = await got(artifact.get_entry("images/cat.png"))
    local = await got(entry.download())
    assert local == os.path.join("artifacts", "data:v0", "images", "cat.png")
    assert found("artifacts/data:v0") == chosen("images/cat.png")
    assert found(Path(await got(entry.download("out"))).parent) == {"cat.png": b"cat"}


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, None, b"dog!"), (1, 2, b"og"), (3, 9, b"!"), (4, None, b""), (0, 0, b""), (9, 1, b"")],
)
async def test_a_range_of_an_entry_can_be_read(
    artifact: Any, offset: int, length: int | None, expected: bytes
) -> None:
    entry = await got(artifact.get_entry("images/dog.png"))
    assert await got(entry.read(offset, length)) == expected


async def test_progress_is_told_and_ends_with_the_totals(artifact: Any, here: Path) -> None:
    events: list[Progress] = []
    await got(artifact.download("out", progress=events.append))
    assert events[-1].stage == "download"
    assert (events[-1].files, events[-1].files_total) == (len(FILES), len(FILES))
    assert events[-1].bytes == events[-1].bytes_total == sum(map(len, BYTES.values()))


# --- what is in the target already --------------------------------------------------------------


async def test_other_files_in_the_target_are_left_alone(artifact: Any, here: Path) -> None:
    tree(here, {"out/mine.txt": "mine", "out/images/mine.png": "mine"})
    await got(artifact.download("out"))
    assert found("out") == {**BYTES, "mine.txt": b"mine", "images/mine.png": b"mine"}


async def test_a_file_with_other_content_is_replaced_and_a_right_one_is_kept(
    artifact: Any, here: Path
) -> None:
    await got(artifact.download("out"))
    kept = Path("out/images/cat.png").stat().st_ino
    tree(here, {"out/readme.md": "WORDS", "out/images/dog.png": "longer than before"})
    Path("out/imagesque.txt").unlink()
    await got(artifact.download("out"))
    assert found("out") == BYTES
    assert Path("out/images/cat.png").stat().st_ino == kept


async def test_nothing_is_written_through_a_link_in_the_target(artifact: Any, here: Path) -> None:
    """Neither through a link in place of a file, nor of a folder, whatever it is decided to do."""
    tree(here, {"outside/cat.png": "precious", "victim": "precious"})
    for spoil in [
        lambda: Path("out/readme.md").symlink_to(here / "victim"),
        lambda: Path("out/images").symlink_to(here / "outside", target_is_directory=True),
    ]:
        Path("out").mkdir(exist_ok=True)
        spoil()
        try:
            await got(artifact.download("out"))
        except asyncart.errors.AsyncartError as error:
            assert "out" in str(error) or "images" in str(error)  # noqa: PT017
        assert found("outside") == {"cat.png": b"precious"}
        assert Path("victim").read_text() == "precious"
        for path in sorted(Path("out").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


async def test_checkout_makes_the_folder_exactly_that_version(artifact: Any, here: Path) -> None:
    tree(
        here,
        {"out/mine.txt": "mine", "out/old/deep/er": "old", "out/readme.md": "WORDS", "kept": "x"},
    )
    Path("out/link").symlink_to(here / "kept")
    Path("out/folder-link").symlink_to(here, target_is_directory=True)
    assert await got(artifact.checkout("out")) == "out"
    assert found("out") == BYTES
    assert sorted(p.name for p in Path("out").iterdir()) == ["images", "imagesque.txt", "readme.md"]
    assert (await got(artifact.verify("out"))).is_ok
    assert Path("kept").read_text() == "x"


async def test_checkout_of_another_version_takes_the_first_ones_files_away(
    artifact: Any, here: Path, face: Any
) -> None:
    async with entered(face.init("p")) as run:
        draft = artifact.new_draft()
        draft.remove("images")
        other = await got(run.log_artifact(draft))
    await got(artifact.checkout("out"))
    await got(other.checkout("out"))
    assert found("out") == chosen("imagesque", "readme")
    await got(artifact.checkout("out"))
    assert found("out") == BYTES


async def test_checkout_replaces_what_is_of_another_kind(artifact: Any, here: Path) -> None:
    """A file or link where a folder belongs, a folder, link or FIFO where a file belongs."""
    elsewhere = here / "elsewhere"
    tree(here, {"elsewhere/cat.png": "precious"})
    target = Path("out")
    for plant in (
        lambda: tree(here, {"out/images": "a file"}),
        lambda: (target / "images").symlink_to(elsewhere, target_is_directory=True),
        lambda: tree(here, {"out/readme.md/deep/er": "a folder"}),
        lambda: (target / "readme.md").symlink_to(elsewhere / "cat.png"),
        lambda: os.mkfifo(target / "readme.md"),
    ):
        target.mkdir()
        plant()
        await got(artifact.checkout("out"))
        assert found("out") == BYTES
        assert not (target / "images").is_symlink()
        assert not (target / "readme.md").is_symlink()
        assert (elsewhere / "cat.png").read_text() == "precious"
        shutil.rmtree(target)


async def test_listing_makes_no_work_for_the_garbage_collector(artifact: Any) -> None:
    """Or listing 100,000 files would stop the caller's event loop for whole walks through the heap."""
    entries = [getattr(entry, "_aio", entry) for entry in await got(artifact.files())]
    assert len(entries) == len(FILES)
    assert not any(map(gc.is_tracked, entries))


# --- verify -------------------------------------------------------------------------------------


async def test_verify_reports_all_that_is_missing_extra_or_different(
    artifact: Any, here: Path
) -> None:
    await got(artifact.download("out"))
    assert (await got(artifact.verify("out"))).is_ok
    Path("out/images/cat.png").unlink()
    Path("out/imagesque.txt").unlink()
    same_length = os.stat("out/images/dog.png")
    tree(
        here,
        {"out/images/dog.png": "DOG!", "out/readme.md": "x", "out/new": "", "out/images/b": ""},
    )
    os.utime("out/images/dog.png", ns=(same_length.st_atime_ns, same_length.st_mtime_ns))
    Path("out/a-link").symlink_to(here, target_is_directory=True)
    report = await got(artifact.verify("out"))
    assert not report.is_ok
    assert report.checked == len(FILES)
    assert report.missing == ("images/cat.png", "imagesque.txt")
    assert report.different == ("images/dog.png", "readme.md")
    assert report.extra == ("a-link", "images/b", "new")
    assert report.damaged == ()


async def test_verify_does_not_take_a_link_or_a_folder_for_a_file(
    artifact: Any, here: Path
) -> None:
    await got(artifact.download("out"))
    tree(here, {"elsewhere": "words"})
    Path("out/readme.md").unlink()
    Path("out/readme.md").symlink_to(here / "elsewhere")
    Path("out/imagesque.txt").unlink()
    Path("out/imagesque.txt").mkdir()
    report = await got(artifact.verify("out"))
    assert set(report.missing + report.different) == {"imagesque.txt", "readme.md"}


async def test_verify_never_waits_for_a_fifo_and_never_follows_a_link(
    face: Any, here: Path
) -> None:
    """Not even where the artifact has an empty file, and the link is as long as the file."""
    tree(here, {"data/empty": "", "data/x": "elsewhere"})
    async with entered(face.init("p")) as run:
        artifact = await got(run.log_artifact("data", name="other"))
    await got(artifact.download("out"))
    Path("out/empty").unlink()
    os.mkfifo("out/empty")
    Path("out/x").unlink()
    Path("out/elsewhere").write_text("elsewhere")
    Path("out/x").symlink_to("elsewhere")
    report = await got(artifact.verify("out"))
    assert report.different == ("empty", "x")
    assert report.extra == ("elsewhere",)


async def test_checkout_and_verify_of_what_may_not_be_touched_name_it(
    artifact: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Foreign errors become ours, with the path in them."""

    def refused(path: str, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", path)

    await got(artifact.checkout("out"))
    tree(here, {"out/extra/x": "x"})
    for name, where in (("unlink", "out/extra/x"), ("rmdir", "out/(extra|images)")):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refused)
            with pytest.raises(Denied, match=where):
                await got(artifact.checkout("out"))
    with monkeypatch.context() as patch:
        patch.setattr("asyncart.engine.tidy.file_digest", refused)
        with pytest.raises(Denied, match=r"out/images/cat\.png"):
            await got(artifact.verify("out"))


async def test_checkout_of_a_deep_and_wide_tree_takes_all_of_it_away(face: Any, here: Path) -> None:
    """With more folders than descriptors are kept open."""
    wide = {f"out/a{n}/b/c": "x" for n in range(200)}
    deep = {f"out/{'d/' * 150}e": "x"}
    tree(here, {"data/a7/kept": "y", **wide, **deep})
    async with entered(face.init("p")) as run:
        artifact = await got(run.log_artifact("data", name="other"))
    await got(artifact.checkout("out"))
    assert found("out") == {"a7/kept": b"y"}
    assert [path.name for path in Path("out").iterdir()] == ["a7"]


async def test_verify_of_a_folder_that_is_not_there_is_not_found(artifact: Any) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await got(artifact.verify("nowhere"))


async def test_verify_without_a_folder_reads_what_is_stored(
    artifact: Any, tmp_path: Path, face: Any
) -> None:
    report = await got(artifact.verify())
    assert report.is_ok
    assert report.checked == len(FILES)
    damage(tmp_path, b"dog!", b"DOG!")
    report = await got(artifact.verify())
    assert report.damaged == ("images/dog.png",)
    assert not report.is_ok


async def test_a_damaged_object_is_never_handed_out_and_heals_when_logged_again(
    artifact: Any, tmp_path: Path, face: Any
) -> None:
    """The wrong byte is an error that names the file; the same content again is stored afresh."""
    damage(tmp_path, b"dog!", b"DOG!")
    with pytest.raises(Corrupt, match=r"images/dog\.png"):
        await got(artifact.download("out"))
    assert not Path("out/images/dog.png").exists()
    async with entered(face.init("p")) as run:
        again = await got(run.log_artifact("data", name="data", type="dataset"))
        assert again == artifact
        assert again.version == "v0"
    assert (await got(again.verify())).is_ok
    await got(artifact.download("out"))
    assert found("out") == BYTES


def damage(tmp_path: Path, before: bytes, after: bytes) -> None:
    """Flip stored bytes, in whatever object holds them."""
    [holder] = [
        path
        for path in (tmp_path / "home" / "store").rglob("*")
        if path.is_file() and before in path.read_bytes()
    ]
    holder.chmod(0o644)
    holder.write_bytes(holder.read_bytes().replace(before, after))


async def test_a_version_that_lists_other_files_than_its_digest_says(
    face: Any, here: Path, tmp_path: Path
) -> None:
    """Each of its files is what its entry says, but together they are not what was promised: whoever reads
    the whole list is told, before anything appears; whoever reads a part cannot know. Logging heals it."""
    salt = os.urandom(8)
    tree(here, {"other/a/x": salt, "other/b": b"other", "data/a/x": b"data" + salt})
    async with entered(face.init("p")) as run:
        other = await got(run.log_artifact("other", name="data", type="dataset"))
        right = await got(run.log_artifact("data", name="twin", type="dataset"))
        assert (await got(other.verify())).is_ok
        await got(other.download("part"))
        forge(tmp_path, other.digest, right.digest)
        forged = await got(run.log_artifact("data", name="data", type="dataset"))
        assert forged == other
        assert forged.digest == right.digest

        # a part of it: not known to be wrong, and verified by its own digest
        assert await got((await got(forged.get_entry("b"))).read()) == b"other"
        assert [entry.path for entry in await got(forged.files("a/"))] == ["a/x"]
        await got(forged.download("a", path_prefix="a/"))
        assert found("a") == {"a/x": salt}

        tree(here, {"kept/mine": "mine"})
        for whole in (
            lambda: forged.download("out"),
            lambda: forged.download("out", include="b"),
            lambda: forged.download("part"),  # everything is there already
            lambda: forged.checkout("kept"),
            lambda: forged.verify(),
            lambda: forged.verify("part"),
            lambda: forged.files(),
            lambda: run.log_artifact(forged.new_draft()),
        ):
            with pytest.raises(
                Corrupt, match=r"data:v0: .* lists other files .* log the same content again"
            ):
                await got(whole())
        assert found("out") == {}
        assert found("kept") == {"mine": b"mine"}

        healed = await got(run.log_artifact("data", name="data", type="dataset"))
        assert healed == forged
        assert (await got(healed.verify())).is_ok
        for each in (healed, forged):
            assert found(await got(each.download("out"))) == {"a/x": b"data" + salt}
            await got(each.checkout("out"))


def forge(tmp_path: Path, digest: str, other: str) -> None:
    """Say in the catalog that the version with that digest has the other one."""
    with closing(sqlite3.connect(tmp_path / "home" / "catalog.sqlite", timeout=30)) as catalog:
        with catalog:
            changed = catalog.execute(
                "UPDATE versions SET digest = ? WHERE digest = ?",
                (bytes.fromhex(other), bytes.fromhex(digest)),
            )
        assert changed.rowcount == 1


async def test_what_killed_downloads_left_is_removed_by_a_whole_one(face: Any, here: Path) -> None:
    """Once it is old, and never a file of the artifact; a download of a part looks at nothing else."""
    mine = ".x.0123456789abc.asyncart-tmp"
    left = {
        "out/.f.0123456789abc.asyncart-tmp": 3601,
        "out/d/.g.01234567.asyncart-partial": 7 * 86400 + 1,
        f"out/d/{mine}": 7 * 86400,
    }
    young = {"out/d/.h.0123456789abc.asyncart-tmp": 3000, "out/.i.01234567.asyncart-partial": 86400}
    tree(
        here, {"data/f": "f", f"data/d/{mine}": "mine", **dict.fromkeys({**left, **young}, "mine")}
    )
    for path, age_s in {**left, **young}.items():
        os.utime(path, (time.time() - age_s,) * 2)
    async with entered(face.init("p")) as run:
        artifact = await got(run.log_artifact("data", name="other"))
    await got(artifact.download("out", path_prefix="f"))
    assert set(found(here)) >= {*left, *young}
    Path("out/f").unlink()
    await got(artifact.download("out"))
    kept = {path.removeprefix("out/") for path in young}
    assert set(found("out")) == {"f", f"d/{mine}", *kept}
