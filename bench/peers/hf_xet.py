"""hf-xet through its `local://` endpoint: Hugging Face's chunked, deduplicated storage, in Rust.

The session API, with the SHA-256 that its hub wants left out: that is the fastest it can be. Its list
of hashes, which the hub would keep, is written to a JSON file.
"""

from __future__ import annotations

from pathlib import Path

from bench import data
from bench.measure import Command

from .venv import FromPyPI

STORE = """
import json, os, sys
import hf_xet
endpoint, source, listing = sys.argv[1:]
session = hf_xet.XetSession()
with session.new_upload_commit(endpoint=endpoint) as commit:
    sent = [
        (os.path.relpath(path, source), commit.start_upload_file(path, sha256=hf_xet.SKIP_SHA256))
        for folder, _, names in os.walk(source)
        for path in (os.path.join(folder, name) for name in names)
    ]
rows = []
for name, handle in sent:
    info = handle.result().xet_info
    rows.append((name, info.hash, info.file_size))
with open(listing, "w") as file:
    json.dump(rows, file)
"""

FETCH = """
import json, os, sys
import hf_xet
endpoint, target, listing = sys.argv[1:]
with open(listing) as file:
    rows = json.load(file)
for folder in {os.path.dirname(os.path.join(target, name)) for name, _, _ in rows}:
    os.makedirs(folder, exist_ok=True)
session = hf_xet.XetSession()
with session.new_file_download_group(endpoint=endpoint) as group:
    for name, digest, size in rows:
        group.start_download_file(hf_xet.XetFileInfo(digest, size), os.path.join(target, name))
"""


class HfXet(FromPyPI):
    name = "hf-xet"
    steps = frozenset({"store", "again", "changed", "fetch"})
    is_slow = True
    requirement = "hf-xet==1.8.0"

    def reset(self, place: Path, source: Path) -> None:
        self._place, self._source = place, source
        (place / "store").mkdir()

    def store(self) -> Command:
        return self._command(STORE, self._source)

    def fetch(self, target: Path) -> Command:
        return self._command(FETCH, target)

    def fetched(self, target: Path) -> Path:
        return target

    def store_bytes(self) -> int:
        # Data and shards (its manifests); lookup tables and the client's shard cache do not count.
        stored = self._place / "store" / "xet" / "xorbs"
        return data.size_bytes(stored / "xorbs") + data.size_bytes(stored / "shards")

    def _command(self, script: str, tree: Path) -> Command:
        endpoint = f"local://{self._place / 'store'}"
        listing = self._place / "hashes.json"
        return Command(
            [str(self._programs / "python"), "-c", script, endpoint, str(tree), str(listing)],
            {"HF_HOME": str(self._place / "home"), "HF_XET_TELEMETRY_ENABLED": "false"},
        )
