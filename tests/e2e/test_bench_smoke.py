"""`python -m bench --quick` runs from end to end, compares every byte, and records what it measured."""

from __future__ import annotations

from pathlib import Path

from quick_bench import measured


def test_the_small_files_case_beside_cp_and_find(tmp_path: Path) -> None:
    found = measured(tmp_path, "small", "--peers", "cp,find")
    assert sorted(found) == [
        "download-again",
        "download-small",
        "log-again",
        "log-changed",
        "log-small",
        "one-file",
    ]
    (again,) = found["log-again"]["asyncart"]
    assert again["extra"]["files_opened"] == 0
    (changed,) = found["log-changed"]["asyncart"]
    assert changed["extra"]["files_opened"] == 10
    assert set(found["download-small"]) == {"asyncart", "cp"}
