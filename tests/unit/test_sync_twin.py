"""The generated blocking twin: up to date, and right about every shape that `asyncart.aio` uses.

The shapes are tried on a small package of the same build, generated, type-checked and run for real.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import asyncart
import asyncart.aio
from asyncart import _bridge
from asyncart.aio import _reading, _twin
from asyncart.errors import ArtifactNotLoggedError, Invalid, NotFound

PACKAGE = Path(asyncart.aio.__file__).parent

SAMPLE = {
    "aio/__init__.py": '''
        """A sample of the shapes of asyncart.aio."""
        from __future__ import annotations

        from asyncart.errors import NotFound

        from .artifact import Artifact, Report
        from .run import Api, Run, collected, finish, init, log_artifact

        __all__ = ["Api", "Artifact", "NotFound", "Report", "Run", "collected", "finish", "init", "log_artifact"]
        ''',
    "aio/artifact.py": '''
        from __future__ import annotations

        import os
        from collections.abc import AsyncIterator, Callable, Iterable, Sequence
        from contextlib import asynccontextmanager
        from dataclasses import dataclass
        from typing import TYPE_CHECKING, Any, Literal, Self

        import aiofiles
        import anyio
        from asyncart.errors import ArtifactNotLoggedError

        if TYPE_CHECKING:
            from aiofiles.threadpool.text import AsyncTextIOWrapper

            from .run import Run

        POLICY = "mutable"


        @dataclass(frozen=True)
        class Report:
            """What differs."""

            missing: tuple[str, ...]


        class _Described:
            """Without a twin: its members belong to those who inherit them."""

            _description: str | None = None

            @property
            def description(self) -> str | None:
                """What people read."""
                return self._description

            @description.setter
            def description(self, value: str | None) -> None:
                self._description = value


        class Artifact(_Described):
            """Named, versioned.

            The guide:

                async with artifact.new_file("x") as f:
                    await f.write("text")
                await run.log_artifact(artifact)

            Call `await artifact.wait()` and do not await anything else.
            """

            def __init__(self, name: str, type: str, description: str | None = None) -> None:
                """A draft."""
                self._name = name
                self._type = type
                self._description = description
                self._version: str | None = None
                self._files: dict[str, str] = {}
                self._base: Artifact | None = None
                self._runs: list[Run] = []

            @property
            def name(self) -> str:
                """Of the collection."""
                return self._name

            @property
            def version(self) -> str:
                """As in `v0`."""
                if self._version is None:
                    raise ArtifactNotLoggedError(f"{self.name} has no version: log it first")
                return self._version

            @property
            def base(self) -> Artifact | None:
                return self._base

            def add_file(
                self, local_path: str | os.PathLike[str], name: str | None = None, *, policy: Literal["mutable", "immutable"] = "mutable"
            ) -> Self:
                """Remember a path."""
                self._files[name or os.path.basename(local_path)] = os.fspath(local_path)
                return self

            def __len__(self) -> int:
                return len(self._files)

            @asynccontextmanager
            async def new_file(self, name: str, mode: str = "w") -> AsyncIterator[AsyncTextIOWrapper]:
                """Write a file: `async with artifact.new_file(...) as f`."""
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.sleep, 60)
                    async with aiofiles.open(name, mode) as f:
                        yield f
                    tasks.cancel_scope.cancel()
                self._files[name] = name

            async def wait(self) -> Artifact:
                await anyio.sleep(0)
                return self

            async def verify(self, *paths: str, strict: bool = False) -> Report:
                return Report(tuple(path for path in paths if path not in self._files))

            async def used_by(self) -> list[Run]:
                return self._runs

            async def same_as(self, others: Iterable[Artifact], /) -> bool:
                return all(other is self for other in others)

            async def files(self) -> AsyncIterator[tuple[str, Artifact]]:
                async with anyio.create_task_group():
                    for name in self._files:
                        yield name, self

            async def by_name(self) -> dict[str, Artifact]:
                return {self.name: self}

            async def progress(self, callback: Callable[[int], object]) -> None:
                await anyio.to_thread.run_sync(callback, 1)
        ''',
    "aio/run.py": '''
        from __future__ import annotations

        from collections.abc import AsyncIterator, Awaitable, Generator
        from types import TracebackType
        from typing import Any

        import anyio
        from asyncart.errors import NotFound

        from .artifact import Artifact

        _unfinished: list[Run] = []


        class Run:
            def __init__(self, project: str, _key: object) -> None:
                self._project = project
                self.state: str = "running"
                self.left_by: type[BaseException] | None = None

            async def log_artifact(self, artifact_or_path: Artifact | str, *, aliases: list[str] | None = None) -> Artifact:
                """Log it. Raises NotFound."""
                if isinstance(artifact_or_path, str):
                    raise NotFound(f"{artifact_or_path} does not exist")
                artifact_or_path._version = "v0"
                artifact_or_path._runs.append(self)
                return artifact_or_path

            def log_soon(self, artifact: Artifact) -> Handle:
                return Handle(self, artifact)

            async def find(self, name: str) -> Artifact | str | None:
                return {"artifact": Artifact("a", "t"), "text": "text"}.get(name)

            async def finish(self) -> None:
                self.state = "finished"

            async def __aenter__(self) -> Run:
                return self

            async def __aexit__(
                self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
            ) -> None:
                self.left_by = kind
                await self.finish()


        class Handle:
            """Of a background call; not exported, yet handed out."""

            def __init__(self, run: Run, artifact: Artifact) -> None:
                self._run, self._artifact = run, artifact

            async def wait(self, timeout_s: float | None = None) -> Artifact:
                return await self._run.log_artifact(self._artifact)


        class _Starting:
            """To be awaited or entered."""

            def __init__(self, project: str) -> None:
                self._project = project

            async def _start(self) -> Run:
                await anyio.sleep(0)
                run = Run(self._project, None)
                _unfinished.append(run)
                return run

            def __await__(self) -> Generator[Any, None, Run]:
                return self._start().__await__()

            async def __aenter__(self) -> Run:
                return await self._start()

            async def __aexit__(
                self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
            ) -> None:
                pass


        def init(project: str = "bikes") -> _Starting:
            """Start a run.

                async with asyncart.aio.init() as run: ...
            """
            return _Starting(project)


        async def log_artifact(artifact: Artifact) -> Artifact:
            return await (await init()).log_artifact(artifact)


        async def finish() -> None:
            """Finish it."""


        def collected() -> Awaitable[int]:
            return _count()


        async def _count() -> int:
            return 3


        async def finish_all() -> None:
            await anyio.to_thread.run_sync(lambda: print("finished", len(_unfinished), flush=True))


        class Api:
            def __init__(self, entity: str | None = None) -> None:
                self._entity = entity

            async def artifacts(self, name: str) -> tuple[Artifact, ...]:
                return (Artifact(name, "t"), Artifact(name, "t"))

            def __aiter__(self) -> AsyncIterator[Artifact]:
                return self._each()

            async def _each(self) -> AsyncIterator[Artifact]:
                yield Artifact("x", "t")

            @classmethod
            async def open(cls, entity: str) -> Api:
                return cls(entity)

            @staticmethod
            def is_name(text: str) -> bool:
                return text.isidentifier()
        ''',
    "__init__.py": "",
    "_bridge.py": "from asyncart._bridge import *\n",
    "_twins.py": "from asyncart._twins import Converted as Converted, Twin as Twin, aio_of as aio_of, blocking_file as blocking_file\n",
}


def write_package(folder: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source).lstrip("\n"))


@pytest.fixture(scope="module")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twin") / "twin_sample"
    write_package(folder, SAMPLE)
    (folder / "sync.py").write_text(_twin.generate(folder / "aio"))
    return folder


@pytest.fixture(scope="module")
def sync(sample_folder: Path) -> Iterator[Any]:
    sys.path.insert(0, str(sample_folder.parent))
    try:
        yield importlib.import_module("twin_sample.sync")
    finally:
        sys.path.remove(str(sample_folder.parent))
        for name in [name for name in sys.modules if name.startswith("twin_sample")]:
            del sys.modules[name]
        _bridge.close()


# --- the real one ------------------------------------------------------------------------------


def test_sync_is_up_to_date() -> None:
    """If this fails: `python -m asyncart.aio._twin`, and look at the difference."""
    is_current = (PACKAGE.parent / "sync.py").read_text("utf-8") == _twin.generate(PACKAGE)
    assert is_current, "asyncart/sync.py is stale"


def test_every_exported_name_exists_in_both_colours() -> None:
    sync_module = importlib.import_module("asyncart.sync")
    assert sync_module.__all__ == sorted(asyncart.aio.__all__)
    for name in asyncart.aio.__all__:
        assert hasattr(sync_module, name)
        assert hasattr(asyncart.aio, name)


def test_nothing_that_is_awaited_is_left_in_the_twin() -> None:
    tree = ast.parse((PACKAGE.parent / "sync.py").read_text("utf-8"))
    awaits = ast.Await | ast.AsyncFunctionDef | ast.AsyncWith | ast.AsyncFor
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, awaits)] == []


BLOCKING = """
import asyncart
run = asyncart.init(project="bikes", home={home!r})
run.log_artifact({file!r}, name="a")
{ending}
"""
ASYNC = """
import asyncio
from asyncart import aio

