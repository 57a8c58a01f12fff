"""`asyncart show`: everything about one version."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from ...aio import Api, Artifact
    from ...model import RunInfo


class Lineage(NamedTuple):
    """The runs that logged or used a version; each with the names of what it used or logged itself."""

    logged_by: list[tuple[RunInfo, list[str]]]
    used_by: list[tuple[RunInfo, list[str]]]


@click.command(cls=Command, short_help="Show everything about a version.")
@click.argument("ref")
@pass_options
def show(options: Options, ref: str) -> None:
    """Show everything about a version: content, aliases, metadata, and where it came from and went to."""
    from .. import describe, runner, screen

    async def work(api: Api) -> tuple[Artifact, Lineage]:
        artifact = await api.artifact(ref)
        logged = [
            (run, [made_of.qualified_name for made_of in await api.run_inputs(run.id)])
            for run in await artifact.logged_by()
        ]
        used = [
            (run, [made.qualified_name for made in await api.run_outputs(run.id)])
            for run in await artifact.used_by()
        ]
        return artifact, Lineage(logged, used)

    artifact, lineage = runner.with_api(options, work)
    if options.is_json:
        screen.print_json(
            describe.version(artifact)
            | {
                "logged_by": [describe.run(run) | {"used": u} for run, u in lineage.logged_by],
                "used_by": [describe.run(run) | {"logged": m} for run, m in lineage.used_by],
            }
        )
        return
    screen.facts(_facts(artifact, lineage))


def _facts(artifact: Artifact, lineage: Lineage) -> dict[str, str | list[str]]:
    import json

    from ..words import count, local_time, size

    return {
        "name": artifact.qualified_name,
        "type": artifact.type,
        "aliases": ", ".join(artifact.aliases),
        "tags": ", ".join(artifact.tags),
        "content": f"{count(artifact.file_count, 'file')}, {size(artifact.size)} ({artifact.size:,} bytes)",
        "digest": artifact.digest,
        "created": local_time(artifact.created_at),
        "changed": local_time(artifact.updated_at),
        "time to live": _time_to_live(artifact),
        "description": artifact.description or "",
        "metadata": [
            f"{key} = {json.dumps(value, ensure_ascii=False)}"
            for key, value in artifact.metadata.items()
        ],
        "logged by": [_run(run, names, "from") for run, names in lineage.logged_by],
        "used by": [_run(run, names, "for") for run, names in lineage.used_by],
    }


def _time_to_live(artifact: Artifact) -> str:
    """How long, until when, and what keeps it beyond; nothing for what lives for ever."""
    from .. import durations
    from ..words import local_time

    if artifact.ttl is None or artifact.expires_at is None:
        return ""
    keepers = ", ".join(alias for alias in artifact.aliases if alias != "latest")
    text = f"{durations.text(artifact.ttl)}, until {local_time(artifact.expires_at)}"
    return f"{text}, and longer while it is {keepers}" if keepers else text


def _run(run: RunInfo, names: list[str], link: str) -> str:
    from ..words import local_time

    job = f" ({run.job_type})" if run.job_type else ""
    text = f"{run.project}/{run.name}{job}, {run.state}, {local_time(run.created_at)}"
    return f"{text}, {link} {', '.join(names)}" if names else text
