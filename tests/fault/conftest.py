"""Where the fault tests happen: every kind of store that is named in ASYNCART_FAULT_STORES."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from material import memory_folder
from workplace import Place, scale_down, use_wrapped_stores

from asyncart.net import budget
from asyncart.stores.memory import MemoryStore

# "local": the embedded store. "parts": a store that takes parts of 4 KiB or more, as a bucket does.
# "s3": a real server; the same tests, minutes instead of seconds.
KINDS = os.environ.get("ASYNCART_FAULT_STORES", "local,parts").split(",")
PART_BYTES = 4096


@pytest.fixture(scope="module", autouse=True)
def _thawed() -> Iterator[None]:
    """What the tests of a module froze and then lost is found at the end of it (a walk through everything
    takes 0.2 s: too long for every test)."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with memory_folder(tmp_path) as made:
        yield made


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A small place (everything scaled down) over one kind of store."""
    yield from _place(request, folder, monkeypatch, request.param)


@pytest.fixture
def local_place(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """The same, for what can only be done to the embedded store (or needs no other)."""
    yield from _place(request, folder, monkeypatch, "local")


@pytest.fixture
def wrapped(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The place, with its store counted and made to fail by `place.plan`."""
    use_wrapped_stores(place, monkeypatch)
    return place


def _place(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> Iterator[Place]:
    for name in [name for name in os.environ if name.startswith("ASYNCART_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(budget, "_process", None)  # a budget of its own, empty
    scale_down(monkeypatch)
    url = str(folder / "store")
    if kind == "s3":
        server = request.getfixturevalue("aws_environment")
        url = f"s3://{server.bucket}/{folder.name}"
    made = Place(folder, kind, url)
    if kind == "parts":
        made.url = f"memory://{folder.name}"
        made.memory = store = MemoryStore(folder.name, part_bytes=PART_BYTES)

        async def open_memory(url: str, **options: object) -> MemoryStore:
            return store

        monkeypatch.setattr("asyncart.stores.open_store", open_memory)
    gc.collect()
    gc.freeze()  # collections while the test runs look at what it made, and at nothing else
    yield made
    gc.collect()  # what a test lost on the way reports it now, not in the next test
