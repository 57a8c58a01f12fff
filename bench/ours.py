"""asyncart as a contender: each step is one call in a fresh process (see `driver`)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import data
from .measure import Command, Measurement, run
from .processes import search_path

NAME = "asyncart"
ANSWERED = ("wall_s", "cpu_s", "read_bytes", "written_bytes", "peak_rss_bytes")


class Asyncart:
    """One home folder, and calls on it. `place` is an empty folder, `settings` the environment beside it."""

    def __init__(self, place: Path, settings: Mapping[str, str] | None = None) -> None:
        self.home = place / "home"
        self._answer = place / "answer.json"
        self._settings = dict(settings or {})

    def log(self, source: Path, name: str = "tree") -> Measurement:
        return self._call(verb="log", source=str(source), name=name)

    def get(self, target: Path, name: str = "tree") -> Measurement:
        return self._call(verb="get", target=str(target), name=name)

    def one(self, paths: list[str], target: Path, name: str = "tree") -> Measurement:
        return self._call(verb="one", paths=paths, target=str(target), name=name)

    def cold(self, path: str, target: Path, metrics_url: str, name: str = "tree") -> Measurement:
        """One file, by a process that has fetched another artifact ("warm") before."""
        request = {"path": path, "target": str(target), "metrics_url": metrics_url}
        return self._call(verb="cold", name=name, **request)

    def store_bytes(self) -> int:
        """Data and manifests, without the catalog."""
        return data.size_bytes(self.home / "store")

    def _call(self, **request: Any) -> Measurement:
        started = time.perf_counter()
        whole = run(
            Command(
                [sys.executable, "-m", "bench.driver", json.dumps(request), str(self._answer)],
                {
                    "ASYNCART_HOME": str(self.home),
                    "PYTHONPATH": search_path(),
                    **self._settings,
                },
                cwd=self._answer.parent,
            )
        )
        process_s = time.perf_counter() - started
        answer: dict[str, Any] = json.loads(self._answer.read_text(encoding="utf-8"))
        known = {name: answer.pop(name) for name in ANSWERED}
        # Worker processes are in the samples of the tree, the exact peak of the main one in its answer.
        known["peak_rss_bytes"] = max(known["peak_rss_bytes"], whole.peak_rss_bytes)
        extra = {name: float(value) for name, value in answer.items() if name != "version"}
        extra["rss_over_import_bytes"] = float(
            known["peak_rss_bytes"] - answer["baseline_rss_bytes"]
        )
        extra["outside_call_s"] = process_s - known["wall_s"]
        return Measurement(**known, extra=extra)
