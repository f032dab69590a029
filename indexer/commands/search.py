"""`cm search`."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from datetime import date, timedelta

import click

from .. import archive, completion, config, filters, fulltext, passages, redaction, settings, store, zones
from .. import search as library
from ..cli import index_options, json_option, refresh_option, say, timezone_option
from ..output import dumps, printable
from ..projects import find as find_projects
from ..sources import Source
from .common import ids_of, open_index

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from typing import Any

    Row = dict[str, Any]

_EPOCH = date(1970, 1, 1)
_DAY_MS = 86_400_000
_WIDTH = 100


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="WORDS...")
@click.option(
    "-p",
    "--project",
    "projects",
    multiple=True,
    metavar="TEXT",
    shell_complete=completion.projects,
    help="Only that project: its path, its name, or a part of one path.",
)
@click.option("-s", "--since", metavar="DAY", help=f"From that local day on: {filters.DATES}.")
@click.option("-u", "--until", metavar="DAY", help="To the end of that local day.")
@click.option("-r", "--role", type=click.Choice(library.ROLES), help="Only what was said so; task: to a subagent.")
@click.option("-t", "--tool", metavar="NAME", help="Only what that tool was given, such as Bash.")
@click.option("--session", "sessions", multiple=True, metavar="ID", help="Only that session; the beginning is enough.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="So many messages.")
@click.option(
    "--include",
    multiple=True,
    type=click.Choice(list(passages.OPTIONAL)),
    help="Search that too, now and from now on; also `search` in the config file.",
)
@click.option("--rebuild", is_flag=True, help="Make the full-text index anew, without what is not included any more.")
@timezone_option
@json_option
@refresh_option
@index_options
def search(
    roots: tuple[str, ...],
    db: str | None,
    no_refresh: bool,
    as_json: bool,
    timezone: str | None,
    rebuild: bool,
    include: tuple[str, ...],
    limit: int,
    sessions: tuple[str, ...],
    tool: str | None,
    role: str | None,
    until: str | None,
    since: str | None,
    projects: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    """Find what was said: prompts, answers, and what tools were given.

    All words must occur, in any order, in any case. "A phrase" stands in quotes, con* is the beginning of a word, OR
    separates alternatives. The best come first; of very many, the newest.

    The first search makes the full-text index, which takes a moment; every refresh keeps it current from then on.

    \b
    Examples:
      cm search retry queue
      cm search "connection pool" timeo* --project shop --since 30d
      cm search docker build --role tool --tool Bash
    """  # fmt: skip
    text = library.typed(words)
    library.parse(text)  # what cannot be searched for is said before anything is made
    path = config.database(db)
    connection = open_index(db, roots, no_refresh, "search")
    try:
        had = fulltext.kept(connection)
        wanted = _wanted(include, frozenset() if rebuild else had)
        if rebuild or had is None or wanted - had:
            connection.close()
            _build(path, wanted)
            connection = store.open_reader(path)
        zones.apply(connection, timezone)
        query = asked(connection, text, projects, sessions, since, until, role, tool)
        with store.snapshot(connection):
            found = library.find(connection, query, limit)
        when = zones.clock(connection)
    finally:
        connection.close()
    if as_json:
        click.echo(dumps(found, indent=True))
    elif not found:
        say(f"nothing was said that matches {' '.join(words)}")
    else:
        click.echo("\n\n".join(_blocks(found, when)))


# The full-text index


def _wanted(include: Sequence[str], had: frozenset[int] | None) -> frozenset[int]:
    """Kinds of passages to keep; of what must not be kept at all, there are none."""
    if not config.keeps_text():
        return frozenset()
    named = (*include, *config.searched())
    return (had or frozenset()) | {passages.INPUT, *(passages.OPTIONAL[name] for name in named)}


def _build(path: str, kinds: frozenset[int]) -> None:
    say("making the full-text index; this is done once")
    with store.Lock(path, wait=True), closing(store.open_writer(path)) as connection:
        archived = archive.open_reader(path, connection)
        mask = redaction.redactor(config.patterns()).mask_text
        source = Source(connection, None if archived is None else archived.read)
        with closing(source), click.progressbar(length=1000, label="Indexing", file=sys.stderr) as bar:
            fulltext.build(connection, kinds, source, mask, lambda done, all: bar.update(done * 1000 // all - bar.pos))
            bar.update(1000 - bar.pos)
        if archived is not None:
            archived.close()
    for (file, reason), count in source.missing.items():
        say(f"what tools were given in {count:,} messages of {file} is not in it: it is {reason}")


# What is asked


def asked(
    connection: sqlite3.Connection,
    text: str,
    projects: Sequence[str] = (),
    sessions: Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
    role: str | None = None,
    tool: str | None = None,
) -> library.Query:
    """A query in terms of the index. Raises CmError for words, days or names that cannot be used."""
    match, phrases = library.parse(text)
    start, end = _span(connection, since, until)
    return library.Query(match, phrases, start, end, _sessions(connection, projects, sessions), role, tool)


def _span(connection: sqlite3.Connection, since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """Milliseconds UTC of a range of local days."""
    now = int(time.time() * 1000)
    today = _EPOCH + timedelta((now + zones.offset_at(connection, now)) // _DAY_MS)
    week = settings.DAYS.index(config.start_of_week())
    first = filters.first_day(since, today, week) - _EPOCH if since else None
    last = filters.last_day(until, today, week) - _EPOCH if until else None
    return (
        None if first is None else zones.start_of_day(connection, first.days),
        None if last is None else zones.start_of_day(connection, last.days + 1),
    )


def _sessions(
    connection: sqlite3.Connection, projects: Sequence[str], sessions: Sequence[str]
) -> tuple[int, ...] | None:
    """Sessions of all projects and of all beginnings of ids that are named; None if nothing is."""
    of_projects = ids_of(connection, find_projects, "project", projects)
    named = ids_of(connection, filters.sessions, "session", sessions)
    if of_projects is None:
        return None if named is None else tuple(sorted({*named}))
    sql = f"SELECT id FROM sessions WHERE project_id IN ({', '.join(map(str, of_projects))})"
    found = {row[0] for row in connection.execute(sql)}
    return tuple(sorted(found if named is None else found.intersection(named)))


# What is shown


def _blocks(found: Sequence[Row], when: Callable[[str], str]) -> list[str]:
    return [
        "\n".join([*_head(rows[0]), *(line for row in rows for line in _hit(row, when))])
        for rows in library.by_session(found)
    ]


def _head(row: Row) -> list[str]:
    project = row["project"] or ""
    label = settings.project_label(project, project.rstrip("/").rpartition("/")[2])
    title = click.style(printable(row["title"] or "untitled"), bold=True)
    way = row["resume"] if row["has_transcript"] else f"cm show {row['session_id']}"
    gone = "" if row["has_transcript"] else "  (no transcript to resume)"
    return [f"{title}  {click.style(printable(label), fg='cyan')}", click.style(printable(f"  {way}") + gone, dim=True)]


def _hit(row: Row, when: Callable[[str], str]) -> list[str]:
    what = row["tool"] or row["role"]
    where = f"  {when(row['at'])}  {printable(what)}"
    return [click.style(where, fg="green"), f"    {_highlighted(row)}"]


def _highlighted(row: Row) -> str:
    text, shown, position = row["snippet"], "", 0
    for start, end in row["highlights"]:
        shown += printable(text[position:start]) + click.style(printable(text[start:end]), bold=True, fg="yellow")
        position = end
    return shown + printable(text[position:])
