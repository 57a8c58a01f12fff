"""URLs that need no credentials: AWS signature version 4 in the query, as fast as arithmetic can be.

The same URLs as botocore makes (a test compares them), which takes 0.2-0.6 ms for each: a server signs a
thousand in one answer, and the objects of a version, packs of thousands of files, in the same request that
resolves it. Here a URL takes 4 us: what is the same for all of them is computed once.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from urllib.parse import quote, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"
ONLY_NEW = {"If-None-Match": "*"}  # of a PUT: only if there is no such object yet
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Presigner:
    """Signs URLs below `base_url` for one moment, with one set of credentials."""

    def __init__(
        self,
        base_url: str,
        region: str,
        access_key: str,
        secret_key: str,
        token: str | None,
        now: datetime,
    ) -> None:
        """`now` is the store's time, in UTC."""
        self._base_url = base_url
        parts = urlsplit(base_url)
        self._base_path = parts.path
        day, moment = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
        scope = f"{day}/{region}/s3/aws4_request"
        self._before_expiry = (
            f"X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={_quoted(f'{access_key}/{scope}')}"
            f"&X-Amz-Date={moment}&X-Amz-Expires="
        )
        # Parameters are signed in alphabetical order; an upload's own come after all of X-Amz-*.
        self._token = f"&X-Amz-Security-Token={_quoted(token)}" if token is not None else ""
        self._host = f"host:{_host(base_url)}\n"
        self._to_sign = f"{ALGORITHM}\n{moment}\n{scope}\n"
        key = f"AWS4{secret_key}".encode()
        for word in (day, region, "s3", "aws4_request"):
            key = _hmac(key, word)
        self._key = key

    def url(
        self,
        method: str,
        key: str,
        ttl_s: float,
        *,
        part_number: int = 0,
        upload_id: str = "",
        is_only_new: bool = False,
    ) -> str:
        """With `part_number` (from 1 on) and `upload_id`: for one part of an upload.

        With `is_only_new` the headers ONLY_NEW are signed, too: the store refuses a request without them.
        """
        path = quote(key, safe="/-_.~")
        names, headers = "host", self._host
        if is_only_new:
            names, headers = "host;if-none-match", f"{headers}if-none-match:*\n"
        query = (
            f"{self._before_expiry}{max(1, int(ttl_s))}{self._token}"
            f"&X-Amz-SignedHeaders={_quoted(names)}"
        )
        if part_number:
            query += f"&partNumber={part_number}&uploadId={_quoted(upload_id)}"
        request = (
            f"{method}\n{self._base_path}{path}\n{query}\n{headers}\n{names}\nUNSIGNED-PAYLOAD"
        )
        digest = hashlib.sha256(request.encode()).hexdigest()
        signature = _hmac(self._key, self._to_sign + digest).hex()
        return f"{self._base_url}{path}?{query}&X-Amz-Signature={signature}"


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")


def _host(url: str) -> str:
    """As a client writes it into the Host header."""
    parts = urlsplit(url)
    name = (parts.hostname or "").lower()
    name = f"[{name}]" if ":" in name else name
    if parts.port is None or parts.port == _DEFAULT_PORTS.get(parts.scheme):
        return name
    return f"{name}:{parts.port}"
