"""What one event loop works with: shared by equal settings, and let go of when nobody uses it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import asyncart.aio
from asyncart import config
from asyncart.aio.workspace import Workspace
from asyncart.catalog.sql import SqlCatalog
from asyncart.errors import Full, Invalid, Unavailable


async def test_nothing_is_kept_of_settings_that_nobody_uses_any_more(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for user in ("ann", "bob", "cy"):
        async with asyncart.aio.init("p", home=tmp_path / user) as run:
            settings = run._workspace.settings
            (tmp_path / "x").write_text(user)
            await run.log_artifact(str(tmp_path / "x"))
            assert Workspace.of(settings) is run._workspace
        assert Workspace.of(settings) is not run._begun_in
    assert set(os.listdir("/proc/self/fd")) == before


async def test_equal_settings_share_a_workspace_until_its_last_user_leaves(tmp_path: Path) -> None:
    settings = config.load(home=str(tmp_path), project="p")
    async with asyncart.aio.Api(project="p", home=tmp_path) as api:
        workspace = Workspace.of(settings)
        await api.projects()
        async with asyncart.aio.init("p", home=tmp_path) as run:
            assert run._workspace is workspace
        assert workspace._catalog is not None
    assert workspace._catalog is None


async def test_an_artifact_in_hand_opens_the_connections_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("x")
    async with asyncart.aio.init("p", home=tmp_path / "home") as run:
        artifact = await run.log_artifact(str(tmp_path / "x"), "data")
    assert [entry.path for entry in await artifact.files()] == ["x"]
    await asyncart.aio.Api(home=tmp_path / "home").aclose()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_home_for_which_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(
        Full, match=f"home cannot be made: {os.strerror(number)}; set ASYNCART_HOME"
    ):
        await asyncart.aio.Api(home=tmp_path / "home").projects()


async def test_a_store_that_never_took_an_object_can_be_corrected(tmp_path: Path) -> None:
    """Neither looking nor a log that failed binds the catalog to it; the first object that is stored does."""
    (tmp_path / "taken").write_text("not a folder")
    (tmp_path / "x").write_text("x")

    async def log(store: Path) -> None:
        async with asyncart.aio.init("p", home=tmp_path / "home", store=str(store)) as run:
            await run.log_artifact(str(tmp_path / "x"), "data")

    async with asyncart.aio.Api(home=tmp_path / "home", store=str(tmp_path / "other")) as api:
        assert await api.projects() == []
    with pytest.raises(Unavailable, match="taken is not a folder"):
        await log(tmp_path / "taken")
    await log(tmp_path / "right")
    for wrong in ("taken", "other"):
        with pytest.raises(Invalid, match=rf"are in {tmp_path}/right, not in {tmp_path}/{wrong}"):
            await log(tmp_path / wrong)
    await log(tmp_path / "right")


async def test_of_two_first_stores_one_is_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were opened before anything was stored: the second one to store is told."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("x")
    stores = [str(tmp_path / "one"), str(tmp_path / "two")]
    async with (
        asyncart.aio.init("p", home=tmp_path / "home", store=stores[0]) as first,
        asyncart.aio.init("p", home=tmp_path / "home", store=stores[1]) as second,
    ):
        await first.log_artifact("x", "data")
        for name, content in (("other", "x"), ("data", "y")):
            (tmp_path / "x").write_text(content)
            with pytest.raises(Invalid, match=r"are in .*/one, not in .*/two"):
                await second.log_artifact("x", name)
        await first.log_artifact("x", "data")
        assert (await first.use_artifact("data:v1")).file_count == 1


async def test_whose_store_it_is_is_asked_until_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    get_fact = SqlCatalog.get_fact

    async def noted(catalog: SqlCatalog, key: str) -> str | None:
        asked.append(key)
        return await get_fact(catalog, key)

    monkeypatch.setattr(SqlCatalog, "get_fact", noted)
    monkeypatch.chdir(tmp_path)
    async with asyncart.aio.init("p", home=tmp_path / "home") as run:
        for content, times in (("x", 2), ("y", 2), ("z", 2)):  # opened, and the first object
            (tmp_path / "x").write_text(content)
            await run.log_artifact("x", "data")
            assert asked.count("store") == times
