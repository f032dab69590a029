"""`cm forget` and `cm redact`: taking out for good what is stored."""

from __future__ import annotations

import click

from .. import config, erasure, projects, settings, store
from ..cli import index_options, json_option, say
from ..errors import BadInput
from ..output import counted, dumps
from .refresh import progress_bar

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

_LISTED = 5
_dry_option = click.option("--dry-run", "is_dry", is_flag=True, help="Only say what would go.")
_yes_option = click.option("-y", "--yes", "is_sure", is_flag=True, help="Do not ask.")


@click.command()
@click.argument("what", metavar="SESSION|PROJECT")
@click.option("--all", "is_all", is_flag=True, help="Their numbers, too: totals fall.")
@_dry_option
@_yes_option
@json_option
@index_options
def forget(
    roots: tuple[str, ...], db: str | None, as_json: bool, what: str, is_all: bool, is_dry: bool, is_sure: bool
) -> None:
    """Take out what was said in a session, or in all sessions that a project has now, for good.

    Text and records go from the index, the search and the archive, and no later refresh or merge brings them back; the
    numbers stay. Claude Code's own transcripts are not touched.

    \b
    cm forget 0a1b2c --dry-run
    cm forget ~/work/secret-app --all --yes
    """
    path = config.database(db)
    sessions = _sessions(path, what)
    found = erasure.forget(path, sessions, is_all, is_dry=True)
    if not is_dry:
        if not is_sure:
            click.confirm(f"{_sentence(found, is_all)}. Forget them for good?", abort=True, err=True)
        found = erasure.forget(path, sessions, is_all)
    if as_json:
        click.echo(dumps(found, indent=True))
    else:
        say(f"{_sentence(found, is_all)}{' would be forgotten' if is_dry else ' forgotten'}")
    _say_what_is_left(found)


def _sessions(db: str, what: str) -> list[str]:
    """Ids of the sessions that are meant. Raises BadInput."""
    connection = store.open_reader(db)
    try:
        known = {row[0] for row in connection.execute("SELECT session_id FROM sessions")}
        known |= {row[0] for row in connection.execute("SELECT session_id FROM forgotten")}
        found = [what] if what in known else sorted(name for name in known if name.startswith(what))
        if len(found) > 1:
            some = ", ".join(found[:_LISTED])
            raise BadInput(f"{what} begins {len(found)} sessions: {some} …; write more of it")
        return found or _of_project(connection, what)
    finally:
        connection.close()


def _of_project(connection: sqlite3.Connection, what: str) -> list[str]:
    ids = projects.find(connection, what)
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(f"SELECT session_id FROM sessions WHERE project_id IN ({marks})", ids).fetchall()
    if not rows:
        raise BadInput(f"{what}: there is no such session or project; `cm sessions` and `cm projects` list them")
    return [row[0] for row in rows]


def _sentence(found: dict[str, Any], is_all: bool) -> str:
    numbers = f" and the numbers of {counted(found['responses'], 'response')}" if is_all else ""
    return (
        f"{counted(found['sessions'], 'session')}: the text of {counted(found['records'], 'record')}{numbers},"
        f" {counted(found['archived'], 'transcript')} in the archive"
    )


def _say_what_is_left(found: dict[str, Any]) -> None:
    if found["also_in"]:
        say(f"copies of what was said are also in {', '.join(found['also_in'])}: forget these, too")
    for path in found["still_in"]:
        say(f"{path} still holds it: delete it, if it is not needed")
    for path in found["transcripts"]:
        say(f"Claude Code's own transcript is still there: {path}")
    _say_if_not_clean(found)


def _say_if_not_clean(found: dict[str, Any]) -> None:
    if not found["is_clean"]:
        say("a program has the index open, so old pages are not overwritten yet: close it and do this again")


@click.command()
@_dry_option
@_yes_option
@json_option
@index_options
def redact(roots: tuple[str, ...], db: str | None, as_json: bool, is_dry: bool, is_sure: bool) -> None:
    """Mask what the configured patterns find in what was stored before they were configured, for good.

    What comes after is masked before it is stored. See `redact` in the config file.

    \b
    cm redact --dry-run
    """
    patterns = config.patterns()
    if not patterns:
        raise BadInput(f"no patterns are configured: write `redact = true` into {settings.path()}")
    path = config.database(db)
    label = "Looking for secrets"
    found = erasure.redact(path, patterns, is_dry=True, progress=progress_bar(label))
    if found["findings"] and not is_dry:
        if not is_sure:
            click.confirm(f"{_findings(found)}. Mask them for good?", abort=True, err=True)
        found = erasure.redact(path, patterns, progress=progress_bar(label))
    if as_json:
        click.echo(dumps(found, indent=True))
    else:
        for item in found["findings"]:
            click.echo(f"{item['place']:<22} {item['count']:>6}  {item['session'] or ''}".rstrip())
        say(f"{_findings(found)}{' would be masked' if is_dry else ' masked'}")
    _say_if_not_clean(found)


def _findings(found: dict[str, Any]) -> str:
    findings = found["findings"]
    sessions = {item["session"] for item in findings} - {None}
    count = sum(item["count"] for item in findings)
    return f"{count:,} texts and transcripts of {counted(len(sessions), 'session')}"
