"""Read the sources of this package with `ast`: what `_twin` has to know about them."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

EXAMPLE = re.compile(
    r"    |>>> |\.\.\. |async (with|for|def)\b|\w+ = await\b"
)  # a line of code in a docstring
DECORATORS = {
    "property", "setter", "classmethod", "staticmethod", "overload", "asynccontextmanager",
    "final", "override", "cached_property",
}  # fmt: skip


class Untranslatable(Exception):
    """Something in `aio` that has no faithful blocking form yet."""


class Module(NamedTuple):
    name: str  # "" for the package itself
    tree: ast.Module


class Import(NamedTuple):
    """`from source import name`, or `import source` without a name."""

    source: str
    name: str = ""
    is_typing_only: bool = False


class Definition(NamedTuple):
    module: Module
    node: ast.ClassDef | Function


def read(folder: Path) -> list[Module]:
    paths = sorted(path for path in folder.glob("*.py") if path.stem not in ("_reading", "_twin"))
    return [
        Module("" if path.stem == "__init__" else path.stem, ast.parse(path.read_text("utf-8")))
        for path in paths
    ]


# --- what a module's names mean ----------------------------------------------------------------


def statements(
    body: Iterable[ast.stmt], is_typing_only: bool = False
) -> Iterator[tuple[ast.stmt, bool]]:
    """Top-level statements, also those under `if TYPE_CHECKING:` (and its else)."""
    for node in body:
        if isinstance(node, ast.If):
            guarded = ast.unparse(node.test).endswith("TYPE_CHECKING")
            yield from statements(node.body, is_typing_only or guarded)
            yield from statements(node.orelse, is_typing_only)
        else:
            yield node, is_typing_only


def rebased(module: Module, node: ast.ImportFrom) -> str:
    """Where `from ..x import` points to, as seen from `sync.py`, one level above `aio`."""
    target = node.module or ""
    if node.level == 0:
        return target
    if node.level == 1:
        return ".aio" + ("." + target if target else "")
    return "." * (node.level - 1) + target


def names_of(module: Module) -> dict[str, Import]:
    """What each top-level name of the module is imported from, or that it is defined here."""
    here = ".aio" + ("." + module.name if module.name else "")
    found: dict[str, Import] = {}
    for node, is_typing_only in statements(module.tree.body):
        match node:
            case ast.ImportFrom():
                for alias in node.names:
                    found[alias.asname or alias.name] = Import(
                        rebased(module, node), alias.name, is_typing_only
                    )
            case ast.Import():
                for alias in node.names:
                    found[alias.asname or alias.name.partition(".")[0]] = Import(
                        alias.name, "", is_typing_only
                    )
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                found[node.name] = Import(here, node.name)
            case ast.Assign():
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        found[target.id] = Import(here, target.id)
            case ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = Import(here, name)
            case _:
                pass
    return found


def exports(package: Module) -> list[str]:
    for node, _ in statements(package.tree.body):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                return sorted(ast.literal_eval(node.value))
    raise Untranslatable("aio/__init__.py: needs a literal __all__")


# --- looking at definitions --------------------------------------------------------------------


def members(node: ast.ClassDef) -> list[Function]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]


def method(node: ast.ClassDef, name: str) -> Function | None:
    return next((item for item in members(node) if item.name == name), None)


def is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def decorators(node: Function) -> list[str]:
    names = [ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list]
    if unknown := set(names) - DECORATORS:
        raise Untranslatable(f"line {node.lineno}, {node.name}: decorator {unknown.pop()}")
    return names


def parameters(node: Function) -> list[ast.arg]:
    args = node.args
    several = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *several]


def annotation(node: ast.expr | None) -> ast.expr | None:
    """Without quotes, so that names in it are seen."""
    if node is None:
        return None

    class Unquote(ast.NodeTransformer):
        def visit_Constant(self, constant: ast.Constant) -> ast.expr:
            if isinstance(constant.value, str):
                return ast.parse(constant.value, mode="eval").body
            return constant

        def visit_Subscript(self, subscript: ast.Subscript) -> ast.expr:
            if last_name(subscript.value) == "Literal":
                return subscript
            self.generic_visit(subscript)
            return subscript

    return Unquote().visit(copy.deepcopy(node))  # type: ignore[no-any-return]


def last_name(node: ast.expr | None) -> str:
    return (
        ast.unparse(node).rpartition(".")[2] if isinstance(node, ast.Name | ast.Attribute) else ""
    )


def generic(node: ast.expr | None) -> tuple[str, list[ast.expr]]:
    """("list", [X]) of `list[X]`; ("X", []) of a bare name."""
    if isinstance(node, ast.Subscript):
        inner = node.slice
        return last_name(node.value), list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
    return last_name(node), []


def alternatives(node: ast.expr) -> list[ast.expr]:
    """The members of a union."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*alternatives(node.left), *alternatives(node.right)]
    kind, inner = generic(node)
    if kind == "Optional":
        return [*alternatives(inner[0]), ast.Constant(None)]
    if kind == "Union":
        return [part for each in inner for part in alternatives(each)]
    return [node]


def is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def identifiers(node: ast.AST | None) -> set[str]:
    if node is None:
        return set()
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}


def has_yield(node: Function) -> bool:
    pending: list[ast.AST] = list(node.body)
    while pending:
        item = pending.pop()
        if isinstance(item, ast.Yield):
            return True
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            pending.extend(ast.iter_child_nodes(item))
    return False


def blocking_text(text: str) -> str:
    """A docstring as a blocking caller should read it: examples and quoted code lose their `await`."""

    def in_code(code: str) -> str:
        code = re.sub(r"\bawait\s+", "", code)
        code = re.sub(r"\basync (with|for|def)\b", r"\1", code)
        code = re.sub(r"\bimport asyncart\.aio as asyncart\b", "import asyncart", code)
        return re.sub(r"\basyncart\.aio\b", "asyncart", code)

    lines = text.split("\n")
    for number, line in enumerate(lines):
        if EXAMPLE.match(line):
            lines[number] = in_code(line)
        else:
            lines[number] = re.sub(r"`[^`]+`", lambda quoted: in_code(quoted[0]), line)
    return "\n".join(lines)


def docstring(node: ast.ClassDef | Function) -> list[str]:
    raw = ast.get_docstring(node, clean=True)
    if raw is None:
        return []
    text = blocking_text(raw)
    quoted = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    first, *rest = quoted.split("\n")
    lines = [f'"""{first}', *rest]
    if rest:
        return [*lines, '"""']
    return [f'"""{first}"""']


def following_text(node: ast.ClassDef, item: ast.stmt) -> str:
    """The string that documents an attribute, standing right below it."""
    place = node.body.index(item) + 1
    if place < len(node.body):
        match node.body[place]:
            case ast.Expr(value=ast.Constant(value=str(text))):
                return blocking_text(text)
            case _:
                pass
    return ""
