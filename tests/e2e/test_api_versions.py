"""Names, versions, aliases, lineage, metadata: what the catalog promises, seen through the public API."""

from __future__ import annotations

import datetime
import logging
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
from api_fixtures import tree
from blake3 import blake3
from colours import contents, draft, entered, got, written

import asyncart
from asyncart.errors import (
    ArtifactFinalizedError,
    ArtifactNotLoggedError,
    Conflict,
    Invalid,
    NotFound,
)
from asyncart.model import RunState

pytestmark = pytest.mark.usefixtures("here")


async def log(face: Any, run: Any, content: str, name: str = "data", **options: Any) -> Any:
    """Log an artifact with the one file `f`."""
    return await got(run.log_artifact(await draft(face, name, f=content), **options))


async def names(artifacts: Any) -> list[str]:
    return [artifact.name for artifact in await got(artifacts)]


# --- names, types, aliases, metadata ------------------------------------------------------------


@pytest.mark.parametrize("good", ["a", "A-b_c.9", "x" * 128, "v1", "...", "-"])
def test_good_names(good: str) -> None:
    assert asyncart.Artifact(good, "dataset").name == good


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "x" * 129, "a b", "a/b", "a:b", "é", "a\n", None, 3]
)
def test_bad_names_are_value_errors_at_once(bad: Any) -> None:
    with pytest.raises(ValueError, match="artifact name"):
        asyncart.Artifact(bad, "dataset")


@pytest.mark.parametrize(
    "bad", ["", "job", "run", "wandb-history", "asyncart-x", "a/b", "a:b", None]
)
def test_bad_types_are_value_errors_at_once(bad: Any) -> None:
    with pytest.raises(ValueError, match="artifact type"):
        asyncart.Artifact("a", bad)
    assert asyncart.Artifact("a", "any free text, 100 %").type == "any free text, 100 %"


@pytest.mark.parametrize("bad", ["", "a/b", "a:b", "v0", "v12", "x" * 129, "a\n", None])
async def test_bad_aliases_are_value_errors_before_anything_is_logged(face: Any, bad: Any) -> None:
    async with entered(face.init("p")) as run:
        with pytest.raises(ValueError, match="alias"):
            await log(face, run, "x", aliases=["good", bad])
        with pytest.raises(ValueError, match="alias"):
            await got(run.log_artifact_in_background(await draft(face, f="x"), aliases=[bad]))
        assert await names(run.logged_artifacts()) == []


async def test_a_string_of_aliases_is_not_a_list_of_letters(face: Any) -> None:
    async with entered(face.init("p")) as run:
        with pytest.raises(ValueError, match=r"aliases=\['best'\]"):
            await log(face, run, "x", aliases="best")


async def test_a_name_has_one_type_for_ever(face: Any) -> None:
    async with entered(face.init("p")) as run:
        await log(face, run, "x")
        with pytest.raises(ValueError, match=r"'dataset'.*'model'"):
            await got(run.log_artifact(await draft(face, "data", "model", f="y")))
        assert await names(run.logged_artifacts()) == ["data:v0"]


