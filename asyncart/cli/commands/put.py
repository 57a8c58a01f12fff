"""`asyncart put`: log files and folders as a version."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from ...errors import Invalid, NotFound
from ..options import Command, Options, pass_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from ...aio import Artifact
    from ...model import Progress

DEFAULT_TYPE = "unspecified"


@click.command(cls=Command, short_help="Log files and folders as a version.")
@click.argument("paths", nargs=-1, metavar="PATH... [NAME]")
@click.option("-n", "--name", metavar="NAME", help="[[ENTITY/]PROJECT/]NAME of the artifact.")
@click.option(
    "-t", "--type", "kind", metavar="TYPE", help="dataset, model, ... (default: as it was before)."
)
@click.option(
    "-a", "--alias", "aliases", multiple=True, metavar="ALIAS", help="Point this alias here."
)
@click.option(
    "-m",
    "--metadata",
    multiple=True,
    metavar="KEY=VALUE",
    help="VALUE is JSON if it can be read as such (17, true, [1, 2]), else text.",
)
@click.option("-d", "--description", metavar="TEXT", help="What it is, in words.")
@click.option("--ttl", metavar="TIME", help="How long to keep it, such as 30d (default: for ever).")
@click.option(
    "-r", "--reference", "references", multiple=True, metavar="URI", help="Track a URI, too."
)
@pass_options
def put(
    options: Options,
    paths: tuple[str, ...],
    name: str | None,
    kind: str | None,
    aliases: tuple[str, ...],
    metadata: tuple[str, ...],
    description: str | None,
    ttl: str | None,
    references: tuple[str, ...],
) -> None:
    """Log files and folders as a version of an artifact.

    A single folder's content goes to the root of the artifact; of several PATHs each keeps its base name.
    Content that the artifact had before makes no new version.

    With --ttl, `asyncart gc` deletes the version that long after its content was last logged, unless an
    alias other than `latest` points to it.

    The NAME is, in this order: what --name says; the last argument, if nothing of that name exists and it
    has neither "/", "\\" nor "."; the base name of the only PATH. With --name, every argument is a PATH.
    """
    from ... import aio, names
    from .. import describe, progress, runner, screen

    sources, chosen = paths_and_name(paths, name, has_references=bool(references))
    facts = dict(map(_pair, metadata))
    lifetime = None if ttl is None else _positive(ttl)
    reference = names.parse_ref(chosen)
    if ":" in chosen:
        raise Invalid(f"{chosen}: a version gets its number here; use --alias for an alias")
    last: list[Progress] = []

    async def work() -> tuple[Artifact, bool]:
        async with aio.Api(
            entity=reference.entity or options.entity,
            project=reference.project or options.project,
            home=options.home,
            **options.settings,
        ) as api:
            artifact = aio.Artifact(
                reference.name,
                kind or await _type_before(api, reference.name),
                description=description,
                metadata=facts,
            )
            artifact.ttl = lifetime
            _add(artifact, sources, references)
            async with aio.init(
                api.project,
                entity=api.entity,
                job_type="put",
                home=options.home,
                **options.settings,
            ) as run:
                await run.log_artifact(
                    artifact, aliases=aliases, progress=lambda event: _note(event, last, show)
                )
                first = (await artifact.logged_by())[0]
                return artifact, first.id == run.id

    with progress.shown(options) as show:
        artifact, is_new = runner.run(options, work)
    moved, of_files = (last[-1].bytes_moved, last[-1].bytes_total or 0) if last else (0, 0)
    deduplicated = max(0, of_files - moved)
    if options.is_json:
        counts = {"is_new": is_new, "bytes_stored": moved, "bytes_deduplicated": deduplicated}
        screen.print_json(describe.version(artifact) | counts)
    else:
        screen.say(summary(artifact, is_new, deduplicated))


def paths_and_name(
    arguments: Sequence[str], name: str | None, *, has_references: bool
) -> tuple[list[str], str]:
    """Which arguments are paths, and the artifact's name."""
    paths = list(arguments)
    may_name = len(paths) > (0 if has_references else 1)
    if name is None and may_name and not os.path.lexists(paths[-1]):
        name = _bare_word(paths.pop())
    if not paths and not has_references:
        raise click.UsageError("Missing argument 'PATH...'.", click.get_current_context(True))
    if name is None:
        if len(paths) != 1:
            raise Invalid("what shall it be called? With several PATHs, --name NAME is needed")
        name = os.path.basename(os.path.abspath(paths[0]))
    return paths, name


def _bare_word(word: str) -> str:
    """A mistyped path must not become a name."""
    if any(character in word for character in "/\\."):
        raise NotFound(f"{word} does not exist; if it is meant as the name, say --name {word}")
    return word


def _pair(text: str) -> tuple[str, Any]:
    import json

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Invalid(f"--metadata {text!r}: write KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _positive(text: str) -> timedelta:
    from .. import durations

    length = durations.parse(text)
    if not length:
        raise Invalid(
            f"--ttl {text}: nothing lives for no time; leave --ttl out to keep it for ever"
        )
    return length


async def _type_before(api: Any, name: str) -> str:
    try:
        found: str = (await api.artifact(name)).type
    except NotFound:
        return DEFAULT_TYPE
    return found


def _add(artifact: Artifact, paths: Sequence[str], references: Sequence[str]) -> None:
    is_alone = len(paths) == 1
    for path in paths:
        if not os.path.isdir(path):
            artifact.add_file(path)
        elif is_alone:
            artifact.add_dir(path)
        else:
            artifact.add_dir(path, name=os.path.basename(os.path.abspath(path)))
    for uri in references:
        artifact.add_reference(uri)


def _note(event: Progress, last: list[Progress], show: Any) -> None:
    last[:] = [event]
    if show is not None:
        show(event)


def summary(artifact: Artifact, is_new: bool, deduplicated: int) -> str:
    """`bike-data:v3  new  12,345 files  1.2 GiB (1.1 GiB deduplicated)`"""
    from ..words import count, size

    text = f"{artifact.name}  {'new' if is_new else 'unchanged'}  {count(artifact.file_count, 'file')}  {size(artifact.size)}"
    return f"{text} ({size(deduplicated)} deduplicated)" if is_new and deduplicated else text
