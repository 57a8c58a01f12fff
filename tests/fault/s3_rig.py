"""A bucket of a real server behind a proxy that fails on purpose, and what must be true of it afterwards.

Each rig has a home, a prefix in the bucket and a proxy of its own, so that many run side by side in one
event loop. Sizes are scaled down as far as the server allows (parts of 5 MiB), waits are short.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import botocore.retries.standard
import pytest
from material import content, read_tree
from services import S3Server
from workplace import KIB, Place, scale_down

from asyncart import stores
from asyncart.aio.collect import collect
from asyncart.catalog.tables import WRITING
from asyncart.engine import chunking, objects, plan
from asyncart.engine.target import PARTIAL_SUFFIX
from asyncart.model import object_key
from asyncart.net import budget
from asyncart.net.retry import Transfer
from asyncart.net.stream_plane import StreamPlane
from asyncart.stores import aws, s3
from asyncart.stores.protocol import Store
from tests.faultproxy import Exchange, FaultProxy

STALL_S = 0.8  # the server shares the machine with the client
CONTROL_ATTEMPTS = 5
MIB = 1 << 20
PART_BYTES = 5 * MIB  # S3's own rule, and the server's
LARGE_BYTES = 6 * MIB  # two parts


class Bucket:
    """The bucket as it is, seen without asyncart and without the proxy. Blocking: for a thread.

    It keeps one connection, from the beginning: whoever counts sockets may forget it.
    """

    def __init__(self, name: str, client: Any) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._client = client
        self._call("head_bucket")

    def _call(self, operation: str, **params: Any) -> Any:
        with self._lock:
            return getattr(self._client, operation)(Bucket=self.name, **params)

    def keys(self, prefix: str) -> set[str]:
        """Objects below the prefix, as a store names them."""
        return set(self.sizes(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """The same, with their bytes."""
        answer = self._call("list_objects_v2", Prefix=f"{prefix}/")
        assert not answer["IsTruncated"]
        return {
            item["Key"].removeprefix(f"{prefix}/"): item["Size"]
            for item in answer.get("Contents", ())
        }

    def open_uploads(self, prefix: str) -> list[str]:
        """Keys of multipart uploads that nobody completed or aborted; a key twice is two uploads."""
        answer = self._call("list_multipart_uploads", Prefix=f"{prefix}/")
        assert not answer["IsTruncated"]
        return [item["Key"].removeprefix(f"{prefix}/") for item in answer.get("Uploads", ())]

    def read(self, prefix: str, key: str) -> bytes:
        with self._lock:
            answer = self._client.get_object(Bucket=self.name, Key=f"{prefix}/{key}")
            return bytes(answer["Body"].read())

    def write(self, prefix: str, key: str, data: bytes) -> None:
        self._call("put_object", Key=f"{prefix}/{key}", Body=data)

    def delete(self, prefix: str, key: str) -> None:
        self._call("delete_object", Key=f"{prefix}/{key}")


class Rig(Place):
    """A place whose store is behind `proxy`."""

    def __init__(self, folder: Path, bucket: Bucket, proxy: FaultProxy) -> None:
        self.bucket = bucket
        self.proxy = proxy
        self.prefix = f"{folder.parent.name}-{folder.name}"
        self.endpoint = proxy.url
        self.transfer: Transfer | None = None
        self._patience_s = 15.0
        super().__init__(folder, "s3", f"s3://{bucket.name}/{self.prefix}")

    @property
    def patience_s(self) -> float:
        """How long a transfer goes on without progress, from now on."""
        return self._patience_s

    @patience_s.setter
    def patience_s(self, seconds: float) -> None:
        self._patience_s = seconds
        if self.transfer is not None:
            self.transfer.patience_s = seconds

    def keys(self) -> set[str]:
        return self.bucket.keys(self.prefix)

    def checksums(self) -> list[object]:
        """Which checksum the catalog believes that the store verifies: nothing, or one answer."""
        return [
            fact for (fact,) in self.query("SELECT value FROM facts WHERE key LIKE 'checksum %'")
        ]

    async def warm_up(self) -> None:
        """Log something, so that all that is asked once has been asked."""
        async with self.init() as run:
            await run.log_artifact(self.artifact({"warm": b""}, "warm"))
        assert await in_thread(self.checksums) == ["CRC64NVME"]
        self.proxy.clear()

    def forget_cache(self) -> None:
        """What is read from now on comes from the bucket."""
        shutil.rmtree(self.settings().cache_dir, ignore_errors=True)

    def known_keys(self) -> set[str]:
        """Objects that the catalog knows, in whatever state."""
        return {object_key(str(name)) for (name,) in self.query("SELECT object_id FROM objects")}

    def reached_keys(self) -> set[str]:
        """Objects that versions need."""
        rows = self.query(
            "SELECT DISTINCT object_id FROM objects JOIN version_objects ON objects.id = object"
        )
        return {object_key(str(name)) for (name,) in rows}

    def check_bucket(self) -> None:
        """Nothing lies there that the catalog does not know: neither objects nor unfinished uploads."""
        rows = self.query("SELECT object_id, state FROM objects")
        states = {object_key(str(object_id)): state for object_id, state in rows}
        unknown = self.keys() - states.keys()
        assert not unknown, f"unknown objects: {unknown}"
        uploads = self.bucket.open_uploads(self.prefix)
        strange = [key for key in uploads if states.get(key) != WRITING]
        assert not strange, f"unknown uploads: {strange}"

    def check_clean(self) -> None:
        """And no upload at all is left open."""
        self.check_bucket()
        uploads = self.bucket.open_uploads(self.prefix)
        assert not uploads, f"left open: {uploads}"

    async def check_collected(self) -> None:
        """Once the leases have run out, the collector leaves what versions reach, and nothing else."""
        await in_thread(self.execute, "UPDATE sessions SET expires_at = 0")
        await collect(self.workspace())
        await in_thread(self.check_clean)
        assert await in_thread(self.keys) == await in_thread(self.reached_keys)

    def exchanges(self, method: str, query: str | None = None) -> list[Exchange]:
        """Requests that reached the server. `query` as in `FaultProxy.inject`."""
        return [
            each
            for each in self.proxy.exchanges
            if each.method == method and _has_query(each.target, query)
        ]


def _has_query(target: str, query: str | None) -> bool:
    said = target.partition("?")[2]
    return query is None or (query in said if query else not said)


def small_files(seed: object) -> dict[str, bytes]:
    """One pack (one PUT) and a manifest (one PUT): no multipart upload."""
    return {f"small/{n}": content((seed, n), 600 + n) for n in range(4)}


def large_file(seed: object, size: int = LARGE_BYTES) -> dict[str, bytes]:
    """One multipart upload of two parts, and a manifest (one PUT)."""
    return {"large": content((seed, "large"), size)}


@contextmanager
def shared_bucket(server: S3Server) -> Iterator[Bucket]:
    options = {"max_pool_connections": 1, "request_checksum_calculation": "when_required"}
    with server.client(**options) as client:
        yield Bucket(server.bucket, client)


class Workshop:
    """Makes rigs, and opens their stores with short waits."""

    def __init__(self, folder: Path, server: S3Server, bucket: Bucket) -> None:
        self.folder = folder
        self.server = server
        self.bucket = bucket
        self._rigs: dict[str, Rig] = {}
        self._serial = 0

    @asynccontextmanager
    async def rig(self, *, is_direct: bool = False) -> AsyncIterator[Rig]:
        """With `is_direct` nothing goes through the proxy, whose tasks run in the same loop."""
        host, _, port = self.server.endpoint.removeprefix("http://").partition(":")
        self._serial += 1
        folder = self.folder / str(self._serial)
        folder.mkdir()
        async with FaultProxy(host, int(port), drip_s=0.05) as proxy:
            rig = Rig(folder, self.bucket, proxy)
            rig.endpoint = self.server.endpoint if is_direct else proxy.url
            self._rigs[rig.url] = rig
            yield rig
            await rig.workspace().aclose()
        shutil.rmtree(folder)

    def wrapped(self, real_open: Callable[..., Any]) -> Callable[..., Any]:
        """`open_store` for stores behind the proxies."""

        async def open_store(url: str, **options: Any) -> Store:
            rig = self._rigs[url]
            options.pop("transfer", None)
            plane = StreamPlane(stall_s=STALL_S, connect_s=STALL_S)
            rig.transfer = Transfer(plane, patience_s=rig.patience_s)
            options |= {"transfer": rig.transfer, "endpoint_url": rig.endpoint}
            store: Any = await real_open(url, **options)
            store._owns_transfer = True  # as it is where nobody brings one
            return store  # type: ignore[no-any-return]

        return open_store


def hurry(monkeypatch: pytest.MonkeyPatch, *, waits: bool = True) -> None:
    """Everything scaled down: sizes as far as the server allows, waits to fractions of a second."""
    scale_down(monkeypatch)
    monkeypatch.setattr(plan, "BLOCK_BYTES", PART_BYTES + 512 * KIB)
    monkeypatch.setattr(plan, "RANGE_BYTES", 8 * MIB)
    monkeypatch.setattr(objects, "MULTIPART_BYTES", PART_BYTES)
    for name, kib in (("MIN_BYTES", 16), ("AVERAGE_BYTES", 64), ("MAX_BYTES", 256)):
        monkeypatch.setattr(chunking, name, kib * KIB)
    monkeypatch.setattr(s3.S3Store, "part_bytes", PART_BYTES)
    if not waits:
        return
    monkeypatch.setattr(aws, "CONNECT_S", STALL_S)
    monkeypatch.setattr(aws, "READ_S", STALL_S)
    monkeypatch.setattr(aws, "ATTEMPTS", CONTROL_ATTEMPTS)
    monkeypatch.setattr(
        botocore.retries.standard.ExponentialBackoff,
        "delay_amount",
        lambda self, context: 0.02 * random.random(),
    )


@pytest.fixture
def workshop(
    seaweedfs: S3Server, aws_environment: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workshop]:
    for name in [name for name in os.environ if name.startswith("ASYNCART_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(budget, "_process", None)
    hurry(monkeypatch)
    with shared_bucket(seaweedfs) as bucket:
        made = Workshop(folder, seaweedfs, bucket)
        monkeypatch.setattr("asyncart.stores.open_store", made.wrapped(stores.open_store))
        yield made


def published(folder: Path) -> dict[str, bytes]:
    """Files under their final names: what a failed download keeps for the next attempt is none."""
    found = read_tree(folder)
    return {path: data for path, data in found.items() if not path.endswith(PARTIAL_SUFFIX)}


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)
