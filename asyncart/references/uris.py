"""What a reference's URI may be, what path it gets, and what its digest is. No I/O.

A reference's digest is that of the content where we have read the content. Otherwise it is BLAKE3-256 over
the bytes `asyncart reference 1\\n` followed by a compact JSON array in UTF-8, which is frozen:

- `[uri]`: recorded without looking at it (`checksum=False`, and schemes that we do not resolve);
- `[uri, "etag", ETAG]`: the server named the content, quotes and `W/` included as sent;
- `[uri, "size", BYTES or null, LAST-MODIFIED or null]`: it gave no ETag.

URIs that contain a password are refused: a manifest is kept for ever and read by many.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
from blake3 import blake3

from asyncart.errors import Invalid
from asyncart.model import Entry, Reference
from asyncart.names import check_entry_path

MAX_URI_CHARS = 8192  # more than any server or browser takes
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters or more: C: is a drive
_BAD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DIGEST_HEADER = b"asyncart reference 1\n"


def check_uri(uri: str) -> str:
    """The URI itself; raises Invalid unless it can be recorded."""
    if not isinstance(uri, str):
        raise Invalid(f"reference must be a URI as a string, not {type(uri).__name__}: {uri!r:.80}")
    if len(uri) > MAX_URI_CHARS:
        raise Invalid(
            f"{uri[:80]}... is {len(uri)} characters long: a URI has at most {MAX_URI_CHARS}"
        )
    if found := _BAD.search(uri):
        raise Invalid(
            f"reference {ascii(uri)[:200]} contains the character U+{ord(found[0]):04X}: write it as "
            f"%{ord(found[0]):02X}"
        )
    if not (scheme := _SCHEME.match(uri)):
        raise Invalid(
            f"reference {uri!r:.200} is no URI: write a scheme before it, as in 'file:///data/x' or "
            "'s3://bucket/x'; use add_file or add_dir to store files"
        )
    _refuse_password(uri)
    if not uri[scheme.end() :].strip("/"):
        raise Invalid(f"reference {uri!r} names nothing: write what follows {scheme[0]!r}")
    if scheme_of(uri) == "file":
        local_path(uri)
    elif scheme_of(uri) in ("http", "https") and not _split(uri).hostname:
        raise Invalid(f"reference {uri!r:.200} names no host: write it as {scheme[0]}//HOST/PATH")
    return uri


def scheme_of(uri: str) -> str:
    return uri.partition(":")[0].lower()


def public(uri: str) -> str:
    """What messages may show: a query may contain a signature."""
    return uri.partition("?")[0][:300]


def local_path(uri: str) -> str:
    """The absolute path that a `file:` URI names; percent escapes are decoded, `?` and `#` are not special."""
    rest = uri.partition(":")[2]
    host, path = "", rest
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        path = slash + path
    path = unquote(path, errors="surrogateescape")
    if host not in ("", "localhost") or not path.startswith("/"):
        raise Invalid(
            f"reference {uri!r:.200} is not on this machine's file system: write three slashes and an absolute "
            "path, as in 'file:///data/x' (pathlib.Path(...).resolve().as_uri() does)"
        )
    if "\0" in path:
        raise Invalid(f"reference {uri!r:.200} contains a NUL byte, which no path can")
    return path


def entry_path(uri: str, name: str | None) -> str:
    """The path that was asked for, else the last part of the URI."""
    if name is not None:
        return check_entry_path(name)
    last = _last_part(uri)
    try:
        return check_entry_path(last)
    except Invalid as error:
        raise Invalid(f"reference {public(uri)} needs a name= of its own: {error}") from None


def recorded(uri: str, name: str | None) -> Entry:
    """The entry of a URI that nobody looked at."""
    return Entry(entry_path(uri, name), uri_digest(uri), 0, reference=Reference(uri))


def uri_digest(uri: str) -> bytes:
    return _digest(uri)


class Validators(NamedTuple):
    """What an HTTP server says about its content; None where it says nothing."""

    etag: str | None
    size: int | None
    last_modified: str | None

    def digest(self, uri: str) -> bytes:
        if self.etag is not None:
            return _digest(uri, "etag", self.etag)
        return _digest(uri, "size", self.size, self.last_modified)


def _digest(*facts: str | int | None) -> bytes:
    return blake3(_DIGEST_HEADER + msgspec.json.encode(facts)).digest()


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        raise Invalid(f"reference {public(uri)!r} is no URI: {error}") from None
    return parts


def _refuse_password(uri: str) -> None:
    if scheme_of(uri) == "file":
        return
    try:
        user = urlsplit(uri).netloc.rpartition("@")[0]
    except ValueError as error:
        raise Invalid(f"reference {public(uri)!r} is no URI: {error}") from None
    if ":" in user or (user and scheme_of(uri) in ("http", "https")):
        host = urlsplit(uri).netloc.rpartition("@")[2]
        raise Invalid(
            f"reference {scheme_of(uri)}://...@{host}/... contains credentials, and everybody who may read "
            "the artifact would get them: leave them out"
        )


def _last_part(uri: str) -> str:
    if scheme_of(uri) == "file":
        return local_path(uri).rstrip("/").rpartition("/")[2]
    path = uri.partition(":")[2].partition("?")[0].partition("#")[0]
    last = path.rstrip("/").rpartition("/")[2]
    if scheme_of(uri) in ("http", "https"):
        decoded = unquote(last, errors="surrogateescape")
        return last if "/" in decoded else decoded
    return last
