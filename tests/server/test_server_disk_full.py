"""A full disk behind the server: the client is told at once, and everything works when there is room again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from served import serving
from talk import in_folder, served

from asyncart import aio, wire
from asyncart.catalog import open_catalog
from asyncart.errors import Full, Unavailable
from asyncart.net import answers
from asyncart.stores import open_store

DISK_BYTES = 2 << 20


@pytest.mark.parametrize("size", [1 << 20, 24 << 20], ids=["pack", "parts"])
async def test_a_client_does_not_wait_for_room(tmp_path: Path, disk_2_mib: Path, size: int) -> None:
    """Waiting would not help: `Full`, which is Unavailable, and not after two minutes of repeats."""
    (disk_2_mib / "filler").write_bytes(bytes(DISK_BYTES - (512 << 10)))
    file = tmp_path / "data.bin"
    file.write_bytes(os.urandom(size))
    catalog = await open_catalog(str(tmp_path / "catalog.sqlite"))
    store = await open_store(str(disk_2_mib / "store"))
    async with (
        serving(catalog, store) as origin,
        aio.init(project="p", server=origin, home=tmp_path / "home") as run,
    ):
        artifact = aio.Artifact("data", "dataset")
        artifact.add_file(file)
        began = time.monotonic()
        with pytest.raises(Full, match=r"(?i)disk.*full"):
            await run.log_artifact(artifact)
        assert time.monotonic() - began < 30
        small = aio.Artifact("small", "dataset")
        small.add_file(__file__)
        assert (await run.log_artifact(small)).version == "v0"
        (disk_2_mib / "filler").unlink()
        if size < DISK_BYTES:
            assert (await run.log_artifact(artifact)).version == "v0"
    await store.aclose()
    await catalog.aclose()


async def test_it_is_507(tmp_path: Path, disk_2_mib: Path) -> None:
    (disk_2_mib / "filler").write_bytes(bytes(DISK_BYTES - (128 << 10)))
    catalog_url, _ = in_folder(tmp_path)
    async with served(catalog_url, str(disk_2_mib / "store")) as talk:
        session_id = await talk.session()
        _, answer = await talk.registered(session_id, want_url=True)
        said = await talk.raw("PUT", answer["url"]["url"], data=bytes(1 << 20))
        assert "disk full" in said.refused(507, "full")
    assert issubclass(Full, Unavailable)


@pytest.mark.parametrize(("code", "is_final"), [("full", True), ("unavailable", False)])
def test_in_a_batch_it_is_final_too(code: str, is_final: bool) -> None:
    refused = wire.Outcome(failure=wire.Failure(code=code, message="no", request_id="1"))
    said = wire.BatchAnswer(outcomes=[refused])
    (failed,) = answers.outcomes("http://127.0.0.1", ["add_stored"], said)
    assert isinstance(failed, answers.Failed)
    assert failed.is_final == is_final
