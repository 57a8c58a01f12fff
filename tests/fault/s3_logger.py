"""A process that logs a folder over S3, to be killed: `python s3_logger.py FOLDER`.

Home, store and endpoint come from the environment. It prints "begun" before the log and the version after.
"""

from __future__ import annotations

import asyncio
import sys

import pytest
from s3_rig import hurry

from asyncart import aio


async def main(folder: str) -> None:
    async with aio.init(project="p") as run:
        artifact = aio.Artifact("data", "dataset")
        artifact.add_dir(folder)
        print("begun", flush=True)
        await run.log_artifact(artifact)
        print(artifact.version, flush=True)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as monkeypatch:
        hurry(monkeypatch, waits=False)
        asyncio.run(main(sys.argv[1]))
