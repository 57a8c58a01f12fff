"""What `asyncart server` is told, and what it refuses before it opens anything.

The rule that matters most: a server that asks nobody who he is may only be reached from this machine.
That holds for the address that it binds, and for the names under which it says it can be reached.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ..errors import Invalid

PORT = 8730
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
LOG_FORMATS = ("json", "text")


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, resolved. `catalog` and `objects` are URLs or paths; empty: below `home`/server.

    `drain_s` is how long a server that was told to end still takes new connections, so that whoever
    balances between replicas has time to notice; `stop_s` bounds the wait for requests in flight then.
    `sweep_s`: how often one of the replicas sweeps up after lost writers; 0: never.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    home: str = ""
    catalog: str = ""
    objects: str = ""
    base_url: str = ""
    allow_hosts: tuple[str, ...] = ()
    no_auth: bool = False
    drain_s: float = 5.0
    stop_s: float = 60.0
    sweep_s: float = 300.0
    log_format: str = "json"

    @property
    def folder(self) -> str:
        """Where a server that was given nothing else keeps its data."""
        return str(Path(self.home) / "server")

    @property
    def catalog_url(self) -> str:
        return self.catalog or os.path.join(self.folder, "catalog.sqlite")

    @property
    def objects_url(self) -> str:
        return self.objects or os.path.join(self.folder, "store")

    @property
    def origin(self) -> str:
        """How clients reach us: scheme, host and port, without a path."""
        return self.base_url.rstrip("/") or origin_of(self.host, self.port)

    def host_names(self) -> frozenset[str]:
        """What a request's Host header may say, ports apart."""
        names = {*LOOPBACK_NAMES, *(name.lower() for name in self.allow_hosts)}
        if not _is_wildcard(self.host):
            names.add(self.host.lower())
        if self.base_url:
            names.add((urlsplit(self.base_url).hostname or "").lower())
        return frozenset(names)


def origin_of(host: str, port: int) -> str:
    name = "127.0.0.1" if _is_wildcard(host) else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def check(options: ServerOptions) -> None:
    """Raise Invalid for what cannot be, or must not be."""
    if not 0 <= options.port <= 65535:
        raise Invalid(f"port {options.port}: a port is a number up to 65535")
    for name in ("drain_s", "stop_s", "sweep_s"):
        if not 0 <= getattr(options, name) < 1e6:
            raise Invalid(f"{name} = {getattr(options, name)}: a number of seconds is 0 or more")
    if options.log_format not in LOG_FORMATS:
        raise Invalid(f"log format {options.log_format!r}: it is {' or '.join(LOG_FORMATS)}")
    _check_base_url(options.base_url)
    if options.no_auth:
        _check_private(options)
    if options.catalog.startswith(("postgresql", "postgres")) and not options.objects:
        raise Invalid(
            "replicas on PostgreSQL share their objects, too: name the bucket with --objects s3://..."
        )


def _check_base_url(url: str) -> None:
    if not url:
        return
    parts = urlsplit(url)
    try:
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if (
        not is_whole
        or parts.query
        or parts.fragment
        or parts.username
        or parts.path not in ("", "/")
    ):
        raise Invalid(
            f"base URL {url!r}: write scheme and host, as in https://artifacts.example.com"
        )


def _check_private(options: ServerOptions) -> None:
    hosts = [options.host, *options.allow_hosts]
    if options.base_url:
        hosts.append(urlsplit(options.base_url).hostname or "")
    for host in hosts:
        if not is_loopback(host):
            raise Invalid(
                f"{host}: without authentication the server may be reached from this machine only; "
                f"leave out --no-auth, or bind to 127.0.0.1 and name no other host"
            )


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_wildcard(host: str) -> bool:
    return host in ("", "*", "0.0.0.0", "::")
