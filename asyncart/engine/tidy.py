"""Compare a download folder with what belongs there, and take away what does not.

Promised, as by `Target`: nothing outside the root is changed, nor through a symbolic link inside it,
whatever another process plants meanwhile; links, FIFOs and devices are never opened; errors name the file.
Synchronous: for worker threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Set

from ..model import Entry
from ..names import parents
from ..threads import check_cancelled
from .scan import file_digest
from .target import Target, _Directory


def compared(target: Target, entries: Iterable[Entry]) -> tuple[list[str], list[str]]:
    """Paths that are missing, and those of other content; every file is read."""
    missing, different = [], []
    for entry in entries:
        check_cancelled()
        if entry.reference is not None and not entry.reference.digest_is_content:
            continue
        st = target.stat(entry.path)
        if st is None:
            if entry.reference is None:
                missing.append(entry.path)
        elif not stat.S_ISREG(st.st_mode) or st.st_size != entry.size or _other(target, entry):
            different.append(entry.path)
    return missing, different


def _other(target: Target, entry: Entry) -> bool:
    with target.failing(entry.path):
        return file_digest(os.path.join(target.root, *entry.path.split("/"))) != entry.digest


def extra(target: Target, expected: Set[str]) -> list[str]:
    """What is there and is none of these paths, sorted; links to folders are such files, too."""
    return sorted(directory.path_of(name) for directory, name in _extra(target, expected))


def clear_the_way(target: Target, paths: Set[str]) -> None:
    """Remove what is no regular file where one of the paths is, and no folder where these have one."""
    folders = {parent for path in paths for parent in parents(path)}
    for directory, found in target.walk():
        for item in list(found):
            name, is_folder = item
            path = directory.path_of(name)
            with target.failing(path):
                if is_folder and path in paths:
                    shutil.rmtree(directory.prefix + name, dir_fd=directory.fd)
                    found.remove(item)
                elif not is_folder and (
                    path in folders or (path in paths and not _is_regular(directory, name))
                ):
                    os.unlink(directory.prefix + name, dir_fd=directory.fd)


def remove_extra(target: Target, paths: Set[str]) -> None:
    """Delete the files that are none of these, and the folders that this leaves empty."""
    for directory, name in _extra(target, paths):
        with target.failing(directory.path_of(name)):
            os.unlink(directory.prefix + name, dir_fd=directory.fd)
    folders = [  # paths: the directories themselves would stay open
        directory.path_of(name)
        for directory, found in target.walk()
        for name, is_folder in found
        if is_folder
    ]
    for path in reversed(folders):
        head, _, name = path.rpartition("/")
        above = target.directory(head)
        if above is not None:
            with target.failing(path), _unless_in_use():
                os.rmdir(above.prefix + name, dir_fd=above.fd)


def _extra(target: Target, expected: Set[str]) -> Iterator[tuple[_Directory, str]]:
    for directory, found in target.walk():
        check_cancelled()
        for name, is_folder in found:
            if not is_folder and directory.path_of(name) not in expected:
                yield directory, name


def _is_regular(directory: _Directory, name: str) -> bool:
    st = os.stat(directory.prefix + name, dir_fd=directory.fd, follow_symlinks=False)
    return stat.S_ISREG(st.st_mode)


@contextlib.contextmanager
def _unless_in_use() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
