"""Files of drafts: removed when their process is certainly gone, and never because of a number alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import asyncart.aio
from asyncart import config
from asyncart.aio import draftfolder
from asyncart.catalog import owner

MAKE = (
    "import sys; from asyncart import config; from asyncart.aio import draftfolder;"
    "folder = draftfolder.new_folder(config.load(home=sys.argv[1]));"
    "open(folder + '/1', 'w').close(); print(folder)"
)


def left_by_a_dead_process(home: Path) -> Path:
    made = subprocess.run(
        [sys.executable, "-c", MAKE, str(home)], capture_output=True, check=True, text=True
    )
    return Path(made.stdout.strip())


async def test_what_a_dead_process_left_is_removed_and_what_is_ours_is_not(tmp_path: Path) -> None:
    dead = left_by_a_dead_process(tmp_path)
    ours = Path(draftfolder.new_folder(config.load(home=str(tmp_path))))
    assert dead.is_dir()
    async with asyncart.aio.Api(home=tmp_path) as api:
        await api.projects()
    assert not dead.exists()
    assert ours.is_dir()


def test_a_process_of_another_machine_or_container_is_not_judged_by_its_number(
    tmp_path: Path,
) -> None:
    dead = left_by_a_dead_process(tmp_path)
    place, pid, started = unquote(dead.name.rpartition(".")[0]).rsplit(" ", 2)
    assert owner.is_gone(f"{place} {pid} {started}")
    elsewhere = dead.with_name(quote(f"{place}0 {pid} {started}", safe="") + ".00")
    os.rename(dead, elsewhere)
    (dead.parent / f"{pid}-somebody's").mkdir()
    draftfolder.sweep(config.load(home=str(tmp_path)))
    assert len(list(dead.parent.iterdir())) == 2
