"""Write files below a download folder, and nowhere else.

Promised: nothing is created, changed or removed outside the root, nor through a symbolic link inside it,
whatever the paths are and whatever another process plants meanwhile (the root itself may be a link; it is
resolved once). A file appears under its final name only when all its bytes are written. Of what is in the
way, only regular files are replaced; a directory, link, socket or device is refused by an error that
names it. Every error of the operating system leaves here as one of asyncart's own.

How: every directory is opened relative to the descriptor of its parent with O_NOFOLLOW, so that there is
no moment between checking a path and using it. Files are created (O_EXCL) under a temporary name in their
directory and renamed. Where the system has no such calls (Windows) the same steps are taken by path, with
an lstat of every directory for each file: good against hostile artifacts, but not against a hostile
process beside us.

Not promised: durability. A downloaded file can be downloaded again, so nothing is fsynced.

The code is synchronous and meant to be called from several worker threads at once. Per file it is open,
write, rename, fstat, close, and one lstat of what is in the way, unless the directory is one that we have
just made. 100,000 files of 10 KB on tmpfs took 2.5 s with one thread and 1.8 s with two; the bare system
calls, in a loop of one thread, 2.2 s. O_TMPFILE and linkat in place of the rename gained nothing.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager

from blake3 import blake3

from asyncart.errors import AsyncartError, Conflict, Denied, Full, Invalid, NotFound, Unavailable
from asyncart.names import check_entry_path, is_safe_entry_path

if sys.platform != "win32":
    import fcntl

MAX_OPEN_DIRECTORIES = (
    128  # per target; a guess: depth times workers, with room for the user's files
)
TEMP_SUFFIX = ".asyncart-tmp"
PARTIAL_SUFFIX = ".asyncart-partial"
TEMPORARY = (TEMP_SUFFIX, PARTIAL_SUFFIX)
_TEMP_NAME_BYTES = 64  # of the final name in a temporary one, for people who find it lying around
_TEMP = re.compile(r"\..*\.[0-9a-f]{13,}" + re.escape(TEMP_SUFFIX), re.DOTALL)
_PARTIAL = re.compile(r"\..*\.[0-9a-f]{8}" + re.escape(PARTIAL_SUFFIX), re.DOTALL)

_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC
# O_NONBLOCK: a FIFO that lies under the name of a partial file must not make us wait for its other end.
_RESUME = os.O_RDWR | os.O_CREAT | _NOFOLLOW | _CLOEXEC | getattr(os, "O_NONBLOCK", 0)
# O_PATH: works in directories that we may enter and write, but not list.
_OPEN_ROOT = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | _CLOEXEC
_OPEN_DIRECTORY = _OPEN_ROOT | _NOFOLLOW

_HAS_DIR_FDS = (
    bool(_NOFOLLOW) and {os.open, os.stat, os.mkdir, os.rename, os.unlink} <= os.supports_dir_fd
)
_RENAMES_OPEN_FILES = os.name != "nt"
_NO_WINDOWS_NAME = re.compile(r'[<>:"|?*]')  # allowed elsewhere, and common there: "12:30:00.log"


def is_temporary(name: str) -> bool:
    """Whether we might have given this name to a file that is not complete."""
    return name.endswith(TEMPORARY) and bool(_TEMP.fullmatch(name) or _PARTIAL.fullmatch(name))


class _Directory:
    """An open directory: names in it are used as `prefix + name`, relative to `fd`.

    The descriptor is closed with the last reference. So the cache can drop it at any time, and a thread
    that is just using it keeps it open.
    """

    __slots__ = ("__weakref__", "fd", "is_new", "path", "prefix", "was_used")

    def __init__(self, path: str, fd: int | None, prefix: str, is_new: bool) -> None:
        self.path = path  # relative to the root; "" is the root
        self.fd = fd
        self.prefix = prefix
        self.is_new = is_new
        self.was_used = True

    def path_of(self, name: str) -> str:
        """Of a name in it, relative to the root."""
        return f"{self.path}/{name}" if self.path else name

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.fd is not None:
            close(self.fd)


class Target:
    """A download folder. Paths are entry paths (relative, `/` between components)."""

    def __init__(self, root: str, *, create: bool = True) -> None:
        """Open the folder; make it, and its parents, unless `create` is False (then NotFound)."""
        self.root = os.path.abspath(root)
        self._lock = threading.Lock()
        self._directories: dict[str, _Directory] = {}
        self._absent: set[str] = (
            set()
        )  # directories that were not there: saves asking for each file
        self._token = os.urandom(6).hex()
        self._serial = itertools.count()
        try:
            if create:
                os.makedirs(root, exist_ok=True)
            if _HAS_DIR_FDS:
                top = _Directory("", os.open(root, _OPEN_ROOT), "", False)
            else:
                resolved = os.path.realpath(root, strict=True)
                if not os.path.isdir(resolved):
                    raise NotADirectoryError(errno.ENOTDIR, "not a directory", root)
                top = _Directory("", None, os.path.join(resolved, ""), False)
        except OSError as error:
            if create and isinstance(error, FileNotFoundError):
                raise Unavailable(
                    f"{self.root}: cannot be made: {error.strerror}: download into another folder"
                ) from error
            raise self._failure("", error) from error
        self._directories[""] = top  # never evicted

    def close(self) -> None:
        """Close all directories; those that a thread is still using follow when it is done."""
        with self._lock:
            self._directories.clear()

    # --- small files ---

    def write_file(self, path: str, data: memoryview, executable: bool) -> os.stat_result:
        """Write a whole file and give what `stat` will say of it from now on."""
        directory, name = self._locate(path)
        temp, fd = self._create(directory, name, path, 0o777 if executable else 0o666)
        try:
            try:
                written = os.write(fd, data)
                if written != data.nbytes:
                    _write_all(fd, data.cast("B")[written:])
            except BaseException:
                os.close(fd)
                raise
            return self._publish(directory, temp, name, path, fd)
        except BaseException as error:
            _unlink(directory, temp)
            if isinstance(error, OSError) and not isinstance(error, AsyncartError):
                raise self._failure(path, error, data.nbytes) from error
            raise

    def link_file(self, path: str, source: str) -> os.stat_result | None:
        """Give the local file `source` a second name here; None where the file system cannot."""
        directory, name = self._locate(path)
        temp = f".{_shortened(name)}.{self._token}{next(self._serial):x}{TEMP_SUFFIX}"
        try:
            os.link(source, directory.prefix + temp, dst_dir_fd=directory.fd)
        except OSError:
            return None  # another file system, or one without links: the caller copies
        try:
            fd = os.open(directory.prefix + temp, os.O_RDONLY | _CLOEXEC, dir_fd=directory.fd)
            return self._publish(directory, temp, name, path, fd)
        except BaseException as error:
            _unlink(directory, temp)
            if isinstance(error, OSError) and not isinstance(error, AsyncartError):
                raise self._failure(path, error) from error
            raise

    def stat(self, path: str) -> os.stat_result | None:
        """What is there (a link is not followed), or None. Denied if a link or a file is on the way."""
        head, _, name = self._split(path)
        directory = self._directory(head, create=False)
        if directory is None:
            return None
        try:
            return os.stat(directory.prefix + name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(path, error) from error

    # --- large files ---

    def begin(self, path: str, size: int, key: str) -> Partial:
        """Start, or resume, a file of `size` bytes that is written in pieces.

        `key` stands for the content: an earlier attempt with the same path and key that was killed or
        `kept` is found again (`Partial.was_there`), and what is in it must be verified by the caller. Its
        space is allocated now: Full if it does not fit.
        """
        directory, name = self._locate(path)
        partial = self._resume(directory, name, path, key)
        if partial is None:
            temp, fd = self._create(directory, name, path, 0o666)
            partial = Partial(self, (directory, temp, name), path, fd, False)
        partial.allocate(size)
        return partial

    def _resume(self, directory: _Directory, name: str, path: str, key: str) -> Partial | None:
        """The file with the deterministic name; None if it is not to be had, or not for us alone."""
        if sys.platform == "win32":
            return None
        temp = f".{_shortened(name)}.{blake3(key.encode()).hexdigest()[:8]}{PARTIAL_SUFFIX}"
        try:
            fd = os.open(directory.prefix + temp, _RESUME, 0o666, dir_fd=directory.fd)
        except (
            OSError
        ):  # something strange lies there: a random name will do, or tell what is wrong
            return None
        info = _claimed(directory, temp, fd)
        if info is None:
            os.close(fd)
            return None
        return Partial(self, (directory, temp, name), path, fd, info.st_size > 0)

    def remove_temps(
        self,
        *,
        temps_older_than_s: float = 3600,
        partials_older_than_s: float = 7 * 86400,
        keep: Container[str] = (),
    ) -> int:
        """Remove what killed downloads left here, at any depth; gives the number of files removed.

        A temporary file lives for milliseconds, so an old one is nobody's. A partial file is worth keeping
        for the next attempt, and is left alone, however old, while a process holds its lock. Paths in
        `keep` are never touched (an artifact may contain such a name).
        """
        removed = 0
        now = time.time()
        try:
            for directory, found in self.walk():
                for name, is_directory in found:
                    if is_directory or not is_temporary(name) or directory.path_of(name) in keep:
                        continue
                    is_partial = name.endswith(PARTIAL_SUFFIX)
                    limit_s = partials_older_than_s if is_partial else temps_older_than_s
                    removed += _remove_stale(directory, name, now - limit_s, is_partial)
        except OSError as error:
            raise self._failure("", error) from error
        return removed

    # --- below: how ---

    def _split(self, path: str) -> tuple[str, str, str]:
        if not is_safe_entry_path(path):
            check_entry_path(path)
        if os.name == "nt" and (found := _NO_WINDOWS_NAME.search(path)):
            raise Invalid(
                f"entry path {path!r} contains {found[0]!r}, which Windows does not allow in names: leave the "
                "file out (exclude=...), or download on another system"
            )
        return path.rpartition("/")

    def _locate(self, path: str) -> tuple[_Directory, str]:
        head, _, name = self._split(path)
        directory = self._directories.get(head)
        if directory is None:
            directory = self._directory(head, create=True)
            assert directory is not None
        directory.was_used = True
        return directory, name

    def _directory(self, head: str, *, create: bool) -> _Directory | None:
        found = self._directories.get(head)
        if found is not None:
            found.was_used = True
            return found
        with self._lock:
            return self._descend(head, create)

    def _descend(self, head: str, create: bool) -> _Directory | None:
        """Open the directory and those above it, from the deepest that is open. The lock is held."""
        known, rest = head, []
        while known not in self._directories:
            if not known:
                raise self._closed()
            if not create and known in self._absent:
                self._absent.add(head)
                return None
            known, _, name = known.rpartition("/")
            rest.append(name)
        directory = self._directories[known]
        for name in reversed(rest):
            path = f"{directory.path}/{name}" if directory.path else name
            inner = self._enter(directory, name, path, create)
            if inner is None:
                self._absent.update((path, head))
                return None
            directory = inner
            self._absent.discard(path)
            self._cache(directory)
        return directory

    def _enter(self, parent: _Directory, name: str, path: str, create: bool) -> _Directory | None:
        is_new = False
        try:
            if create and parent.is_new:
                is_new = _make_directory(parent, name)
            found = _open_directory(parent, name, path)
            if found is None:
                if not create:
                    return None
                is_new = _make_directory(parent, name)
                found = _open_directory(parent, name, path)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "removed meanwhile")
        except OSError as error:
            raise self._directory_failure(parent, name, path, error) from error
        found.is_new = is_new
        return found

    def _cache(self, directory: _Directory) -> None:
        """Keep it open; if there are too many, close those that were not used for the longest time.

        The "clock" approximation of LRU: a hit sets a flag, without a lock. By path nothing can be kept:
        what was a directory may be a link by the next time.
        """
        if directory.fd is None:
            return
        while len(self._directories) >= MAX_OPEN_DIRECTORIES:
            oldest = next(iter(self._directories))
            candidate = self._directories.pop(oldest)
            if candidate.was_used or not candidate.path:
                candidate.was_used = False
                self._directories[oldest] = candidate
        self._directories[directory.path] = directory

    def _create(self, directory: _Directory, name: str, path: str, mode: int) -> tuple[str, int]:
        while True:
            temp = f".{_shortened(name)}.{self._token}{next(self._serial):x}{TEMP_SUFFIX}"
            try:
                return temp, os.open(directory.prefix + temp, _CREATE, mode, dir_fd=directory.fd)
            except FileExistsError:  # we are the fork of a process that uses the same names
                self._token = os.urandom(6).hex()
            except OSError as error:
                raise self._failure(path, error) from error

    def _publish(
        self, directory: _Directory, temp: str, name: str, path: str, fd: int
    ) -> os.stat_result:
        """Rename the temporary file, then stat it (renaming changes the ctime), and close it.

        By descriptor, not by name: it must be the stat of our bytes, even if another process puts its own
        file there in the same moment.
        """
        is_published = False
        try:
            try:
                if not directory.is_new:
                    self._refuse_obstacle(directory, name, path)
                if _RENAMES_OPEN_FILES:
                    _rename(directory, temp, name)
                    is_published = True
                    return os.fstat(fd)
            finally:
                os.close(fd)
        except BaseException:
            if is_published:  # NFS reports on closing that the bytes did not arrive
                _unlink(directory, name)
            raise
        _rename(directory, temp, name)
        return os.stat(directory.prefix + name, dir_fd=directory.fd, follow_symlinks=False)

    def _refuse_obstacle(self, directory: _Directory, name: str, path: str) -> None:
        try:
            mode = os.stat(
                directory.prefix + name, dir_fd=directory.fd, follow_symlinks=False
            ).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISLNK(mode):
            raise Denied(self._link_message(path))
        if not stat.S_ISREG(mode):
            raise Conflict(
                f"{self._full(path)} is a {_kind(mode)}, and a file of the artifact belongs there: move "
                "it away, or download into another folder"
            )

    def directory(self, path: str) -> _Directory | None:
        """The directory of that path, or None if there is none."""
        return self._directory(path, create=False)

    def walk(self) -> Iterator[tuple[_Directory, list[tuple[str, bool]]]]:
        """Every directory below the root, the upper ones first, with the names in it and whether these are
        directories. Links are not followed, and what is closed is skipped; of the names, only directories
        that are still in the list when the next one is asked for are entered."""
        pending = [""]
        while pending:
            head = pending.pop()
            try:
                directory = self.directory(head)
                found = _listed(directory) if directory is not None else []
            except (AsyncartError, OSError):
                if not head:
                    raise
                continue
            if directory is not None:
                yield directory, found
                pending += [directory.path_of(name) for name, is_directory in found if is_directory]

    # --- below: what went wrong ---

    @contextlib.contextmanager
    def failing(self, path: str) -> Iterator[None]:
        """The system's errors about this path become asyncart's."""
        try:
            yield
        except AsyncartError:
            raise
        except OSError as error:
            raise self._failure(path, error) from error

    def _closed(self) -> Invalid:
        return Invalid(f"{self.root}: this download folder is closed: open a new Target")

    def _full(self, path: str) -> str:
        return os.path.join(self.root, path) if path else self.root

    def _link_message(self, path: str) -> str:
        return (
            f"{self._full(path)} is a symbolic link, and nothing is written through links inside the "
            "download folder: remove the link, or download into another folder"
        )

    def _directory_failure(
        self, parent: _Directory, name: str, path: str, error: OSError
    ) -> AsyncartError:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EEXIST):
            with contextlib.suppress(OSError):
                mode = os.stat(
                    parent.prefix + name, dir_fd=parent.fd, follow_symlinks=False
                ).st_mode
                if stat.S_ISLNK(mode):
                    return Denied(self._link_message(path))
                return Denied(
                    f"{self._full(path)} is a {_kind(mode)}, and a directory of the artifact belongs "
                    "there: move it away, or download into another folder"
                )
        return self._failure(path, error)

    def _failure(self, path: str, error: OSError, needed: int = 0) -> AsyncartError:
        """The same as one of our errors, with what can be done about it."""
        full, reason = self._full(path), error.strerror or str(error)
        match error.errno:
            case errno.EACCES | errno.EPERM | errno.EROFS:
                return Denied(
                    f"{full}: {reason}: allow writing there, or download into another folder"
                )
            case errno.ENOSPC | errno.EDQUOT:
                return Full(
                    f"{full}: {reason}{self._missing(error, needed)}: free some space, or download into "
                    "another folder; run again, it goes on with what is there already"
                )
            case errno.ENAMETOOLONG | errno.EILSEQ | errno.EINVAL:
                return Invalid(
                    f"{full}: {reason}: this file system cannot hold the name; leave the file out "
                    "(exclude=...), or download to another file system"
                )
            case errno.ENOTDIR | errno.EISDIR | errno.ELOOP | errno.EEXIST:
                return Denied(
                    f"{full}: {reason}: something else is in the way; move it, or download into another "
                    "folder"
                )
            case errno.ENOENT:
                if not path:
                    return NotFound(f"{full}: no such folder")
                return Conflict(
                    f"{full}: its directory was removed while the download was running: run it again"
                )
            case errno.EMFILE | errno.ENFILE:
                return Unavailable(
                    f"{full}: {reason}: raise the limit (ulimit -n) and run it again"
                )
            case errno.EFBIG:
                return Unavailable(
                    f"{full}: {reason}: the file system or a limit (ulimit -f) does not allow files of "
                    f"{needed:,} bytes"
                )
        return Unavailable(f"{full}: {reason}: check the disk and run it again")

    def _missing(self, error: OSError, needed: int) -> str:
        """How much room there is too little, as far as it is known: of a quota the system does not say."""
        said = f": {needed:,} bytes are needed" if needed else ""
        if error.errno == errno.ENOSPC:
            with contextlib.suppress(OSError, AttributeError):
                facts = os.statvfs(self.root)
                free = f"{facts.f_bavail * facts.f_frsize:,}"
                said += f", {free} are free in {self.root}" if said else f": {free} bytes are free"
        return said


_NOWHERE = _Directory("", None, "", False)


class Partial:
    """A large file under a temporary name, locked for us. Its methods may be called from any thread.

    `was_there` says that an earlier attempt left bytes here: they are not verified. It ends with one of
    `publish`, `keep` and `discard`.
    """

    def __init__(
        self,
        target: Target,
        where: tuple[_Directory, str, str],
        path: str,
        fd: int,
        was_there: bool,
    ) -> None:
        self._target = target
        self._directory, self._temp, self._name = where
        self._path = path
        self._fd = fd
        self.was_there = was_there

    def __del__(self) -> None:
        self.keep()  # a lost one must not hold its lock for ever

    def fileno(self) -> int:
        """The descriptor, for reflinks and `copy_file_range`; it stays ours."""
        return self._fd

    def allocate(self, size: int) -> None:
        """Give it its size and its space on the disk; Full, and nothing left, if that is not to be had."""
        try:
            if os.fstat(self._fd).st_size > size:
                os.ftruncate(self._fd, size)
            if size and hasattr(os, "posix_fallocate"):
                _allocate(self._fd, size)
            os.ftruncate(self._fd, size)
        except OSError as error:
            self.keep() if self.was_there else self.discard()
            raise self._target._failure(self._path, error, size) from error

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data` at `offset`."""
        try:
            written = _pwrite(self._fd, data, offset)
            while written != data.nbytes:
                written += _pwrite(self._fd, data.cast("B")[written:], offset + written)
        except OSError as error:
            raise self._target._failure(self._path, error, data.nbytes) from error

    def read_into(self, offset: int, data: memoryview) -> None:
        """Fill `data` from `offset` on. Conflict if somebody made the file shorter."""
        try:
            done = _pread(self._fd, data, offset)
            while done != data.nbytes:
                more = _pread(self._fd, data.cast("B")[done:], offset + done)
                if not more:
                    raise Conflict(
                        f"{self._target._full(self._path)}: its partial file was made shorter by another "
                        "process: run it again"
                    )
                done += more
        except OSError as error:
            raise self._target._failure(self._path, error) from error

    def publish(self, executable: bool) -> os.stat_result:
        """Give the file its final name, and what `stat` will say of it from now on.

        Conflict or Denied if something is in the way: then it is still to be kept or discarded.
        """
        try:
            self._target._refuse_obstacle(self._directory, self._name, self._path)
            _set_executable(self._fd, executable)
            fd, self._fd = self._fd, -1
            directory, self._directory = self._directory, _NOWHERE
            return self._target._publish(directory, self._temp, self._name, self._path, fd)
        except AsyncartError:
            raise
        except OSError as error:
            raise self._target._failure(self._path, error) from error

    def keep(self) -> None:
        """Close it and leave it for a later attempt with the same key."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # an unverified file: what was lost is fetched again
                os.close(fd)
        self._directory = _NOWHERE  # a traceback may hold us: that must not keep a descriptor open

    def discard(self) -> None:
        """Remove it."""
        if self._fd >= 0:
            directory = self._directory
            if _RENAMES_OPEN_FILES:  # while we hold the lock, so that it is nobody else's
                _unlink(directory, self._temp)
            self.keep()
            if not _RENAMES_OPEN_FILES:
                _unlink(directory, self._temp)


def _shortened(name: str) -> str:
    if len(name) <= _TEMP_NAME_BYTES // 4:
        return name
    return name.encode()[:_TEMP_NAME_BYTES].decode(errors="ignore")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISREG(mode):
        return "file"
    return "FIFO, socket or device"


def _make_directory(parent: _Directory, name: str) -> bool:
    """Whether it is new."""
    try:
        os.mkdir(parent.prefix + name, dir_fd=parent.fd)
    except FileExistsError:
        return False
    return True


def _open_directory(parent: _Directory, name: str, path: str) -> _Directory | None:
    """Open it without following a link; None if it is not there, NotADirectoryError if it is something else."""
    try:
        if parent.fd is not None:
            return _Directory(path, os.open(name, _OPEN_DIRECTORY, dir_fd=parent.fd), "", False)
        full = parent.prefix + name
        info = os.lstat(full)
    except FileNotFoundError:
        return None
    # A junction of Windows is a directory for lstat; only its reparse point tells.
    if not stat.S_ISDIR(info.st_mode) or getattr(info, "st_reparse_tag", 0) != 0:
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", full)
    return _Directory(path, None, os.path.join(full, ""), False)


def _listed(directory: _Directory) -> list[tuple[str, bool]]:
    """Names, and whether they are directories."""
    if directory.fd is None:
        return _names(os.scandir(directory.prefix))
    fd = os.open(".", os.O_RDONLY | _CLOEXEC, dir_fd=directory.fd)  # O_PATH cannot be listed
    try:
        return _names(os.scandir(fd))
    finally:
        os.close(fd)


def _names(found: AbstractContextManager[Iterator[os.DirEntry[str]]]) -> list[tuple[str, bool]]:
    with found as items:
        return [(item.name, item.is_dir(follow_symlinks=False)) for item in items]


def _rename(directory: _Directory, old: str, new: str) -> None:
    os.replace(
        directory.prefix + old,
        directory.prefix + new,
        src_dir_fd=directory.fd,
        dst_dir_fd=directory.fd,
    )


def _unlink(directory: _Directory, name: str) -> bool:
    """Whether it was there and is gone. Errors are not worth telling: a temporary file stays, at worst."""
    try:
        os.unlink(directory.prefix + name, dir_fd=directory.fd)
    except OSError:
        return False
    return True


def _remove_stale(
    directory: _Directory, name: str, changed_before: float, is_partial: bool
) -> bool:
    try:
        info = os.stat(directory.prefix + name, dir_fd=directory.fd, follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode) or info.st_mtime > changed_before:
            return False
        if not is_partial or sys.platform == "win32":
            return _unlink(directory, name)  # Windows refuses while it is open
        flags = os.O_RDWR | _NOFOLLOW | _CLOEXEC | os.O_NONBLOCK
        fd = os.open(directory.prefix + name, flags, dir_fd=directory.fd)
    except OSError:
        return False
    try:
        return _claimed(directory, name, fd) is not None and _unlink(directory, name)
    finally:
        os.close(fd)


def _claimed(directory: _Directory, name: str, fd: int) -> os.stat_result | None:
    """Lock the file for us; None unless it is ours, unlocked, and still what the name stands for.

    A second hard link would let us write into a file that somebody put elsewhere. And the lock comes after
    the opening: meanwhile another process may have finished the file and renamed it.
    """
    if sys.platform == "win32":
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
            return None
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        info = os.fstat(fd)
        named = os.stat(directory.prefix + name, dir_fd=directory.fd, follow_symlinks=False)
    except OSError:  # held by another process, renamed, or a file system without locks
        return None
    return info if info.st_nlink == 1 and os.path.samestat(info, named) else None


def _allocate(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise  # the others: a file system that cannot; then a full disk is found while writing


def _set_executable(fd: int, executable: bool) -> None:
    """0o666 or 0o777 less the umask, which the mode that the file was created with tells us."""
    if not hasattr(os, "fchmod"):
        return
    old = stat.S_IMODE(os.fstat(fd).st_mode)
    new = old | (old & 0o444) >> 2 if executable else old & ~0o111
    if new != old:
        os.fchmod(fd, new)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


if sys.platform != "win32":

    def _pwrite(fd: int, data: memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def _pread(fd: int, data: memoryview, offset: int) -> int:
        return os.preadv(fd, [data], offset)

else:
    _SEEK_LOCK = threading.Lock()  # for all files: Windows has no positioned reads and writes here

    def _pwrite(fd: int, data: memoryview, offset: int) -> int:
        with _SEEK_LOCK:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, data)

    def _pread(fd: int, data: memoryview, offset: int) -> int:
        with _SEEK_LOCK:
            os.lseek(fd, offset, os.SEEK_SET)
            block = os.read(fd, data.nbytes)
        data.cast("B")[: len(block)] = block
        return len(block)
