"""W&B, offline: `add_dir` hashes and stages a copy, `log_artifact` writes the record. No fetch.

What a user waits for before anything is uploaded; the upload itself would come on top.
"""

from __future__ import annotations

from pathlib import Path

from bench import data
from bench.measure import Command

from .peer import Missing
from .venv import FromPyPI

STORE = """
import sys
import wandb
settings = wandb.Settings(
    silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
)
run = wandb.init(project="bench", mode="offline", settings=settings)
artifact = wandb.Artifact("tree", type="dataset")
artifact.add_dir(sys.argv[1])
run.log_artifact(artifact)
run.finish()
"""


class Wandb(FromPyPI):
    name = "wandb"
    steps = frozenset({"store", "again"})
    is_slow = True
    requirement = "wandb==0.31.0"

    def reset(self, place: Path, source: Path) -> None:
        self._place, self._source = place, source
        folders = {
            f"WANDB_{name}_DIR": str(place / name.lower())
            for name in ("CACHE", "DATA", "CONFIG", "ARTIFACT")
        }
        self._env = {
            "WANDB_MODE": "offline",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
            "WANDB_DIR": str(place),
            **folders,
        }

    def store(self) -> Command:
        argv = [str(self._programs / "python"), "-c", STORE, str(self._source)]
        return Command(argv, self._env, cwd=self._place)

    def fetch(self, target: Path) -> Command:
        raise Missing("W&B offline has nothing to fetch from")

    def fetched(self, target: Path) -> Path:
        return target

    def store_bytes(self) -> int:
        return data.size_bytes(self._place / "data")
