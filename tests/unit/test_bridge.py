"""The bridge keeps every promise of its docstring; scripts run where a test must end a process."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from asyncart import _bridge, _twins
from asyncart.errors import Corrupt, Invalid, NotFound, TransferError, Unavailable

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="signals to a thread, fork")


async def echo(value: object) -> object:
    await anyio.lowlevel.checkpoint()
    return value


def still_works() -> bool:
    return _bridge.call(echo, 7) == 7


@pytest.fixture(autouse=True)
def fresh_loop() -> Iterator[None]:
    """Whatever a test did to the loop, it is alive and idle afterwards."""
    yield
    assert still_works()
    _bridge.close()


def run_script(body: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, warnings as errors; it must end by itself."""
    source = "from asyncart import _bridge\nimport anyio, os, sys, threading, time\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", source + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        check=False,
    )


def output_of(body: str) -> list[str]:
    done = run_script(body)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


# --- calls -------------------------------------------------------------------------------------


def test_a_call_returns_what_the_coroutine_returns() -> None:
    async def add(a: int, *, b: int) -> int:
        return a + b

    assert _bridge.call(add, 1, b=2) == 3


def test_an_error_arrives_as_itself_with_the_line_that_raised_it() -> None:
    raised = NotFound("bikes:v3 does not exist")

    async def fail() -> None:
        raise raised

    with pytest.raises(NotFound) as caught:
        _bridge.call(fail)
    assert caught.value is raised
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail"


def test_a_raised_error_is_freed_without_the_garbage_collector() -> None:
    class Traced(Exception):
        pass

    async def fail() -> None:
        raise Traced

    gc.disable()
    try:
        try:
            _bridge.call(fail)
        except Traced as error:
            ref = weakref.ref(error)
        assert ref() is None
    finally:
        gc.enable()


def test_the_loop_thread_starts_with_the_first_call_and_serves_all() -> None:
    async def where() -> int:
        return threading.get_ident()

    assert not _bridge.is_started()
    assert _bridge.call(where) == _bridge.call(where) != threading.get_ident()


