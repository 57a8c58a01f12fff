"""Fixtures for all tests."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator

import pytest
from services import (
    asyncart_server,
    aws_environment,
    disk_1_mib,
    disk_2_mib,
    fresh_server,
    postgres,
    postgres_url,
    seaweedfs,
    two_replicas,
)

__all__ = [
    "asyncart_server",
    "aws_environment",
    "disk_1_mib",
    "disk_2_mib",
    "fresh_server",
    "postgres",
    "postgres_url",
    "seaweedfs",
    "two_replicas",
]

# Some 600 processes are started by the tests. One that may not keep what it compiled (images of
# containers forbid it) compiles the package anew: 0.2 of 0.55 s of an `asyncart ls`.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, for its `-n auto`
def pytest_xdist_auto_num_workers() -> int | None:
    """One worker more than there are cores: a fifth of the tests' time is waiting for servers and stalls.

    Measured on 2 cores, seconds with 2 -> 3 workers: catalogs and buckets 46 -> 38 and 24 -> 18, planes
    and faults of S3 57 -> 51.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # then xdist takes what its user said
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The command line, run in the test's own process, sets up the package's logger for a process that
    ends with it: the next test would read nothing in `caplog`."""
    logger = logging.getLogger("asyncart")
    level, handlers, propagates = logger.level, logger.handlers[:], logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagates


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is there when a module begins need not be walked through by every collection of garbage that
    its tests make to see what they left behind (up to 0.5 s each, in some 1,500 tests)."""
    if _frozen_for.get("module") != item.path:
        _frozen_for["module"] = item.path
        gc.collect()
        gc.freeze()


_frozen_for: dict[str, object] = {}
