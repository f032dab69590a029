"""`cm keep`: the transcripts' own bytes, kept, given back, thinned out."""

from __future__ import annotations

import os
import shlex

import click

from .. import archive, config, keeping, projects, settings, store
from ..cli import index_options, json_option, say
from ..errors import BadInput, CmError
from ..output import counted, dumps, printable
from .common import open_index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any


@click.group(invoke_without_command=True)
@json_option
@index_options
@click.pass_context
def keep(context: click.Context, roots: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """What is kept of the transcripts themselves, so that they can be given back when Claude Code has deleted them.

    Off until `keep = true` stands in the config file; the next refresh then keeps all that is there.

    \b
    cm keep
    cm keep restore 0a1b2c ~/.claude
    cm keep prune --older-than 1y
    """
    if context.invoked_subcommand is not None:
        return
    connection = open_index(db, roots, True, "keep")
    try:
        found = keeping.status(connection, config.database(db))
    finally:
        connection.close()
    click.echo(dumps(found, indent=True) if as_json else "\n".join(lines(found)))
    if not found["is_on"]:
        say(f"it is off: write `keep = true` into {settings.path()}, then `cm refresh`")


def lines(found: dict[str, Any]) -> list[str]:
    """The state of the archive in words, for people."""
    gone = found["counted_only"]
    if not found["transcripts"]:
        first = "no transcripts are kept"
    else:
        share = 100 * found["archive_bytes"] / max(found["bytes"], 1)
        first = (
            f"{counted(found['transcripts'], 'transcript')} of {counted(found['sessions'], 'session')},"
            f" {found['bytes'] / 1e6:,.1f} MB in {found['archive_bytes'] / 1e6:,.1f} MB ({share:.0f} %);"
            f" {found['only_here']:,} of them were deleted since"
        )
    text = [first]
    if found["masked"]:
        text.append(f"{found['masked']:,} transcripts differ from Claude Code's: redacted, or forgotten in part")
    text.append(
        f"only counted: {counted(gone['transcripts'], 'deleted transcript')} of {counted(gone['sessions'], 'session')}:"
        " the index has their numbers"
    )
    if found["is_on"] and found["not_kept"]:
        text.append(f"{found['not_kept']:,} transcripts are not kept yet, or were pruned or forgotten")
    return text


@keep.command("restore")
@click.argument("session", metavar="SESSION")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--earlier", is_flag=True, help="Also what transcripts held before they were rewritten, as .jsonl.1 …")
@json_option
@index_options
def restore(roots: tuple[str, ...], db: str | None, as_json: bool, session: str, folder: str, earlier: bool) -> None:
    """Write the transcripts of SESSION, subagents' too, to their places below DIR, byte for byte.

    DIR is a Claude config directory, or becomes one: with ~/.claude the session is back where it was. Nothing is
    overwritten.

    \b
    cm keep restore 0a1b2c ~/.claude
    """
    path = archive.place(config.database(db))
    if not os.path.exists(path):
        raise CmError(f"{path}: there is no archive; `cm keep` says how to have one")
    reader = archive.Reader(path)
    try:
        whole = keeping.find(reader, session)
        files = keeping.restore(reader, whole, folder, earlier)
    finally:
        reader.close()
    click.echo(dumps(files, indent=True) if as_json else "\n".join(printable(file["path"]) for file in files))
    if any(file["is_masked"] for file in files):
        say(f"session {whole} differs from what Claude Code wrote: parts of it were redacted or forgotten")
    home = os.path.abspath(os.path.expanduser(folder))
    say(f"in the project's folder: CLAUDE_CONFIG_DIR={shlex.quote(home)} claude --resume {whole}")


@keep.command("prune")
@click.option("--older-than", metavar="AGE", help="Transcripts last written longer ago: 90d, 12w, 6m, 1y.")
@click.option("-p", "--project", metavar="PROJECT", help="Only those of this project.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Only say what would go.")
@click.option("-y", "--yes", "is_sure", is_flag=True, help="Do not ask.")
@json_option
@index_options
def prune(
    roots: tuple[str, ...],
    db: str | None,
    as_json: bool,
    older_than: str | None,
    project: str | None,
    is_dry: bool,
    is_sure: bool,
) -> None:
    """Take records out of the archive. The index, its numbers and its text stay.

    \b
    cm keep prune --older-than 1y --dry-run
    """
    if older_than is None and project is None:
        raise BadInput("say what is to go: --older-than AGE, --project PROJECT, or both")
    path = config.database(db)
    limit = keeping.age(older_than) if older_than else None
    sessions = sessions_of(path, project) if project else None
    found = keeping.prune(path, limit, sessions, is_dry=True)
    if found["transcripts"] and not is_dry:
        if not is_sure:
            click.confirm(f"{sentence(found)}. Take them out?", abort=True, err=True)
        found = keeping.prune(path, limit, sessions)
    if as_json:
        click.echo(dumps(found, indent=True))
    else:
        say(f"{sentence(found)}{' would go' if is_dry else ' taken out'}")


def sentence(found: dict[str, Any]) -> str:
    """What goes, in words."""
    return (
        f"{counted(found['transcripts'], 'transcript')}, {found['bytes'] / 1e6:,.1f} MB in"
        f" {found['packed_bytes'] / 1e6:,.1f} MB; {found['only_here']:,} of them are nowhere else any more"
    )


def sessions_of(db: str, project: str) -> Collection[str]:
    """Ids of the sessions of a project. Raises BadInput: there is no such project."""
    connection = store.open_reader(db)
    try:
        ids = projects.find(connection, project)
        if not ids:
            raise BadInput(f"{project}: there is no such project; `cm projects` lists them")
        marks = ", ".join("?" * len(ids))
        rows = connection.execute(f"SELECT session_id FROM sessions WHERE project_id IN ({marks})", ids)
        return {row[0] for row in rows}
    finally:
        connection.close()


@keep.command("pack")
@index_options
def pack(roots: tuple[str, ...], db: str | None) -> None:
    """Pack transcripts that were quiet for a day at once, instead of some at each refresh."""
    path = config.database(db)
    with store.Lock(path):
        index = store.open_writer(path)
        try:
            kept = archive.Archive(path, index)
            try:
                say(f"{counted(kept.pack(), 'transcript')} packed")
                kept.compact()
            finally:
                kept.close()
        finally:
            index.close()
