"""Folders for the files that drafts write themselves, until they are logged.

A folder's name says whose it is, so that the next process removes what a killed one left behind. Only what
certainly belonged to a process of this machine that is gone is removed: a home may be shared with other
machines and containers, whose process numbers mean nothing here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from urllib.parse import quote, unquote

from ..catalog import owner
from ..config import Settings


def new_folder(settings: Settings) -> str:
    """A new folder of this process."""
    name = f"{quote(owner.this_process(), safe='')}.{os.urandom(8).hex()}"
    folder = os.path.join(settings.drafts_dir, name)
    os.makedirs(folder)
    return folder


def sweep(settings: Settings) -> None:
    """Remove what processes left behind that are no more."""
    with contextlib.suppress(OSError):
        for name in os.listdir(settings.drafts_dir):
            if owner.is_gone(unquote(name.rpartition(".")[0])):
                shutil.rmtree(os.path.join(settings.drafts_dir, name), ignore_errors=True)