def test_many_threads_at_once_start_one_loop() -> None:
    gate = threading.Barrier(16)
    seen: list[int] = []

    async def where() -> int:
        return threading.get_ident()

    def work() -> None:
        gate.wait()
        seen.extend(_bridge.call(where) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 320
    assert len(set(seen)) == 1


def test_calls_of_several_threads_run_side_by_side() -> None:
    met = threading.Barrier(2)

    async def meet() -> None:
        await anyio.to_thread.run_sync(met.wait)

    other = threading.Thread(target=_bridge.call, args=(meet,))
    other.start()
    _bridge.call(meet)
    other.join()


def test_the_callers_context_variables_are_seen() -> None:
    tenant = contextvars.ContextVar("tenant", default="nobody")

    async def who() -> str:
        await anyio.lowlevel.checkpoint()
        return tenant.get()

    tenant.set("alice")
    assert _bridge.call(who) == "alice"
    assert contextvars.Context().run(_bridge.call, who) == "nobody"


async def test_a_thread_that_runs_an_event_loop_may_call() -> None:
    """As in Jupyter: the cell's code runs inside a running loop."""
    assert asyncio.get_running_loop()
    assert _bridge.call(echo, 1) == 1


def test_a_call_on_the_loops_own_thread_is_refused_not_a_deadlock() -> None:
    async def outer() -> None:
        _bridge.call(echo, 1)

    with pytest.raises(Invalid, match="would wait for itself"):
        _bridge.call(outer)


def test_a_call_costs_at_most_100_us() -> None:
    _bridge.call(echo, 0)
    best = 1.0
    for _ in range(50):
        begun = time.perf_counter()
        for _ in range(50):
            _bridge.call(echo, 0)
        best = min(best, (time.perf_counter() - begun) / 50)
    assert best < 100e-6


# --- errors of task groups ---------------------------------------------------------------------


def fail_together(*errors: BaseException) -> Callable[[], None]:
    async def fail(error: BaseException) -> None:
        raise error

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for error in errors:
                tasks.start_soon(fail, error)

    return lambda: _bridge.call(main)


def test_the_only_error_of_a_task_group_arrives_as_itself() -> None:
    lone = Corrupt("object 17")
    with pytest.raises(Corrupt) as caught:
        fail_together(lone)()
    assert caught.value is lone


def test_the_only_error_of_nested_groups_arrives_as_itself() -> None:
    lone = Corrupt("object 17")
    with pytest.raises(Corrupt) as caught:
        fail_together(ExceptionGroup("inner", [ExceptionGroup("innermost", [lone])]))()
    assert caught.value is lone


def test_several_errors_of_a_task_group_become_one_transfer_error() -> None:
    first, second, third = Corrupt("object 17"), NotFound("object 18"), OSError("disk")
    with pytest.raises(TransferError, match="3 errors, the first: object 17") as caught:
        fail_together(first, ExceptionGroup("inner", [second, third]))()
    assert caught.value.failures == (first, second, third)


def test_an_exit_request_in_a_group_outranks_its_failures() -> None:
    group = BaseExceptionGroup("both", [Corrupt("object 17"), SystemExit(3)])

    async def fail() -> None:
        raise group

    with pytest.raises(SystemExit, match="3"):
        _bridge.call(fail)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_exit_request_raised_on_the_loop_reaches_its_caller_and_stops_nobody_else(
    kind: type[BaseException],
) -> None:
    """Also from a child task, where asyncio lets it through the loop itself."""
    release = threading.Event()
    survived: list[object] = []

    async def slow() -> str:
        await anyio.to_thread.run_sync(release.wait)
        return "survived"

    async def direct() -> None:
        raise kind

    other = threading.Thread(target=lambda: survived.append(_bridge.call(slow)))
    other.start()
    with pytest.raises(kind):
        _bridge.call(direct)
    with pytest.raises(kind):
        fail_together(kind())()
    release.set()
    other.join()
    assert survived == ["survived"]


def test_a_cancellation_that_comes_from_inside_is_an_ordinary_error() -> None:
    async def fail() -> None:
        raise asyncio.CancelledError

    with pytest.raises(Unavailable, match="cancelled from inside"):
        _bridge.call(fail)


# --- Ctrl-C ------------------------------------------------------------------------------------


@contextmanager
def ctrl_c_at(*moments: threading.Event) -> Iterator[None]:
    """SIGINT to the main thread at each of the moments, in turn."""
    main = threading.main_thread().ident
    assert main == threading.get_ident()

    def send() -> None:
        for moment in moments:
            moment.wait(30)
            signal.pthread_kill(main, signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        for moment in moments:
            moment.set()
        sender.join()


class Steps(list[str]):
    """What happened in which order; `at(step)` is an event that is set when it happens."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    def at(self, step: str) -> threading.Event:
        return self._events.setdefault(step, threading.Event())

    def add(self, step: str) -> None:
        self.append(step)
        self.at(step).set()


@posix
def test_ctrl_c_cancels_the_call_and_waits_for_its_clean_up() -> None:
    steps = Steps()

    async def work() -> None:
        try:
            steps.add("working")
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
                steps.add("cleaned up")

    with ctrl_c_at(steps.at("working")), pytest.raises(KeyboardInterrupt):
        _bridge.call(work)
    assert steps == ["working", "cleaned up"]


@posix
def test_a_second_ctrl_c_abandons_the_clean_up_at_once() -> None:
    steps, release = Steps(), threading.Event()

    async def work() -> None:
        try:
            steps.add("working")
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                steps.add("cleaning")
                await anyio.to_thread.run_sync(release.wait)
                steps.add("cleaned up")

    try:
        with (
            ctrl_c_at(steps.at("working"), steps.at("cleaning")),
            pytest.raises(KeyboardInterrupt),
        ):
            _bridge.call(work)
        assert steps == ["working", "cleaning"]
    finally:
        release.set()
    assert steps.at("cleaned up").wait(30)


@posix
def test_the_wait_for_a_clean_up_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_bridge, "CLEANUP_S", 0.05)
    steps, release = Steps(), threading.Event()

    async def work() -> None:
        try:
            steps.add("working")
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(release.wait)
                steps.add("cleaned up")

    try:
        with ctrl_c_at(steps.at("working")), pytest.raises(KeyboardInterrupt):
            _bridge.call(work)
        assert "still cleaning up" in caplog.text
    finally:
        release.set()
    assert steps.at("cleaned up").wait(30)


@asynccontextmanager
async def session(steps: Steps, *, slow: str = "") -> AsyncIterator[str]:
    """Holds a task group, as transfers do; `slow` names the phase that lasts."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 60)
        steps.add("entering")
        if slow == "enter":
            await anyio.sleep(60)
        try:
            yield "value"
        except BaseException as error:
            steps.add(type(error).__name__)
            raise
        finally:
            steps.add("leaving")
            if slow == "leave":
                await anyio.sleep(60)
            tasks.cancel_scope.cancel()


@posix
def test_ctrl_c_in_a_with_body_leaves_the_scope_by_an_ordinary_exception() -> None:
    steps = Steps()
    body = threading.Event()

    def interrupted() -> None:
        with _bridge.scope(session, steps) as value:
            assert value == "value"
            body.set()
            while True:  # a signal that comes before the sleep begins does not end it
                time.sleep(0.01)

    with ctrl_c_at(body), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert steps == ["entering", "BodyInterrupted", "leaving"]


@posix
def test_ctrl_c_while_entering_cleans_up() -> None:
    steps = Steps()
    with (
        ctrl_c_at(steps.at("entering")),
        pytest.raises(KeyboardInterrupt),
        _bridge.scope(session, steps, slow="enter"),
    ):
        pytest.fail("the body must not run")
    assert steps == ["entering"]


@posix
def test_ctrl_c_while_leaving_cancels_the_leaving() -> None:
    steps = Steps()
    with (
        ctrl_c_at(steps.at("leaving")),
        pytest.raises(KeyboardInterrupt),
        _bridge.scope(session, steps, slow="leave"),
    ):
        pass
    assert steps == ["entering", "leaving"]


@posix
def test_ctrl_c_during_an_iteration_ends_its_task() -> None:
    steps = Steps()

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            steps.add("waiting")
            await anyio.sleep(60)
        finally:
            steps.add("ended")

    stream = _bridge.iterate(numbers)
    assert next(stream) == 1
    with ctrl_c_at(steps.at("waiting")), pytest.raises(KeyboardInterrupt):
        next(stream)
    assert steps == ["waiting", "ended"]
    assert list(stream) == []


# --- scopes ------------------------------------------------------------------------------------


def test_a_scope_may_hold_a_task_group_between_two_calls() -> None:
    steps = Steps()
    with _bridge.scope(session, steps) as value:
        assert value == "value"
        assert still_works()
    assert steps == ["entering", "leaving"]


def test_an_error_of_the_body_passes_through_the_scope_unchanged() -> None:
    steps = Steps()
    raised = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, _bridge.scope(session, steps):
        raise raised
    assert caught.value is raised
    assert steps == ["entering", "ValueError", "leaving"]
    frames = traceback.extract_tb(raised.__traceback__)
    assert [Path(frame.filename).name for frame in frames] == ["test_bridge.py"]


@asynccontextmanager
async def swallow() -> AsyncIterator[None]:
    try:
        yield
    except Exception:
        return


def test_a_scope_may_suppress_the_bodys_error_but_never_an_exit() -> None:
    with _bridge.scope(swallow):
        raise ValueError
    with pytest.raises(SystemExit), _bridge.scope(swallow):
        raise SystemExit


@asynccontextmanager
async def fail_to_leave() -> AsyncIterator[None]:
    try:
        yield
    finally:
        raise Unavailable("disk full")


def test_an_error_of_the_clean_up_is_raised_with_the_bodys_as_context() -> None:
    raised = ValueError("mine")
    with (
        pytest.raises(Unavailable, match="disk full") as caught,
        _bridge.scope(fail_to_leave),
    ):
        raise raised
    assert caught.value.__context__ is raised


def test_an_interrupt_stays_one_though_its_clean_up_fails() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, _bridge.scope(fail_to_leave):
        raise KeyboardInterrupt
    assert caught.value.__notes__ == ["and its clean-up failed: Unavailable: disk full"]


def test_a_scope_that_cannot_be_entered_raises_why() -> None:
    @asynccontextmanager
    async def closed() -> AsyncIterator[None]:
        raise NotFound("no such project")
        yield

    with pytest.raises(NotFound, match="no such project"), _bridge.scope(closed):
        pytest.fail("the body must not run")


# --- iteration ---------------------------------------------------------------------------------


def test_an_async_generator_may_hold_a_task_group_while_it_is_iterated() -> None:
    async def numbers(count: int) -> AsyncIterator[int]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 60)
            for number in range(count):
                yield number
            tasks.cancel_scope.cancel()

    assert list(_bridge.iterate(numbers, 100)) == list(range(100))
    assert list(_bridge.iterate(numbers, 0)) == []


def test_an_iteration_that_is_dropped_ends_its_task() -> None:
    ended = threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(10):
                yield number
        finally:
            ended.set()

    for number in _bridge.iterate(numbers):
        if number == 3:
            break
    assert ended.wait(30)


def test_an_iteration_runs_no_further_than_it_is_asked() -> None:
    made: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    stream = _bridge.iterate(numbers)
    assert not _bridge.is_started()
    assert [next(stream), next(stream)] == [0, 1]
    still_works()
    assert made == [0, 1]


def test_an_error_within_an_iteration_arrives_after_the_items_before_it() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise Corrupt("page 2")

    stream = _bridge.iterate(numbers)
    assert next(stream) == 1
    with pytest.raises(Corrupt, match="page 2"):
        next(stream)
    assert list(stream) == []


# --- the end of the loop -----------------------------------------------------------------------


def test_close_cancels_what_runs_and_the_next_call_starts_anew() -> None:
    steps = Steps()
    errors: list[BaseException] = []

    async def work() -> None:
        steps.add("working")
        await anyio.sleep(60)

    def caller() -> None:
        try:
            _bridge.call(work)
        except Unavailable as error:
            errors.append(error)

    thread = threading.Thread(target=caller)
    thread.start()
    steps.at("working").wait()
    _bridge.close()
    thread.join()
    assert "the program ends" in str(errors[0])
    assert not _bridge.is_started()
    assert still_works()


starts_threads_at_exit = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 3), reason="these Pythons start no thread at exit"
)
EXIT = """
    async def finish(name, hop):
        await anyio.sleep(0)
        await hop(time.sleep, 0)
        print(name, flush=True)
    async def noop(): pass
    from functools import partial
"""


