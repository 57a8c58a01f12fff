"""asyncart for asyncio: the same names as `asyncart`, to be awaited.

import asyncart.aio as asyncart

async with asyncart.init(project="bikes") as run:
    artifact = asyncart.Artifact("bike-data", type="dataset")
    artifact.add_dir("data/")
    await run.log_artifact(artifact, aliases=["best"])
"""

from __future__ import annotations

from .. import errors
from .api import Api
from .artifact import Artifact
from .entry import ArtifactEntry
from .manifest import ArtifactManifest
from .materialise import Verification
from .newfile import NewFile
from .run import Run, current_run, finish, init, log_artifact, use_artifact

__all__ = [
    "Api",
    "Artifact",
    "ArtifactEntry",
    "ArtifactManifest",
    "NewFile",
    "Run",
    "Verification",
    "current_run",
    "errors",
    "finish",
    "init",
    "log_artifact",
    "use_artifact",
]
