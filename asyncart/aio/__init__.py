"""asyncart for asyncio: the same names as `asyncart`, to be awaited.

    import asyncart.aio as asyncart

    async with asyncart.init(project="bikes") as run:
        artifact = asyncart.Artifact("bike-data", type="dataset")
        artifact.add_dir("data/")
        await run.log_artifact(artifact, aliases=["best"])

Everything is imported on first use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in asyncart/__init__.py

if TYPE_CHECKING:
    from .. import errors as errors
    from .api import Api as Api
    from .artifact import Artifact as Artifact
    from .background import PendingArtifact as PendingArtifact
    from .collect import GarbageReport as GarbageReport
    from .entry import ArtifactEntry as ArtifactEntry
    from .manifest import ArtifactManifest as ArtifactManifest
    from .materialise import Verification as Verification
    from .newfile import NewFile as NewFile
    from .run import Run as Run
    from .run import current_run as current_run
    from .run import finish as finish
    from .run import init as init
    from .run import log_artifact as log_artifact
    from .run import use_artifact as use_artifact

_HOMES = {
    "Api": ".api",
    "Artifact": ".artifact",
    "ArtifactEntry": ".entry",
    "ArtifactManifest": ".manifest",
    "GarbageReport": ".collect",
    "NewFile": ".newfile",
    "PendingArtifact": ".background",
    "Run": ".run",
    "Verification": ".materialise",
    "current_run": ".run",
    "errors": "..errors",
    "finish": ".run",
    "init": ".run",
    "log_artifact": ".run",
    "use_artifact": ".run",
}

__all__ = [
    "Api",
    "Artifact",
    "ArtifactEntry",
    "ArtifactManifest",
    "GarbageReport",
    "NewFile",
    "PendingArtifact",
    "Run",
    "Verification",
    "current_run",
    "errors",
    "finish",
    "init",
    "log_artifact",
    "use_artifact",
]

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(_HOMES[name], __name__)
        value = globals()[name] = module if name == "errors" else getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