@starts_threads_at_exit
def test_what_is_registered_runs_at_exit_the_latest_first_and_may_use_threads() -> None:
    """Workers of their own included, which Python >= 3.12 refuses to start in atexit."""
    script = """
    _bridge.at_exit(partial(finish, "first", anyio.to_thread.run_sync))
    _bridge.at_exit(partial(finish, "second", anyio.to_thread.run_sync))
    _bridge.call(noop)
    """
    assert output_of(EXIT + script) == ["second", "first"]


@starts_threads_at_exit
def test_finishing_waits_for_the_ordinary_threads_that_still_work() -> None:
    script = """
    _bridge.at_exit(partial(finish, "finished", anyio.to_thread.run_sync))
    gate = threading.Event()
    def work():
        gate.wait()
        time.sleep(0.1)  # the main thread has ended
        _bridge.call(finish, "worked", anyio.to_thread.run_sync)
    threading.Thread(target=work).start()
    _bridge.call(noop)
    from concurrent.futures import ThreadPoolExecutor
    ThreadPoolExecutor(1).submit(gate.set)  # its idle worker must not block the exit
    """
    assert output_of(EXIT + script) == ["worked", "finished"]


def test_nothing_is_finished_by_a_program_that_never_used_the_loop() -> None:
    assert output_of(EXIT + "    _bridge.at_exit(noop)\n    print(_bridge.is_started())") == [
        "False"
    ]


