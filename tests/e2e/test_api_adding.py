"""What add_file, add_dir, new_file and add_reference make of paths, links, duplicates and odd files."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_fixtures import found, tree
from colours import contents, draft, entered, got, written

import asyncart
import asyncart.aio
from asyncart.aio import newfile
from asyncart.aio.drafting import COMPARED_BYTES
from asyncart.errors import ArtifactFinalizedError, Invalid, NotFound

pytestmark = pytest.mark.usefixtures("here")

BAD_PATHS = [
    "",
    "/absolute",
    "/",
    "..",
    ".",
    "../up",
    "a/../b",
    "a/./b",
    "a//b",
    "C:/windows",
    "c:file",
    "back\\slash",
    "nul\0byte",
    "line\nfeed",
    "tab\tbed",
    "\x7f",
    "CON",
    "aux.txt",
    "dot.",
    "space ",
    "x" * 256,
    "lone\udc80surrogate",
]


async def paths_of(face: Any, add: Callable[[Any], None]) -> list[str]:
    """The paths of the artifact after `add(draft)` and logging."""
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        add(artifact)
        await got(run.log_artifact(artifact))
        return [entry.path for entry in await got(artifact.files())]


@pytest.fixture
def project(here: Path) -> Path:
    """The guide's project directory."""
    return tree(
        here,
        {
            "images/cat.png": "cat",
            "images/dog.png": "dog",
            "checkpoints/model.h5": "checkpoint",
            "model.h5": "model",
        },
    )


# --- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("add", "paths"),
    [
        (lambda a: a.add_file("model.h5"), ["model.h5"]),
        (lambda a: a.add_file("checkpoints/model.h5"), ["model.h5"]),
        (lambda a: a.add_file("model.h5", name="models/mymodel.h5"), ["models/mymodel.h5"]),
        (lambda a: a.add_file(Path("model.h5")), ["model.h5"]),
        (lambda a: a.add_dir("images"), ["cat.png", "dog.png"]),
        (lambda a: a.add_dir("images/"), ["cat.png", "dog.png"]),
        (lambda a: a.add_dir("images", name="images"), ["images/cat.png", "images/dog.png"]),
        (lambda a: a.add_dir("images", name="a/b/"), ["a/b/cat.png", "a/b/dog.png"]),
        (lambda a: a.add_dir(Path("images"), name=""), ["cat.png", "dog.png"]),
        (lambda a: a.add_reference("s3://bucket/model.h5"), ["model.h5"]),
        (lambda a: a.add_reference("s3://bucket/model.h5", name="m/x.h5"), ["m/x.h5"]),
        (
            lambda a: a.add_reference(f"file://{os.getcwd()}/images", name="pre"),
            ["pre/cat.png", "pre/dog.png"],
        ),
        (lambda a: a.add_reference(f"file://{os.getcwd()}/images/cat.png"), ["cat.png"]),
    ],
)
async def test_paths_are_those_of_the_guide(
    face: Any, project: Path, add: Callable[[Any], None], paths: list[str]
) -> None:
    assert await paths_of(face, add) == paths


def test_add_file_returns_the_path_in_the_artifact(project: Path) -> None:
    artifact = asyncart.Artifact("data", "dataset")
    assert artifact.add_file("checkpoints/model.h5") == "model.h5"
    assert artifact.add_file("model.h5", name="a/b.h5") == "a/b.h5"


@pytest.mark.parametrize("bad", BAD_PATHS)
def test_bad_paths_are_refused_by_every_way_of_adding(project: Path, bad: str) -> None:
    """... at once, as ValueError, and nothing is added."""
    artifact = asyncart.Artifact("data", "dataset")
    with pytest.raises(ValueError, match="entry path"):
        artifact.add_file("model.h5", name=bad)
    with pytest.raises(ValueError, match="entry path"):
        artifact.new_file(bad)
    with pytest.raises(ValueError, match="entry path"):
        artifact.add_reference("s3://bucket/x", name=bad)
    if bad not in ("", "."):  # these mean the root
        with pytest.raises(ValueError, match="entry path"):
            artifact.add_dir("images", name=bad)
    with asyncart.init("p") as run:
        assert run.log_artifact(artifact).file_count == 0


