"""The bench's own arithmetic and instruments: a wrong yardstick would make every number wrong."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from bench import data, machine, report
from bench.case import OURS, Results, Row, ceiling, faster, judge, times
from bench.measure import Command, CommandFailed, Measurement, run
from bench.suites import NAMES, load
from bench.watch import FileWatch
from bench.workplace import NoSpace, workplace

ROW = Row(
    "row",
    "a row",
    (times(0.6, "cp"), faster(20, "dvc"), ceiling("import_s", 0.1, "s", "import")),
)


def results(**walls: float) -> Results:
    found = Results()
    for name, wall_s in walls.items():
        found.add("row", name, Measurement(wall_s, extra={"import_s": 0.08}))
    return found


def record(found: Results, machine: str = "one") -> report.Record:
    rows = dict.fromkeys(found.measured, "2026-01-01T00:00:00+00:00")
    return report.Record("embedded", {"cpu": machine}, found, {"cp": "cp -r"}, {}, rows)


class TestJudging:
    def test_ratios_and_ceilings(self) -> None:
        """0.5x of cp's time, 22 times faster than DVC, 80 ms: all met."""
        verdicts = judge(ROW, results(asyncart=1.0, cp=2.0, dvc=22.0))
        assert [verdict.is_met for verdict in verdicts] == [True, True, True]
        assert [report.told(verdict) for verdict in verdicts] == [
            "0.50x cp (at most 0.60x): met",
            "22.0x faster than dvc (at least 20x): met",
            "80 ms import (at most 100 ms): met",
        ]

    def test_a_miss_is_told(self) -> None:
        verdicts = judge(ROW, results(asyncart=1.5, cp=2.0, dvc=22.0))
        assert [verdict.is_met for verdict in verdicts] == [False, False, True]
        assert "MISSED" in report.told(verdicts[0])

    def test_what_was_not_measured_is_neither_met_nor_missed(self) -> None:
        cp, dvc, _ = judge(ROW, results(asyncart=1.0, cp=2.0))
        assert cp.is_met is True
        assert dvc.is_met is None
        assert "not measured" in report.told(dvc)

    def test_the_median_decides(self) -> None:
        found = results(cp=1.0)
        for wall_s in (0.5, 9.0, 0.4):
            found.add("row", OURS, Measurement(wall_s))
        assert judge(ROW, found)[0].value == 0.5

    def test_another_row_can_be_the_measure(self) -> None:
        found = results(asyncart=3.0)
        found.add("before", OURS, Measurement(2.0))
        (verdict,) = judge(Row("row", "", (times(1.5, OURS, row="before"),)), found)
        assert verdict.value == 1.5
        assert verdict.is_met


class TestRecords:
    def test_round_trip(self, tmp_path: Path) -> None:
        kept = record(results(asyncart=1.0, cp=2.0))
        kept.results.note("row", "something")
        report.save(kept, tmp_path / "new" / "results.json")
        assert report.load(tmp_path / "new" / "results.json") == kept

    def test_newer_rows_replace_older_ones_and_leave_the_rest(self) -> None:
        old = results(asyncart=1.0)
        old.add("other", OURS, Measurement(7.0))
        merged = record(old).merge(record(results(asyncart=2.0))).results
        assert merged.median("row", OURS, "wall_s") == 2.0
        assert merged.median("other", OURS, "wall_s") == 7.0

    def test_machines_are_not_mixed(self) -> None:
        newer = record(results(cp=2.0), machine="another")
        assert record(results(asyncart=1.0)).merge(newer) is newer

    def test_the_readme_s_table_is_replaced_and_nothing_else(self) -> None:
        begin, end = report.markers("embedded")
        text = f"before\n{begin}\nold\n{end}\nafter\n"
        assert report.place(text, "embedded", "new") == f"before\n{begin}\nnew\n{end}\nafter\n"
        with pytest.raises(ValueError, match="no place for the table"):
            report.place("before\n", "embedded", "new")

    def test_markdown_has_a_line_for_every_row(self) -> None:
        suite = load("embedded")
        text = report.markdown(suite.rows(), record(results(asyncart=1.0)))
        assert all(row.title in text for row in suite.rows())

    def test_markdown_says_how_often_each_row_was_measured(self) -> None:
        found = results(asyncart=1.0, cp=1.0)
        found.add("row", OURS, Measurement(2.0))
        text = report.markdown([ROW, Row("other", "not measured", ROW.targets)], record(found))
        assert [line.split("|")[1:3] for line in text.splitlines()[2:4]] == [
            [" a row ", " 2 "],
            [" not measured ", "  "],
        ]


