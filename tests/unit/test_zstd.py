"""What the two functions of engine.zstd promise about sizes."""

from __future__ import annotations

import tracemalloc

import pytest

from asyncart.engine import zstd
from asyncart.errors import Corrupt

SIZES = [0, 1, 2, 255, 1 << 17, (1 << 23) - 1, (1 << 23) + 1]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_compressed_comes_back(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    frame = zstd.compress(data)
    assert zstd.decompress(frame, size) == data
    assert zstd.decompress(memoryview(frame), size) == data


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_another_size_is_corrupt(size: int) -> None:
    for promised in {max(size - 1, 0), size + 1} - {size}:
        with pytest.raises(Corrupt, match="exactly"):
            zstd.decompress(zstd.compress(bytes(size)), promised)


def test_a_bomb_is_given_up_after_the_bytes_that_were_promised() -> None:
    bomb = zstd.compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt, match="exactly 1,000 bytes"):
            zstd.decompress(bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [0, 1, 4, 10, -1])
def test_a_truncated_frame_is_corrupt(cut: int) -> None:
    with pytest.raises(Corrupt):
        zstd.decompress(zstd.compress(bytes(range(256)))[:cut], 256)


@pytest.mark.parametrize("frame", [b"", b"hello, this is no frame", bytes(100)])
def test_other_bytes_are_corrupt(frame: bytes) -> None:
    with pytest.raises(Corrupt):
        zstd.decompress(frame, 100)


@pytest.mark.parametrize("stray", [b"\0", zstd.compress(b"")])
def test_bytes_behind_the_frame_are_corrupt(stray: bytes) -> None:
    with pytest.raises(Corrupt, match="stray"):
        zstd.decompress(zstd.compress(b"data") + stray, 4)


def test_a_frame_that_wants_a_huge_window_is_corrupt() -> None:
    """A header may ask the decoder for gigabytes; ours never need more than 8 MiB or the content."""
    magic, not_single_segment, window_2_gib = b"\x28\xb5\x2f\xfd", b"\x00", bytes([21 << 3])
    last_raw_block_of_one = (1 | 0 << 1 | 1 << 3).to_bytes(3, "little") + b"x"
    frame = magic + not_single_segment + window_2_gib + last_raw_block_of_one
    with pytest.raises(Corrupt, match="memory"):
        zstd.decompress(frame, 1)
    small = magic + not_single_segment + bytes([0]) + last_raw_block_of_one
    assert zstd.decompress(small, 1) == b"x"