async def main():
    run = await aio.init(project="bikes", home={home!r})
    await run.log_artifact({file!r}, name="a")
    {ending}

asyncio.run(main())
"""


@pytest.mark.parametrize("program", [BLOCKING, ASYNC], ids=["blocking", "async"])
@pytest.mark.parametrize(("ending", "state"), [("", "finished"), ("raise KeyError", "failed")])
def test_a_run_that_nobody_finished_is_finished_at_exit(
    program: str, ending: str, state: str, tmp_path: Path
) -> None:
    script = program.format(home=str(tmp_path / "home"), file=__file__, ending=ending)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=PACKAGE.parents[1],
    )
    assert ("Error" in done.stderr) is bool(ending), done.stderr
    with asyncart.Api(project="bikes", home=tmp_path / "home") as api:
        assert [run.state for run in api.artifact("a").logged_by()] == [state]
    _bridge.close()


# --- the sample --------------------------------------------------------------------------------


def test_the_generated_source_is_strictly_typed(sample_folder: Path, tmp_path: Path) -> None:
    """A user's code sees the blocking types: reveal them and compare."""
    user = tmp_path / "user.py"
    user.write_text(
        textwrap.dedent("""
        from twin_sample import sync

        with sync.init("p") as run:
            artifact = run.log_artifact(sync.Artifact("a", "t"), aliases=["best"])
            reveal_type(artifact)
            reveal_type(artifact.used_by())
            reveal_type(run.log_soon(artifact).wait())
            reveal_type(run.find("text"))
            reveal_type(sync.Api().artifacts("a"))
            for name, each in artifact.files():
                reveal_type(each)
            with artifact.new_file("x") as f:
                reveal_type(f.write("text"))
        """)
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-incremental"),
            *("--cache-dir", os.devnull, "--follow-imports=silent"),
            *(str(sample_folder / "sync.py"), str(user)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parents[1],
        env={**os.environ, "MYPYPATH": str(sample_folder.parent)},
    )
    revealed = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed" in line]
    prefix = "twin_sample.sync."
    assert [kind.replace(prefix, "") for kind in revealed] == [
        "Artifact",
        "list[Run]",
        "Artifact",
        "Artifact | str | None",
        "tuple[Artifact, ...]",
        "Artifact",
        "int",
    ], done.stdout
    assert "error" not in done.stdout


def test_async_functions_and_methods_block(sync: Any) -> None:
    run = sync.init("p")
    artifact = sync.Artifact("a", "t", description="d")
    assert run.log_artifact(artifact, aliases=["best"]) is artifact
    assert artifact.version == "v0"
    assert artifact.verify("here", strict=True) == sync.Report(("here",))
    assert sync.log_artifact(artifact) is artifact
    assert sync.finish() is None
    assert sync.collected() == 3
    with pytest.raises(NotFound, match="x does not exist"):
        run.log_artifact("x")


def test_attributes_properties_and_plain_methods_are_forwarded(sync: Any) -> None:
    artifact = sync.Artifact("a", "t")
    assert artifact.add_file("/data/x.bin") is artifact
    assert len(artifact) == 1
    assert artifact.description is None
    artifact.description = "new"
    assert artifact._aio.description == "new"
    run = sync.init()
    run.state = "paused"
    assert run._aio.state == run.state == "paused"


def test_a_missing_attribute_is_missing_in_the_twin_too(sync: Any) -> None:
    draft = sync.Artifact("a", "t")
    assert not hasattr(draft, "version")
    with pytest.raises(ArtifactNotLoggedError):
        _ = draft.version


def test_results_are_twins_wherever_they_stand(sync: Any) -> None:
    artifact = sync.Artifact("a", "t").add_file("x")
    run = sync.init()
    run.log_artifact(artifact)
    assert artifact.used_by() == [run]
    assert artifact.used_by()[0] is run
    assert artifact.by_name() == {"a": artifact}
    assert artifact.base is None
    artifact._aio._base = artifact._aio
    assert artifact.base is artifact
    assert [type(each) for each in sync.Api().artifacts("a")] == [sync.Artifact] * 2
    assert type(run.find("artifact")) is sync.Artifact
    assert run.find("text") == "text"
    assert run.find("nothing") is None
    assert run.log_soon(artifact).wait() is artifact


def test_arguments_are_unwrapped_wherever_they_stand(sync: Any) -> None:
    artifact = sync.Artifact("a", "t")
    assert artifact.same_as([artifact, artifact])
    assert not artifact.same_as((artifact, sync.Artifact("a", "t")))
    assert artifact.same_as(each for each in [artifact])


def test_async_iterators_become_iterators(sync: Any) -> None:
    artifact = sync.Artifact("a", "t").add_file("x").add_file("y")
    assert list(artifact.files()) == [("x", artifact), ("y", artifact)]
    assert [type(each) for each in sync.Api()] == [sync.Artifact]


def test_a_new_file_is_a_real_blocking_file(sync: Any, tmp_path: Path) -> None:
    artifact = sync.Artifact("a", "t")
    with artifact.new_file(str(tmp_path / "x")) as f:
        assert isinstance(f, TextIOWrapper)
        assert f.write("hello") == 5
        print("world", file=f)
    assert f.closed
    assert (tmp_path / "x").read_text() == "helloworld\n"
    assert len(artifact) == 1


def test_a_new_file_whose_body_fails_adds_nothing(sync: Any, tmp_path: Path) -> None:
    artifact = sync.Artifact("a", "t")
    with pytest.raises(KeyboardInterrupt), artifact.new_file(str(tmp_path / "x")):
        raise KeyboardInterrupt
    with pytest.raises(KeyError), artifact.new_file(str(tmp_path / "x")):
        raise KeyError
    assert len(artifact) == 0


def test_a_run_is_a_context_manager_that_learns_how_its_body_ended(sync: Any) -> None:
    with sync.init() as run:
        assert run.state == "running"
    assert (run.state, run.left_by) == ("finished", None)
    with pytest.raises(KeyError), sync.init() as run:
        raise KeyError
    assert (run.state, run.left_by) == ("finished", KeyError)
    with pytest.raises(SystemExit), sync.init() as run:
        raise SystemExit
    assert (run.state, run.left_by) == ("finished", _bridge.BodyInterrupted)


def test_class_and_static_methods_are_forwarded(sync: Any) -> None:
    assert type(sync.Api.open("me")) is sync.Api
    assert sync.Api.is_name("me")


def test_what_users_do_not_construct_says_so(sync: Any) -> None:
    with pytest.raises(Invalid, match="Run: not made by hand"):
        sync.Run()


def test_callbacks_run_off_the_loop_and_may_block(sync: Any) -> None:
    seen: list[int] = []
    artifact = sync.Artifact("a", "t")
    artifact.progress(lambda done: seen.append(done + len(artifact.by_name())))
    assert seen == [2]


def test_docstrings_and_signatures_are_those_of_aio_without_the_await(sync: Any) -> None:
    text = inspect.cleandoc(sync.Artifact.__doc__)
    assert '    with artifact.new_file("x") as f:\n        f.write("text")' in text
    assert "    run.log_artifact(artifact)" in text
    assert "Call `artifact.wait()` and do not await anything else." in text
    assert "`with artifact.new_file(...) as f`" in sync.Artifact.new_file.__doc__
    assert "with asyncart.init() as run" in sync.init.__doc__

    signature = inspect.signature(sync.Artifact.add_file)
    assert str(signature) == (
        "(self, local_path: 'str | os.PathLike[str]', name: 'str | None' = None, *, "
        "policy: \"Literal['mutable', 'immutable']\" = 'mutable') -> 'Self'"
    )


def test_only_what_is_exported_or_handed_out_has_a_twin(sync: Any) -> None:
    assert isinstance(sync, ModuleType)
    twins = {
        name
        for name, value in vars(sync).items()
        if isinstance(value, type) and name[0] != "_" and value.__module__ == sync.__name__
    }
    assert twins == {"Api", "Artifact", "Handle", "Run"}


def test_what_nobody_finished_is_finished_at_exit(sample_folder: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            "from twin_sample import sync; sync.init(); sync.init()",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{sample_folder.parent}{os.pathsep}{PACKAGE.parents[1]}"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "finished 2\n", "")


REFUSED = {
    "decorator": "class X:\n    @cached\n    async def f(self) -> None: ...",
    "no return annotation": "class X:\n    async def f(self): ...",
    "a callback that is given a twin": "class X:\n    async def f(self, call: Callable[[X], None]) -> None: ...",
    "a result of type": "class X:\n    async def f(self) -> Callable[[], X]: ...",
    "annotate it": "class X:\n    def __init__(self) -> None:\n        self.size = 3\n    async def f(self) -> None: ...",
    "__getattr__": "class X:\n    async def f(self) -> None: ...\n    def __getattr__(self, name: str) -> int: ...",
}


@pytest.mark.parametrize("reason", list(REFUSED))
def test_what_cannot_be_translated_is_refused_not_guessed(reason: str, tmp_path: Path) -> None:
    write_package(
        tmp_path, {"__init__.py": "from .x import X\n__all__ = ['X']", "x.py": REFUSED[reason]}
    )
    with pytest.raises(_reading.Untranslatable, match=reason):
        _twin.generate(tmp_path)
