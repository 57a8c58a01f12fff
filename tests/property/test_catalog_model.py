"""Versions, aliases, lineage and deletion behave as a dictionary says, whatever is done in what order."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from typing import Any

import hypothesis.strategies as st
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncart.catalog import open_catalog
from asyncart.catalog.protocol import CollectionName, Draft, StoredObject
from asyncart.errors import Conflict, Invalid, NotFound
from asyncart.model import ManifestLocation, RunInfo, RunState, new_object_id

CONTENTS = st.sampled_from("abcd")
NAMES = st.sampled_from([CollectionName("me", "p", "one"), CollectionName("me", "p", "two")])
ALIASES = st.sampled_from(["best", "x", "y"])
RUNS = st.sampled_from(["r1", "r2", "r3"])
NUMBERS = st.integers(0, 7)


class Model:
    """One collection, as simple as it can be said."""

    def __init__(self, type_: str) -> None:
        self.type = type_
        self.contents: list[str] = []  # by number, for ever
        self.live: set[int] = set()
        self.aliases: dict[str, int] = {}

    def pointing(self, number: int) -> tuple[str, ...]:
        return tuple(sorted(alias for alias, at in self.aliases.items() if at == number))

    def with_content(self, content: str) -> int | None:
        return next((n for n in self.live if self.contents[n] == content), None)


class CatalogMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.runner = asyncio.Runner()
        self.catalog = self.call(open_catalog(f"{self.folder}/catalog.db"))
        self.session = self.call(self.catalog.begin_session("me"))
        self.models: dict[CollectionName, Model] = {}
        self.lineage: dict[tuple[str, str], list[tuple[CollectionName, int]]] = {}
        self.ids: dict[tuple[CollectionName, int], str] = {}
        self.answered: list[tuple[Draft, int, bool]] = []
        for name in ("r1", "r2", "r3"):
            self.call(
                self.catalog.create_run(RunInfo(name, "me", "p", name, None, RunState.RUNNING, 1.0))
            )

    def call(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        if hasattr(self, "catalog"):
            self.call(self.catalog.aclose())
            self.runner.close()
            shutil.rmtree(self.folder)

    def remember(self, run: str, way: str, name: CollectionName, number: int) -> None:
        seen = self.lineage.setdefault((run, way), [])
        if (name, number) not in seen:
            seen.append((name, number))

    @rule(
        name=NAMES,
        content=CONTENTS,
        type_=st.sampled_from(["dataset", "dataset", "dataset", "model"]),
        aliases=st.sets(ALIASES, max_size=2),
        run=st.none() | RUNS,
        with_manifest=st.booleans(),
    )
    def commit(self, name, content, type_, aliases, run, with_manifest) -> None:
        object_id = new_object_id(1)
        self.call(self.catalog.register_upload(self.session, object_id))
        self.call(self.catalog.add_stored(self.session, [StoredObject(object_id, 1)], []))
        manifest = ManifestLocation(object_id, 1, 1, b"f" * 32) if with_manifest else None
        draft = Draft(
            id=object_id,
            collection=name,
            type=type_,
            digest=blake3(content.encode()).digest(),
            size=1,
            entry_count=1,
            manifest=manifest,
            metadata={"content": content},
            aliases=tuple(aliases),
            run_id=run,
        )
        model = self.models.get(name)
        number = None if model is None else model.with_content(content)
        if model is not None and model.type != type_:
            with pytest.raises(Invalid):
                self.call(self.catalog.commit_version(self.session, draft))
            return
        if number is None and not with_manifest:
            with pytest.raises(Conflict):
                self.call(self.catalog.commit_version(self.session, draft))
            return
        committed = self.call(self.catalog.commit_version(self.session, draft))
        model = self.models.setdefault(name, Model(type_))
        assert committed.is_new == (number is None)
        if number is None:
            number = len(model.contents)
            model.contents.append(content)
            model.live.add(number)
            self.ids[name, number] = committed.version.id
        model.aliases |= dict.fromkeys({*aliases, "latest"}, number)
        if run is not None:
            self.remember(run, "out", name, number)
        assert committed.version.number == number
        self.answered.append((draft, number, committed.is_new))

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def repeat_a_commit(self, data) -> None:
        draft, number, is_new = data.draw(st.sampled_from(self.answered))
        again = self.call(self.catalog.commit_version(self.session, draft))
        assert (again.version.number, again.is_new) == (number, is_new)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), delete_aliases=st.booleans())
    def delete(self, data, delete_aliases) -> None:
        name, number = data.draw(st.sampled_from(sorted(self.ids, key=str)))
        model = self.models[name]
        call = self.catalog.delete_version(self.ids[name, number], delete_aliases=delete_aliases)
        custom = [alias for alias in model.pointing(number) if alias != "latest"]
        if custom and not delete_aliases:
            with pytest.raises(Conflict):
                self.call(call)
            return
        self.call(call)
        was_latest = model.aliases.get("latest") == number
        model.live.discard(number)
        model.aliases = {alias: at for alias, at in model.aliases.items() if at != number}
        if was_latest and model.live:
            model.aliases["latest"] = max(model.live)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), alias=ALIASES, seen=st.just("any") | st.none() | NUMBERS)
    def move_alias(self, data, alias, seen) -> None:
        name, number = data.draw(st.sampled_from(sorted(self.ids, key=str)))
        model, version_id = self.models[name], self.ids[name, number]
        more = {} if seen == "any" else {"if_current": seen}
        current = model.aliases.get(alias)
        call = self.catalog.set_alias(version_id, alias, **more)
        if number not in model.live:
            with pytest.raises(NotFound):
                self.call(call)
        elif more and seen != current and current != number:
            with pytest.raises(Conflict):
                self.call(call)
        else:
            self.call(call)
            model.aliases[alias] = number

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), added=st.sets(ALIASES, max_size=3), removed=st.sets(ALIASES, max_size=3))
    def change_aliases(self, data, added, removed) -> None:
        name, number = data.draw(st.sampled_from(sorted(self.ids, key=str)))
        model = self.models[name]
        call = self.catalog.update_version(
            self.ids[name, number], add_aliases=sorted(added), remove_aliases=sorted(removed)
        )
        if number not in model.live:
            with pytest.raises(NotFound):
                self.call(call)
            return
        self.call(call)
        for alias in model.pointing(number):
            if alias != "latest" and alias in removed:
                del model.aliases[alias]
        model.aliases |= dict.fromkeys(added, number)

    @rule(name=NAMES, alias=ALIASES)
    def remove_alias(self, name, alias) -> None:
        call = self.catalog.remove_alias(name, alias)
        if name not in self.models:
            with pytest.raises(NotFound):
                self.call(call)
            return
        self.call(call)
        self.models[name].aliases.pop(alias, None)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), run=RUNS)
    def use(self, data, run) -> None:
        name, number = data.draw(st.sampled_from(sorted(self.ids, key=str)))
        call = self.catalog.record_use(run, self.ids[name, number])
        if number not in self.models[name].live:
            with pytest.raises(NotFound):
                self.call(call)
            return
        self.call(call)
        self.remember(run, "in", name, number)

    @rule()
    def collect(self) -> None:
        collected = self.call(self.catalog.collect())
        self.call(self.catalog.forget_objects(collected.deleted_object_ids))

    @invariant()
    def the_catalog_says_what_the_model_says(self) -> None:
        if not hasattr(self, "catalog"):
            return
        for name, model in self.models.items():
            versions = self.call(self.catalog.list_versions(name))
            assert [v.number for v in versions] == sorted(model.live, reverse=True)
            for version in versions:
                assert version.aliases == model.pointing(version.number)
                assert version.metadata == {"content": model.contents[version.number]}
                assert version.type == model.type
            for alias, number in model.aliases.items():
                assert self.call(self.catalog.resolve(name, alias)).number == number
            for content in "abcd":
                digest = blake3(content.encode()).digest()
                found = self.call(self.catalog.find_version(name, digest))
                assert (found and found.number) == model.with_content(content)

    @invariant()
    def lineage_is_in_order(self) -> None:
        if not hasattr(self, "catalog"):
            return
        for (run, way), seen in self.lineage.items():
            verb = self.catalog.run_inputs if way == "in" else self.catalog.run_outputs
            versions = [(v.collection, v.number) for v in self.call(verb(run))]
            live = [(n.name, number) for n, number in seen if number in self.models[n].live]
            assert versions == live


TestCatalogModel = CatalogMachine.TestCase
TestCatalogModel.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
