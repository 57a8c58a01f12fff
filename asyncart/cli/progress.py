"""Show a long operation on stderr: a bar on a terminal, a line every 30 s elsewhere, JSON lines for machines.

Callbacks come from a worker thread, one at a time, ten a second at most. A display never fails the
operation: a stderr that cannot be written to is given up.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from ..model import Progress
from . import words
from .meter import Meter, Reading
from .options import Options

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

LINE_EVERY_S = 30.0
BAR_AFTER_S = 0.4  # what is done sooner needs no bar

Callback = Callable[[Progress], None]


@contextlib.contextmanager
def shown(options: Options) -> Iterator[Callback | None]:
    """The callback for `progress=`; None if nothing is to be shown."""
    kind = _kind(options)
    if kind is None:
        yield None
        return
    display = kind()
    try:
        yield display.show
    finally:
        display.close()


def _kind(options: Options) -> type[Lines | Bar | JsonLines] | None:
    if options.progress is False or options.verbosity < 0:
        return None
    if options.is_json:
        return JsonLines if options.progress else None
    return Bar if sys.stderr.isatty() else Lines


class JsonLines:
    """Every event as it is, one object per line."""

    def show(self, event: Progress) -> None:
        _write(json.dumps(msgspec.to_builtins(event)) + "\n")

    def close(self) -> None:
        return


class Lines:
    """A line now and then, for log files."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._due_s = time.monotonic() + LINE_EVERY_S

    def show(self, event: Progress) -> None:
        now_s = time.monotonic()
        reading = self._meter.read(event, now_s)
        if now_s >= self._due_s:
            self._due_s = now_s + LINE_EVERY_S
            _write(f"asyncart: {event.stage}: {', '.join(facts(reading))}\n")

    def close(self) -> None:
        return


class Bar:
    """One line that moves and is gone at the end. rich is imported when there is something to wait for."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._began_s = time.monotonic()
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def show(self, event: Progress) -> None:
        now_s = time.monotonic()
        reading = self._meter.read(event, now_s)
        if now_s - self._began_s < BAR_AFTER_S:
            return
        with contextlib.suppress(OSError, ValueError):
            if self._bars is None:
                self._bars, self._task = _bars()
                self._bars.start()
            assert self._task is not None
            self._bars.update(
                self._task,
                completed=reading.fraction or 0.0,
                total=None if reading.fraction is None else 1.0,
                stage=event.stage,
                facts=_fitting(facts(reading), self._bars.console.width),
            )

    def close(self) -> None:
        if self._bars is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bars.stop()


def _bars() -> tuple[Bars, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        SpinnerColumn(),
        TextColumn("{task.fields[stage]:<8}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[facts]}"),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
    return bars, bars.add_task("", total=None, stage="", facts="")


BESIDE_FACTS = 36  # columns of the spinner, the stage, the bar and the gaps


def _fitting(parts: list[str], width: int) -> str:
    """As many of them as fit, the first ones first."""
    text = ""
    for part in parts:
        longer = f"{text} · {part}" if text else part
        if len(longer) > width - BESIDE_FACTS:
            break
        text = longer
    return text


def facts(reading: Reading) -> list[str]:
    """What there is to say, most important first."""
    event = reading.event
    if event.files_total:
        said = [f"{event.files:,}/{event.files_total:,} files"]
    else:
        said = [words.count(event.files, "file")]
    if event.bytes_total:
        said.append(f"{words.size(event.bytes)} of {words.size(event.bytes_total)}")
    elif event.bytes:
        said.append(words.size(event.bytes))
    if reading.eta_s is not None:
        said.append(f"{words.duration(reading.eta_s)} left")
    if reading.bytes_rate > 0:
        said.append(f"{words.size(reading.bytes_rate)}/s")
    if event.bytes_deduplicated:
        said.append(f"{words.size(event.bytes_deduplicated)} deduplicated")
    return said


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
