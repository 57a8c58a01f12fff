"""What a transfer and its worker processes say to each other.

A frame is its length (4 bytes, little-endian) and a msgpack message. The transfer speaks the messages of
`ToWorker`, the worker those of `FromWorker`. Both are the same release of asyncart, started moments apart,
so there are no versions here; the frames come over a private pipe, so nothing is defended against.

Rows of files travel as columns of bytes: 100,000 of them encode and decode in a few milliseconds.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import IO, Any

import msgspec

from ..engine.statcache import Stamp
from ..errors import BY_CODE, AsyncartError, TransferError
from ..model import Chunk, Content, Entry, Extent, PendingUpload, UploadPart

LENGTH_BYTES = 4


class Open(msgspec.Struct, frozen=True, tag=True):
    """What the worker works with; `memory_bytes` and `limit_rate_bytes` are its share."""

    store_url: str
    cache_dir: str
    cache_bytes: int
    memory_bytes: int
    threads: int
    stall_timeout_s: float = 30.0
    limit_rate_bytes: int = 0
    checksum: str | None = None
    api_key: str = ""  # of a server; over a private pipe
    allow_insecure_http: bool = False

    def __repr__(self) -> str:
        return f"Open({self.store_url!r})"


class Files(msgspec.Struct, frozen=True, tag=True):
    """Files to store: rows of a listing, as columns (see `cargo`)."""

    paths: list[str]
    sizes: bytes
    inodes: bytes
    mtimes: bytes
    ctimes: bytes
    flags: bytes
    folder_of: bytes
    folders: list[str]
    devices: list[int]
    named: dict[int, str]


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """Begin a download: `Step`s follow, then `End`."""

    root: str
    statcache_path: str


class Step(msgspec.Struct, frozen=True, tag=True):
    entries: list[Entry]


class End(msgspec.Struct, frozen=True, tag=True):
    pass


class Answer(msgspec.Struct, frozen=True, tag=True):
    """To the question of that number: the result, as the type that its verb gives."""

    number: int
    result: msgspec.Raw


class Refusal(msgspec.Struct, frozen=True, tag=True):
    number: int
    error: Failure


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop and clean up; `Failed` or `Stopped` follows."""


class Leave(msgspec.Struct, frozen=True, tag=True):
    """There is nothing more to do: exit."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker is up."""


class Question(msgspec.Struct, frozen=True, tag=True):
    """A call of the index, or `relocate`: answered by the transfer, which has the catalog."""

    number: int
    verb: str
    arguments: msgspec.Raw


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """What was done since the last one (see `Tally.add`)."""

    files: int
    nbytes: int
    deduplicated: int
    moved: int


class More(msgspec.Struct, frozen=True, tag=True):
    """The worker took a step from its queue: there is room for another one."""


class Remember(msgspec.Struct, frozen=True, tag=True):
    """News for the stat cache: folders and their files (see `statcache.packed`)."""

    folders: list[tuple[str, bytes]]


class Stored(msgspec.Struct, frozen=True, tag=True):
    """All the files are stored: the columns that the engine filled in.

    `restamped` are rows that changed after the scan, with their stamp as it was read.
    """

    digests: bytes
    object_of: bytes
    offsets: bytes
    object_ids: list[str]
    contents: dict[int, Content]
    restamped: dict[int, Stamp]


class Fetched(msgspec.Struct, frozen=True, tag=True):
    """All the entries are present."""


class Stopped(msgspec.Struct, frozen=True, tag=True):
    """The work was cancelled, and cleaned up."""


class Failure(msgspec.Struct, frozen=True):
    """An error: the class by its code ("" for one that is not asyncart's, a defect)."""

    code: str
    message: str
    failures: list[Failure] = []


class Failed(msgspec.Struct, frozen=True, tag=True):
    error: Failure


ToWorker = Open | Files | Fetch | Step | End | Answer | Refusal | Cancel | Leave
FromWorker = Ready | Question | Progressed | More | Remember | Stored | Fetched | Stopped | Failed

_encoder = msgspec.msgpack.Encoder()
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode

Placed = tuple[str, int, list[tuple[Chunk, int]]]

# What may be asked, the types of the arguments, and of the answer.
VERBS: dict[str, tuple[Any, Any]] = {
    "stored_contents": (tuple[list[bytes]], dict[bytes, Content]),
    "stored_chunks": (tuple[list[bytes]], dict[bytes, Extent]),
    "register_upload": (tuple[str, str, str], None),
    "adopt_or_register": (tuple[str, str], PendingUpload | None),
    "note_parts": (tuple[str, list[UploadPart]], None),
    "forget_upload": (tuple[str], None),
    "add_stored": (tuple[list[Placed], list[Content]], None),
    "relocate": (tuple[str, Entry], Content | None),
}


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(value))


def encode(message: Any) -> bytes:
    """The message as a frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def read_frame(file: IO[bytes]) -> bytes | None:
    """The next message's bytes; None at the end of the stream, wherever in a frame that is."""
    head = file.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    length = int.from_bytes(head, "little")
    body = file.read(length)
    return body if len(body) == length else None


def failure_of(error: BaseException) -> Failure:
    """The error as it crosses the border."""
    if isinstance(error, TransferError):
        return Failure(error.code, str(error), [failure_of(each) for each in error.failures])
    if isinstance(error, AsyncartError) and error.code in BY_CODE:
        return Failure(error.code, str(error))
    return Failure("", "".join(traceback.format_exception(error)))


def error_of(failure: Failure) -> Exception:
    """The same class again; what was not asyncart's own is a defect, and keeps its traceback."""
    kind = BY_CODE.get(failure.code)
    if kind is None:
        return RuntimeError(f"a worker process failed:\n{failure.message}")
    if kind is TransferError:
        inner: Sequence[Exception] = [error_of(each) for each in failure.failures]
        return TransferError(failure.message, inner)
    return kind(failure.message)
