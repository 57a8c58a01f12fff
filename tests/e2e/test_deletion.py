"""Time to live, retention and whole names: the same for both faces and the command line."""

from __future__ import annotations

import inspect
import os
import sqlite3
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from api_fixtures import tree
from cli_shell import Shell

import asyncart
from asyncart.cli import durations, process, screen, words
from asyncart.errors import Conflict, Invalid, NotFound

DAY = timedelta(days=1)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def data(shell: Shell) -> Path:
    shell.write("data/a.txt", "one\n")
    return shell.folder / "data"


async def got(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def age(home: Path, days: float) -> None:
    """Let everything have been logged so many days earlier."""
    with sqlite3.connect(home / "catalog.sqlite") as connection:
        connection.execute("UPDATE versions SET logged_at = logged_at - ?", [days * 86400])
    connection.close()


async def log(face: Any, here: Path, text: str, **more: Any) -> Any:
    artifact = face.Artifact("data", "dataset")
    artifact.add_dir(tree(here / text, {"file": text}))
    artifact.ttl = more.pop("ttl", None)
    run = await got(face.init(project="p"))
    await got(run.log_artifact(artifact, **more))
    await got(run.finish())
    return artifact


async def test_a_time_to_live_is_set_changed_and_kept(face: Any, here: Path) -> None:
    """On a draft, on a logged version with save(), and back to none; a new draft does not inherit it."""
    before = time.time()
    artifact = await log(face, here, "a", ttl=30 * DAY)
    assert artifact.ttl == 30 * DAY
    assert before - 1 <= artifact.expires_at - 30 * 86400 <= time.time() + 1
    api = face.Api(project="p")
    found = await got(api.artifact("data:v0"))
    assert found.ttl == 30 * DAY
    found.ttl = timedelta(hours=1)
    assert (await got(api.artifact("data:v0"))).ttl == 30 * DAY
    await got(found.save())
    assert (await got(api.artifact("data:v0"))).ttl == timedelta(hours=1)
    assert found.new_draft().ttl is None
    found.ttl = None
    await got(found.save())
    assert (await got(api.artifact("data:v0"))).ttl is None
    assert found.expires_at is None
    assert not hasattr(face.Artifact("draft", "dataset"), "expires_at")
    for wrong in (timedelta(0), -DAY, 5, "1d"):
        with pytest.raises(Invalid, match="positive timedelta"):
            found.ttl = wrong
    await got(api.aclose())


async def test_an_expired_version_goes_with_the_next_collection(face: Any, here: Path) -> None:
    await log(face, here, "a", ttl=DAY)
    await log(face, here, "b", ttl=DAY, aliases=["prod"])
    await log(face, here, "c", ttl=9 * DAY)
    api = face.Api(project="p")
    age(Path(os.environ["ASYNCART_HOME"]), 2)
    report = await got(api.collect(dry_run=True))
    assert report.expired_versions == ("local/p/data:v0",)
    assert (report.waiting_objects, report.waiting_bytes > 0) == (2, True)
    report = await got(api.collect())
    assert report.expired_versions == ("local/p/data:v0",)
    assert report.deleted_objects == 2
    assert [each.version for each in await got(api.artifacts("data"))] == ["v2", "v1"]
    await got(api.aclose())


async def test_versions_are_pruned_by_rules(face: Any, here: Path) -> None:
    for number in range(5):
        await log(face, here, f"{number}", aliases=["prod"] if number == 1 else [])
    api = face.Api(project="p")
    for dry_run in (True, False):
        gone = await got(api.prune("data", keep_last=2, dry_run=dry_run))
        assert [each.version for each in gone] == ["v2", "v0"]
    assert [each.version for each in await got(api.artifacts("data"))] == ["v4", "v3", "v1"]
    assert await got(api.prune("data", older_than=DAY)) == []
    age(Path(os.environ["ASYNCART_HOME"]), 2)
    gone = await got(api.prune("p/data", older_than=DAY, keep_aliased=False))
    assert [each.version for each in gone] == ["v3", "v1"]
    with pytest.raises(Invalid, match="say what may go"):
        await got(api.prune("data"))
    with pytest.raises(NotFound):
        await got(api.prune("nothing", keep_last=1))
    await got(api.aclose())


async def test_a_name_is_deleted_with_all_its_versions(face: Any, here: Path) -> None:
    await log(face, here, "a")
    await log(face, here, "b", aliases=["prod"])
    api = face.Api(project="p")
    with pytest.raises(Conflict, match="prod"):
        await got(api.delete_collection("data"))
    gone = await got(api.delete_collection("data", delete_aliases=True))
    assert [each.version for each in gone] == ["v1", "v0"]
    assert await got(api.collections()) == []
    assert not await got(api.artifact_exists("data"))
    assert (await log(face, here, "a")).version == "v2"
    await got(api.aclose())


async def test_what_was_not_looked_at_is_not_deleted(face: Any, here: Path) -> None:
    """What a dry run returned may be expected; versions of other names do not count."""
    other = face.Artifact("other", "dataset")
    other.add_dir(tree(here / "other", {"file": "other"}))
    run = await got(face.init(project="p"))
    await got(run.log_artifact(other))
    await got(run.finish())
    for text in "abc":
        await log(face, here, text)
    api = face.Api(project="p")
    some = await got(api.prune("data", keep_last=1, dry_run=True))
    all_of_it = await got(api.delete_collection("data", dry_run=True))
    await log(face, here, "d")
    with pytest.raises(Conflict, match="p/data: v2 changed meanwhile"):
        await got(api.prune("data", keep_last=1, expected=some))
    with pytest.raises(Conflict, match="p/data: v3 changed meanwhile"):
        await got(api.delete_collection("data", expected=all_of_it))
    assert len(await got(api.artifacts("data"))) == 4
    gone = await got(api.prune("data", keep_last=2, expected=iter([*some, other])))
    assert [each.version for each in gone] == ["v1", "v0"]
    left = await got(api.artifacts("data"))
    assert [each.version for each in left] == ["v3", "v2"]
    assert len(await got(api.delete_collection("data", expected=left))) == 2
    await got(api.aclose())


async def test_a_draft_of_a_version_that_was_moved_meanwhile_can_be_logged(here: Path) -> None:
    """Its contents are looked for by their digests."""
    first = await log(asyncart.aio, here, "a")
    draft = first.new_draft()
    draft.add_file(tree(here / "more", {"new": "new"}) / "new")
    await log(asyncart.aio, here, "b")
    twin = asyncart.aio.Artifact("twin", "dataset")
    twin.add_dir(here / "a")
    async with asyncart.aio.init(project="p") as run:
        await run.log_artifact(twin)
        await first.delete()
        await run.log_artifact(draft)
        assert [entry.path for entry in await draft.files()] == ["file", "new"]
        assert (await draft.verify()).is_ok


# the command line


def put(shell: Shell, *texts: str) -> None:
    """In this process: a command takes half a second."""
    with asyncart.init(project="uncategorized", home=shell.home) as run:
        for text in texts:
            (shell.folder / "data/a.txt").write_text(text)
            artifact = asyncart.Artifact("data", "dataset")
            artifact.add_dir(shell.folder / "data")
            run.log_artifact(artifact)


def full(*versions: int) -> list[str]:
    return [f"local/uncategorized/data:v{number}" for number in versions]


def test_rm_by_rules_says_exactly_what_goes(shell: Shell, data: Path) -> None:
    put(shell, "1", "2", "3", "4")
    shell("alias", "data:v0", "prod")
    rules = ["rm", "data", "--keep-last", "2"]
    expected = [f"{name}  would be deleted" for name in full(1)]
    assert shell(*rules, "--dry-run").splitlines() == expected
    assert full(1)[0] in shell.error(*rules, code=5)  # nobody can be asked here
    assert shell.json(*rules, "--yes") == {"deleted": full(1)}
    assert shell(*rules, "--yes") == "nothing to delete\n"
    rules = ["rm", "data", "--older-than", "30d", "--delete-aliases"]
    assert shell(*rules) == "nothing to delete\n"  # nothing to ask about
    age(shell.home, 31)
    put(shell, "5")
    assert shell.json(*rules, "--keep-last", "3", "-y") == {"deleted": full(0)}
    assert shell.json(*rules, "-y") == {"deleted": full(3, 2)}


@pytest.mark.parametrize("rule", [["--keep-last", "1"], ["--all"]], ids=lambda rule: rule[0])
def test_rm_deletes_nothing_that_is_logged_in_the_last_moment(
    shell: Shell, data: Path, rule: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """After the answer, and after it was compared with what is there."""
    put(shell, "1", "2")
    name = "prune" if "--keep-last" in rule else "delete_collection"
    delete = getattr(asyncart.aio.Api, name)

    async def logged_before(api: Any, *args: Any, dry_run: bool, **more: Any) -> Any:
        if not dry_run:
            await anyio.to_thread.run_sync(put, shell, "3")
        return await delete(api, *args, dry_run=dry_run, **more)

    monkeypatch.setattr(asyncart.aio.Api, name, logged_before)
    monkeypatch.setattr(screen, "confirm", lambda *_, **__: None)
    monkeypatch.setenv("ASYNCART_HOME", str(shell.home))
    monkeypatch.chdir(shell.folder)
    assert process.run_command_line(["rm", "data", *rule]) == Conflict.exit_code
    assert "changed meanwhile; nothing of it was deleted" in capsys.readouterr().err
    monkeypatch.undo()
    assert [each["version"] for each in shell.json("ls", "data")] == ["v2", "v1", "v0"]


def test_rm_deletes_a_whole_name_only_when_told_to(shell: Shell, data: Path) -> None:
    put(shell, "1", "2")
    shell("alias", "data:v0", "prod")
    assert "say which version" in shell.error("rm", "data", "-y", code=2)
    assert "prod" in shell.error("rm", "data", "--all", "-y", code=4)
    wanted = ["rm", "data", "--all", "--delete-aliases"]
    assert shell.json(*wanted, "-n") == {"would_delete": full(1, 0)}
    assert shell.error(*wanted, code=5)
    assert shell.json(*wanted, "-y") == {"deleted": full(1, 0)}
    assert shell.error(*wanted, "-y", code=3)
    put(shell, "2")
    assert shell.json("show", "data")["version"] == "v2"


@pytest.mark.parametrize(
    "wrong",
    [
        ["data:v0", "--keep-last", "1"],
        ["data:v0", "--all"],
        ["data", "--all", "--keep-last", "1"],
        ["data", "--older-than", "soon"],
    ],
)
def test_rm_refuses_what_contradicts_itself(shell: Shell, wrong: list[str]) -> None:
    assert shell.error("rm", *wrong, "-y", code=2)


def test_rm_dry_run_of_single_versions(shell: Shell, data: Path) -> None:
    put(shell, "1", "2")
    assert shell.json("rm", "data:v0", "data:latest", "data:v0", "-n") == {
        "would_delete": full(0, 1)
    }
    assert shell.json("rm", "data:latest", "data:v0", "-y") == {"deleted": full(1, 0)}


def test_gc_compacts_what_is_mostly_dead(shell: Shell, data: Path) -> None:
    for number in range(20):
        shell.write(f"data/f{number}", os.urandom(50_000))
    put(shell, "1")
    for number in range(2, 20):
        (data / f"f{number}").unlink()
    put(shell, "1")
    shell("rm", "data:v0", "-y")
    before = shell.json("show", "data:v1")
    would = shell.json("gc", "--dry-run")
    assert would["compacted_objects"] == 1
    assert would["rewritten_versions"] == full(1)
    assert shell.json("gc", "--no-compact")["compacted_objects"] == 0
    text = shell("gc").splitlines()
    assert text[0] == f"{full(1)[0]}  rewritten"
    assert "1 object mostly dead: 97.7 KiB of 977 KiB copied" in text[-1]
    after = shell.json("gc")
    assert after["freed_bytes"] >= would["compacted_bytes"] == 1_000_001
    assert shell.json("show", "data:v1") == before
    assert shell("verify", "data") == ""


def test_gc_names_what_expired(shell: Shell, data: Path) -> None:
    put(shell, "1")
    with sqlite3.connect(shell.home / "catalog.sqlite") as connection:
        connection.execute("UPDATE versions SET ttl_s = 1, logged_at = 1")
    connection.close()
    name = full(0)[0]
    assert shell("gc", "-n").splitlines()[0] == f"{name}  expired, would be deleted"
    assert shell("gc").splitlines()[0] == f"{name}  expired, deleted"
    assert shell.error("show", "data:v0", code=3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("1.5h", 5400), ("30d", 30 * 86400), (" 1W2D ", 9 * 86400)],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert durations.parse(text).total_seconds() == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (45, "45s"),
        (5400, "1h30m"),
        (30 * 86400, "30d"),
        (90061.5, "1d1h1m1.5s"),
        (1e-6, "0.000001s"),
    ],
)
def test_lengths_of_time_are_said_as_they_are_read(seconds: float, text: str) -> None:
    assert durations.text(timedelta(seconds=seconds)) == text
    assert durations.parse(text) == timedelta(seconds=seconds)


