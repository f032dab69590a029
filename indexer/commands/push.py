"""`cm push`."""

from __future__ import annotations

import click

from .. import push as library
from ..cli import index_options, json_option, refresh_option
from ..facts import Options
from ..output import dumps, printable
from .common import open_index, sharing_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command()
@click.argument("url")
@sharing_options
@refresh_option
@json_option
@index_options
def push(
    roots: tuple[str, ...],
    db: str | None,
    as_json: bool,
    no_refresh: bool,
    is_anonymous: bool,
    with_text: bool,
    url: str,
) -> None:
    """Push this machine's part of the index into a PostgreSQL that a team shares.

    Only what changed since the last push is sent, in one transaction. Tables and views are made in the schema `cm`;
    the views there count what stands on several machines once. The password is taken from PGPASSWORD, ~/.pgpass or a
    service file, never from the URL.

    \b
    Example:
      cm push postgresql://me@db.example/team
    """
    library.check_url(url)
    connection = open_index(db, roots, no_refresh, "push")
    try:
        found = library.push(connection, url, Options(with_text, is_anonymous))
    finally:
        connection.close()
    click.echo(dumps(found, indent=True) if as_json else _text(found))


def _text(found: dict[str, Any]) -> str:
    rows = found["rows_sent"]
    sent = ", ".join(f"{count:,} {name}" for name, count in rows.items()) or "nothing changed since the last push"
    return printable(f"{found['user']} on {found['host']}: {sent}")
