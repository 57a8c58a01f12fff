"""The facts about a machine without which its numbers mean nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path


def facts() -> dict[str, str | int]:
    return {
        "cores": os.cpu_count() or 0,
        "cpu": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def filesystem(path: Path) -> str:
    """The file system's type ("ext4", "tmpfs"), or "unknown"."""
    if shutil.which("df") is None:
        return "unknown"
    # Not `stat -f`: it goes by a magic number, which ext2, ext3 and ext4 have in common.
    answer = subprocess.run(
        ["df", "--output=fstype", str(path)], capture_output=True, text=True, check=False
    )
    return answer.stdout.partition("\n")[2].strip() or "unknown"


def load() -> float:
    """Runnable processes over the last minute: above 0.5 before we start, others are at work."""
    return os.getloadavg()[0]


def _first(path: str, field: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")
