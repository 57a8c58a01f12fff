"""4 x 1 GiB on tmpfs: up, down cold and verified, and 1% of one file changed.

Against SeaweedFS, and against the JuiceFS gateway, which moves bytes faster and so leaves more of the time
to the clients. Memory is short there: one contender after the other stores, fetches and is wiped, and DVC,
which keeps two caches more, does not take part.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import data
from bench.case import OURS, Plan, Results, Row, Scenario, ceiling, cpu_at_most, faster
from bench.measure import Measurement
from bench.peers import S3Peer
from bench.servers import Start, juicefs, seaweedfs
from bench.workplace import remove, workplace

from .corner import Corner, contenders, corner

FILES = 4
FILE_BYTES = 1 << 30
# The tree and the server's copy, then that and what was fetched: this much memory answers at one speed. On
# the machine of the recorded results a GiB of tmpfs takes 0.4 s up to some 10 GiB in use, and 3 s beyond.
COPIES = 2
SMALLEST_BYTES = 33 << 20  # below 16 MiB there is no multipart upload
HASHING_S_PER_GIB = 0.5  # of CPU: what nobody else does
BESIDE_HASHING = "cpu_beside_hashing_s"


def upload_row(name: str, server: str) -> Row:
    return Row(
        name,
        f"upload 4 x 1 GiB ({server}, tmpfs)",
        (
            faster(1, "s5cmd"),
            faster(1, "obstore"),
            cpu_at_most(1, "obstore", measure=BESIDE_HASHING, label="in CPU s beside hashing"),
        ),
        shows_cpu=True,
    )


def download_row(name: str, server: str) -> Row:
    return Row(
        name,
        f"download 4 x 1 GiB cold, verified ({server}, tmpfs)",
        (faster(1.2, "obstore"), faster(1.8, "s5cmd")),
        shows_cpu=True,
    )


UPLOAD = upload_row("upload-large", "SeaweedFS")
DOWNLOAD = download_row("download-large", "SeaweedFS")
CHANGED = Row(
    "upload-large-changed",
    "1% of one of the four files changed",
    (ceiling("sent_share", 0.02, "%", "of the file sent"),),
    shows_cpu=True,
)
FAST_UPLOAD = upload_row("upload-fast", "JuiceFS gateway")
FAST_DOWNLOAD = download_row("download-fast", "JuiceFS gateway")


def measure(
    start: Start, rows: tuple[Row, ...], plan: Plan, results: Results, wanted: frozenset[str]
) -> None:
    size = max(SMALLEST_BYTES, round(FILE_BYTES * plan.scale))
    for index in range(plan.rounds):
        with workplace(plan.tmpfs, COPIES * FILES * size) as root:
            for peer in contenders(plan, index, without=("dvc",)):
                with _corner(plan, root, size, start, peer) as place:
                    _turn(plan, results, wanted, rows, place)
            if CHANGED in rows and CHANGED.name in wanted:
                with _corner(plan, root, size, start, None) as place:
                    place.store()
                    plan.measure_one(results, CHANGED.name, OURS, partial(_changed, place))


@contextmanager
def _corner(
    plan: Plan, root: Path, size: int, start: Start, peer: S3Peer | None
) -> Iterator[Corner]:
    """With files of its own."""
    source = root / "source" / "tree"
    data.make_large_files(source, FILES, size)
    data.settle()
    try:
        with corner(plan, root, source, start, peer) as place:
            yield place
    finally:
        remove(source)


def _turn(
    plan: Plan, results: Results, wanted: frozenset[str], rows: tuple[Row, ...], corner: Corner
) -> None:
    upload, download, *_ = rows
    is_stored = plan.measure_one(
        results, upload.name, corner.name, partial(_beside_hashing, corner, corner.store)
    )
    if is_stored and download.name in wanted and corner.takes("fetch"):
        corner.drop_source()
        corner.forget_fetched()  # what uploading may have left in the cache
        plan.measure_one(results, download.name, corner.name, corner.fetch)


def _beside_hashing(corner: Corner, call: Callable[[], Measurement]) -> Measurement:
    """With the CPU time that is left when the allowance for hashing is taken off ours."""
    measurement = call()
    allowance = HASHING_S_PER_GIB * data.size_bytes(corner.source) / (1 << 30)
    beside = measurement.cpu_s - (allowance if corner.peer is None else 0.0)
    return replace(measurement, extra={**measurement.extra, BESIDE_HASHING: beside})


def _changed(corner: Corner) -> Measurement:
    victim = next(iter(sorted(corner.source.iterdir())))
    size = victim.stat().st_size
    with victim.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 100))
    data.settle()
    measurement = corner.store()
    share = measurement.extra["received_bytes"] / size
    return replace(measurement, extra={**measurement.extra, "sent_share": share})


def _scenario(name: str, start: Start, *rows: Row) -> Scenario:
    return Scenario(name, rows, partial(measure, start, rows))


SEAWEEDFS = _scenario("large", seaweedfs, UPLOAD, DOWNLOAD, CHANGED)
JUICEFS = _scenario("fast", juicefs, FAST_UPLOAD, FAST_DOWNLOAD)
