"""Link modes of a download: blocks shared with the store where the file system can, names if asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncart
from asyncart.errors import Corrupt, Invalid

SIZE = (9 << 20) + 17  # large enough for an object of its own


def logged(home: Path, data: bytes) -> asyncart.Artifact:
    source = home / "source.bin"
    source.write_bytes(data)
    with asyncart.init(project="p", home=home / "home") as run:
        artifact = asyncart.Artifact("large", "dataset")
        artifact.add_file(source)
        artifact.add_file(__file__, "small.py")
        return run.log_artifact(artifact)


def the_object(home: Path) -> Path:
    """The store's file of the large one."""
    return next(
        p for p in (home / "home" / "store").rglob("*") if p.is_file() and p.stat().st_size == SIZE
    )


def test_a_hard_link_is_the_stores_own_file_and_only_if_asked(tmp_path: Path) -> None:
    data = os.urandom(SIZE)
    artifact = logged(tmp_path, data)
    linked = Path(artifact.download(tmp_path / "linked", link="hardlink"))
    copied = Path(artifact.download(tmp_path / "copied"))
    assert (linked / "source.bin").read_bytes() == (copied / "source.bin").read_bytes() == data
    assert os.path.samefile(linked / "source.bin", the_object(tmp_path))
    assert not os.path.samefile(copied / "source.bin", the_object(tmp_path))
    assert (linked / "small.py").read_bytes() == Path(__file__).read_bytes()
    assert (linked / "source.bin").stat().st_mode & 0o222 == 0


def test_a_damaged_object_is_not_linked(tmp_path: Path) -> None:
    artifact = logged(tmp_path, os.urandom(SIZE))
    path = the_object(tmp_path)
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(5)
        byte = file.read(1)
        file.seek(5)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(Corrupt, match=r"source\.bin"):
        artifact.download(tmp_path / "linked", link="hardlink")
    assert not (tmp_path / "linked" / "source.bin").exists()


def test_another_word_is_refused(tmp_path: Path) -> None:
    artifact = logged(tmp_path, os.urandom(SIZE))
    with pytest.raises(Invalid, match="symlink"):
        artifact.download(tmp_path / "out", link="symlink")  # type: ignore[arg-type]


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """A file system with reflinks, in an image that is mounted for the test."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        pytest.skip("a file system with reflinks needs root and mkfs.xfs")
    image, folder = tmp_path / "image", tmp_path / "xfs"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(600 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    mounted = subprocess.run(
        ["mount", "-o", "loop", str(image), str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount an image here: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        # Lazily: the process keeps its SQLite files open.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_large_files_share_the_stores_blocks_where_the_file_system_can(xfs: Path) -> None:
    """Downloading 9 MiB takes no space to speak of, and the copy is independent of the store."""
    data = os.urandom(SIZE)
    artifact = logged(xfs, data)
    os.sync()
    before = shutil.disk_usage(xfs).used
    path = Path(artifact.download(xfs / "out")) / "source.bin"
    os.sync()
    assert shutil.disk_usage(xfs).used - before < SIZE // 2
    assert path.read_bytes() == data
    with open(path, "r+b") as file:
        file.write(b"changed by the user")
    assert artifact.verify().is_ok
