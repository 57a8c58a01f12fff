"""Logging in the background: the caller goes on, and nothing fails silently."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from api_fixtures import tree
from colours import contents, draft, entered, got

import asyncart
import asyncart.aio
from asyncart.errors import Invalid, NotFound, TransferError, Unavailable
from asyncart.model import RunState

pytestmark = pytest.mark.usefixtures("here")


class Gate:
    """A web server that does not answer before `open`: what refers to it is being logged until then."""

    def __init__(self) -> None:
        gate = self
        self.is_reached = threading.Event()
        self._opened = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                gate.is_reached.set()
                gate._opened.wait(30)
                self.send_response(200)
                self.send_header("ETag", '"one"')
                self.send_header("Content-Length", "3")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def draft(self, face: Any) -> Any:
        artifact = face.Artifact("data", "dataset")
        artifact.add_reference(f"http://127.0.0.1:{self._server.server_port}/x")
        return artifact

    async def reached(self) -> None:
        await asyncio.to_thread(self.is_reached.wait, 30)

    def open(self) -> None:
        self._opened.set()

    def close(self) -> None:
        self.open()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()


async def doomed(face: Any, run: Any, name: str = "doomed") -> Any:
    """A draft that cannot be logged: the name belongs to another type."""
    await got(run.log_artifact(await draft(face, name, "dataset", f="x")))
    return await draft(face, name, "model", f="x")


async def test_waiting_gives_the_logged_artifact(face: Any) -> None:
    async with entered(face.init("p")) as run:
        artifact = await draft(face, f="x")
        pending = await got(run.log_artifact_in_background(artifact, aliases=["best"], tags=["t"]))
        logged = await got(pending.wait())
        assert logged == artifact
        assert pending.is_done
        assert (logged.version, sorted(logged.aliases), logged.tags) == (
            "v0",
            ["best", "latest"],
            ["t"],
        )
        assert await got(pending.wait()) == logged
        assert await contents(logged) == {"f": b"x"}


async def test_the_call_returns_while_the_work_goes_on(face: Any, gate: Gate) -> None:
    async with entered(face.init("p")) as run:
        pending = await got(run.log_artifact_in_background(gate.draft(face)))
        await gate.reached()
        assert not pending.is_done
        assert "pending" in repr(pending)
        other = await got(run.log_artifact(await draft(face, "other", f="y")))
        assert other.version == "v0"
        assert not pending.is_done
        gate.open()
    assert pending.is_done
    assert (await got(pending.wait())).version == "v0"


async def test_finish_waits_for_what_nobody_waited_for(face: Any, here: Path) -> None:
    tree(here, {"folder/a": "1"})
    async with entered(face.init("p")) as run:
        drafts = [await draft(face, f"data-{n}", f=str(n)) for n in range(4)]
        for each in drafts:
            await got(run.log_artifact_in_background(each))
        await got(run.log_artifact_in_background("folder", name="folder", type="dataset"))
    assert [each.version for each in drafts] == ["v0"] * 4
    assert sorted(a.name for a in await got(run.logged_artifacts())) == [
        "data-0:v0", "data-1:v0", "data-2:v0", "data-3:v0", "folder:v0",
    ]  # fmt: skip
    assert (await got(drafts[0].logged_by()))[0].state is RunState.FINISHED


async def test_arguments_are_checked_at_once(face: Any, here: Path) -> None:
    async with entered(face.init("p")) as run:
        with pytest.raises(NotFound, match="nowhere"):
            await got(run.log_artifact_in_background("nowhere"))
        with pytest.raises(Invalid, match="v3"):
            await got(run.log_artifact_in_background(await draft(face, f="x"), aliases=["v3"]))
        done = await got(run.log_artifact(await draft(face, f="x")))
        with pytest.raises(Invalid, match="logged already"):
            await got(run.log_artifact_in_background(done))


async def test_wait_raises_what_log_artifact_would_have_raised(face: Any) -> None:
    """... and then finish does not raise it again: it was noticed."""
    async with entered(face.init("p")) as run:
        artifact = await doomed(face, run)
        pending = await got(run.log_artifact_in_background(artifact))
        for _ in range(2):
            with pytest.raises(Invalid, match="'dataset', not 'model'"):
                await got(pending.wait())
        assert "failed" in repr(pending)
        assert artifact.is_draft
        await got(run.log_artifact(await draft(face, "fine", f="x")))
    [info] = await got((await got(run.logged_artifacts()))[0].logged_by())
    assert info.state is RunState.FINISHED


async def test_finish_raises_the_error_that_nobody_noticed_as_itself(face: Any) -> None:
    with pytest.raises(Invalid, match="'dataset', not 'model'"):
        async with entered(face.init("p")) as run:
            await got(run.log_artifact_in_background(await doomed(face, run)))
    assert run.is_finished
    [logged] = await got(run.logged_artifacts())
    assert (await got(logged.logged_by()))[0].state is RunState.FAILED
    await got(run.finish())


async def test_finish_raises_several_errors_as_one_that_names_them(face: Any) -> None:
    run = await got(face.init("p"))
    for name in ("one", "two"):
        await got(run.log_artifact_in_background(await doomed(face, run, name)))
    with pytest.raises(TransferError, match=r"2 artifacts .*one.*two") as caught:
        await got(run.finish())
    assert [type(e) for e in caught.value.failures] == [Invalid, Invalid]


async def test_a_run_that_fails_cancels_what_is_under_way(face: Any, gate: Gate) -> None:
    artifact = gate.draft(face)
    with pytest.raises(LookupError, match="of the user"):  # noqa: PT012
        async with entered(face.init("p")) as run:
            pending = await got(run.log_artifact_in_background(artifact))
            await gate.reached()
            raise LookupError("of the user")
    assert pending.is_done
    with pytest.raises(Unavailable, match="data: logging it was cancelled"):
        await got(pending.wait())
    assert artifact.is_draft
    assert await got(run.logged_artifacts()) == []
    gate.open()
    async with entered(face.init("p")) as run:
        assert (await got(run.log_artifact(artifact))).version == "v0"


async def test_the_users_error_is_not_replaced_by_one_of_the_background(
    face: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LookupError, match="of the user"):  # noqa: PT012
        async with entered(face.init("p")) as run:
            pending = await got(run.log_artifact_in_background(await doomed(face, run)))
            while not pending.is_done:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            raise LookupError("of the user")
    assert "'dataset', not 'model'" in caplog.text


async def test_to_give_up_waiting_does_not_stop_the_logging(gate: Gate) -> None:
    async with asyncart.aio.init("p") as run:
        pending = await run.log_artifact_in_background(gate.draft(asyncart.aio))
        with anyio.move_on_after(0.05) as scope:
            await pending.wait()
        assert scope.cancelled_caught
        assert not pending.is_done
        gate.open()
        assert (await pending.wait()).version == "v0"


async def test_a_finish_that_is_cancelled_cancels_the_background_too(gate: Gate) -> None:
    artifact = gate.draft(asyncart.aio)
    run = await asyncart.aio.init("p")
    pending = await run.log_artifact_in_background(artifact)
    await gate.reached()
    with anyio.move_on_after(0.05) as scope:
        await run.finish()
    assert scope.cancelled_caught
    assert pending.is_done
    assert artifact.is_draft
    async with asyncart.aio.init("p") as other:
        seen = await other.log_artifact(await draft(asyncart.aio, f="x"))
    assert run.is_finished
    assert await run.logged_artifacts() == []
    assert seen.version == "v0"


def test_a_loop_that_ends_says_what_it_cut_off(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that forgets to finish its run: asyncio.run cancels, and the log names the artifact."""
    caplog.set_level(logging.WARNING, "asyncart")

    async def main() -> None:
        run = await asyncart.aio.init("p")
        await run.log_artifact_in_background(gate.draft(asyncart.aio))
        await gate.reached()

    asyncio.run(main())
    assert "data: logging it was cancelled" in caplog.text
    while (run := asyncart.aio.current_run()) is not None:
        asyncio.run(run.finish())
