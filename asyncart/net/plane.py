"""The two hot verbs of the data plane: a ranged GET into a buffer, and a PUT from buffers.

Promised by every implementation, and tested by one contract suite over all of them:

- `get_range` fills the caller's buffer exactly, from a 206 that says that it holds these bytes, or
  raises. A 200 is taken only where it is the same thing (offset 0, and the length is the buffer's).
  Nothing is ever written behind the buffer's end, and nothing touches the buffer after the call.
- `put` sends exactly the given bytes and returns the head of a 2xx answer, or raises. The buffers may be
  reused as soon as it returns or raises.
- One attempt each: no retry, no back-off, no re-signing (`retry` decides that). What failed comes as an
  `AttemptError`, which says how many bytes of the buffer are good, so that the next attempt continues there.
- A wait ends when the peer is silent for the stall time; there is no limit on the whole.
- A cancelled call closes its connection and leaves no task, socket or reference to the buffer.

Refused: compressed answers (their length and ranges mean something else), URLs that are not absolute
http or https. The checks live here, as plain functions, so that no implementation can forget one.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from asyncart.errors import Invalid

ERROR_BODY_BYTES = 8192  # of an error document; S3's are below 1 KiB
STALL_S = 30.0  # without a byte (DESIGN.md section 7)
CONNECT_S = 10.0  # name, TCP and TLS together
CREEP_BYTES = 1024  # a stream must move this much per stall time: 1 byte a second is a stall too


class ResponseHead(NamedTuple):
    """Status and headers; names in lower case, repeated ones joined with ", "."""

    status: int
    headers: Mapping[str, str]


class Reason(enum.StrEnum):
    """Why an attempt failed, as far as the next step depends on it."""

    CONNECT = "could not connect"
    RESET = "connection lost"
    STALLED = "no progress"
    STATUS = "refused"  # the server answered, with a status that is not success
    MALFORMED = "wrong answer"  # success, but not the bytes that were asked for
    TLS = "certificate not accepted"


# Worth repeating as they are. Others (400, 403, 404, 412, 416...) answer the same the second time.
TRANSIENT_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class AttemptError(Exception):
    """One attempt of a verb failed. Private to `net`: callers see `asyncart.errors`.

    `received`: that many bytes at the front of the buffer are the ones asked for (GET only).
    `body`: the start of the error document. `is_transient`: the same request may succeed later.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        received: int = 0,
        is_transient: bool = True,
    ) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.status = status
        self.headers: Mapping[str, str] = headers if headers is not None else {}
        self.body = body
        self.received = received
        self.is_transient = is_transient


class DataPlane(Protocol):
    """Usable from several event loops; each gets connections of its own."""

    async def get_range(
        self, url: str, headers: Mapping[str, str], offset: int, buffer: memoryview
    ) -> ResponseHead:
        """Fill `buffer` with the bytes from `offset` on. `Range` is set here, never by the caller."""

    async def put(
        self, url: str, headers: Mapping[str, str], buffers: Sequence[memoryview]
    ) -> ResponseHead:
        """Send the concatenated buffers as the body. `Content-Length` is set here."""

    async def aclose(self) -> None:
        """Close every connection. The plane may not be used afterwards."""


def range_header(offset: int, length: int) -> str:
    if offset < 0 or length <= 0:
        raise Invalid(
            f"range of {length} bytes at {offset}: needs an offset >= 0 and at least one byte"
        )
    return f"bytes={offset}-{offset + length - 1}"


