"""Who holds a session, so that a killed process need not be waited for.

A lease runs out on its own, but only after minutes. Where the catalog is a file, its writers are
processes of this machine, and a process that is gone can be recognised at once: then its uploads are
continued by the next attempt right away. Whatever cannot be judged with certainty (another machine,
another container, a system without /proc) is taken to be alive: its lease decides.
"""

from __future__ import annotations

import functools
import os
import socket


def this_process() -> str:
    """`place pid start`: unique for every process that ever ran on this machine."""
    pid = os.getpid()
    return f"{_place()} {pid} {_started(pid) or 0}"


def is_gone(owner: str) -> bool:
    """True only if that process certainly ran here and does not run any more."""
    try:
        place, pid_text, started_text = owner.rsplit(" ", 2)
        pid, started = int(pid_text), int(started_text)
    except ValueError:
        return False
    if not place or place != _place():
        return False
    if pid == os.getpid():
        return started != (_started(pid) or 0)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is somebody else's, so it is there
        pass
    now = _started(pid)
    return now is not None and started != 0 and now != started


@functools.cache
def _place() -> str:
    """The machine since its last boot and the process-id namespace, or nothing that ever matches."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return ""
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the start of the process; a zombie counts as gone (0)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
