"""`asyncart db`: what schema a catalog has, and servers that refuse one that they do not know."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from services import PostgresServer

from asyncart.catalog import open_catalog, opening, schema, upgrade
from asyncart.catalog.postgres import PostgresDatabase
from asyncart.cli import process
from asyncart.errors import Invalid, Unavailable

OLDEST, NEWEST = schema.REVISIONS[0], schema.REVISIONS[-1]
Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd) -> Run:
    """A command in this process, with a home of its own: its exit code and its JSON (or error)."""
    monkeypatch.setenv("ASYNCART_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, Any]:
        code = process.run_command_line(["--json", *arguments])
        said = capfd.readouterr()
        return code, json.loads(said.out or said.err)

    return run


async def make_old(url: str) -> None:
    database = PostgresDatabase(url)
    await database.write_alone(schema.migrate, OLDEST)
    await database.aclose()


def rename(postgres: PostgresServer, url: str, revision: str) -> None:
    """As an asyncart of the future would leave the database."""
    postgres.execute(
        f"\\c {url.rpartition('/')[2]}", f"UPDATE alembic_version SET version_num = '{revision}'"
    )


class TestPostgres:
    """The database of several replicas: nobody but the administrator changes its schema."""

    async def test_an_older_schema_is_refused_until_it_is_upgraded(self, postgres_url) -> None:
        await make_old(postgres_url)
        with pytest.raises(Unavailable, match=rf"older schema {OLDEST}.*asyncart db upgrade"):
            await open_catalog(postgres_url)
        await upgrade(postgres_url)
        catalog = await open_catalog(postgres_url)
        await catalog.aclose()

    async def test_a_newer_schema_is_refused_and_not_downgraded(
        self, postgres_url, postgres
    ) -> None:
        await upgrade(postgres_url)
        rename(postgres, postgres_url, "9999")
        for attempt in (open_catalog, upgrade):
            with pytest.raises(Invalid, match=r"has schema 9999.*use a newer asyncart"):
                await attempt(postgres_url)

    async def test_status_looks_and_changes_nothing(self, postgres_url, postgres) -> None:
        before = await opening.schema_state(postgres_url)
        assert (before.found, before.is_empty, before.is_current) == (None, True, False)
        assert (await opening.schema_state(postgres_url)).is_empty
        await make_old(postgres_url)
        old = await opening.schema_state(postgres_url)
        assert (old.found, old.is_current, old.is_unknown) == (OLDEST, False, False)
        await upgrade(postgres_url)
        assert (await opening.schema_state(postgres_url)).is_current
        rename(postgres, postgres_url, "9999")
        assert (await opening.schema_state(postgres_url)).is_unknown


def test_the_commands(run: Run, postgres_url: str) -> None:
    code, said = run("db", "status", "--catalog", postgres_url)
    assert (code, said["schema"], said["is_current"]) == (1, None, False)
    code, said = run("db", "upgrade", "--catalog", postgres_url)
    assert (code, said["before"], said["schema"]) == (0, None, NEWEST)
    code, said = run("db", "status", "--catalog", postgres_url)
    assert (code, said["schema"], said["is_current"]) == (0, NEWEST, True)
    assert said["known"] == list(schema.REVISIONS)
    code, said = run("db", "upgrade", "--catalog", postgres_url)
    assert (code, said["before"], said["schema"]) == (0, NEWEST, NEWEST)


def test_the_catalog_may_come_from_the_environment(run: Run, postgres_url, monkeypatch) -> None:
    monkeypatch.setenv("ASYNCART_SERVER_CATALOG", postgres_url)
    assert run("db", "upgrade")[0] == 0
    code, said = run("db", "status")
    assert (code, said["catalog"]) == (0, postgres_url)


def test_without_a_url_it_is_the_server_s_own_file(run: Run, tmp_path) -> None:
    file = tmp_path / "home" / "server" / "catalog.sqlite"
    code, said = run("db", "status")
    assert (code, said["catalog"]) == (1, str(file))
    assert not file.exists()
    assert run("db", "upgrade")[0] == 0
    assert file.exists()
    assert run("db", "status")[0] == 0


def test_what_is_no_catalog(run: Run, tmp_path, postgres_url, postgres) -> None:
    postgres.execute(f"\\c {postgres_url.rpartition('/')[2]}", "CREATE TABLE other (id int)")
    code, said = run("db", "upgrade", "--catalog", postgres_url)
    assert (code, said["error"]) == (2, "invalid")
    code, said = run("db", "status", "--catalog", "mysql://host/db")
    assert (code, said["error"]) == (2, "invalid")


@pytest.mark.parametrize(
    ("found", "is_empty", "words"),
    [
        (NEWEST, False, "as this version needs it"),
        (None, True, "empty"),
        (OLDEST, False, "asyncart db upgrade"),
        ("9999", False, "of a newer asyncart"),
        (None, False, "something else"),
    ],
)
def test_the_verdict_in_words(found: str | None, is_empty: bool, words: str) -> None:
    from asyncart.cli.commands.db import verdict

    state = opening.SchemaState("catalog", found, schema.REVISIONS, is_empty)
    assert words in verdict(state)