def test_a_local_name_that_cannot_be_a_path_needs_a_name(here: Path) -> None:
    tree(here, {"odd\nname": "x"})
    artifact = asyncart.Artifact("data", "dataset")
    with pytest.raises(Invalid, match="control character"):
        artifact.add_file("odd\nname")
    assert artifact.add_file("odd\nname", name="even") == "even"


def test_a_folder_with_a_name_that_cannot_be_a_path_is_refused_by_name(here: Path) -> None:
    tree(here, {"data/CON/x": "x"})
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_dir("data")
    with asyncart.init("p") as run, pytest.raises(Invalid, match="CON"):
        run.log_artifact(artifact)


@pytest.mark.parametrize("add", ["add_file", "add_dir"])
def test_what_is_missing_is_an_error_at_once_that_names_it(add: str) -> None:
    with pytest.raises(NotFound, match=r"nowhere.*check the path"):
        getattr(asyncart.Artifact("data", "dataset"), add)("nowhere")


def test_a_folder_is_no_file_and_a_file_no_folder(project: Path) -> None:
    artifact = asyncart.Artifact("data", "dataset")
    with pytest.raises(Invalid, match="use add_dir"):
        artifact.add_file("images")
    with pytest.raises(Invalid, match="use add_file"):
        artifact.add_dir("model.h5")


def test_options_are_checked(project: Path) -> None:
    artifact = asyncart.Artifact("data", "dataset")
    with pytest.raises(Invalid, match="policy"):
        artifact.add_file("model.h5", policy="sometimes")  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="symlinks"):
        artifact.add_dir("images", symlinks="maybe")  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="mode"):
        artifact.new_file("x", "a")
    with pytest.raises(Invalid, match="max_objects"):
        artifact.add_reference("s3://bucket/x", max_objects=0)


def test_files_are_read_when_logged_and_not_before(here: Path) -> None:
    """Adding copies nothing: what counts is the content at the time of log_artifact."""
    tree(here, {"a.txt": "before"})
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_file("a.txt")
    Path("a.txt").write_text("after")
    with asyncart.init("p") as run:
        assert run.log_artifact(artifact).get_entry("a.txt").read() == b"after"


def test_a_file_that_disappears_before_it_is_logged_is_named(here: Path) -> None:
    tree(here, {"a.txt": "x"})
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_file("a.txt")
    Path("a.txt").unlink()
    with asyncart.init("p") as run:
        with pytest.raises(NotFound, match=r"a\.txt"):
            run.log_artifact(artifact)
        assert artifact.is_draft
        tree(here, {"a.txt": "back"})
        assert run.log_artifact(artifact).version == "v0"


