"""Decide how many worker processes a transfer gets, and how its work is cut.

Arithmetic only: no clock, no disk, no processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ..config import Settings
from ..engine import plan
from ..engine.upload import WORKER_BYTES
from ..model import Entry

# Files times the cores beyond the first, from which workers are automatic. A worker costs 0.1 CPU seconds
# and 0.13 s to start. The inner loops for 100,000 x 10 KB on 2 idle cores: read, hash and pack 1.4-1.8 s
# with threads, 0.9-1.2 s with two processes; create files 1.2 s and 0.94 s; so two idle cores break even at
# 30,000 to 70,000 files. Whole operations, 100,000 files of 1-19 KB on tmpfs, on 2 *busy* cores (load 6 to
# 12; medians of 10 alternating runs; one process, then with two workers): log 4.2 and 4.6 CPU seconds (the
# caller's process 4.2 and 2.2), download 5.4 and 5.0 (5.4 and 0.85); 40,000 files: log 1.5 and 1.9,
# download 2.0 and 2.2. In wall time nothing was gained there (log 6.7 and 7.2 s, download 8.0 and 9.0 s, each
# +-3 s). Again, beside a machine that is half busy (load 3): 3.3 CPU seconds and 3.4 s by one process, 4.0
# and 5.4 s by two workers, with twice the memory. Workers pay where several cores are idle, so the threshold
# is rather too high than too low.
#
# Only files count, not bytes. Of large files nearly all the work (hashing, cutting, TLS) is done by threads
# without the interpreter's lock, and what is left for one event loop is no limit here: 4 files of 256 MiB on
# 2 cores, one process and two workers, log and download. Local: 0.8-0.9 and 1.0 s (1.4 and 1.7 CPU seconds),
# 0.5 and 0.6 s; SeaweedFS on the same cores: 5.1-5.4 and 6.0-8.2 s (1.6 and 3.0), 2.2-2.5 and 2.8-3.2 s. A
# machine with many cores and a network of several GB/s may differ, and was not measured: `workers=` says so.
WORTH_FILES = 200_000
MAX_WORKERS = 8  # a guess: the disk, or the store, is the limit by then
UNITS_EACH = 4  # pieces of work per worker: what the slowest one still does at the end is a quarter
UNIT_FILES = 16_384
UNIT_BYTES = 4 * plan.PACK_BYTES  # so that few packs are sealed half full
STEP_FILES = 4096  # entries that are sent to a worker at once
SPARE = 8  # one part in so many of the memory budget stays with the process itself


def worker_count(
    settings: Settings, files: int, *, cores: int, memory_bytes: int, can_start: bool
) -> int:
    """How many workers move so many files; 0 means: this process does it."""
    is_worth_it = files * (cores - 1) >= WORTH_FILES
    wanted = settings.workers or (min(cores, MAX_WORKERS) if is_worth_it else 0)
    if not can_start or settings.objects_url.startswith("memory:") or settings.limit_rate_bytes:
        return 0  # a store in our memory is no other process's; nor is the one rate
    count = min(wanted, files, shared_bytes(memory_bytes) // WORKER_BYTES)
    return count if count > 1 else 0


def shared_bytes(memory_bytes: int) -> int:
    """What of the memory budget the workers get, all together."""
    return memory_bytes - memory_bytes // SPARE


def threads_each(threads: int, workers: int) -> int:
    """Of a process's threads, how many each of its workers gets."""
    return max(2, threads // workers)


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def units(sizes: Sequence[int], rows: Sequence[int], workers: int) -> list[list[int]]:
    """The rows (ascending) in pieces of work: large files first, then runs of small ones, in order."""
    large = [row for row in rows if plan.is_large(sizes[row])]
    large.sort(key=sizes.__getitem__, reverse=True)
    small = rows if not large else [row for row in rows if not plan.is_large(sizes[row])]
    return [[row] for row in large] + list(_runs(sizes, small, workers))


def _runs(sizes: Sequence[int], rows: Sequence[int], workers: int) -> Iterator[list[int]]:
    pieces = workers * UNITS_EACH
    most_files = min(UNIT_FILES, -(-len(rows) // pieces))
    most_bytes = min(UNIT_BYTES, -(-sum(sizes[row] for row in rows) // pieces))
    first = nbytes = 0
    for i, row in enumerate(rows):
        if i > first and (i - first >= most_files or nbytes >= most_bytes):
            yield list(rows[first:i])
            first, nbytes = i, 0
        nbytes += sizes[row]
    if first < len(rows):
        yield list(rows[first:])


def steps(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Entries of a manifest for one worker at a time; preferably whole packs, so that each is read by one."""
    first = 0
    while first < len(entries):
        stop = first + STEP_FILES
        if stop + STEP_FILES // 2 >= len(entries):
            stop = len(entries)
        while stop < min(len(entries), first + 2 * STEP_FILES) and _is_same_object(
            entries[stop - 1], entries[stop]
        ):
            stop += 1
        yield entries[first:stop]
        first = stop


def _is_same_object(a: Entry, b: Entry) -> bool:
    return bool(a.extents and b.extents) and a.extents[0].object_id == b.extents[0].object_id
