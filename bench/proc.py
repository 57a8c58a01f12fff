"""What Linux's /proc says about a process and all its descendants.

Light on purpose: the process that is measured imports it too, and what it imports counts as its
baseline. A process that ends while we look is simply not there; nothing here raises for it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Io(NamedTuple):
    """Bytes through read and write calls (page cache or not), of a process and its dead children."""

    read: int
    written: int


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def tree(pid: int) -> list[int]:
    """The process and its living descendants."""
    found = [pid]
    for parent in found:  # grows while it is walked: breadth first
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            found += map(int, _text(f"/proc/{parent}/task/{thread}/children").split())
    return found


def rss_bytes(pid: int) -> int:
    """Resident memory now; 0 if the process is gone."""
    fields = _text(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE_BYTES if fields else 0


def peak_rss_bytes(pid: int) -> int:
    """The highest resident memory since the start, or since `reset_peak_rss`."""
    for line in _text(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak_rss() -> None:
    """Let this process's peak count from now on."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def io(pid: int) -> Io:
    """Of one process and of the children that it has waited for."""
    fields = dict(line.split(": ", 1) for line in _text(f"/proc/{pid}/io").splitlines())
    return Io(int(fields.get("rchar", 0)), int(fields.get("wchar", 0)))


def cpu_s(pid: int) -> float:
    """User and system seconds of one process and of the children that it has waited for."""
    text = _text(f"/proc/{pid}/stat")
    fields = text[text.rfind(")") + 2 :].split()  # the name before it may hold spaces
    return sum(map(int, fields[11:15])) / TICKS_PER_S if fields else 0.0


def tree_io(pid: int) -> Io:
    each = [io(member) for member in tree(pid)]
    return Io(sum(one.read for one in each), sum(one.written for one in each))


def tree_cpu_s(pid: int) -> float:
    return sum(cpu_s(member) for member in tree(pid))


def tree_rss_bytes(pid: int) -> int:
    """Summed over the tree: pages shared by a fork count once per process, so this errs upwards."""
    return sum(rss_bytes(member) for member in tree(pid))
