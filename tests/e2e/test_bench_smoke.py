"""`python -m bench --quick` runs from end to end, compares every byte, and records what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_small_files_case_beside_cp_and_find(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    work = tmp_path / "work"
    work.mkdir()
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "small", "--quick", "--peers", "cp,find"),
            *("--dir", str(work), "--json", str(record)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert list(work.iterdir()) == []
    measured = json.loads(record.read_text(encoding="utf-8"))["results"]["measured"]
    assert sorted(measured) == [
        "download-again",
        "download-small",
        "log-again",
        "log-changed",
        "log-small",
        "one-file",
    ]
    (again,) = measured["log-again"]["asyncart"]
    assert again["extra"]["files_opened"] == 0
    (changed,) = measured["log-changed"]["asyncart"]
    assert changed["extra"]["files_opened"] == 10
    assert set(measured["download-small"]) == {"asyncart", "cp"}
