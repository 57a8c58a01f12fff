"""Cut large files where their content says, so that an edit moves only the cuts around it.

Promised: the cuts are a pure function of the bytes, the same on every machine and in every release,
whether a file is cut at once or block by block. A version that was stored with other cuts stays
readable (manifests list their chunks), but shares no chunk with what these cuts give; therefore the
parameters below are frozen, and so are the golden vectors in the tests.

The algorithm is FastCDC 2020 as in the Rust crate `fastcdc` (`v2020`, normalisation level 1), in
words for whoever replaces the library behind `cut`:

- GEAR[b], for a byte b, is the first 8 bytes of the MD5 of b repeated 64 times, as a big-endian number.
- To cut a chunk off `data` (what is left of the file): if len(data) <= MIN, it is a chunk. Otherwise
  let end = min(len(data), MAX), made even by dropping the last bit, and hash = 0. For each position
  p from MIN up to end: hash = (hash * 2 + GEAR[data[p]]) mod 2^64; if hash & mask == 0, the chunk is
  data[:p] (the byte at p belongs to the next one). mask is MASK_HARD below AVERAGE and MASK_EASY from
  there on. When no position matches, the chunk is data[:min(len(data), MAX)].
- The bit trick of 2020 (two bytes per step, with a gear table shifted left by one) changes nothing but
  the speed: at even positions it tests the doubled hash against the doubled mask.

Also here: which stored chunks are worth pointing to, and how extents merge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from blake3 import blake3

from asyncart.errors import Invalid
from asyncart.model import Extent

# Frozen. Smaller chunks find a little more to share, and cost a catalog row and a hash each: 1 MiB is
# 1,000 rows per GiB. The edit of a byte re-sends about one chunk, 1.3 MiB on average.
MIN_BYTES = 256 << 10
AVERAGE_BYTES = 1 << 20
MAX_BYTES = 4 << 20
MASK_HARD = 0x0000D91767537000
MASK_EASY = 0x0000D91707537000

# A shorter run of stored chunks is written again: one more seek or request on every read of the file
# costs more than the bytes it saves (a ranged GET of 1 MiB takes as long as its round trip).
MIN_RUN_BYTES = 1 << 20


def cut(buffer: memoryview, is_last: bool) -> list[int]:
    """Lengths of the chunks at the beginning of the buffer that no later byte can change.

    The buffer must begin where a chunk begins. With `is_last` the lengths add up to the buffer's;
    otherwise continue from their sum with more data. A buffer of MAX_BYTES or more always gives at
    least one. 4.2 GB/s on one core; releases the GIL.
    """
    from pyfastcdc import FastCDC  # 7 ms that `import asyncart` need not pay

    chunker = FastCDC(
        AVERAGE_BYTES, min_size=MIN_BYTES, max_size=MAX_BYTES, normalized_chunking=1, seed=0
    )
    lengths = [chunk.length for chunk in chunker.cut_buf(buffer)]
    # Only the last cut can be due to the buffer's end, and no chunk goes on after MAX_BYTES.
    if lengths and not is_last and lengths[-1] < MAX_BYTES:
        lengths.pop()
    return lengths


def hash_chunks(buffer: memoryview, lengths: Sequence[int]) -> list[bytes]:
    """BLAKE3-256 of each chunk, which lie side by side from the buffer's beginning."""
    ends = list(accumulate(lengths, initial=0))
    if ends[-1] > len(buffer):
        raise Invalid(f"chunks of {ends[-1]:,} bytes do not fit into a buffer of {len(buffer):,}")
    return [blake3(buffer[start:end]).digest() for start, end in pairwise(ends)]


def select_runs(
    chunks: Sequence[tuple[int, Extent | None]],
    after_stored_run: bool = False,
    min_run_bytes: int = MIN_RUN_BYTES,
) -> list[bool]:
    """For consecutive chunks of a file, as (length, where it is stored): which of them to point to.

    True for chunks of runs that lie side by side in one object and are at least `min_run_bytes` long
    together. The others are written, stored or not. A run at the very beginning may be short if the
    chunk of the file before these is pointed to (`after_stored_run`): it most likely continues that
    chunk's run, which ended only because a block of the file did.
    """
    selected: list[bool] = []
    for run in _runs(chunks):
        continues = after_stored_run and not selected
        run_bytes = sum([extent.length for extent in run if extent is not None])
        is_stored = run[0] is not None
        selected += [is_stored and (continues or run_bytes >= min_run_bytes)] * len(run)
    return selected


def _runs(chunks: Iterable[tuple[int, Extent | None]]) -> list[list[Extent | None]]:
    """Stored chunks that lie side by side, together; each one that is not stored, alone."""
    runs: list[list[Extent | None]] = []
    last: Extent | None = None
    for length, extent in chunks:
        # A stored chunk of another length would be another content: it cannot be pointed to.
        found = extent if extent is not None and extent.length == length else None
        if last is not None and _adjoins(last, found):
            runs[-1].append(found)
        else:
            runs.append([found])
        last = found
    return runs


def merge_extents(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """The same bytes with as few extents as possible: neighbours in one object become one."""
    merged: list[Extent] = []
    for extent in extents:
        if merged and _adjoins(merged[-1], extent):
            last = merged.pop()
            extent = Extent(last.object_id, last.offset, last.length + extent.length)
        merged.append(extent)
    return tuple(merged)


def _adjoins(left: Extent, right: Extent | None) -> bool:
    if right is None:
        return False
    return left.object_id == right.object_id and left.offset + left.length == right.offset
