"""Run one command and say what it cost: wall, CPU, peak memory, bytes read and written.

CPU comes from wait4 and is exact for the command and every descendant that it waited for. Memory and
I/O are sampled from /proc over the whole process tree, so a peak shorter than the sampling interval
can be missed. A command that fails or exceeds its time is an error that shows what it printed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import IO

from . import proc

SAMPLE_INTERVAL_S = 0.05  # one walk of a 30-thread tree takes 0.3 ms: well under 1% of a core
TIME_LIMIT_S = 1800.0  # DVC needs about a minute for 100,000 files: a guess with much room


class CommandFailed(RuntimeError):
    """A measured command exited with an error; the message ends with what it wrote to stderr."""


@dataclass(frozen=True)
class Command:
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  # on top of the caller's environment
    cwd: Path | None = None


@dataclass(frozen=True)
class Measurement:
    """One run of one contender. `extra` holds what only some rows measure, by name."""

    wall_s: float
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """A measure by name; None if this run has no such thing."""
        if name in self.extra:
            return self.extra[name]
        value: float | None = getattr(self, name, None)
        return value


def median_of(measurements: Iterable[Measurement], name: str) -> float | None:
    values = [value for one in measurements if (value := one.value(name)) is not None]
    return median(values) if values else None


class Sampler:
    """Watches a process tree from a thread until it is left."""

    def __init__(self, pid: int, *, deadline: float) -> None:
        self.peak_rss_bytes = 0
        self.io = proc.Io(0, 0)
        self.has_timed_out = False
        self._pid = pid
        self._deadline = deadline
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_INTERVAL_S):
            members = proc.tree(self._pid)
            self.peak_rss_bytes = max(
                self.peak_rss_bytes, sum(proc.rss_bytes(member) for member in members)
            )
            # What a parent waited for is in the parent's counts, so the sum over the living never drops.
            each = [proc.io(member) for member in members]
            self.io = proc.Io(
                max(self.io.read, sum(one.read for one in each)),
                max(self.io.written, sum(one.written for one in each)),
            )
            if time.monotonic() > self._deadline:
                self.has_timed_out = True
                kill_group(self._pid)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


def kill_group(pid: int) -> None:
    """End a command that was started as the leader of its own group, and all that it started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def run(command: Command, *, time_limit_s: float = TIME_LIMIT_S) -> Measurement:
    """Run it to its end and measure it as a whole process, its start included."""
    with tempfile.TemporaryFile() as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env},
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            with Sampler(process.pid, deadline=time.monotonic() + time_limit_s) as sampler:
                _, status, usage = os.wait4(process.pid, 0)
                wall_s = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            kill_group(process.pid)  # what it left running, or itself if we were interrupted
            if process.returncode is None:
                process.wait()
        if process.returncode != 0:
            why = f"ran over {time_limit_s:.0f} s" if sampler.has_timed_out else "failed"
            raise CommandFailed(
                f"{' '.join(map(str, command.argv))[:300]}: {why}, exit code {process.returncode}:"
                f" {_tail(stderr)}"
            )
    return Measurement(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        # ru_maxrss cannot be below what this process had when it forked: only where no sample was taken
        peak_rss_bytes=sampler.peak_rss_bytes or usage.ru_maxrss * 1024,
        read_bytes=sampler.io.read,
        written_bytes=sampler.io.written,
    )


def _tail(file: IO[bytes], length: int = 2000) -> str:
    file.seek(0)
    return file.read()[-length:].decode(errors="replace").strip()
