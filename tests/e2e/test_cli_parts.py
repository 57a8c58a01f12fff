"""The parts of the command line that only compute."""

from __future__ import annotations

import pytest

from asyncart.cli import words
from asyncart.cli.meter import WINDOW_S, Meter
from asyncart.cli.progress import facts
from asyncart.cli.screen import plain_table
from asyncart.cli.targets import file, split
from asyncart.errors import Invalid
from asyncart.model import Progress


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (102_348, "99.9 KiB"),
        (102_400, "100 KiB"),
        (999 << 10, "999 KiB"),
        (1000 << 10, "1.0 MiB"),
        (12_700_000, "12.1 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (5000 << 60, "5000 EiB"),
    ],
)
def test_sizes_have_about_three_digits(nbytes: int, text: str) -> None:
    assert words.size(nbytes) == text


def test_times_and_counts() -> None:
    assert words.duration(7.9) == "0:07"
    assert words.duration(3723) == "1:02:03"
    assert words.utc(0) == "1970-01-01T00:00:00.000Z"
    assert words.utc(1.9996) == "1970-01-01T00:00:02.000Z"
    assert words.utc(None) is None
    assert (words.count(1, "file"), words.count(12345, "file")) == ("1 file", "12,345 files")


def test_foreign_text_stays_on_its_line() -> None:
    assert words.printable("a\nb\x1b[31m\u202e\x9b\tü") == "a\\nb\\x1b[31m\\u202e\\x9b\\tü"


@pytest.mark.parametrize(
    ("text", "reference", "path"),
    [
        ("n", "n", ""),
        ("n:v0", "n:v0", ""),
        ("n:v0/", "n:v0", ""),
        ("n:v0/a/b.txt", "n:v0", "a/b.txt"),
        ("e/p/n:best/a:b/c", "e/p/n:best", "a:b/c"),
        ("p/n", "p/n", ""),
    ],
)
def test_a_path_follows_a_selector(text: str, reference: str, path: str) -> None:
    assert split(text) == (reference, path)


@pytest.mark.parametrize("text", ["", ":v0", "n:", "n:/a", "a/b/c/d:v0", "a b:v0/x"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        file(text)


def test_the_pace_is_that_of_the_last_seconds() -> None:
    meter = Meter()
    meter.read(Progress("read", 0, 100, 0, 1000), 0.0)
    reading = meter.read(Progress("read", 10, 100, 500, 1000), 5.0)
    assert (reading.bytes_rate, reading.files_rate) == (100.0, 2.0)
    assert reading.fraction == 0.1  # the files are behind
    assert reading.eta_s == 45.0
    stalled = [meter.read(Progress("read", 10, 100, 500, 1000), 5.0 + s) for s in range(1, 30)][-1]
    assert stalled.bytes_rate == 0.0
    assert stalled.eta_s is None
    assert WINDOW_S < 25


def test_another_stage_begins_anew_and_unknown_totals_are_unknown() -> None:
    meter = Meter()
    meter.read(Progress("read", 10, 10, 500, 500), 1.0)
    reading = meter.read(Progress("commit", 10), 2.0)
    assert (reading.fraction, reading.eta_s, reading.bytes_rate) == (None, None, 0.0)
    assert facts(reading) == ["10 files"]


def test_what_progress_says() -> None:
    meter = Meter()
    meter.read(Progress("read", 0, 1000, 0, 4 << 20), 0.0)
    reading = meter.read(Progress("read", 250, 1000, 1 << 20, 4 << 20, 1 << 19), 1.0)
    assert facts(reading) == [
        "250/1,000 files",
        "1.0 MiB of 4.0 MiB",
        "0:03 left",
        "1.0 MiB/s",
        "512 KiB deduplicated",
    ]


def test_a_plain_table_is_as_wide_as_it_must_be() -> None:
    lines = plain_table(["A", "N"], [["long one", "1"], ["b", "22"]], [False, True])
    assert lines == ["A          N", "long one   1", "b         22"]
    assert plain_table(["A", "B"], [["x", ""]], [False, False]) == ["A  B", "x"]