def test_relative_paths_mean_the_working_directory_at_the_time_of_adding(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(here, {"a.txt": "x", "elsewhere/b.txt": "y"})
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_file("a.txt")
    artifact.add_dir("elsewhere", name="e")
    monkeypatch.chdir("elsewhere")
    with asyncart.init("p") as run:
        run.log_artifact(artifact)
        assert [e.path for e in artifact.files()] == ["a.txt", "e/b.txt"]


# --- the same path again -----------------------------------------------------------------------


async def test_the_same_path_with_the_same_content_is_fine(face: Any, here: Path) -> None:
    tree(here, {"a/x": "same", "b/x": "same"})
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        artifact.add_file("a/x")
        artifact.add_file("a/x")
        artifact.add_file("b/x")
        artifact.add_dir("a")
        artifact.add_dir("b")
        await written(artifact, "x", "same")
        await got(run.log_artifact(artifact))
        assert await contents(artifact) == {"x": b"same"}


OTHERS: list[tuple[str, Callable[[Any, bool], None]]] = [
    ("file", lambda a, overwrite: a.add_file("new/x", overwrite=overwrite)),
    ("folder", lambda a, overwrite: a.add_dir("new", overwrite=overwrite)),
]
FIRSTS: list[tuple[str, Callable[[Any], object]]] = [
    ("file", lambda a: a.add_file("old/x")),
    ("folder", lambda a: a.add_dir("old")),
]


@pytest.mark.parametrize("first", [f for _, f in FIRSTS], ids=[name for name, _ in FIRSTS])
@pytest.mark.parametrize("other", [f for _, f in OTHERS], ids=[name for name, _ in OTHERS])
async def test_other_content_is_a_value_error_unless_it_overwrites(
    face: Any,
    here: Path,
    first: Callable[[Any], None],
    other: Callable[[Any, bool], None],
) -> None:
    tree(here, {"old/x": "old", "new/x": "new"})
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        first(artifact)
        with pytest.raises(ValueError, match=r"x .*different content|other content"):  # noqa: PT012
            other(artifact, False)
            await got(run.log_artifact(artifact))
        artifact = face.Artifact("data", "dataset")
        first(artifact)
        other(artifact, True)
        await got(run.log_artifact(artifact))
        assert await contents(artifact) == {"x": b"new"}


async def test_a_new_file_that_contradicts_another_is_refused_unless_it_overwrites(
    face: Any, here: Path
) -> None:
    tree(here, {"x": "old"})
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        artifact.add_file("x")
        with pytest.raises(ValueError, match="other content"):
            await written(artifact, "x", "new")
        await written(artifact, "x", "newest", overwrite=True)
        await got(run.log_artifact(artifact))
        assert await contents(artifact) == {"x": b"newest"}


async def test_large_files_of_one_path_and_size_are_compared_when_they_are_logged(
    face: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding runs on the caller's event loop: it reads no more than a MiB there."""
    large = COMPARED_BYTES + 1
    tree(here, {"old/x": b"o" * large, "new/x": b"n" * large, "longer/x": b"o" * (large + 1)})
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        artifact.add_file("old/x")
        with pytest.raises(Invalid, match="other content"):
            artifact.add_file("longer/x")
        with monkeypatch.context() as patch:
            patch.setattr("asyncart.engine.scan.file_digest", None)  # nothing is read
            artifact.add_file("new/x")
        with pytest.raises(Invalid, match=r"x was added twice with different content"):
            await got(run.log_artifact(artifact))


def test_a_path_cannot_be_a_file_and_a_folder(here: Path) -> None:
    """... whichever comes first, and whatever it is that is added."""
    tree(here, {"x": "x", "d/x/y": "y"})
    orders = [
        [lambda a: a.add_file("x", name="n"), lambda a: a.add_file("x", name="n/m")],
        [lambda a: a.add_file("x", name="n/m"), lambda a: a.add_file("x", name="n")],
        [lambda a: a.add_file("x"), lambda a: a.add_dir("d")],
        [lambda a: a.add_dir("d"), lambda a: a.add_file("x")],
        [lambda a: a.add_reference("s3://b/x"), lambda a: a.add_dir("d")],
        [lambda a: a.add_file("x", name="n/m/o"), lambda a: a.add_reference("s3://b/n")],
        [lambda a: a.add_file("x", name="a!"), lambda a: a.add_file("x", name="a"),
         lambda a: a.add_file("x", name="a/b")],
    ]  # fmt: skip
    with asyncart.init("p") as run:
        for adding in orders:
            artifact = asyncart.Artifact("data", "dataset")
            with pytest.raises(Invalid, match="is a file, and a folder"):  # noqa: PT012
                for add in adding:
                    add(artifact)
                run.log_artifact(artifact)
        assert run.logged_artifacts() == []


def test_a_file_and_a_folder_that_only_begin_alike_are_two_things(here: Path) -> None:
    tree(here, {"data/a": "1", "data/ab/c": "2", "data/a.b/c": "3", "data/a!": "4"})
    with asyncart.init("p") as run:
        artifact = run.log_artifact("data", name="data", type="dataset")
        assert found(artifact.download("out")) == found("data")


def test_removing_takes_files_folders_and_references_out_of_a_draft(here: Path) -> None:
    tree(here, {"d/a": "1", "d/b/c": "2", "d/b/d": "3", "e": "4"})
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_dir("d")
    artifact.add_file("e")
    artifact.add_reference("s3://bucket/r")
    artifact.add_reference("s3://bucket/kept")
    artifact.remove("b")
    artifact.remove("e")
    artifact.remove("r")
    with asyncart.init("p") as run:
        run.log_artifact(artifact)
    assert [e.path for e in artifact.files()] == ["a", "kept"]


def test_what_was_removed_can_be_added_again(here: Path) -> None:
    tree(here, {"x": "1", "y": "2"})
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_file("x", name="n")
    artifact.add_reference("s3://bucket/old", name="r")
    artifact.remove("n")
    artifact.remove("r")
    artifact.add_file("y", name="n")
    artifact.add_reference("s3://bucket/new", name="r")
    with asyncart.init("p") as run:
        run.log_artifact(artifact)
    assert artifact.get_entry("n").read() == b"2"
    assert artifact.get_entry("r").ref_target() == "s3://bucket/new"


# --- new_file ----------------------------------------------------------------------------------


async def test_a_new_file_whose_body_raises_adds_nothing_and_can_be_repeated(
    face: Any, here: Path
) -> None:
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        for _ in range(2):
            with pytest.raises(LookupError, match="of the user"):  # noqa: PT012
                async with entered(artifact.new_file("x")) as file:
                    await got(file.write("half"))
                    raise LookupError("of the user")
        await written(artifact, "y", "other")
        await got(run.log_artifact(artifact))
        assert await contents(artifact) == {"y": b"other"}

        artifact = face.Artifact("data", "dataset")
        with pytest.raises(LookupError):
            async with entered(artifact.new_file("x")) as file:
                raise LookupError
        await written(artifact, "x", "whole")
        await got(run.log_artifact(artifact))
        assert await contents(artifact) == {"x": b"whole"}


async def test_a_new_file_is_text_in_utf_8_or_bytes(face: Any, here: Path) -> None:
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        await written(artifact, "text", "é\n")
        await written(artifact, "bytes", b"\x00\xff")
        await written(artifact, "latin", "é", encoding="latin-1")
        await written(artifact, "empty", "")
        await got(run.log_artifact(artifact))
        assert await contents(artifact) == {
            "text": "é\n".encode(),
            "bytes": b"\x00\xff",
            "latin": b"\xe9",
            "empty": b"",
        }


async def test_a_new_file_leaves_nothing_behind(face: Any, here: Path, tmp_path: Path) -> None:
    drafts = tmp_path / "home" / "drafts"
    async with entered(face.init("p")) as run:
        artifact = await draft(face, a="x", b="y")
        assert len(list(drafts.rglob("*"))) == 3
        await got(run.log_artifact(artifact))
        assert list(drafts.rglob("*")) == []


async def test_a_new_file_that_is_cancelled_while_it_opens_leaves_nothing(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is about to hand over the open file when nobody wants it any more."""
    is_open, may_go = threading.Event(), threading.Event()
    real = newfile._opened

    def slowly(*arguments: Any) -> Any:
        result = real(*arguments)
        is_open.set()
        assert may_go.wait(20)
        return result

    monkeypatch.setattr(newfile, "_opened", slowly)
    artifact = asyncart.aio.Artifact("data", "dataset")

    async def write() -> None:
        async with artifact.new_file("x"):
            pass

    task = asyncio.ensure_future(write())  # noqa: TID251
    await asyncio.to_thread(is_open.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    may_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    drafts = tmp_path / "home" / "drafts"
    assert not [path for path in drafts.rglob("*") if path.is_file()]
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if fd.isdigit() and os.path.islink(f"/proc/self/fd/{fd}")
    ]
    assert not [path for path in held if path.startswith(str(drafts))]


async def test_the_bytes_of_a_new_file_are_given_up_in_a_thread(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[int] = []
    real = os.unlink

    def unlink(path: str, **more: Any) -> None:
        where.append(threading.get_ident())
        real(path, **more)

    monkeypatch.setattr(newfile.os, "unlink", unlink)
    with pytest.raises(LookupError):
        async with asyncart.aio.Artifact("data", "dataset").new_file("x"):
            raise LookupError
    assert len(where) == 1
    assert where[0] != threading.get_ident()


async def test_a_new_file_that_is_still_open_cannot_slip_past_the_logging(
    face: Any, here: Path
) -> None:
    """Its content would be in no version, and nobody would be told."""
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        with pytest.raises(ArtifactFinalizedError):
            async with entered(artifact.new_file("late")):
                await got(run.log_artifact(artifact))
        assert artifact.file_count == 0


# --- links, odd files, modes -------------------------------------------------------------------


@pytest.fixture
def linked(here: Path) -> Path:
    """A snapshot as Hugging Face's cache makes them: links to files and folders elsewhere."""
    tree(here, {"blobs/1": "one", "blobs/sub/2": "two", "snap/plain": "plain"})
    Path("snap/file-link").symlink_to("../blobs/1")
    Path("snap/folder-link").symlink_to("../blobs/sub")
    return here


@pytest.mark.parametrize(
    ("symlinks", "paths"),
    [("follow", ["file-link", "folder-link/2", "plain"]), ("skip", ["plain"])],
)
def test_links_are_followed_or_skipped(linked: Path, symlinks: Any, paths: list[str]) -> None:
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_dir("snap", symlinks=symlinks)
    with asyncart.init("p") as run:
        run.log_artifact(artifact)
    assert [e.path for e in artifact.files()] == paths
    assert not any(path.is_symlink() for path in Path(artifact.download("out")).rglob("*"))


def test_links_can_be_refused(linked: Path) -> None:
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_dir("snap", symlinks="error")
    with (
        asyncart.init("p") as run,
        pytest.raises(Invalid, match="snap/file-link is a symbolic link"),
    ):
        run.log_artifact(artifact)


def test_add_file_and_add_dir_follow_the_link_they_are_given(linked: Path) -> None:
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_file("snap/file-link")
    artifact.add_dir("snap/folder-link", name="f")
    with asyncart.init("p") as run:
        run.log_artifact(artifact)
    assert [e.path for e in artifact.files()] == ["f/2", "file-link"]
    assert artifact.get_entry("file-link").read() == b"one"


def test_a_changed_link_is_changed_content(linked: Path) -> None:
    """A snapshot whose link points elsewhere is a new version, though the link itself looks the same."""
    tree(linked, {"blobs/3": "ONE"})
    with asyncart.init("p") as run:
        assert run.log_artifact("snap", name="s").version == "v0"
        Path("snap/file-link").unlink()
        Path("snap/file-link").symlink_to("../blobs/3")
        assert run.log_artifact("snap", name="s").version == "v1"


def _break(folder: Path) -> None:
    (folder / "broken").symlink_to("nowhere")


def _loop_up(folder: Path) -> None:
    (folder / "loop").symlink_to("..")


def _loop_self(folder: Path) -> None:
    (folder / "itself").symlink_to("itself")


def _loop_pair(folder: Path) -> None:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_break, "broken is a broken symbolic link"),
        (_loop_up, "loop .*loop of symbolic links"),
        (_loop_self, "itself .*symbolic link"),
        (_loop_pair, "one .*symbolic link"),
    ],
)
def test_a_broken_link_or_a_loop_is_an_error_that_names_it(
    here: Path, spoil: Callable[[Path], None], message: str
) -> None:
    tree(here, {"data/sub/x": "x"})
    spoil(here / "data" / "sub")
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_dir("data")
    with asyncart.init("p") as run:
        with pytest.raises((NotFound, Invalid), match=message):
            run.log_artifact(artifact)
        skipping = asyncart.Artifact("data", "dataset")
        skipping.add_dir("data", symlinks="skip")
        assert run.log_artifact(skipping).file_count == 1


