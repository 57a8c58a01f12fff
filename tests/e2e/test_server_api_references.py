"""The suite of the same name once more, at a server.

There `file://` references are somebody else's words, and need consent: the tests that take them for the
user's own, and the one about another kind of foreign catalog, are left out; their place takes the one below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_api_references as suite
from colours import entered, got
from server_environment import at_a_server, deployment

from asyncart.errors import Denied

__all__ = ["at_a_server", "deployment"]

OWN_FILES = {
    "test_a_file_reference_has_the_digest_of_its_content",
    "test_a_file_that_changed_since_is_a_conflict_that_names_it",
    "test_a_folder_reference_is_walked",
    "test_a_file_reference_from_elsewhere_is_not_opened_without_consent",
}

for _name in dir(suite):
    if not _name.startswith("_") and _name not in OWN_FILES:
        globals().setdefault(_name, getattr(suite, _name))


async def test_a_file_reference_needs_consent(here: Path, face: Any) -> None:
    """Even to a file of one's own: who logged it is not known on this side."""
    (here / "x.bin").write_bytes(b"12345")
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        await got(artifact.add_reference(f"file://{here}/x.bin"))
        artifact = await got(run.log_artifact(artifact))
        with pytest.raises(Denied, match="allow_file_references=True"):
            await got(artifact.download("out"))
        assert not (here / "out" / "x.bin").exists()
        await got(artifact.download("out", allow_file_references=True))
    assert (here / "out" / "x.bin").read_bytes() == b"12345"
