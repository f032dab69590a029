"""`cm stats`."""

from __future__ import annotations

import click

from .. import metrics, pricing
from ..cli import index_options, json_option, refresh_option
from ..output import counted, dumps, printable
from ..store import snapshot
from .common import open_index, tokens_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3


@click.command()
@refresh_option
@json_option
@index_options
def stats(roots: tuple[str, ...], db: str | None, as_json: bool, no_refresh: bool) -> None:
    """Totals of everything indexed, by model and by project.

    Costs are what the API would charge; a subscription is not billed this way.
    """
    connection = open_index(db, roots, no_refresh, "stats")
    try:
        with snapshot(connection):
            found = metrics.from_index(connection)
            text = "" if as_json else _text(connection, found)
    finally:
        connection.close()
    if as_json:
        # click's echo looks for colours to leave out: in a megabyte of JSON that takes as long as to make it.
        print(dumps(found, indent=True))
    else:
        click.echo(text)


def _text(connection: sqlite3.Connection, found: metrics.ClaudeMetrics) -> str:
    from .report_tables import whole

    total = (
        f"{counted(found.messages_count, 'response')} in {counted(found.conversations_count, 'conversation')}, "
        f"${found.total_cost:,.2f} at the API's prices (a subscription is not billed this way)"
    )
    unpriced = [
        printable(f"unpriced: {tokens_of(item)}; give it a price with `cm prices set {item['model']}`")
        for item in pricing.unpriced(connection)
    ]
    return "\n\n".join([total, whole(connection, "models"), whole(connection, "projects"), *unpriced])