def test_a_time_to_live_is_given_and_shown(shell: Shell, data: Path) -> None:
    """By put, by show, and to machines; what an alias keeps says so."""
    before = time.time()
    made = shell.json("put", "data", "--ttl", "1w2d")
    assert made["ttl_s"] == 9 * 86400
    shown = shell.json("show", "data")
    assert (shown["ttl_s"], shown["expires_at"]) == (made["ttl_s"], made["expires_at"])
    when = datetime.fromisoformat(shown["expires_at"]).timestamp()
    assert before - 1 <= when - 9 * 86400 <= time.time() + 1
    until = f"9d, until {words.local_time(when)}"
    [line] = [line for line in shell("show", "data").splitlines() if "time to live" in line]
    assert line.endswith(until)
    shell("alias", "data:v0", "prod")
    assert f"{until}, and longer while it is prod" in shell("show", "data")
    shell.write("data/a.txt", "another\n")
    made = shell.json("put", "data")
    assert (made["ttl_s"], made["expires_at"]) == (None, None)
    assert "time to live" not in shell("show", "data")


@pytest.mark.parametrize(("wrong", "said"), [("soon", "30d"), ("0d", "for ever"), ("-1d", "30d")])
def test_put_refuses_a_wrong_time_to_live(shell: Shell, data: Path, wrong: str, said: str) -> None:
    assert said in shell.error("put", "data", "--ttl", wrong, code=2)
    assert shell.json("ls") == []


@pytest.mark.parametrize("text", ["", "30", "d", "1y", "1 d", "-1d", "1d x", "9" * 30 + "w"])
def test_wrong_lengths_of_time(text: str) -> None:
    with pytest.raises(Invalid):
        durations.parse(text)
