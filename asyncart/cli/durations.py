"""Lengths of time as people write them on the command line. Pure functions."""

from __future__ import annotations

import re
from datetime import timedelta

from ..errors import Invalid

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def text(length: timedelta) -> str:
    """`30d`, `1d12h`, `0.5s`: what `parse` reads as the same length."""
    found, seconds = "", length.days * 86400 + length.seconds
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        count, seconds = divmod(seconds, size)
        found += f"{count}{unit}" if count else ""
    if length.microseconds:
        return f"{found}{seconds}.{length.microseconds:06d}".rstrip("0") + "s"
    return f"{found}{seconds}s" if seconds or not found else found


def parse(text: str) -> timedelta:
    """`30d`, `12h`, `1w2d`, `90m`, `45s`. Raises Invalid."""
    compact = text.strip().lower()
    parts = _PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise Invalid(f"{text!r} is no length of time: write it like 30d, 12h or 1w2d")
    try:
        return sum(
            (timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta()
        )
    except OverflowError:
        raise Invalid(f"{text!r} is longer than 2,700,000 years") from None