def check_url(url: str) -> str:
    """The URL without its query, for messages; raises Invalid unless it is absolute http(s)."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:  # a port or an address that is none
        raise Invalid(f"a URL that cannot be used: {error}") from None
    if not is_usable:
        raise Invalid(f"{public_url(url)}: not an absolute http or https URL")
    return public_url(url)


def public_url(url: str) -> str:
    """What may be printed: query (signatures), fragment and password are left out."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def status_error(head: ResponseHead, body: bytes) -> AttemptError:
    """A status that is no success, with what the server said about it."""
    said = error_code(body)
    detail = f"{head.status} {said}" if said else str(head.status)
    # S3 says 400 RequestTimeout where others say 408: the body came too slowly, or the link broke
    transient = head.status in TRANSIENT_STATUSES or said == "RequestTimeout"
    return AttemptError(
        Reason.STATUS,
        detail,
        status=head.status,
        headers=head.headers,
        body=body[:ERROR_BODY_BYTES],
        is_transient=transient,
    )


def error_code(body: bytes) -> str:
    """The <Code> of an S3 or Azure error document, or an empty string."""
    found = re.search(rb"<Code>\s*([A-Za-z0-9_.-]{1,64})\s*</Code>", body[:ERROR_BODY_BYTES])
    return found[1].decode("ascii") if found else ""


def is_success(status: int) -> bool:
    return 200 <= status < 300


_CONTENT_RANGE = re.compile(r"\s*bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\s*\Z", re.IGNORECASE)


def check_range_head(head: ResponseHead, offset: int, length: int) -> None:
    """Raise unless the body that follows is exactly bytes offset..offset+length of the object.

    Only for 2xx heads. Whatever is wrong here is the answer of a broken or half-broken server (or of a
    proxy in between): transient, because the next answer may come from another one, but `retry` gives
    it few chances.
    """
    headers = head.headers
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "aws-chunked"):
        raise malformed(head, f"answered with Content-Encoding {encoding}, which was not accepted")
    if head.status == 206:
        found = _CONTENT_RANGE.match(headers.get("content-range", ""))
        if found is None:
            raise malformed(head, "answered 206 without a usable Content-Range")
        first, last = int(found[1]), int(found[2])
        if first != offset or last != offset + length - 1:
            raise malformed(
                head, f"answered bytes {first}-{last}, not {offset}-{offset + length - 1}"
            )
    elif head.status != 200 or offset != 0:
        raise malformed(head, f"answered {head.status} to a range request, not 206")
    elif "content-length" not in headers:
        raise malformed(head, "answered 200 without a length to a range request")
    said = headers.get("content-length")
    if said is not None and (not said.strip().isdecimal() or int(said) != length):
        raise malformed(head, f"announced {said} bytes instead of {length}")


def check_put_answer(head: ResponseHead, body: bytes) -> None:
    """Raise if a 2xx answer carries an error document: some gateways fail after the status was sent."""
    if b"<Error" in body[:ERROR_BODY_BYTES]:
        said = error_code(body) or "an error document"
        raise malformed(head, f"answered {head.status} with {said}", body=body)


def malformed(
    head: ResponseHead, detail: str, *, body: bytes = b"", received: int = 0
) -> AttemptError:
    return AttemptError(
        Reason.MALFORMED,
        detail,
        status=head.status,
        headers=head.headers,
        body=body[:ERROR_BODY_BYTES],
        received=received,
    )


MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 307, 308})
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})


def redirected(
    url: str, headers: Mapping[str, str], head: ResponseHead
) -> tuple[str, Mapping[str, str]] | None:
    """Where the same request goes next, or None if the answer is no redirect that may be followed.

    The verb stays what it is (303 asks for another one: not followed). Credentials are not carried to
    another origin, and https never leads to http.
    """
    location = head.headers.get("location")
    if head.status not in _REDIRECTS or not location:
        return None
    target = urljoin(url, location)
    old, new = urlsplit(url), urlsplit(target)
    if new.scheme not in ("http", "https") or not new.hostname:
        return None
    if old.scheme == "https" and new.scheme != "https":
        return None
    if (old.scheme, old.netloc) == (new.scheme, new.netloc):
        return target, headers
    return target, {k: v for k, v in headers.items() if k.lower() not in _CREDENTIALS}


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (or the system's settings) names for this URL."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
