"""`python -m bench server --quick` runs; the numbers of requests are exact, and so they are promised here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.server.memory import slope

REPOSITORY = Path(__file__).parents[2]


def test_requests_of_a_warm_client(tmp_path: Path) -> None:
    """A small artifact takes at most four round trips to be logged, and one to be downloaded again."""
    record = tmp_path / "record.json"
    answer = subprocess.run(
        [sys.executable, "-m", "bench", "server", "team-warm", "--quick", "--json", str(record)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    measured = json.loads(record.read_text(encoding="utf-8"))["results"]["measured"]
    assert sorted(measured) == ["team-digests", "team-get-warm", "team-log-warm"]
    (logged,) = measured["team-log-warm"]["asyncart"]
    assert logged["extra"]["requests"] <= 4
    (fetched,) = measured["team-get-warm"]["asyncart"]
    assert fetched["extra"]["requests"] == 1


def test_a_slope() -> None:
    assert slope([0, 1, 2, 3], [5, 5, 5, 5]) == 0
    assert slope([0, 1, 2, 3], [1, 3, 5, 7]) == pytest.approx(2)
    assert slope([1], [7]) == 0
