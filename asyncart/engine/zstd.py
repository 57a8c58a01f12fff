"""Zstandard behind two functions, with sizes that cannot lie.

Python 3.14 has it in the standard library, older ones through backports.zstd (the same API). Only
one-frame payloads whose uncompressed size is known beforehand are read: a frame that would grow past
it, ends before it, or is followed by anything is Corrupt, and never takes more memory than promised.
"""

from __future__ import annotations

import sys
from typing import Any

from asyncart.errors import Corrupt

_zstd: Any  # backports.zstd promises the standard library's API; mypy knows only one of the two
if sys.version_info >= (3, 14):
    from compression import zstd as _zstd
else:
    from backports import zstd as _zstd

# A frame names the window that its decoder must allocate. RFC 8878 asks decoders for 8 MiB; ours
# never exceed the content, so a frame that asks for more than both is not one of ours.
_WINDOW_LOG_FLOOR = 23


def compress(data: bytes, level: int = 1) -> bytes:
    """One frame that records its uncompressed size."""
    return bytes(_zstd.compress(data, level))


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """The frame's content, which must be exactly `size` bytes. Raises Corrupt otherwise."""
    window_log = max(_WINDOW_LOG_FLOOR, (size - 1).bit_length())
    reader = _zstd.ZstdDecompressor(
        options={_zstd.DecompressionParameter.window_log_max: window_log}
    )
    try:
        # One byte more than promised, so that a frame which goes on is told from one that ends here.
        content: bytes = reader.decompress(data, max_length=size + 1)
    except _zstd.ZstdError as error:
        raise Corrupt(f"zstd frame cannot be read: {error}") from error
    if len(content) != size or not reader.eof:
        raise Corrupt(f"zstd frame does not hold exactly {size:,} bytes")
    if reader.unused_data:
        raise Corrupt(f"zstd frame is followed by {len(reader.unused_data):,} stray bytes")
    return content
