"""What the generated `asyncart.sync` is made of: faces of `asyncart.aio` objects for blocking callers.

A face holds its object and nothing else, so that any number of them may come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar
from weakref import WeakValueDictionary

from ._bridge import Scope
from .errors import Invalid

T = TypeVar("T")
U = TypeVar("U")


class Twin:
    """A blocking face of an object of `asyncart.aio`; equal to every other face of the same object."""

    _aio: Any
    _scopes: list[Scope[Any]]  # of `with` blocks that are open
    _faces: ClassVar[WeakValueDictionary[tuple[type, int], Twin]] = WeakValueDictionary()

    def __init__(self) -> None:
        raise Invalid(f"{type(self).__name__}: not made by hand; asyncart hands it out")

    @classmethod
    def _of(cls, aio: Any) -> Self:
        """The face of the object: the same one as long as somebody holds it."""
        # a face keeps its object alive, so the id is not reused while the face is in the map
        known = Twin._faces.get((cls, id(aio)))
        if isinstance(known, cls):
            return known
        face = cls.__new__(cls)
        face._become(aio)
        return face

    def _become(self, aio: Any) -> None:
        self._aio = aio
        self._scopes = []
        Twin._faces[type(self), id(aio)] = self

    def _enter(self) -> Any:
        opened = Scope(type(self).__name__, lambda: self._aio)
        value = opened.__enter__()
        self._scopes.append(opened)
        return value

    def _exit(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return self._scopes.pop().__exit__(kind, error, traceback)

    def __eq__(self, other: object) -> bool:
        return bool(self._aio == other._aio) if isinstance(other, Twin) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._aio)

    def __repr__(self) -> str:
        return repr(self._aio)


class Converted(Generic[T, U]):
    """A scope whose value is handed to the body as something else: its twin, its blocking file."""

    def __init__(self, inner: Scope[T], convert: Callable[[T], U]) -> None:
        self._inner = inner
        self._convert = convert

    def __enter__(self) -> U:
        return self._convert(self._inner.__enter__())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return self._inner.__exit__(kind, error, traceback)


def blocking_file(file: Any) -> Any:
    """The ordinary file inside a file object of aiofiles: blocking callers need no thread per write."""
    return getattr(file, "_file", file)


def aio_of(value: Any) -> Any:
    """What `asyncart.aio` is given for an argument: twins become their objects, also inside collections."""
    if isinstance(value, Twin):
        return value._aio
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(aio_of(item) for item in value)
    if isinstance(value, Iterator):  # used up here: a user's generator must not run on the loop
        return [aio_of(item) for item in value]
    return value
