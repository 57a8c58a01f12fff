"""How the command line writes a version, and a path inside one. Pure functions.

`NAME`, `NAME:v3`, `NAME:best`, each with `[ENTITY/]PROJECT/` before it if need be. A path follows after a
slash, and only after a selector: `bike-data:latest/images/cat.png`. Without the `:` the slash would
belong to the project, and so it does.
"""

from __future__ import annotations

from ..errors import Invalid
from ..names import parse_ref


def split(text: str) -> tuple[str, str]:
    """`(reference, path)`; the path is "" if there is none. Raises Invalid."""
    name, colon, rest = text.partition(":")
    if not colon:
        parse_ref(text)
        return text, ""
    selector, _, path = rest.partition("/")
    reference = f"{name}:{selector}"
    parse_ref(reference)
    return reference, path


def file(text: str) -> tuple[str, str]:
    """The same where a path is needed."""
    name, colon, _ = text.partition(":")
    if not colon:
        head, _, tail = name.partition("/")
        raise Invalid(
            f"{text}: say which version before the path, such as {head}:latest/{tail or 'PATH'}"
        )
    reference, path = split(text)
    if not path:
        raise Invalid(f"{text}: a path inside it is needed, such as {reference}/PATH")
    return reference, path


def has_selector(text: str) -> bool:
    return ":" in text


def one_version(text: str) -> str:
    """A reference that names its version, for commands that destroy. Raises Invalid."""
    if not has_selector(text):
        raise Invalid(f"{text}: say which version, such as {text}:v0 or {text}:latest")
    parse_ref(text)
    return text
