"""DVC with an S3 remote: `dvc add`, then `dvc push`; `dvc pull` in a second workspace with an empty cache.

One content-addressed object per file. The workspaces are as in `dvc`: the source's parent folder is the
first one, as DVC demands.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.measure import Command, run
from bench.workplace import remove

from .dvc import environment
from .s3_peer import S3Peer

JOBS = "32"  # at once; its default is four per core


class DvcS3(S3Peer):
    name = "dvc"
    steps = frozenset({"store", "again", "changed", "fetch"})
    is_slow = True
    requirement = "dvc[s3]==3.67.1"

    def reset(self, place: Path, source: Path) -> None:
        super().reset(place, source)
        no_settings = place / "aws"  # /dev/null is no file in its eyes
        no_settings.touch()
        self._env |= {
            "AWS_CONFIG_FILE": str(no_settings),
            "AWS_SHARED_CREDENTIALS_FILE": str(no_settings),
            **environment(place),
        }
        self._begin(source.parent, place / "cache")

    def store(self) -> Command:
        script = '"$1" add --quiet "$2" && "$1" push --quiet --jobs "$3" "$2"'
        argv = ["sh", "-c", script, "sh", self._dvc, self._source.name, JOBS]
        return Command(argv, self._env, cwd=self._source.parent)

    def fetch(self, target: Path) -> Command:
        target.mkdir()
        self._begin(target, target.with_name("second-cache"))
        shutil.copy(self._source.parent / f"{self._source.name}.dvc", target)
        argv = [self._dvc, "pull", "--quiet", "--jobs", JOBS]
        return Command(argv, self._env, cwd=target)

    def fetched(self, target: Path) -> Path:
        return target / self._source.name

    @property
    def _dvc(self) -> str:
        return str(self._programs / "dvc")

    def _begin(self, workspace: Path, cache: Path) -> None:
        for left in (".dvc", ".dvcignore", f"{self._source.name}.dvc"):
            remove(workspace / left)
        for arguments in (
            ("init", "--no-scm"),
            ("cache", "dir", str(cache)),
            ("remote", "add", "--default", "bench", self.url),
            ("remote", "modify", "bench", "endpointurl", self._server.endpoint),
        ):
            run(Command([self._dvc, *arguments, "--quiet"], self._env, cwd=workspace))
