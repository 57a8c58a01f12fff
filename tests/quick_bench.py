"""`python -m bench --quick`, from end to end, and what it recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]


def measured(folder: Path, *arguments: str) -> dict[str, Any]:
    """By row and contender, every measurement; all data lies below the folder, and is gone."""
    record, work = folder / "record.json", folder / "work"
    work.mkdir()
    where = ["--dir", str(work), "--json", str(record)]
    answer = subprocess.run(
        [sys.executable, "-m", "bench", *arguments, "--quick", *where],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert list(work.iterdir()) == []
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found["results"]["measured"]  # type: ignore[no-any-return]
