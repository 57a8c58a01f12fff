"""Programs that run beside us on 127.0.0.1: started, waited for, and gone with whoever started them.

What is promised: a program that was started here ends when its starter does, however that ends (on Linux: when
the *thread* that started it ends), reads nothing from our stdin, and is an error with its last words when it
does not come up. What is not: that a port which was free stays free until the program has taken it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .measure import CommandFailed

REPOSITORY = Path(__file__).resolve().parent.parent
READY_S = 60.0  # for a program to answer; on an idle machine none takes more than two
END_S = 10.0  # to end, once it was told
ASK_S = 0.02


class NotStarted(CommandFailed):
    """It ended, or was not ready in time; the message ends with what it said."""


def start(
    command: Sequence[str], *, ends_with: signal.Signals = signal.SIGKILL, **options: Any
) -> subprocess.Popen[bytes]:
    """`subprocess.Popen(command, **options)` that gets the signal `ends_with` when its starter is gone."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=partial(_end_with_parent, ends_with) if sys.platform == "linux" else None,
        **options,
    )


@contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    is_ready: Callable[[], bool],
    *,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    ends_with: signal.Signals = signal.SIGKILL,
) -> Iterator[subprocess.Popen[bytes]]:
    """The program at work in `folder`, where its output goes to `log`, from when it is ready to the block's end.

    `env` goes on top of the environment. `ends_with` is what ends it and its children at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with (
        open(log, "wb") as output,
        start(
            command,
            ends_with=ends_with,
            env={**os.environ, **(env or {})},
            user=user,
            cwd=folder,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            wait_until(
                is_ready,
                lambda: f"{command[0]} is not ready: {log.read_text(errors='replace')[-2000:]}",
                process,
            )
            yield process
        finally:
            process.send_signal(ends_with)
            try:
                process.wait(END_S)
            finally:
                process.kill()


def clean_environment() -> dict[str, str]:
    """Ours, without what configures asyncart, for a process that runs elsewhere but imports this working tree."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCART_")}
    return {**kept, "PYTHONPATH": search_path()}


def search_path() -> str:
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


def wait_until(
    is_so: Callable[[], bool],
    words: Callable[[], str],
    process: subprocess.Popen[bytes] | None = None,
) -> None:
    """Return when it is so. NotStarted, with these words, if it takes too long or the process ends first."""
    deadline = time.monotonic() + READY_S
    while not is_so():
        has_ended = process is not None and process.poll() is not None
        if has_ended or time.monotonic() > deadline:
            raise NotStarted(words())
        time.sleep(ASK_S)


def listens(port: int) -> bool:
    """Does anybody take connections there?"""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def free_port() -> int:
    return free_ports(1)[0]


def _end_with_parent(number: signal.Signals) -> None:
    """In the child, before it becomes the program."""
    ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
