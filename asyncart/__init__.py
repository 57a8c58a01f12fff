"""Datasets, models and results as versioned, deduplicated artifacts.

    import asyncart

    run = asyncart.init(project="bikes")
    artifact = asyncart.Artifact("bike-data", type="dataset")
    artifact.add_dir("data/")
    run.log_artifact(artifact, aliases=["best"])
    run.finish()

These are the blocking names; `asyncart.aio` has the same ones to be awaited. Everything is imported on
first use, so that `import asyncart` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = (
    False  # type checkers know the name; importing it from typing takes longer than all else here
)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import aio as aio
    from . import errors as errors
    from .sync import Api as Api
    from .sync import Artifact as Artifact
    from .sync import ArtifactEntry as ArtifactEntry
    from .sync import ArtifactManifest as ArtifactManifest
    from .sync import GarbageReport as GarbageReport
    from .sync import NewFile as NewFile
    from .sync import PendingArtifact as PendingArtifact
    from .sync import Run as Run
    from .sync import Verification as Verification
    from .sync import current_run as current_run
    from .sync import finish as finish
    from .sync import init as init
    from .sync import log_artifact as log_artifact
    from .sync import use_artifact as use_artifact

_MODULES = ("aio", "errors")
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
    "__version__",
    "aio",
    "current_run",
    "errors",
    "finish",
    "init",
    "log_artifact",
    "use_artifact",
]

if not TYPE_CHECKING:  # a type checker would take this as "every name exists"

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        if name in _MODULES:
            return import_module(f".{name}", __name__)
        value = globals()[name] = getattr(import_module(".sync", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
