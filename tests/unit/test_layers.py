"""Imports point one way: each line of DESIGN section 4 sees only the lines above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "asyncart"

# what may import what, within asyncart; a part always sees itself and what its parts see
MODEL = {"errors", "model"}
BELOW_NET = MODEL | {"apikey", "config", "names", "origins", "threads", "wire"}
BELOW_ENGINE = BELOW_NET | {"net", "stores.protocol", "stores.links"}
BELOW_AIO = BELOW_ENGINE | {
    "stores", "catalog", "engine", "references", "workers", "credentials",
}  # fmt: skip
PUBLIC = {"", "errors", "model", "aio", "sync"}
ALLOWED = {
    "errors": set(),
    "model": {"errors"},
    "threads": {"errors"},
    "names": MODEL,
    "wire": MODEL,
    "origins": {"errors"},
    "apikey": {"errors"},
    "credentials": {"errors", "origins"},
    "config": MODEL | {"names", "origins", "credentials"},
    "net": BELOW_NET,
    "stores": BELOW_NET | {"net"},
    "catalog": BELOW_NET | {"net"},
    "engine": BELOW_ENGINE,
    "references": BELOW_ENGINE | {"engine"},
    "workers": BELOW_ENGINE | {"stores", "engine"},
    "aio": BELOW_AIO | {"_bridge"},
    "_bridge": {"errors", "engine.tasks"},
    "_twins": {"errors", "_bridge"},
    "sync": BELOW_AIO | {"aio", "_bridge", "_twins"},
    "": PUBLIC,
    "cli": BELOW_AIO | PUBLIC | {"server", "_bridge"},
    "server": BELOW_AIO | PUBLIC,
    "integrations": PUBLIC,
    "testing": BELOW_AIO | PUBLIC,
    "__main__": {"cli"},
}


def imports(path: Path) -> Iterator[str]:
    """Modules of asyncart that the file imports, anywhere in it, relative to the package."""
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    home = ("asyncart", *inside[:-1])
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = home[: len(home) - node.level + 1] if node.level else ()
            module = ".".join([*start, *(node.module.split(".") if node.module else [])])
            # `from .. import names` imports the module names
            yield from (
                f"{module}.{alias.name}" if _is_module(module, alias.name) else module
                for alias in node.names
            )


def _is_module(package: str, name: str) -> bool:
    folder = PACKAGE.parent.joinpath(*package.split("."))
    return (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0].replace("__init__", "")


def is_allowed(part: str, target: str) -> bool:
    seen = ALLOWED[part] | {part}
    return any(target == each or (each and target.startswith(each + ".")) for each in seen)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    part = part_of(path)
    targets = {
        name.removeprefix("asyncart").lstrip(".")
        for name in imports(path)
        if name.split(".")[0] == "asyncart"
    }
    assert [target for target in sorted(targets) if not is_allowed(part, target)] == []


def test_the_layers_have_no_cycle() -> None:
    """The table itself points one way (the lazy front door `asyncart/__init__.py` apart)."""
    done: set[str] = set()
    pending = {
        part: {each for each in seen if each and "." not in each}
        for part, seen in ALLOWED.items()
        if part
    }
    while ready := {part for part, seen in pending.items() if seen <= done}:
        done |= ready
        pending = {part: seen for part, seen in pending.items() if part not in ready}
    assert pending == {}


@pytest.mark.parametrize(
    ("part", "target", "is_fine"),
    [
        ("stores", "catalog.protocol", False),
        ("catalog", "stores", False),
        ("engine", "stores.protocol", True),
        ("engine", "stores.local", False),
        ("engine", "catalog.protocol", False),
        ("engine", "catalog.tables", False),
        ("net", "stores", False),
        ("aio", "sync", False),
        ("aio", "catalog", True),
        ("cli", "aio.run", True),
        ("integrations", "engine", False),
        ("model", "names", False),
        ("net", "net.retry", True),
    ],
)
def test_the_table_says_what_the_design_says(part: str, target: str, is_fine: bool) -> None:
    assert is_allowed(part, target) is is_fine


def test_relative_and_nested_imports_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "asyncart"
    (package / "net").mkdir(parents=True)
    (package / "names.py").touch()
    path = package / "net" / "plane.py"
    path.write_text(
        "from .. import names\nfrom ..errors import X\nfrom .pace import Pace\nimport asyncart.model\n"
        "def f():\n    from ..engine.plan import Y\n"
    )
    monkeypatch.setitem(globals(), "PACKAGE", package)
    assert list(imports(path)) == [
        "asyncart.names",
        "asyncart.errors",
        "asyncart.net.pace",
        "asyncart.model",
        "asyncart.engine.plan",
    ]
