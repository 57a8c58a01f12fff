"""Find the files of a draft, by stat only.

`scan` walks the draft's sources in the order in which they were added and returns one Listing, sorted
by path, with every digest that the stat cache is sure of. It follows symbolic links (snapshots of
Hugging Face's cache are made of them) or refuses or skips them; a broken link, a loop, a socket or a
device is an error that names it. Two sources with one path must have the same content, unless the later one overwrites.

Synchronous: it runs in a worker thread, and `checkpoint` is called once per folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Literal

import msgspec
from blake3 import blake3

from .. import names
from ..errors import Denied, Invalid, NotFound
from ..threads import check_cancelled
from .listing import IMMUTABLE, OVERWRITES, Listing
from .statcache import DEVICE, Folder, StatCache, cells_of

Symlinks = Literal["follow", "error", "skip"]
COMPARE_BYTES = 4 << 20
FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_DIRECTORY", 0)


class FileSource(msgspec.Struct, frozen=True):
    path: str
    local: str
    overwrite: bool = False
    is_immutable: bool = False


class DirSource(msgspec.Struct, frozen=True):
    prefix: str  # "" or ending with "/"
    local: str
    symlinks: Symlinks = "follow"
    overwrite: bool = False
    is_immutable: bool = False


class Removal(msgspec.Struct, frozen=True):
    """Takes away what the sources before it brought: a path, and everything below it."""

    path: str


Source = FileSource | DirSource | Removal


def scan(
    sources: Sequence[Source], cache: StatCache, checkpoint: Callable[[int], None] = lambda n: None
) -> Listing:
    """All files, sorted by path. `checkpoint` gets the number of files found so far, and may raise."""
    scanner = _Scanner(cache, checkpoint)
    for source in sources:
        match source:
            case FileSource():
                scanner.add_file(source)
            case DirSource():
                scanner.add_dir(source)
            case Removal():
                scanner.remove(source.path)
    return scanner.finish()


class _Scanner:
    def __init__(self, cache: StatCache, checkpoint: Callable[[int], None]) -> None:
        self._cache = cache
        self._checkpoint = checkpoint
        self._listing = Listing()
        self._single_folders: dict[str, tuple[int, Folder]] = {}
        self._removed: dict[str, int] = {}  # path -> how many rows there were when it was removed
        self._sources = 0

    def add_file(self, source: FileSource) -> None:
        self._sources += 1
        local = os.path.abspath(source.local)
        st = _stat(local)
        if not stat.S_ISREG(st.st_mode):
            raise Invalid(f"{local} is {_kind(st.st_mode)}, not a file; use add_dir for a folder")
        folder, name = os.path.split(local)
        if folder not in self._single_folders:
            known = self._cache.load(folder)
            index = self._listing.add_folder(folder, st.st_dev, len(known), is_whole=False)
            self._single_folders[folder] = (index, known)
        index, known = self._single_folders[folder]
        self._add([source.path], [name], index, [*cells_of(st)], source, known)
        if source.path.rpartition("/")[2] != name:
            self._listing.name_locally(len(self._listing) - 1, name)

    def add_dir(self, source: DirSource) -> None:
        self._sources += 1
        pending: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [
            (os.path.abspath(source.local), source.prefix, ())
        ]
        while pending:
            local, prefix, above = pending.pop()
            self._checkpoint(len(self._listing))
            st = _stat(local)
            here = (st.st_dev, st.st_ino)
            if here in above:
                raise Invalid(
                    f"{local} leads back to a folder above it: a loop of symbolic links; remove it or use symlinks='skip'"
                )
            # The last one pushed comes first: so a tree of folders is walked in the order of its paths.
            pending += [
                (f"{local}/{name}", f"{prefix}{name}/", (*above, here))
                for name in reversed(self._add_files_of(local, prefix, source))
            ]

    def _add_files_of(self, local: str, prefix: str, source: DirSource) -> list[str]:
        """Add the files of one folder; return the names of its folders."""
        folders: list[str] = []
        files: list[str] = []
        cells: list[int] = []
        with _entries(local) as items:
            if source.symlinks != "follow":
                items = _without_links(items, local, source.symlinks)
            for item in items:
                try:
                    if item.is_dir():
                        folders.append(item.name)
                        continue
                    st = item.stat()
                except OSError as error:
                    raise _translated(error, f"{local}/{item.name}") from error
                if not stat.S_ISREG(st.st_mode):
                    raise Invalid(
                        f"{local}/{item.name} is {_kind(st.st_mode)}; only files, folders and links to them can be stored: remove it, or add what you want file by file"
                    )
                files.append(item.name)
                cells += cells_of(st)
        if files:
            known = self._cache.load(local)
            index = self._listing.add_folder(local, cells[DEVICE], len(known), is_whole=True)
            self._add([prefix + name for name in files], files, index, cells, source, known)
        return folders

    def _add(
        self,
        paths: list[str],
        local_names: list[str],
        folder: int,
        cells: list[int],
        source: FileSource | DirSource,
        known: Folder,
    ) -> None:
        if not names.are_safe_entry_paths(paths):
            for path in paths:
                names.check_entry_path(path)
        flags = IMMUTABLE if source.is_immutable else 0
        if source.overwrite:
            flags |= OVERWRITES
        self._listing.add(paths, local_names, folder, cells, flags, known)

    def remove(self, path: str) -> None:
        self._removed[path] = len(self._listing)

    def _is_removed(self, row: int, path: str) -> bool:
        removed = self._removed
        return row < removed.get(path, 0) or any(
            row < removed.get(parent, 0) for parent in names.parents(path)
        )

    def finish(self) -> Listing:
        listing = self._listing
        if listing.is_sorted() and not self._removed:
            if self._sources > 1:  # one folder alone cannot contradict itself
                check_tree(listing.paths)
            return listing
        paths = listing.paths
        kept = list(range(len(paths)))
        if self._removed:
            kept = [row for row in kept if not self._is_removed(row, paths[row])]
        kept.sort(key=paths.__getitem__)  # stable: of one path, the source added last comes last
        rows: list[int] = []
        for row in kept:
            if rows and paths[rows[-1]] == paths[row]:
                if not listing.flags[row] & OVERWRITES:
                    self._check_same(rows[-1], row)
                rows[-1] = row
            else:
                rows.append(row)
        sorted_listing = listing.reordered(rows)
        check_tree(sorted_listing.paths)
        return sorted_listing

    def _check_same(self, first: int, second: int) -> None:
        a, b = self._listing.local_path(first), self._listing.local_path(second)
        if not same_content(a, b):
            raise Invalid(
                f"{self._listing.paths[first]} was added twice with different content, from {a} and from {b}; rename one (name=) or pass overwrite=True"
            )


def check_tree(paths: Sequence[str]) -> None:
    """Refuse a path that is a file and, for another path, a folder."""
    known = set(paths)
    folders = {path.rpartition("/")[0] for path in paths}  # whose parents are asked about once
    for above in folders | {parent for folder in folders for parent in names.parents(folder)}:
        if above in known:
            raise Invalid(
                f"{above} is a file, and a folder for other paths of the artifact; give one of them another name="
            )


def same_content(first: str, second: str, most_bytes: int | None = None) -> bool:
    """Whether two local files hold the same bytes now; beyond `most_bytes`, as many of them."""
    try:
        if os.path.samefile(first, second):
            return True
        size = os.path.getsize(first)
        if size != os.path.getsize(second):
            return False
        if most_bytes is not None and size > most_bytes:
            return True
        return file_digest(first) == file_digest(second)
    except OSError as error:
        raise _translated(error, error.filename or first) from error


def file_digest(local: str) -> bytes:
    """BLAKE3-256 of a local file. Raises OSError."""
    hasher = blake3()
    with open(local, "rb", buffering=0) as file:
        while data := file.read(COMPARE_BYTES):
            hasher.update(data)
            check_cancelled()
    return hasher.digest()


@contextmanager
def _entries(folder: str) -> Iterator[list[os.DirEntry[str]]]:
    """What is in the folder, sorted by name; `stat` and `is_dir` of it only inside the block.

    Where the system can, it is scanned through a descriptor: then a stat looks up a name instead of a path,
    which takes 2.0 us instead of 2.4.
    """
    with ExitStack() as stack:
        try:
            if os.scandir in os.supports_fd:
                fd = os.open(folder, FOLDER_FLAGS)
                stack.callback(os.close, fd)
                found = stack.enter_context(os.scandir(fd))
            else:
                found = stack.enter_context(os.scandir(folder))
            items = sorted(found, key=attrgetter("name"))
        except OSError as error:
            raise _translated(error, folder) from error
        yield items


def _without_links(
    items: list[os.DirEntry[str]], folder: str, symlinks: Symlinks
) -> list[os.DirEntry[str]]:
    links = [item for item in items if item.is_symlink()]
    if links and symlinks == "error":
        raise Invalid(
            f"{folder}/{links[0].name} is a symbolic link; use symlinks='follow' or 'skip'"
        )
    return [item for item in items if not item.is_symlink()]


def _stat(local: str) -> os.stat_result:
    try:
        return os.stat(local)
    except OSError as error:
        raise _translated(error, local) from error


def _translated(error: OSError, local: str) -> Exception:
    if isinstance(error, FileNotFoundError):
        if os.path.islink(local):
            return NotFound(
                f"{local} is a broken symbolic link (to {os.readlink(local)}); remove it or use symlinks='skip'"
            )
        return NotFound(f"{local} does not exist (any more); check the path and log again")
    if isinstance(error, PermissionError):
        return Denied(f"{local} cannot be read: permission denied; change its mode or its owner")
    if error.errno == errno.ELOOP:
        return Invalid(f"{local} is a loop of symbolic links; remove it or use symlinks='skip'")
    return Invalid(f"{local} cannot be read: {error.strerror or error}")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
        stat.S_IFIFO: "a named pipe",
    }
    return kinds.get(stat.S_IFMT(mode), "not a regular file")