def test_a_failure_at_exit_is_logged_and_stops_neither_the_others_nor_the_exit_code() -> None:
    script = """
    import logging
    logging.basicConfig(format="%(name)s %(message)s")
    async def fail(): raise OSError("no space")
    async def no_hop(*args): pass
    _bridge.at_exit(partial(finish, "first", no_hop))
    _bridge.at_exit(fail)
    _bridge.call(noop)
    sys.exit(5)
    """
    done = run_script(EXIT + script)
    assert (done.returncode, done.stdout.split()) == (5, ["first"])
    assert "asyncart.bridge fail failed at exit" in done.stderr
    assert "OSError: no space" in done.stderr


def test_the_wait_for_what_is_finished_at_exit_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_bridge, "EXIT_S", 0.01)
    bridge = _bridge.Bridge()
    monkeypatch.setattr(_bridge, "_bridge", bridge)
    assert still_works()
    _bridge.at_exit(anyio.sleep_forever)
    bridge.run_finishers()
    assert "sleep_forever failed at exit" in caplog.text
    bridge.close()


def test_a_call_in_a_users_own_exit_handler_works() -> None:
    script = """
    import atexit
    atexit.register(lambda: _bridge.call(finish, "handler", noop_hop))
    async def noop_hop(*args): pass
    _bridge.call(noop)
    """
    assert output_of(EXIT + script) == ["handler"]


def test_a_daemon_threads_call_does_not_hold_up_the_exit() -> None:
    script = """
    working = threading.Event()
    async def work():
        working.set()
        await anyio.sleep(60)
    def caller():
        try:
            _bridge.call(work)
        except OSError:
            pass
    threading.Thread(target=caller, daemon=True).start()
    working.wait()
    print("end")
    """
    assert output_of(script) == ["end"]


# --- fork --------------------------------------------------------------------------------------

FORK = """
    async def echo(value):
        await anyio.sleep(0)
        return await anyio.to_thread.run_sync(lambda: value)
    def in_child(body):
        pid = os.fork()
        if pid == 0:
            body()
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
"""


