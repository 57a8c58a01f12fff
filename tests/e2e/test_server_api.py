"""The promises of the API hold at a server: by the same suites, run again; and what it costs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from server_environment import at_a_server
from services import S3Server, server_in_thread

import asyncart.aio
from asyncart import config
from asyncart.aio.diagnose import diagnose
from asyncart.aio.workspace import Workspace
from asyncart.catalog.http import HttpCatalog
from asyncart.errors import Denied, Unavailable
from asyncart.net.control import ServerClient
from asyncart.stores.cache import uncached
from asyncart.stores.server import ServerStore

__all__ = ["at_a_server"]

HERE = Path(__file__).parent
SMALL_FILES, FILE_BYTES = 8, 4096


@pytest.fixture
def deployment() -> str:
    """With nobody else's objects, and without accounts."""
    return "folder"


def test_every_suite_of_the_api_has_a_twin_at_a_server() -> None:
    """Nobody who adds a suite can forget the server."""
    suites = {path.name.removeprefix("test_") for path in HERE.glob("test_api_*.py")}
    twins = {path.name.removeprefix("test_server_") for path in HERE.glob("test_server_*.py")}
    assert {*suites, "seed_guide.py"} <= twins


def folder_of_small_files(folder: Path) -> Path:
    folder.mkdir()
    for n in range(SMALL_FILES):
        (folder / str(n)).write_bytes(os.urandom(FILE_BYTES))
    return folder


async def client_of(settings: config.Settings) -> ServerClient:
    workspace = Workspace.of(settings)
    catalog = await workspace.catalog()
    assert isinstance(catalog, HttpCatalog)
    assert isinstance(uncached(await workspace.store()), ServerStore)
    return catalog.client


async def test_nothing_is_stored_here(here: Path) -> None:
    """What the twins' environment is worth: no catalog and no object lie in the home."""
    async with asyncart.aio.init("p") as run:
        assert run.entity == "local"  # what the server calls the key's own
        await run.log_artifact(folder_of_small_files(here / "data"), name="data", type="dataset")
    home = Path(config.load().home)
    assert not (home / "store").exists()
    assert not (home / "catalog.sqlite").exists()


async def test_a_small_artifact_is_logged_in_four_requests_and_fetched_with_one(here: Path) -> None:
    """From a warm client, besides the bytes themselves; unchanged, it takes three: what is stored, is there
    such a version, and that it was logged again."""
    async with asyncart.aio.init("p") as run:
        client = await client_of(config.load(project="p"))
        for n in range(2):
            data = folder_of_small_files(here / f"data{n}")
            before = client.requests
            await run.log_artifact(data, name="data", type="dataset")
            assert client.requests - before == 4
        before = client.requests
        await run.log_artifact(data, name="data", type="dataset")
        assert client.requests - before == 3
    async with asyncart.aio.Api(project="p") as api:
        client = await client_of(config.load(project="p"))
        for _ in range(2):  # with an empty folder, then with everything there
            before = client.requests
            await (await api.artifact("data:latest")).download("out")
            assert client.requests - before == 1
    assert len(os.listdir("out")) == SMALL_FILES


@pytest.mark.parametrize("workers", [1, 2])
async def test_bytes_go_past_the_server_to_a_bucket(
    aws_environment: S3Server,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """Small files and a large one, there and back, in this process and in workers."""
    url = f"s3://{aws_environment.bucket}/{os.urandom(8).hex()}"
    data = folder_of_small_files(here / "data")
    (data / "large").write_bytes(os.urandom(24 << 20))
    with server_in_thread(home=str(here / "bucket-server"), objects=url) as server:
        monkeypatch.setenv("ASYNCART_SERVER", server)
        async with asyncart.aio.init("p", workers=workers) as run:
            artifact = await run.log_artifact(data, name="data", type="dataset")
            await artifact.download("out")
            assert (await artifact.verify("out")).is_ok
            assert (await artifact.verify()).is_ok
        async with asyncart.aio.Api(project="p") as api:
            await (await api.artifact("data:v0")).delete(delete_aliases=True)
            report = await api.collect()
    assert report.deleted_objects >= 3
    assert not (here / "bucket-server" / "server" / "store").exists()


async def test_the_doctor_looks_at_the_server(here: Path, at_a_server: str) -> None:
    """Instead of a store and a catalog that nobody uses; a server that is gone is a failure."""
    found = await diagnose(config.load())
    assert (found.is_usable, found.store) == (True, at_a_server)
    values = {finding.name: finding.value for finding in found.findings}
    assert values["entity"] == "local"
    assert {finding.topic for finding in found.findings} == {"server", "machine"}
    broken = await diagnose(config.load(server="https://nobody.invalid"))
    assert broken.exit_code == Unavailable.exit_code


async def test_a_key_that_the_server_does_not_know_is_denied(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do about it, if there is no key at all."""
    with server_in_thread(home=str(here / "closed-server"), no_auth=False) as server:
        monkeypatch.setenv("ASYNCART_SERVER", server)
        with pytest.raises(Denied, match=f"asyncart login {server}"):
            await asyncart.aio.init("p")
