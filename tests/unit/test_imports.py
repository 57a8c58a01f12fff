"""What an import costs and offers: everything heavy comes on first use."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import asyncart
import asyncart.aio

ROOT = Path(__file__).parents[2]
HEAVY = (
    "aiohttp",
    "sqlalchemy",
    "alembic",
    "aiobotocore",
    "click",
    "rich",
    "msgspec",
    "anyio",
    "asyncio",
)


def in_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def import_ms(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1e3)"
    return min(float(in_new_process(code)) for _ in range(3))


@pytest.mark.parametrize("module", ["asyncart", "asyncart.aio"])
def test_an_import_takes_less_than_30_ms(module: str) -> None:
    assert import_ms(module) < 30


@pytest.mark.parametrize("module", ["asyncart", "asyncart.aio"])
def test_an_import_brings_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    assert in_new_process(code).split() == []


def test_building_a_draft_brings_neither_network_nor_database() -> None:
    code = (
        "import sys, asyncart; asyncart.Artifact('a', 'dataset');"
        "print(*[n for n in ('aiohttp', 'sqlalchemy', 'alembic', 'aiobotocore', 'click', 'rich') if n in sys.modules])"
    )
    assert in_new_process(code).split() == []


@pytest.mark.parametrize("package", [asyncart, asyncart.aio])
def test_every_public_name_exists_and_is_listed(package: object) -> None:
    names: list[str] = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert set(names) <= set(dir(package))
    for name in names:
        assert getattr(package, name) is not None
        assert getattr(package, name) is getattr(package, name)


def test_both_colours_have_the_same_names() -> None:
    assert set(asyncart.__all__) - {"aio", "__version__"} == set(asyncart.aio.__all__)


@pytest.mark.parametrize("package", [asyncart, asyncart.aio])
def test_type_checkers_see_the_names_that_exist_at_run_time(package: object) -> None:
    """The branch that only they read lists the same names, each re-exported."""
    source = Path(package.__file__).read_text("utf-8")  # type: ignore[attr-defined]
    branch = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    seen = {
        alias.asname
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(package.__all__) - {"__version__"}  # type: ignore[attr-defined]


def test_blocking_names_come_from_the_twin_and_errors_are_the_same_for_both() -> None:
    sync = importlib.import_module("asyncart.sync")
    assert asyncart.init is sync.init
    assert asyncart.Artifact is sync.Artifact
    assert asyncart.errors is asyncart.aio.errors


@pytest.mark.parametrize("package", [asyncart, asyncart.aio])
def test_an_unknown_name_is_an_attribute_error(package: object) -> None:
    assert not hasattr(package, "no_such_name")
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        package.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert asyncart.__version__ == project["version"]
