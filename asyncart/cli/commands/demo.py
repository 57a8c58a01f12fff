"""`asyncart demo`: what it is for, shown on real data in seconds, offline.

The data are the sources of the running Python's standard library, and one large file made of them. They
are copied into a folder of the demo's own, because something in them is going to be edited.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ...errors import Corrupt, NotFound, Unavailable
from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from pathlib import Path

    from ...aio import Artifact, Run
    from ...model import Progress
    from .diff import Change

SKIPPED = {"__pycache__", "site-packages", "dist-packages", "node_modules"}
MAX_BYTES = 64 << 20  # of sources; all of CPython 3.11 are 31 MiB with its tests
CORPUS = "all-modules.txt"
EDIT = b"# this line was not here when the first version was logged\n"


@click.command(cls=Command, short_help="Show what asyncart does, on real data, in seconds.")
@click.option("--keep", is_flag=True, help="Keep the demo's folder, to look around in it.")
@pass_options
def demo(options: Options, keep: bool) -> None:
    """Log the Python standard library, edit it, log it again; diff, fetch and verify. Takes seconds."""
    import shutil

    from ... import config
    from .. import runner

    home = config.load(home=options.home).home
    folder = _new_folder(home)
    story = Story(options, folder)
    try:
        runner.run(options, story.tell)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.rmdir(home)  # only if it is empty: then we made it
    story.end(is_kept=keep)


def _new_folder(home: str) -> str:
    import tempfile

    try:
        os.makedirs(home, exist_ok=True)
        return tempfile.mkdtemp(prefix="demo-", dir=home)
    except OSError as error:
        raise Unavailable(
            f"{home} cannot be written: {error.strerror}; --home DIR names another folder"
        ) from error


class Story:
    """The steps of the demo: each says what it does, the line of code for it, and what came out."""

    def __init__(self, options: Options, folder: str) -> None:
        self._options = options
        self._folder = folder
        self._data = os.path.join(folder, "stdlib")
        self._fetched = os.path.join(folder, "fetched")
        self._steps: list[dict[str, Any]] = []
        self._began_s = time.monotonic()

    async def tell(self) -> None:
        from anyio import to_thread

        from ... import aio

        self._say("")
        files, nbytes = await to_thread.run_sync(copy_sources, self._data)
        self._introduce(files, nbytes)
        async with aio.init("demo", job_type="demo", home=self._folder) as run:
            first = await self._log(run, "Log a folder")
            await self._log(run, "Log it again: nothing changed, nothing is stored")
            edited = await to_thread.run_sync(edit, self._data)
            second = await self._log(run, f"Edit {edited}, and log it")
            await self._diff(first, second)
            await self._fetch(first)
            await self._verify(first)

    def end(self, *, is_kept: bool) -> None:
        if self._options.is_json:
            from .. import screen

            screen.print_json({"folder": self._folder if is_kept else None, "steps": self._steps})
            return
        took = f"Done in {time.monotonic() - self._began_s:.1f} s."
        if not is_kept:
            self._say(f"{took} The demo's folder is removed again; --keep leaves it for you.")
            return
        self._say(f"{took} Look around:")
        for command in ("ls stdlib", "show stdlib:latest", f"cat stdlib:v1/{ADDED}"):
            self._say(f"  asyncart --home {self._folder} --project demo {command}")

    async def _log(self, run: Run, title: str) -> Artifact:
        from ... import aio
        from ..words import count, size

        last: list[Progress] = []
        artifact = aio.Artifact("stdlib", type="dataset")
        artifact.add_dir(self._data)
        began_s = time.monotonic()
        await run.log_artifact(
            artifact, progress=lambda event: last.__setitem__(slice(None), [event])
        )
        took_s = time.monotonic() - began_s
        stored = last[-1].bytes_moved
        share = f" ({stored / artifact.size:.1%})" if 0 < stored < artifact.size / 2 else ""
        self._step(
            title,
            "artifact.add_dir('stdlib'); await run.log_artifact(artifact)",
            [
                f"{artifact.name}  {count(artifact.file_count, 'file')}  {size(artifact.size)}"
                f"  stored {size(stored)}{share}  in {took_s:.2f} s"
            ],
            name=artifact.name,
            files=artifact.file_count,
            bytes=artifact.size,
            bytes_stored=stored,
            seconds=took_s,
        )
        return artifact

    async def _diff(self, first: Artifact, second: Artifact) -> None:
        from .diff import changes

        found = changes(await first.files(), await second.files())
        self._step(
            f"What changed from {first.version} to {second.version}",
            f"asyncart diff {first.name} {second.name}",
            [_coloured(change) for change in found],
            changes=[change.path for change in found],
        )

    async def _fetch(self, artifact: Artifact) -> None:
        from ..words import count, size

        began_s = time.monotonic()
        await artifact.download(self._fetched)
        took_s = time.monotonic() - began_s
        self._step(
            f"Fetch {artifact.version}",
            f"artifact = await run.use_artifact('{artifact.name}'); await artifact.download()",
            [
                f"{count(artifact.file_count, 'file')}  {size(artifact.size)}"
                f"  every byte verified on the way  in {took_s:.2f} s"
            ],
            files=artifact.file_count,
            bytes=artifact.size,
            seconds=took_s,
        )

    async def _verify(self, artifact: Artifact) -> None:
        """Nothing is wrong; then a byte is made wrong, and found."""
        from anyio import to_thread

        from ..words import count

        before = await artifact.verify(self._fetched)
        if not before.is_ok:
            raise Corrupt(f"{artifact.name}: what was fetched is not what was logged: {before}")
        victim = "os.py"
        await to_thread.run_sync(flip_byte, os.path.join(self._fetched, victim))
        after = await artifact.verify(self._fetched)
        self._step(
            f"Verify; then flip one byte of {victim}, and verify again",
            "report = await artifact.verify(folder)",
            [
                f"{count(before.checked, 'file')} read, all well",
                f"{count(after.checked, 'file')} read, different: {', '.join(after.different)}",
            ],
            checked=before.checked,
            found=list(after.different),
        )

    def _introduce(self, files: int, nbytes: int) -> None:
        from ..words import count, size

        text = f"The Python standard library, {count(files, 'file')}, {size(nbytes)}, in {self._folder}"
        self._say(f"{text}\n")

    def _step(self, title: str, code: str, lines: list[str], **facts: Any) -> None:
        from ..screen import styled

        self._steps.append({"step": title, "code": code, **facts})
        self._say(f"{styled(str(len(self._steps)), '1;36')} {styled(title, '1')}")
        self._say(f"  {styled(code, '2')}")
        for line in lines:
            self._say(f"  {line}")
        self._say("")

    def _say(self, text: str) -> None:
        from .. import screen

        if not self._options.is_json:
            screen.write(text + "\n", at_once=True)


def _coloured(change: Change) -> str:
    from ..screen import styled
    from .diff import SIGNS, line

    return styled(line(change), SIGNS[change.kind][1])


def copy_sources(folder: str) -> tuple[int, int]:
    """Copy the standard library's sources, and write the large file; how many files and bytes that is."""
    import sysconfig
    from pathlib import Path

    source = sysconfig.get_path("stdlib")
    os.makedirs(folder)
    copied = total = 0
    with open(os.path.join(folder, CORPUS), "wb") as corpus:
        for path in _sources(source):
            data = path.read_bytes()
            if total + 2 * len(data) > MAX_BYTES:
                break
            target = Path(folder, path.relative_to(source))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            corpus.write(data)
            copied += 1
            total += 2 * len(data)
    if not copied:
        raise NotFound(
            f"{source} has no .py files: this Python comes without its library's sources"
        )
    return copied + 1, total


def _sources(root: str) -> Iterator[Path]:
    from pathlib import Path

    for here, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for name in sorted(names):
            path = Path(here, name)
            if name.endswith(".py") and path.is_file():
                yield path


ADDED = "HELLO.txt"


def edit(folder: str) -> str:
    """Change a module and the middle of the large file, add a file and remove one; says so in words."""
    from pathlib import Path

    with open(os.path.join(folder, "os.py"), "ab") as file:
        file.write(EDIT)
    corpus = Path(folder, CORPUS)
    data = corpus.read_bytes()
    middle = len(data) // 2
    corpus.write_bytes(data[:middle] + EDIT + data[middle:])
    Path(folder, ADDED).write_text("Hello from the second version.\n", encoding="utf-8")
    Path(folder, "this.py").unlink(missing_ok=True)
    return f"one module and the middle of {CORPUS}, add a file, remove one"


def flip_byte(path: str) -> None:
    from pathlib import Path

    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)
