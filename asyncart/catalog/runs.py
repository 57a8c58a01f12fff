"""Runs, and what they consumed and produced."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import Connection, Row

from asyncart.errors import Conflict, Invalid, NotFound
from asyncart.model import RunInfo, RunState, VersionInfo

from . import bulk, clock, versions
from .lineage import record
from .tables import INPUT, OUTPUT, lineage
from .tables import runs as runs_table
from .tables import versions as versions_table


def create_run(conn: Connection, run: RunInfo) -> None:
    row = {
        "id": run.id,
        "entity": run.entity,
        "project": run.project,
        "name": run.name,
        "job_type": run.job_type,
        "state": run.state.value,
        "created_at": run.created_at,
        "finished_at": run.finished_at,
        "config": json.dumps(run.config),
    }
    bulk.insert_new(conn, runs_table, [row])
    there = get_run(conn, run.id)
    if (there.entity, there.project) != (run.entity, run.project):
        raise Conflict(
            f"run {run.id} exists in {there.entity}/{there.project}, not in "
            f"{run.entity}/{run.project}; choose another run id"
        )


def finish_run(conn: Connection, run_id: str, state: RunState) -> None:
    if state is RunState.RUNNING:
        raise Invalid(f"run {run_id} cannot finish as 'running'")
    if get_run(conn, run_id).state is state:
        return
    conn.execute(
        update(runs_table)
        .where(runs_table.c.id == run_id)
        .values(state=state.value, finished_at=clock.now(conn))
    )


def get_run(conn: Connection, run_id: str) -> RunInfo:
    row = conn.execute(select(runs_table).where(runs_table.c.id == run_id)).first()
    if row is None:
        raise NotFound(f"there is no run {run_id}")
    return _run(row)


def record_use(conn: Connection, run_id: str, version_id: str) -> None:
    record(conn, run_id, versions.live_row(conn, version_id).id, INPUT)


def used_by(conn: Connection, version_id: str) -> list[RunInfo]:
    return _runs_of(conn, version_id, INPUT)


def logged_by(conn: Connection, version_id: str) -> list[RunInfo]:
    return _runs_of(conn, version_id, OUTPUT)


def run_inputs(conn: Connection, run_id: str) -> list[VersionInfo]:
    return _versions_of(conn, run_id, INPUT)


def run_outputs(conn: Connection, run_id: str) -> list[VersionInfo]:
    return _versions_of(conn, run_id, OUTPUT)


def _runs_of(conn: Connection, version_id: str, direction: int) -> list[RunInfo]:
    version = versions.any_row(conn, version_id)
    query = (
        select(runs_table)
        .join(lineage, lineage.c.run_id == runs_table.c.id)
        .where(lineage.c.version_id == version.id, lineage.c.direction == direction)
        .order_by(lineage.c.id)
    )
    return [_run(row) for row in conn.execute(query)]


def _versions_of(conn: Connection, run_id: str, direction: int) -> list[VersionInfo]:
    get_run(conn, run_id)
    query = (
        versions.SELECT.join(lineage, lineage.c.version_id == versions_table.c.id)
        .where(
            lineage.c.run_id == run_id,
            lineage.c.direction == direction,
            versions_table.c.deleted_at.is_(None),
        )
        .order_by(lineage.c.id)
    )
    return versions.infos(conn, conn.execute(query).all())


def _run(row: Row[Any]) -> RunInfo:
    return RunInfo(
        id=row.id,
        entity=row.entity,
        project=row.project,
        name=row.name,
        job_type=row.job_type,
        state=RunState(row.state),
        created_at=row.created_at,
        finished_at=row.finished_at,
        config=json.loads(row.config),
    )