def silence_fork_warning(script: str) -> str:
    # Python >= 3.12 warns of any fork beside a thread, which is what is tested here
    return "\nimport warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + (
        textwrap.dedent(FORK) + textwrap.dedent(script)
    )


@posix
def test_a_forked_child_starts_its_own_loop_and_the_parents_lives_on() -> None:
    script = """
    _bridge.call(echo, 1)
    in_child(lambda: print("child", _bridge.call(echo, 2), flush=True))
    print("parent", _bridge.call(echo, 3))
    """
    assert output_of(silence_fork_warning(script)) == ["child", "2", "parent", "3"]


@posix
def test_a_child_forked_while_the_lock_is_held_is_not_stuck() -> None:
    script = """
    held, release = threading.Event(), threading.Event()
    def hold():
        with _bridge._bridge._lock:
            held.set()
            release.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    in_child(lambda: print(_bridge.call(echo, 2), flush=True))
    release.set()
    thread.join()
    print(_bridge.call(echo, 3))
    """
    assert output_of(silence_fork_warning(script)) == ["2", "3"]


@posix
def test_a_child_that_never_calls_ends_without_touching_the_parents_loop() -> None:
    script = """
    _bridge.call(echo, 1)
    in_child(lambda: None)
    print(_bridge.call(echo, 3))
    """
    assert output_of(silence_fork_warning(script)) == ["3"]


@posix
def test_a_child_leaves_the_parents_scopes_iterations_and_finishers_alone() -> None:
    script = """
    from contextlib import asynccontextmanager
    @asynccontextmanager
    async def session():
        try:
            yield
        finally:
            print("left by", os.getpid() == parent, flush=True)
    async def numbers():
        for number in range(3):
            yield number
    async def finish():
        print("finished by", os.getpid() == parent)
    parent = os.getpid()
    _bridge.at_exit(finish)
    stream = _bridge.iterate(numbers)
    next(stream)
    unbegun = _bridge.iterate(numbers)
    with _bridge.scope(session):
        pid = os.fork()
        if pid == 0:
            _bridge.call(echo, 2)
            try:
                next(stream)
            except ValueError as error:
                assert "begun in the parent" in str(error)
            assert list(unbegun) == [0, 1, 2]
            del stream
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    print(list(stream), flush=True)
    """
    assert " ".join(output_of(silence_fork_warning(script))) == (
        "left by True [1, 2] finished by True"
    )


@posix
@starts_threads_at_exit
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_workers_call_and_finish_what_they_registered(
    method: str, tmp_path: Path
) -> None:
    script = tmp_path / "workers.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing, sys, warnings
        from asyncart import _bridge
        import anyio
        warnings.simplefilter("ignore", DeprecationWarning)
        async def echo(value):
            await anyio.to_thread.run_sync(lambda: None)
            return value
        async def finish():
            await anyio.to_thread.run_sync(lambda: None)
            print("finished", flush=True)
        def work(queue):
            _bridge.at_exit(finish)
            queue.put(_bridge.call(echo, 5))
        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            _bridge.call(echo, 1)
            queue = context.SimpleQueue()
            worker = context.Process(target=work, args=(queue,))
            worker.start()
            got = queue.get()
            worker.join()
            print(got, worker.exitcode, _bridge.call(echo, 6))
        """)
    )
    done = subprocess.run(
        [sys.executable, str(script), method],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout.split(), done.stderr) == (["finished", "5", "0", "6"], "")


# --- twins -------------------------------------------------------------------------------------


class Thing:
    def __repr__(self) -> str:
        return "<Thing>"


class ThingTwin(_twins.Twin):
    pass


def test_the_twin_of_one_object_is_one_object_while_it_is_held() -> None:
    thing = Thing()
    twin = ThingTwin._of(thing)
    assert ThingTwin._of(thing) is twin
    assert ThingTwin._of(Thing()) != twin
    assert repr(twin) == "<Thing>"
    assert {twin: 1}[ThingTwin._of(thing)] == 1
    held = weakref.ref(twin)
    del twin
    gc.collect()
    assert held() is None
    assert ThingTwin._of(thing)._aio is thing


def test_arguments_are_unwrapped_also_inside_collections() -> None:
    thing = Thing()
    twin = ThingTwin._of(thing)
    assert _twins.aio_of(twin) is thing
    assert _twins.aio_of([twin, 1]) == [thing, 1]
    assert _twins.aio_of((twin,)) == (thing,)
    assert _twins.aio_of("text") == "text"


def test_the_bridge_says_nothing_unless_something_is_wrong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert still_works()
        _bridge.close()
    assert [record for record in caplog.records if record.name.startswith("asyncart")] == []
