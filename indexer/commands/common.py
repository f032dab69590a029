"""What commands share that answer from the index: bringing it up to date first, and opening it."""

from __future__ import annotations

import os

import click

from .. import config, hosts, store
from ..cli import say
from ..errors import CmError, IndexUnusable, Locked, NoHistory
from ..output import counted
from ..refresh import refresh
from .refresh import complain_if_empty, progress_bar, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from typing import Any

# Others in the index than those that a command is about: a team's are many.
_NAMED = 5


def sharing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """For commands that give what is in the index to others."""
    text = "With prompts, answers and titles; else no text leaves the index."
    digests = "Digests in place of paths, projects and branches."
    function = click.option("--anonymise", "is_anonymous", is_flag=True, help=digests)(function)
    return click.option("--text", "with_text", is_flag=True, help=text)(function)


def open_index(db: str | None, roots: Sequence[str], no_refresh: bool, command: str) -> sqlite3.Connection:
    """The index, read-only, refreshed first unless asked not to.

    If it cannot be refreshed, the answer comes from the index as it is, and stderr says so. While the very first
    refresh is at work it is waited for: part of a total would be a wrong total.

    Raises CmError.
    """
    path = config.database(db)
    found, _ = config.roots(roots)
    if not no_refresh:
        bring_up_to_date(path, roots, command)
    connection = store.open_reader(path)
    if no_refresh and connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone():
        say("the first refresh has not completed: these are not all numbers yet; run `cm refresh`")
    _mention_other_roots(connection, found)
    return connection


def bring_up_to_date(path: str, roots: Sequence[str], command: str) -> None:
    """Refreshes the index; if that is not possible and it is complete, stderr says so. Raises CmError."""
    try:
        summary = refresh(roots, path, command=command, wait=not _is_complete(path), progress=progress_bar())
        report(summary, path)
        if not summary.files_seen and not summary.failures:
            complain_if_empty(path, roots)
    except Locked:
        say("another refresh is at work; this is the index as it is")
    except NoHistory:
        raise
    except CmError as error:
        if not _is_complete(path):
            raise
        say(f"not refreshed: {error}")


def _is_complete(path: str) -> bool:
    if not os.path.exists(path):
        return False
    try:
        connection = store.open_reader(path)
    except IndexUnusable:
        return False
    try:
        return connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone() is None
    finally:
        connection.close()


def _mention_other_roots(connection: sqlite3.Connection, roots: Sequence[str]) -> None:
    shown = [store.display_path(root) for root in roots]
    others = [root for root in hosts.roots(connection) if root not in shown] + hosts.others(connection)
    if others:
        rest = [f"{len(others) - _NAMED:,} more"] if len(others) > _NAMED else []
        say(f"the index also holds the history of {', '.join(others[:_NAMED] + rest)}")


def tokens_of(item: dict[str, Any]) -> str:
    """A model without a price in words: responses, and tokens of each kind."""
    return (
        f"{item['model'] or '(no model)'}: {counted(item['responses'], 'response')}, {item['input_tokens']:,} input, "
        f"{item['output_tokens']:,} output, {item['cache_creation_tokens']:,} cache write, "
        f"{item['cache_read_tokens']:,} cache read tokens"
    )


def ids_of(
    connection: sqlite3.Connection,
    find: Callable[[sqlite3.Connection, str], list[int]],
    what: str,
    wanted: Sequence[str],
) -> list[int] | None:
    """Ids of all that is wanted, None if nothing is; what there is none of is no error, there may be some tomorrow."""
    if not wanted:
        return None
    found: list[int] = []
    for text in wanted:
        ids = find(connection, text)
        if not ids:
            say(f"no {what} matches {text}")
        found += ids
    return found