def test_one_folder_may_be_linked_twice(here: Path) -> None:
    """Only a way back to a folder above is a loop."""
    tree(here, {"data/a/x": "x"})
    Path("data/b").symlink_to("a")
    Path("data/c").symlink_to("a")
    with asyncart.init("p") as run:
        assert run.log_artifact("data", name="d").file_count == 3


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name if len(str(path)) > 100 else str(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.skipif(os.name == "nt", reason="odd files")
@pytest.mark.parametrize(
    ("make", "kind"),
    [(_fifo, "a named pipe"), (_socket, "a socket"), (_device, "a character device")],
)
def test_sockets_pipes_and_devices_are_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], kind: str
) -> None:
    """... without opening them, which could wait for ever."""
    tree(here, {"data/x": "x"})
    monkeypatch.chdir("data")
    make(here / "data" / "odd")
    monkeypatch.chdir(here)
    artifact = asyncart.Artifact("data", "dataset")
    with pytest.raises(Invalid, match="odd is not a regular file"):
        artifact.add_file("data/odd")
    artifact.add_dir("data")
    with asyncart.init("p") as run, pytest.raises(Invalid, match=f"odd is {kind}"):
        run.log_artifact(artifact)


def test_hidden_files_are_files_and_empty_folders_are_not(here: Path) -> None:
    tree(here, {"data/.hidden": "1", "data/.git/config": "2", "data/empty-file": ""})
    (here / "data" / "empty-folder").mkdir()
    with asyncart.init("p") as run:
        artifact = run.log_artifact("data", name="data")
        folder = Path(artifact.download("out"))
    assert found(folder) == {".hidden": b"1", ".git/config": b"2", "empty-file": b""}
    assert not (folder / "empty-folder").exists()


