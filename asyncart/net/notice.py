"""Say that something is being repeated: soon, so that nobody wonders why nothing happens, and seldom.

What passes within `TELL_AFTER_S` is nobody's business (a connection that was dropped, one replica of many
that restarts), and a store that only asks for fewer requests gets `TELL_THROTTLED_AFTER_S`: the pace heeds it.
"""

from __future__ import annotations

import logging
import math

TELL_AFTER_S = 1.0  # without progress
TELL_THROTTLED_AFTER_S = 10.0
TELL_EVERY_S = 30.0  # however many calls and streams wait for the same server


class Notice:
    """Of all who talk to one server or store."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._told_s = -math.inf

    def repeating(
        self,
        why: object,
        *,
        now_s: float,
        elapsed_s: float,
        delay_s: float,
        patience_s: float,
        is_throttled: bool = False,
    ) -> None:
        """It failed because of `why`, `elapsed_s` after the last progress; `delay_s` later it is tried again."""
        after_s = TELL_THROTTLED_AFTER_S if is_throttled else TELL_AFTER_S
        is_news = elapsed_s + delay_s >= after_s and now_s - self._told_s >= TELL_EVERY_S
        if is_news:
            self._told_s = now_s
        self._logger.log(
            logging.WARNING if is_news else logging.INFO,
            "%s; trying again, for up to %.0f s",
            why,
            patience_s - elapsed_s,
        )