async def test_metadata_is_json_and_converts_what_data_scientists_have(face: Any) -> None:
    given = {
        "nan": math.nan,
        "float": numpy.float32(0.5),
        "int": numpy.int64(7),
        "array": numpy.arange(3),
        "bool": numpy.bool_(True),
        "when": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC),
        "path": Path("a/b"),
        "tuple": (1, [2, {"three": None}]),
        "set": {2, 1},
    }
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset", metadata=given)
        await written(artifact, "f", "x")
        await got(run.log_artifact(artifact))
        assert (await got(run.use_artifact("data"))).metadata == {
            "nan": None,
            "float": 0.5,
            "int": 7,
            "array": [0, 1, 2],
            "bool": True,
            "when": "2026-01-02T03:04:00+00:00",
            "path": "a/b",
            "tuple": [1, [2, {"three": None}]],
            "set": [1, 2],
        }


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"x": math.inf}, "x.*inf"),
        ({"a": [{"b": -math.inf}]}, "b"),
        ({f"k{n}": n for n in range(101)}, "101 keys"),
        ({1: "x"}, "key 1"),
        ({"x": object()}, "type object"),
        ([1], "mapping"),
    ],
)
async def test_bad_metadata_is_a_value_error_that_names_the_place(
    face: Any, metadata: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        face.Artifact("data", "dataset", metadata=metadata)
    artifact = face.Artifact("data", "dataset")
    with pytest.raises(ValueError, match=message):
        artifact.metadata = metadata


def test_a_hundred_metadata_keys_are_allowed() -> None:
    assert (
        len(asyncart.Artifact("a", "t", metadata={f"k{n}": n for n in range(100)}).metadata) == 100
    )


async def test_metadata_changed_in_place_on_a_draft_is_checked_when_logged(face: Any) -> None:
    async with entered(face.init("p")) as run:
        artifact = await draft(face, f="x")
        artifact.metadata["loss"] = math.inf
        with pytest.raises(ValueError, match="loss"):
            await got(run.log_artifact(artifact))
        artifact.metadata["loss"] = 0.25
        await got(run.log_artifact(artifact))
        assert (await got(run.use_artifact("data"))).metadata == {"loss": 0.25}


# --- the version rule ---------------------------------------------------------------------------


async def test_a_new_version_only_if_the_content_changed(face: Any) -> None:
    async with entered(face.init("p")) as run:
        versions = [(await log(face, run, content)).version for content in "abbca"]
        assert versions == ["v0", "v1", "v1", "v2", "v0"]
        assert (await got(run.use_artifact("data:latest"))).version == "v0"


async def test_old_content_is_the_old_version_again(
    face: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A, B, A: v0 again, `latest` moves back, aliases move, the second run is recorded, the log says so."""
    caplog.set_level(logging.INFO, "asyncart")
    async with entered(face.init("p", name="first")) as first:
        a = await log(face, first, "A", aliases=["best"])
        await log(face, first, "B", aliases=["best"])
        assert (await got(first.use_artifact("data:best"))).version == "v1"
    async with entered(face.init("p", name="second")) as second:
        caplog.clear()
        again = await log(face, second, "A", aliases=["best"])
        assert again == a
        assert again.version == "v0"
        assert sorted(again.aliases) == ["best", "latest"]
        assert f"{second.entity}/p/data:v0 unchanged" in caplog.messages
        assert (await got(second.use_artifact("data"))).version == "v0"
        assert (await got(second.use_artifact("data:v1"))).aliases == []
        assert [r.name for r in await got(again.logged_by())] == ["first", "second"]
        assert await names(second.logged_artifacts()) == ["data:v0"]


async def test_a_version_is_frozen_and_other_metadata_does_not_rewrite_it(
    face: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with entered(face.init("p")) as run:
        first = face.Artifact("data", "dataset", "about the first", {"rows": 1})
        await written(first, "f", "x")
        await got(run.log_artifact(first))
        second = face.Artifact("data", "dataset", "about the second", {"rows": 2})
        await written(second, "f", "x")
        await got(run.log_artifact(second))
        assert second.version == "v0"
        assert (second.metadata, second.description) == ({"rows": 1}, "about the first")
        [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert "data:v0" in warning
        assert "other metadata" in warning
        assert "save()" in warning


@pytest.mark.parametrize(
    ("options", "what"),
    [({"description": "other"}, "description"), ({"metadata": {"a": 2}}, "metadata"), ({}, "tags")],
)
async def test_the_warning_names_what_was_not_taken_over(
    face: Any, caplog: pytest.LogCaptureFixture, options: dict[str, Any], what: str
) -> None:
    async with entered(face.init("p")) as run:
        await log(face, run, "x", tags=["old"])
        artifact = face.Artifact("data", "dataset", **options)
        await written(artifact, "f", "x")
        await got(run.log_artifact(artifact, tags=["new"] if what == "tags" else ["old"]))
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"with other {what}: it stays as it is; set artifact.{what} and save()" in warning
    assert artifact.tags == ["old"]


async def test_the_same_metadata_again_is_no_reason_to_warn(
    face: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with entered(face.init("p")) as run:
        for _ in range(2):
            artifact = face.Artifact("data", "dataset", metadata={"rows": 1})
            await written(artifact, "f", "x")
            await got(run.log_artifact(artifact))
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_latest_always_moves_and_other_aliases_point_to_one_version(face: Any) -> None:
    async with entered(face.init("p")) as run:
        await log(face, run, "a", aliases=["best", "old"])
        await log(face, run, "b", aliases=["latest"])
        await log(face, run, "c", aliases=["best"])
        found = {a.version: sorted(a.aliases) for a in await got(run.logged_artifacts())}
        assert found == {"v0": ["old"], "v1": [], "v2": ["best", "latest"]}


async def test_the_digest_depends_on_paths_and_contents_alone(face: Any) -> None:
    """Not on name, type, metadata, order of adding, or whence a file came."""
    async with entered(face.init("p")) as run:
        one = await draft(face, "one", a="1", b="2")
        two = await draft(face, "two", "model", b="2", a="1")
        other = await draft(face, "other", a="1", c="2")
        for artifact in (one, two, other):
            await got(run.log_artifact(artifact))
        assert one.digest == two.digest != other.digest
        assert len(bytes.fromhex(one.digest)) == 32


async def test_the_digest_of_an_entry_is_what_b3sum_prints(face: Any, here: Path) -> None:
    import os

    data = {"small": os.urandom(1000), "large": os.urandom((9 << 20) + 17), "empty": b""}
    tree(here, {f"data/{name}": content for name, content in data.items()})
    async with entered(face.init("p")) as run:
        artifact = await got(run.log_artifact("data", name="data"))
        for name, content in data.items():
            entry = await got(artifact.get_entry(name))
            assert entry.digest == blake3(content).hexdigest()
            assert entry.size == len(content)
        assert artifact.size == sum(map(len, data.values()))


# --- how names resolve --------------------------------------------------------------------------


async def test_names_resolve_with_project_and_entity_filled_in(
    face: Any, two_entities: tuple[str, str]
) -> None:
    me, you = two_entities
    async with entered(face.init("p", entity=me)) as run:
        await log(face, run, "mine", aliases=["best"])
        for name in [
            "data",
            "data:latest",
            "data:v0",
            "data:best",
            "p/data",
            "p/data:best",
            f"{me}/p/data:v0",
        ]:
            assert (await got(run.use_artifact(name))).qualified_name == f"{me}/p/data:v0"
    async with entered(face.init("other", entity=me)) as run:
        await log(face, run, "others")
        assert await contents(await got(run.use_artifact("data"))) == {"f": b"others"}
        assert await contents(await got(run.use_artifact("p/data"))) == {"f": b"mine"}
    async with entered(face.init("p", entity=you)) as run:
        with pytest.raises(NotFound):
            await got(run.use_artifact("data"))
        assert await contents(await got(run.use_artifact(f"{me}/p/data"))) == {"f": b"mine"}


@pytest.mark.parametrize("name", ["data:v1", "data:worst", "nothing", "elsewhere/data", "x/p/data"])
async def test_what_does_not_exist_is_a_lookup_error_that_names_it(face: Any, name: str) -> None:
    async with entered(face.init("p")) as run:
        await log(face, run, "x")
        with pytest.raises(LookupError, match=name.partition(":")[0].rpartition("/")[2]):
            await got(run.use_artifact(name))


@pytest.mark.parametrize("name", ["", "a/b/c/d", "data:", ":v0", "/data", "data:v0:v1", "da ta"])
async def test_what_is_no_name_is_a_value_error(face: Any, name: str) -> None:
    async with entered(face.init("p")) as run:
        with pytest.raises(ValueError, match=r".+"):
            await got(run.use_artifact(name))


# --- using --------------------------------------------------------------------------------------


async def test_using_a_draft_logs_it_once(face: Any) -> None:
    """Idempotent: as many times as you like, deduplicated as long as the content is the same."""
    async with entered(face.init("p")) as run:
        first = await got(run.use_artifact(await draft(face, "model", "model", f="x")))
        for _ in range(2):
            again = await got(run.use_artifact(await draft(face, "model", "model", f="x")))
            assert again == first
        assert await got(run.use_artifact(first)) == first
        assert (
            await got(run.use_artifact(await draft(face, "model", "model", f="y")))
        ).version == "v1"
        assert await names(run.used_artifacts()) == ["model:v0", "model:v1"]
        assert await names(run.logged_artifacts()) == []
        assert [r.id for r in await got(first.used_by())] == [run.id]
        assert await got(first.logged_by()) == []


async def test_using_with_another_type_is_a_value_error_and_leaves_no_trace(face: Any) -> None:
    async with entered(face.init("p")) as run:
        await log(face, run, "x")
        with pytest.raises(ValueError, match=r"'dataset', not 'model'"):
            await got(run.use_artifact("data:v0", type="model"))
        wrong = await draft(face, "new", "dataset", f="x")
        with pytest.raises(ValueError, match=r"'dataset', not 'model'"):
            await got(run.use_artifact(wrong, type="model"))
        assert wrong.is_draft
        assert await names(run.used_artifacts()) == []
        assert (await got(run.use_artifact("data:v0", type="dataset"))).version == "v0"


async def test_lineage_is_recorded_on_both_sides(face: Any) -> None:
    async with entered(face.init("p", name="prepare")) as prepare:
        data = await log(face, prepare, "data")
    async with entered(face.init("p", name="train", job_type="train")) as train:
        await got(train.use_artifact("data"))
        await got(train.use_artifact("data"))
        model = await log(face, train, "model", "model")
    assert [r.name for r in await got(data.used_by())] == ["train"]
    assert [r.job_type for r in await got(model.logged_by())] == ["train"]
    assert await names(train.used_artifacts()) == ["data:v0"]
    assert await names(train.logged_artifacts()) == ["model:v0"]
    async with entered(face.Api(project="p")) as api:
        assert await names(api.run_inputs(train.id)) == ["data:v0"]
        assert await names(api.run_outputs(train.id)) == ["model:v0"]


# --- after logging, and before ------------------------------------------------------------------


async def test_a_logged_artifact_cannot_change(face: Any, here: Path) -> None:
    tree(here, {"d/x": "x"})
    async with entered(face.init("p")) as run:
        artifact = await log(face, run, "x")
        for add in [
            lambda: artifact.add_file("d/x"),
            lambda: artifact.add_dir("d"),
            lambda: artifact.add_reference("s3://b/x"),
            lambda: artifact.new_file("x"),
            lambda: artifact.remove("f"),
        ]:
            with pytest.raises(ArtifactFinalizedError, match=r"data:v0.*new_draft"):
                add()
        with pytest.raises(Invalid, match="logged already"):
            await got(run.log_artifact(artifact))
        used = await got(run.use_artifact("data"))
        with pytest.raises(ArtifactFinalizedError):
            used.add_file("d/x")


LOGGED_ONLY = [
    "id", "entity", "project", "qualified_name", "version", "digest", "size", "file_count",
    "created_at", "updated_at", "manifest", "aliases", "tags",
]  # fmt: skip


@pytest.mark.parametrize("attribute", LOGGED_ONLY)
async def test_what_only_a_version_has_a_draft_has_not(face: Any, attribute: str) -> None:
    artifact = await draft(face, f="x")
    assert not hasattr(artifact, attribute)
    with pytest.raises(ArtifactNotLoggedError, match=r"data is a draft.*log_artifact"):
        getattr(artifact, attribute)
    async with entered(face.init("p")) as run:
        await got(run.log_artifact(artifact))
        assert getattr(artifact, attribute) is not None


@pytest.mark.parametrize(
    "use",
    ["download", "checkout", "verify", "files", "save", "delete", "used_by", "logged_by", "wait"],
)
async def test_what_only_a_version_can_do_a_draft_refuses(face: Any, use: str) -> None:
    artifact = await draft(face, f="x")
    with pytest.raises(ArtifactNotLoggedError):
        await got(getattr(artifact, use)())
    with pytest.raises(ArtifactNotLoggedError):
        await got(artifact.get_entry("f"))
    with pytest.raises(ArtifactNotLoggedError):
        artifact.new_draft()


async def test_a_draft_knows_its_name_and_state(face: Any) -> None:
    artifact = face.Artifact("data", "dataset", "words", {"rows": 1})
    assert (artifact.name, artifact.type, artifact.state) == ("data", "dataset", "PENDING")
    assert (artifact.description, artifact.metadata) == ("words", {"rows": 1})
    assert "draft" in repr(artifact)
    async with entered(face.init("p")) as run:
        await got(run.log_artifact(artifact))
        assert (artifact.name, artifact.collection, artifact.state) == (
            "data:v0",
            "data",
            "COMMITTED",
        )
        assert (await got(artifact.wait())) == artifact


# --- save, delete, new_draft --------------------------------------------------------------------


async def test_save_stores_what_can_be_changed(face: Any) -> None:
    async with entered(face.init("p")) as run:
        other = await log(face, run, "other", aliases=["best", "kept"])
        artifact = await log(face, run, "x", aliases=["old"], tags=["raw"])
        assert artifact.tags == ["raw"]
        artifact.description = "new words"
        artifact.metadata["nested"] = {"rows": 1}
        artifact.aliases.append("best")
        artifact.aliases.remove("old")
        artifact.tags = ["clean", "v2 of tags"]
        await got(artifact.save())
        seen = await got(run.use_artifact("data:best"))
        assert seen == artifact
        assert (seen.description, seen.metadata) == ("new words", {"nested": {"rows": 1}})
        assert sorted(seen.aliases) == ["best", "latest"]
        assert sorted(seen.tags) == ["clean", "v2 of tags"]
        with pytest.raises(NotFound):
            await got(run.use_artifact("data:old"))
        assert (await got(run.use_artifact("data:kept"))).aliases == ["kept"]
        assert (await got(run.use_artifact("data:v0"))) == other
        assert artifact.updated_at >= artifact.created_at


async def test_save_sees_a_change_deep_inside_the_metadata(face: Any) -> None:
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset", metadata={"a": {"b": [1]}})
        await written(artifact, "f", "x")
        await got(run.log_artifact(artifact))
        artifact.metadata["a"]["b"].append(2)
        await got(artifact.save())
        assert (await got(run.use_artifact("data"))).metadata == {"a": {"b": [1, 2]}}


async def test_save_of_bad_values_is_a_value_error_and_stores_nothing(face: Any) -> None:
    async with entered(face.init("p")) as run:
        artifact = await log(face, run, "x")
        artifact.description = "unsaved"
        artifact.aliases.append("v7")
        with pytest.raises(ValueError, match="v7"):
            await got(artifact.save())
        artifact = await got(run.use_artifact("data"))
        assert artifact.description is None
        artifact.metadata["x"] = math.inf
        with pytest.raises(ValueError, match="inf"):
            await got(artifact.save())


async def test_two_who_save_aliases_keep_those_of_each_other(face: Any) -> None:
    """Each saves what it changed itself: what the other one has added, removed or moved meanwhile stays so."""
    async with entered(face.init("p")) as run:
        logged = await log(face, run, "x", aliases=["old", "moved"])
        one, other = [await got(run.use_artifact("data:v0")) for _ in range(2)]
        one.aliases.append("mine")
        other.aliases.append("theirs")
        other.aliases.remove("old")
        await got(other.save())
        newer = await log(face, run, "y", aliases=["moved"])
        await got(one.save())
        assert sorted(one.aliases) == ["mine", "theirs"]
        assert sorted((await got(run.use_artifact("data:v0"))).aliases) == ["mine", "theirs"]
        assert sorted((await got(run.use_artifact("data:moved"))).aliases) == ["latest", "moved"]
        assert (newer.version, logged.version) == ("v1", "v0")


async def test_latest_stays_where_it_is_whatever_is_saved(face: Any) -> None:
    async with entered(face.init("p")) as run:
        old = await log(face, run, "old")
        new = await log(face, run, "new")
        new.aliases = ["best"]
        await got(new.save())
        assert sorted(new.aliases) == ["best", "latest"]
        assert (await got(run.use_artifact("data"))) == new
        assert old.aliases == ["latest"]  # as it was when it was logged


async def test_a_deleted_version_never_matches_and_its_number_is_not_reused(face: Any) -> None:
    async with entered(face.init("p")) as run:
        await log(face, run, "a", aliases=["best"])
        b = await log(face, run, "b")
        await got(b.delete())
        assert (await got(run.use_artifact("data"))).version == "v0"
        assert (await log(face, run, "b")).version == "v2"
        a = await got(run.use_artifact("data:best"))
        with pytest.raises(Conflict, match="best"):
            await got(a.delete())
        await got(a.delete(delete_aliases=True))
        with pytest.raises(NotFound):
            await got(run.use_artifact("data:v0"))


async def test_a_new_draft_begins_with_the_old_content(face: Any, here: Path) -> None:
    tree(here, {"new": "new", "changed": "after"})
    async with entered(face.init("p")) as run:
        first = await draft(face, changed="before", kept="kept")
        for path in ("folder/a", "folder/b", "gone"):
            await written(first, path, path)
        first.metadata["rows"] = 1
        first.description = "words"
        await got(run.log_artifact(first, aliases=["best"]))

        second = first.new_draft()
        assert second.is_draft
        assert (second.name, second.type) == ("data", "dataset")
        assert (second.metadata, second.description) == ({"rows": 1}, "words")
        second.add_file("new")
        second.add_file("changed", overwrite=True)
        second.remove("gone")
        second.remove("folder")
        await written(second, "folder/c", "c")
        await got(run.log_artifact(second))
        assert second.version == "v1"
        assert await contents(second) == {
            "changed": b"after",
            "folder/c": b"c",
            "kept": b"kept",
            "new": b"new",
        }
        assert await contents(first) == {
            "changed": b"before",
            "folder/a": b"folder/a",
            "folder/b": b"folder/b",
            "gone": b"gone",
            "kept": b"kept",
        }
        assert (await got(run.use_artifact("data:best"))).version == "v0"


async def test_a_new_draft_without_a_change_is_the_old_version(face: Any) -> None:
    async with entered(face.init("p")) as run:
        first = await log(face, run, "x")
        assert (await got(run.log_artifact(first.new_draft()))) == first
        undone = first.new_draft()
        undone.remove("f")
        await written(undone, "f", "x")
        assert (await got(run.log_artifact(undone))).version == "v0"


async def test_a_new_draft_refuses_other_content_for_an_old_path(face: Any, here: Path) -> None:
    tree(here, {"f": "other"})
    async with entered(face.init("p")) as run:
        first = await log(face, run, "x")
        second = first.new_draft()
        second.add_file("f")
        with pytest.raises(ValueError, match="f is in the draft twice"):
            await got(run.log_artifact(second))
        third = first.new_draft()
        third.add_file("f", name="f/below")
        with pytest.raises(ValueError, match="is a file, and a folder"):
            await got(run.log_artifact(third))


async def test_a_new_draft_of_a_version_keeps_its_large_files_and_references(
    face: Any, here: Path
) -> None:
    import os

    large = os.urandom(9 << 20)
    tree(here, {"data/large": large})
    async with entered(face.init("p")) as run:
        first = face.Artifact("data", "dataset")
        first.add_dir("data")
        first.add_reference("s3://bucket/ref")
        await got(run.log_artifact(first))
        second = first.new_draft()
        await written(second, "small", "small")
        await got(run.log_artifact(second))
        assert await contents(second) == {"large": large, "small": b"small"}
        assert (await got(second.get_entry("ref"))).ref_target() == "s3://bucket/ref"
        assert (await got(second.verify())).is_ok


# --- runs ---------------------------------------------------------------------------------------


async def test_a_run_is_a_context_manager(face: Any) -> None:
    async with entered(face.init("p", job_type="train", name="my run", config={"lr": 0.1})) as run:
        good = await log(face, run, "x")
        assert (run.project, run.job_type, run.name) == ("p", "train", "my run")
        assert run.config == {"lr": 0.1}
        assert (await got(good.logged_by()))[0].state is RunState.RUNNING
    assert run.is_finished
    [info] = await got(good.logged_by())
    assert info.state is RunState.FINISHED
    assert info.config == {"lr": 0.1}


async def test_a_run_whose_body_raises_has_failed(face: Any) -> None:
    with pytest.raises(LookupError, match="of the user"):  # noqa: PT012
        async with entered(face.init("p")) as run:
            artifact = await log(face, run, "x")
            raise LookupError("of the user")
    assert (await got(artifact.logged_by()))[0].state is RunState.FAILED


async def test_a_finished_run_logs_nothing_and_says_so(face: Any) -> None:
    run = await got(face.init("p"))
    artifact = await log(face, run, "x")
    await got(run.finish(exit_code=3))
    await got(run.finish())
    for use in [
        lambda d: run.log_artifact(d),
        lambda d: run.log_artifact_in_background(d),
        lambda d: run.use_artifact(d),
        lambda d: run.use_artifact("data"),
    ]:
        with pytest.raises(Invalid, match="is finished"):
            await got(use(await draft(face, f="x")))
    assert (await got(artifact.logged_by()))[0].state is RunState.FAILED
    assert await contents(artifact) == {"f": b"x"}  # it can still be read


async def test_two_runs_in_one_process(face: Any) -> None:
    async with (
        entered(face.init("p", name="one")) as one,
        entered(face.init("q", name="two")) as two,
    ):
        a = await log(face, one, "x")
        b = await log(face, two, "x")
        c = await log(face, one, "y")
        assert [x.qualified_name for x in (a, b, c)] == [
            f"{one.entity}/p/data:v0",
            f"{one.entity}/q/data:v0",
            f"{one.entity}/p/data:v1",
        ]
    assert await names(one.logged_artifacts()) == ["data:v0", "data:v1"]
    assert await names(two.logged_artifacts()) == ["data:v0"]


async def test_names_of_the_module_mean_the_run_that_was_begun_last(face: Any, here: Path) -> None:
    tree(here, {"images/cat.png": "cat"})
    one = await got(face.init("p"))
    two = await got(face.init("p"))
    assert face.current_run() == two
    artifact = await got(
        face.log_artifact("images", name="images", type="dataset", aliases=["best"])
    )
    assert [r.id for r in await got(artifact.logged_by())] == [two.id]
    await got(face.finish())
    assert face.current_run() == one
    assert (await got(face.use_artifact("images:best"))) == artifact
    assert [r.id for r in await got(artifact.used_by())] == [one.id]
    await got(face.finish())
    assert face.current_run() is None
    await got(face.finish())  # nothing to finish


async def test_names_of_the_module_begin_a_run_if_there_is_none(face: Any, here: Path) -> None:
    tree(here, {"x": "x"})
    artifact = await got(face.log_artifact("x"))
    run = face.current_run()
    assert [r.id for r in await got(artifact.logged_by())] == [run.id]
    assert artifact.name == f"run-{run.id}-x:v0"
    assert artifact.type == "unspecified"
    await got(face.finish())


@pytest.mark.parametrize("as_path", [str, Path])
async def test_log_artifact_takes_a_file_or_a_folder(face: Any, here: Path, as_path: Any) -> None:
    tree(here, {"images/cat.png": "cat", "images/sub/dog.png": "dog"})
    async with entered(face.init("p")) as run:
        folder = await got(run.log_artifact(as_path("images"), name="pictures", type="dataset"))
        assert (folder.name, folder.type) == ("pictures:v0", "dataset")
        assert sorted(await contents(folder)) == ["cat.png", "sub/dog.png"]
        file = await got(run.log_artifact(as_path("images/cat.png")))
        assert file.name == f"run-{run.id}-cat.png:v0"
        assert await contents(file) == {"cat.png": b"cat"}
        with pytest.raises(NotFound, match="nowhere"):
            await got(run.log_artifact(as_path("nowhere")))


# --- Api ----------------------------------------------------------------------------------------


async def test_api_finds_what_is_there(face: Any) -> None:
    async with entered(face.init("p")) as run:
        for content in "abc":
            await log(face, run, content)
        await log(face, run, "m", "model")
        await got(run.log_artifact(await draft(face, "weights", "model", f="w")))
    async with entered(face.Api(project="p")) as api:
        assert (await got(api.artifact("data"))).version == "v2"
        assert (await got(api.artifact("data:v1", type="dataset"))).version == "v1"
        assert (await got(api.artifact(f"{run.entity}/p/data:v0"))).version == "v0"
        assert await names(api.artifacts("data")) == ["data:v2", "data:v1", "data:v0"]
        assert await names(api.artifacts("data", type="model")) == []
        assert await got(api.artifact_exists("data:v1"))
        assert not await got(api.artifact_exists("data:v3"))
        assert not await got(api.artifact_exists("nothing"))
        assert not await got(api.artifact_exists("data", type="model"))
        found = [(c.name, c.type, c.versions, c.latest) for c in await got(api.collections())]
        assert found == [
            ("data", "dataset", 3, 2),
            ("model", "dataset", 1, 0),
            ("weights", "model", 1, 0),
        ]
        assert [c.name for c in await got(api.collections(type="model"))] == ["weights"]
        assert await got(api.collections(project="empty")) == []
        assert await got(api.projects()) == ["p"]
        with pytest.raises(NotFound):
            await got(api.artifacts("nothing"))
        with pytest.raises(NotFound):
            await got(api.artifact("data", type="model"))
        assert await names(api.artifacts(f"{run.entity}/p/model")) == ["model:v0"]


async def test_api_leaves_no_lineage(face: Any) -> None:
    async with entered(face.init("p")) as run:
        artifact = await log(face, run, "x")
    api = face.Api(project="p")
    assert await contents(await got(api.artifact("data"))) == {"f": b"x"}
    assert await got(artifact.used_by()) == []
    async with entered(api):
        pass


async def test_api_lists_all_versions_however_many_there_are(
    face: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncart.aio.api.PAGE_VERSIONS", 2)
    async with entered(face.init("p")) as run:
        for content in "abcd":
            await log(face, run, content)
        async with entered(face.Api(project="p")) as api:
            assert await names(api.artifacts("data")) == [
                "data:v3",
                "data:v2",
                "data:v1",
                "data:v0",
            ]
            await log(face, run, "e")
            assert len(await names(api.artifacts("data"))) == 5


@pytest.mark.parametrize("way", ["block", "aclose"])
async def test_api_leaves_the_connections_of_a_run_alone(way: str) -> None:
    async with asyncart.aio.init("p") as run:
        store, catalog = await run._workspace.store(), await run._workspace.catalog()
        api = asyncart.aio.Api(project="p")
        if way == "block":
            async with api:
                assert not await api.artifact_exists("data")
        else:
            await api.aclose()
        assert await run._workspace.store() is store
        assert await run._workspace.catalog() is catalog


# --- concurrency within one loop ----------------------------------------------------------------


async def test_nothing_can_be_added_while_an_artifact_is_being_logged(
    face: Any, here: Path
) -> None:
    tree(here, {"x": "x"})
    async with entered(face.init("p")) as run:
        artifact = await draft(face, f="x")
        pending = await got(run.log_artifact_in_background(artifact))
        with pytest.raises(ArtifactFinalizedError, match=r"being logged|is logged"):
            artifact.add_file("x")
        await got(pending.wait())
        assert await contents(artifact) == {"f": b"x"}