def test_an_empty_folder_makes_an_artifact_without_files(here: Path) -> None:
    (here / "data").mkdir()
    with asyncart.init("p") as run:
        artifact = run.log_artifact("data", name="data")
        assert (artifact.file_count, artifact.size, artifact.files()) == (0, 0, [])
        assert Path(artifact.download("out")).is_dir()


@pytest.mark.skipif(os.name == "nt", reason="modes")
@pytest.mark.parametrize("size", [10, 9 << 20])
def test_the_executable_bit_is_kept_and_nothing_else_of_the_mode(here: Path, size: int) -> None:
    tree(here, {"data/tool": os.urandom(size), "data/text": os.urandom(size)})
    (here / "data" / "tool").chmod(0o700)
    (here / "data" / "text").chmod(0o400)
    with asyncart.init("p") as run:
        artifact = run.log_artifact("data", name="data")
        folder = Path(artifact.download("out"))
    assert artifact.get_entry("tool").is_executable
    assert not artifact.get_entry("text").is_executable
    assert os.access(folder / "tool", os.X_OK)
    assert not folder.joinpath("text").stat().st_mode & 0o111
    assert folder.joinpath("text").stat().st_mode & 0o200


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may read all")
def test_a_file_that_may_not_be_read_is_named(here: Path) -> None:
    tree(here, {"data/secret": "x"}).joinpath("data/secret").chmod(0)
    artifact = asyncart.Artifact("data", "dataset")
    artifact.add_dir("data")
    with asyncart.init("p") as run, pytest.raises(PermissionError, match="secret"):
        run.log_artifact(artifact)


@pytest.mark.parametrize("size", [0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, (16 << 20) + 1])
async def test_files_of_every_kind_of_size_come_back(face: Any, here: Path, size: int) -> None:
    """Around the size from which a file gets an object of its own."""
    data = os.urandom(size)
    tree(here, {"data/x": data, "data/y": "neighbour"})
    async with entered(face.init("p")) as run:
        artifact = await got(run.log_artifact("data", name="data"))
        assert found(await got(artifact.download("out"))) == {"x": data, "y": b"neighbour"}
        entry = await got(artifact.get_entry("x"))
        assert await got(entry.read(size // 2, 5)) == data[size // 2 : size // 2 + 5]
        assert artifact.size == size + 9