def test_file_systems_have_the_names_that_they_were_mounted_by(tmp_path: Path) -> None:
    """Asked of the kernel's list of mounts, where each of the family ext2, ext3, ext4 is itself."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    kinds = {fields[1]: fields[2] for fields in mounts}
    assert machine.filesystem(Path("/")) == kinds["/"]
    assert machine.filesystem(tmp_path / "missing") == "unknown"


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_found_by_name_by_group_and_all(name: str) -> None:
    suite = load(name)
    rows = [row.name for row in suite.rows()]
    assert len(rows) == len(set(rows))
    assert suite.select([]) == frozenset(rows)
    assert suite.select([rows[0]]) == {rows[0]}
    group = suite.scenarios[-1]
    assert suite.select([group.name]) == {row.name for row in group.rows}
    with pytest.raises(KeyError, match="no-such-case"):
        suite.select(["no-such-case"])


class TestMeasuring:
    def test_cpu_memory_and_wall_of_a_process_and_its_children(self) -> None:
        """The work is done by a grandchild: 100 MB held for 0.3 s of CPU."""
        work = (
            "import time; b = bytearray(100 << 20)\n"
            "while time.process_time() < 0.3: b[::4096] = b[::4096]"
        )
        parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
        seen = run(Command([sys.executable, "-c", parent]))
        assert seen.cpu_s >= 0.3
        assert seen.wall_s >= 0.3
        assert seen.peak_rss_bytes >= 100 << 20

    def test_a_failing_command_shows_what_it_said(self) -> None:
        script = "import sys; sys.exit('the disk is on fire')"
        with pytest.raises(CommandFailed, match="exit code 1: the disk is on fire"):
            run(Command([sys.executable, "-c", script]))

    def test_a_command_that_hangs_is_ended_with_its_children(self) -> None:
        started = time.monotonic()
        with pytest.raises(CommandFailed, match="ran over"):
            run(Command(["sh", "-c", "sleep 60 & sleep 60"]), time_limit_s=0.1)
        assert time.monotonic() - started < 30


class TestData:
    def test_small_files_and_changes(self, tmp_path: Path) -> None:
        root = tmp_path / "tree"
        total = data.make_small_files(root, 1001)
        paths = list(data.files(root))
        assert len(paths) == 1001
        assert data.size_bytes(root) == total
        before = {path: path.read_bytes() for path in paths}
        changed = data.change_some(root, 1001)
        different = [path for path in paths if path.read_bytes() != before[path]]
        assert len(different) == 11
        assert changed == sum(path.stat().st_size for path in different)
        assert data.size_bytes(root) == total

    def test_the_three_edits(self, tmp_path: Path) -> None:
        original, edited = tmp_path / "original", tmp_path / "edited"
        data.write_random(original, 100_000)
        was = original.read_bytes()

        data.overwrite_one_percent(original, edited)
        now = edited.read_bytes()
        assert len(now) == 100_000
        assert now[:50_000] == was[:50_000]
        assert now[51_000:] == was[51_000:]
        assert now[50_000:51_000] != was[50_000:51_000]

        data.insert_one_kilobyte(original, edited)
        assert edited.read_bytes()[1024:] == was

        data.append_ten_percent(original, edited)
        assert edited.read_bytes()[:100_000] == was
        assert edited.stat().st_size == 110_000

    def test_a_difference_is_found(self, tmp_path: Path) -> None:
        for side in ("left", "right"):
            (tmp_path / side).mkdir()
            (tmp_path / side / "same").write_bytes(b"same")
        left, right = tmp_path / "left", tmp_path / "right"
        assert data.difference(left, right, compare_content=True) is None
        (right / "same").write_bytes(b"SAME")
        assert data.difference(left, right, compare_content=False) is None
        assert data.difference(left, right, compare_content=True) == "same differs"
        (right / "more").touch()
        assert "1 paths are in one only" in str(data.difference(left, right, compare_content=True))


@pytest.mark.skipif(sys.platform != "linux", reason="inotify")
def test_opened_files_are_counted_whoever_opens_them(tmp_path: Path) -> None:
    """Two files read here, one in another process, one only looked at: three."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abcd":
        (folder / name).write_text(name)
    with FileWatch(tmp_path) as watch:
        (folder / "a").read_text()
        (folder / "a").read_text()
        (folder / "b").read_text()
        run(Command(["cat", str(folder / "c")]))
        (folder / "d").stat()
        list(folder.iterdir())
    assert watch.opened == 3


def test_a_workplace_is_gone_afterwards_even_if_read_only(tmp_path: Path) -> None:
    def leave_something() -> None:
        with workplace(tmp_path, 0) as root:
            (root / "locked").mkdir()
            (root / "locked" / "file").touch()
            (root / "locked").chmod(0o500)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave_something()
    assert list(tmp_path.iterdir()) == []


def test_a_workplace_that_is_too_small_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(NoSpace, match="name another folder with --dir"),
        workplace(tmp_path, 1 << 60),
    ):
        pass
