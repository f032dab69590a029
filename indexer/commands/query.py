"""`cm query`, and what it can ask: `cm queries` and `cm describe`."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from .. import completion, dictionary
from .. import queries as library
from ..cli import index_options, json_option, say
from ..output import FORMATS, dumps, lines, render
from .common import open_index

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


@click.command()
@click.argument("sql", metavar="SQL|NAME", shell_complete=completion.queries)
@click.option("-p", "--param", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="Value of :NAME.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Else a table on a terminal, JSON elsewhere.")
@click.option("--refresh", "refreshes", is_flag=True, help="Bring the index up to date first.")
@click.option(
    "--time-limit",
    type=click.FloatRange(0, 1_000_000, min_open=True),
    default=library.SECONDS,
    show_default=True,
    help="Seconds it may take.",
)
@json_option
@index_options
def query(
    roots: tuple[str, ...],
    db: str | None,
    as_json: bool,
    time_limit: float,
    refreshes: bool,
    form: str | None,
    parameters: tuple[tuple[str, str], ...],
    sql: str,
) -> None:
    """Ask the index in SQL, or by a named query. Nothing can be changed.

    Rows are written as they are found, save for tables; the exit code says whether they are all.

    A dash reads the SQL from stdin. `cm describe` lists the tables and views.

    \b
    Examples:
      cm query "SELECT model, sum(output_tokens) AS output FROM usage GROUP BY model"
      cm query dearest-sessions -p limit 5 --format markdown
    """
    if sql == "-":
        sql = sys.stdin.read()
    connection = open_index(db, roots, not refreshes, "query")
    try:
        clock = library.Clock(time_limit)
        with _ended_by(clock):
            given = {name: _value(value) for name, value in parameters}
            columns, rows = library.stream(connection, sql, given, clock)
            chosen = "json" if as_json else form or ("table" if sys.stdout.isatty() else "json")
            with closing(rows):
                sys.stdout.writelines(f"{line}\n" for line in lines(columns, rows, chosen))
    finally:
        connection.close()


@contextmanager
def _ended_by(clock: library.Clock) -> Iterator[None]:
    """Ends the process a second later than that: within one call of a function SQLite does not look at the time."""
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(0.5):
            if time.monotonic() > clock.deadline + 1:
                say(library.too_long(clock.seconds))
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_done.set()


def _value(text: str) -> int | float | str:
    """Numbers as numbers: SQLite compares '5' and 5 as different. An id such as 0012 or 12e4 is none."""
    if not _NUMBER.fullmatch(text):
        return text
    number = float(text) if "." in text else int(text)
    return number if isinstance(number, float) or -(1 << 63) <= number < 1 << 63 else text


@click.command()
@click.argument("name", required=False, shell_complete=completion.queries)
@json_option
def queries(name: str | None, as_json: bool) -> None:
    """List the named queries, or show the SQL of one."""
    if name is not None:
        click.echo(library.get(name).sql.rstrip())
        return
    found = library.named().values()
    if as_json:
        click.echo(dumps([item._asdict() for item in found], indent=True))
        return
    rows = [(item.name, " ".join(item.parameters), item.description) for item in found]
    click.echo(render(["name", "parameters", "what it answers"], rows, "table"))


@click.command()
@click.argument("table", required=False)
@json_option
@index_options
def describe(roots: tuple[str, ...], db: str | None, as_json: bool, table: str | None) -> None:
    """What each table and view holds, or what the columns of one mean."""
    connection = open_index(db, roots, True, "describe")
    try:
        found = dictionary.read(connection)
        kinds = dict(connection.execute("SELECT name, type FROM sqlite_schema"))
    finally:
        connection.close()
    form = "json" if as_json else "table"
    if table is None:
        # Views come first: they say what tables have as ids and codes.
        rows = [(kinds[name], name, item.about) for name, item in found.items()]
        rows.sort(key=lambda row: row[0] != "view")
        click.echo(render(["type", "name", "about"], rows, form))
    else:
        item = library.named_so(found, table, "table or view", "`cm describe` lists them")
        click.echo(render(["column", "about"], list(item.columns.items()), form))
