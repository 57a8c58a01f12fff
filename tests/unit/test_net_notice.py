"""People hear that something is being repeated: soon, seldom, and for how long."""

from __future__ import annotations

import logging

import pytest

from asyncart.net.notice import Notice

logger = logging.getLogger("asyncart.test")


def repeat(
    notice: Notice, now_s: float, elapsed_s: float, delay_s: float = 0.0, *, throttled: bool = False
) -> None:
    notice.repeating(
        "no answer",
        now_s=now_s,
        elapsed_s=elapsed_s,
        delay_s=delay_s,
        patience_s=15.0,
        is_throttled=throttled,
    )


@pytest.mark.parametrize(
    ("elapsed_s", "delay_s", "throttled", "level"),
    [
        (0.0, 0.9, False, logging.INFO),
        (0.5, 0.5, False, logging.WARNING),
        (0.0, 1.0, False, logging.WARNING),
        (1.0, 0.0, False, logging.WARNING),
        (5.0, 4.0, True, logging.INFO),
        (5.0, 5.0, True, logging.WARNING),
    ],
)
def test_it_is_told_before_a_wait_that_people_notice(
    caplog: pytest.LogCaptureFixture, elapsed_s: float, delay_s: float, throttled: bool, level: int
) -> None:
    caplog.set_level(logging.INFO)
    repeat(Notice(logger), 0.0, elapsed_s, delay_s, throttled=throttled)
    said = f"no answer; trying again, for up to {15.0 - elapsed_s:.0f} s"
    assert caplog.record_tuples == [(logger.name, level, said)]


def test_whoever_else_waits_does_not_say_it_again_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notice = Notice(logger)
    for now_s in (7.0, 7.0, 20.0, 36.9, 37.0, 40.0):
        repeat(notice, now_s, 2.0)
    assert [r.levelno for r in caplog.records if r.levelno >= logging.WARNING] == [30, 30]
    other = Notice(logger)
    repeat(other, 40.0, 2.0)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 3
