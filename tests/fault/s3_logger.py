"""A process that logs a folder over S3, to be killed: `python s3_logger.py FOLDER [PACK_BYTES]`.

Home, store and endpoint come from the environment. It says "begun" before the log and the version after.
Few connections, so that a test can tell continuing from beginning anew.
"""

from __future__ import annotations

import asyncio
import functools
import sys

import pytest
from s3_rig import MIB, PART_BYTES, hurry

from asyncart import aio
from asyncart.engine import objects, plan
from asyncart.net import retry
from asyncart.net.pace import Pace

CONNECTIONS = 2


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(folder: str) -> None:
    async with aio.init(project="p") as run:
        artifact = aio.Artifact("data", "dataset")
        artifact.add_dir(folder)
        say("begun")
        await run.log_artifact(artifact)
        say(artifact.version)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as monkeypatch:
        hurry(monkeypatch, waits=False)
        # The first part is larger than the others, as it is in earnest.
        monkeypatch.setattr(objects, "MULTIPART_BYTES", 2 * PART_BYTES)
        if len(sys.argv) > 2:  # packs that go out in parts, too
            monkeypatch.setattr(plan, "PACK_BYTES", int(sys.argv[2]))
            monkeypatch.setattr(plan, "BATCH_BYTES", MIB)
            monkeypatch.setattr(plan, "BATCH_FILES", 1024)
        monkeypatch.setattr(retry, "Pace", functools.partial(Pace, limit=CONNECTIONS))
        asyncio.run(main(sys.argv[1]))
