"""One test for both faces: `asyncart`, which blocks, and `asyncart.aio`, which is awaited."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


async def got(value: Any) -> Any:
    """What the call gives, awaited if it has to be."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """`with` or `async with`, whichever the manager is made for."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def written(artifact: Any, path: str, content: str | bytes, **options: Any) -> None:
    """Add a file of that content with `new_file`."""
    mode = "wb" if isinstance(content, bytes) else "w"
    async with entered(artifact.new_file(path, mode, **options)) as file:
        await got(file.write(content))


async def draft(face: Any, name: str = "data", type: str = "dataset", **files: str) -> Any:
    """A draft with these files: `a="x"` is the file `a` that holds `x`."""
    artifact = face.Artifact(name, type)
    for path, content in files.items():
        await written(artifact, path, content)
    return artifact


async def contents(artifact: Any) -> dict[str, bytes]:
    """Everything that a logged artifact holds, read through the store."""
    return {
        entry.path: await got(entry.read())
        for entry in await got(artifact.files())
        if not entry.is_reference
    }
