"""Runs, what they consumed and what they produced.

Lineage crosses projects: of runs and versions that lie elsewhere, only those are told that the caller may
read.
"""

from __future__ import annotations

from ... import wire
from .. import guard
from ..context import Caller
from ..routing import handler


@handler("create_run")
async def create_run(caller: Caller, request: wire.CreateRun) -> wire.Done:
    await caller.context.catalog.create_run(request.run)
    return wire.Done()


@handler("get_run")
async def get_run(caller: Caller, request: wire.GetRun) -> wire.RunAnswer:
    return wire.RunAnswer(run=await caller.context.catalog.get_run(request.run_id))


@handler("finish_run")
async def finish_run(caller: Caller, request: wire.FinishRun) -> wire.Done:
    await caller.context.catalog.finish_run(request.run_id, request.state)
    return wire.Done()


@handler("record_use")
async def record_use(caller: Caller, request: wire.RecordUse) -> wire.Done:
    await caller.context.catalog.record_use(request.run_id, request.version_id)
    return wire.Done()


@handler("run_inputs")
async def run_inputs(caller: Caller, request: wire.RunInputs) -> wire.RunVersions:
    found = await caller.context.catalog.run_inputs(request.run_id)
    return wire.RunVersions(versions=await guard.only_readable(caller, found))


@handler("run_outputs")
async def run_outputs(caller: Caller, request: wire.RunOutputs) -> wire.RunVersions:
    found = await caller.context.catalog.run_outputs(request.run_id)
    return wire.RunVersions(versions=await guard.only_readable(caller, found))


@handler("used_by")
async def used_by(caller: Caller, request: wire.UsedBy) -> wire.Runs:
    found = await caller.context.catalog.used_by(request.version_id)
    return wire.Runs(runs=await guard.only_readable(caller, found))


@handler("logged_by")
async def logged_by(caller: Caller, request: wire.LoggedBy) -> wire.Runs:
    found = await caller.context.catalog.logged_by(request.version_id)
    return wire.Runs(runs=await guard.only_readable(caller, found))
