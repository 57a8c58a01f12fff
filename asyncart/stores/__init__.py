"""Object stores: where the bytes are. `open_store` turns a URL of the configuration into one.

Each kind is imported when it is first opened, so that nobody pays for what another one needs.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from asyncart.errors import Invalid
from asyncart.threads import run_blocking

if TYPE_CHECKING:
    from .protocol import Store

KINDS = "a folder, file:///folder, s3://bucket/prefix, memory:// or the URL of a server"


async def open_store(url: str, **options: Any) -> Store:
    """The store behind a URL or a path; `options` go to the store's own constructor.

    Nothing is created, and nobody but a server is asked yet: a store that is not there says so when it is
    used.
    """
    scheme = _scheme(url)
    if scheme == "":
        from .local import LocalStore

        return LocalStore(url, **options)
    if scheme == "file":
        from .local import LocalStore

        return LocalStore(_path_of(url), **options)
    if scheme == "memory":
        from .memory import MemoryStore

        return MemoryStore(url.partition("://")[2], **options)
    if scheme == "s3":
        return await _open_s3(url, **options)
    if scheme in ("http", "https"):
        from .server import ServerStore

        return await ServerStore.open(url, **options)
    raise Invalid(f"{url}: no store is called {scheme!r}; use {KINDS}")


async def open_configured(
    url: str,
    *,
    stall_timeout_s: float,
    limit_rate_bytes: int,
    checksum: str | None = None,
    api_key: str = "",
    allow_insecure_http: bool = False,
) -> Store:
    """The store behind the URL; the limits are for stores on a network. `limit_rate_bytes`: per second, 0 = none.

    `checksum` goes with what is sent there ("CRC64NVME" or "CRC32C"), where the store is known to verify it. `api_key` is for an asyncart server.
    """
    if _scheme(url) in ("http", "https"):
        return await open_store(
            url,
            stall_timeout_s=stall_timeout_s,
            limit_rate_bytes=limit_rate_bytes,
            api_key=api_key,
            allow_insecure_http=allow_insecure_http,
        )
    if _scheme(url) != "s3":
        return await open_store(url)
    return await open_store(
        url,
        stall_timeout_s=stall_timeout_s,
        limit_rate_bytes=limit_rate_bytes,
        checksum=checksum,
    )


async def _open_s3(url: str, **options: Any) -> Store:
    try:
        # aiobotocore takes 0.3 s to import: not on the caller's event loop
        await run_blocking(importlib.import_module, "asyncart.stores.s3")
    except ImportError as error:
        raise Invalid(f"{url}: S3 needs aiobotocore: pip install 'asyncart[s3]'") from error
    from .s3 import S3Store

    return await S3Store.open(url, **options)


def _scheme(url: str) -> str:
    """ "" for a path; a single letter is a drive of Windows."""
    if not url:
        raise Invalid(f"the URL of the store is empty; use {KINDS}")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", url)
    return match[1].lower() if match else ""


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise Invalid(f"{url}: a file URL has three slashes, as in file:///folder")
    path = unquote(parts.path)
    return path[1:] if re.match(r"/[A-Za-z]:", path) else path
