"""Numbers, times and foreign text as people read them. Pure functions."""

from __future__ import annotations

import re
import time

UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def size(nbytes: float) -> str:
    """`123 B`, `1.2 KiB`, `12.3 MiB`, `123 GiB`: three digits or so."""
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    power = 0
    while nbytes >= 999.5 and power < len(UNITS):
        nbytes /= 1024
        power += 1
    return (
        f"{nbytes:.0f} {UNITS[power - 1]}"
        if nbytes >= 99.95
        else f"{nbytes:.1f} {UNITS[power - 1]}"
    )


def count(number: int, noun: str) -> str:
    """`1 file`, `12,345 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def local_time(seconds: float) -> str:
    """`2026-02-03 14:05:06`, in the local zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def utc(seconds: float | None) -> str | None:
    """ISO 8601 for machines: `2026-02-03T13:05:06.789Z`."""
    if seconds is None:
        return None
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def duration(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def printable(text: str) -> str:
    """The text on one line and without what could steer a terminal: it may come from anywhere."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
