"""`asyncart cat`: the bytes of one file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio import Api, ArtifactEntry

BLOCK_BYTES = 16 << 20  # what the engine reads at once: a smaller block would read chunks twice


@click.command(cls=Command, short_help="Write one file to stdout.")
@click.argument("path", metavar="REF/PATH")
@pass_options
def cat(options: Options, path: str) -> None:
    """Write one file to stdout, verified block by block: `asyncart cat bike-data:latest/rows.csv`.

    The version must be said. With --json the content is in base64.
    """
    import base64

    from .. import describe, runner, screen, targets

    reference, inside = targets.file(path)

    async def whole(api: Api) -> tuple[ArtifactEntry, bytes]:
        entry = await (await api.artifact(reference)).get_entry(inside)
        return entry, await entry.read()

    async def stream(api: Api) -> None:
        await _stream(await (await api.artifact(reference)).get_entry(inside))

    if options.is_json:
        entry, data = runner.with_api(options, whole)
        screen.print_json(describe.entry(entry) | {"base64": base64.b64encode(data).decode()})
    else:
        runner.with_api(options, stream)


async def _stream(entry: ArtifactEntry) -> None:
    from anyio import to_thread

    fd = sys.stdout.fileno()
    if not entry.size:
        await entry.read()  # a reference says here that it has no bytes of its own
    for offset in range(0, entry.size, BLOCK_BYTES):
        data = await entry.read(offset, BLOCK_BYTES)
        # In a thread that nobody waits for: a reader that has stopped must not stop Ctrl-C.
        await to_thread.run_sync(_write, fd, data, abandon_on_cancel=True)


def _write(fd: int, data: bytes) -> None:
    from ..screen import answering

    view = memoryview(data)
    with answering():
        while view:
            view = view[os.write(fd, view) :]
