"""Checksums that an object store verifies on arrival: CRC64NVME and CRC32C, as S3 writes them.

They catch a byte that changed between our memory and the store's disk at once, instead of at the next
read (where BLAKE3 finds it anyway). Only worth having where they cost next to nothing, which takes the
instructions of the processor: `awscrt` (9-20 GB/s; `pip install awscrt`). Without it there are none.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from asyncart.errors import Invalid

SIZES = {"CRC64NVME": 8, "CRC32C": 4}  # in bytes; the first one is preferred
INLINE_BYTES = 1 << 20  # 0.1 ms: cheaper than the way to another thread


def is_available() -> bool:
    try:
        importlib.import_module("awscrt.checksums")
    except ImportError:
        return False
    return True


def check_algorithm(algorithm: str) -> str:
    """The algorithm, if it can be computed here; raises Invalid otherwise."""
    if algorithm not in SIZES:
        raise Invalid(f"{algorithm}: not a checksum that is used here; use {' or '.join(SIZES)}")
    if not is_available():
        raise Invalid(f"{algorithm} needs awscrt: pip install awscrt")
    return algorithm


def header_name(algorithm: str) -> str:
    return f"x-amz-checksum-{algorithm.lower()}"


def encoded(value: int, algorithm: str) -> str:
    """As in the header: base64 of the big-endian bytes."""
    return base64.b64encode(value.to_bytes(SIZES[algorithm], "big")).decode("ascii")


def checksum(algorithm: str, buffers: Sequence[memoryview]) -> str:
    """Of the concatenated buffers, as in the header."""
    add = _function(algorithm)
    value = 0
    for buffer in buffers:
        value = add(buffer.cast("B"), value)
    return encoded(value, algorithm)


def _function(algorithm: str) -> Callable[[memoryview, int], int]:
    module: Any = importlib.import_module("awscrt.checksums")
    function: Callable[[memoryview, int], int] = getattr(module, algorithm.lower())
    return function
