"""`cm export`."""

from __future__ import annotations

import os

import click

from .. import config
from .. import export as library
from ..cli import index_options, json_option, refresh_option
from ..facts import Options
from ..output import dumps, printable
from .common import open_index, sharing_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@sharing_options
@refresh_option
@json_option
@index_options
def export(
    roots: tuple[str, ...],
    db: str | None,
    as_json: bool,
    no_refresh: bool,
    is_anonymous: bool,
    with_text: bool,
    directory: str,
) -> None:
    """Write this machine's part of the index as Parquet files, for DuckDB, Spark, ClickHouse and others.

    Many machines can export into one directory. What did not change since the last export is not written again. A
    README beside the files says how they are read; views.sql there counts what stands on several machines once.

    \b
    Example:
      cm export /mnt/team/claude
    """
    connection = open_index(db, roots, no_refresh, "export")
    try:
        found = library.export(
            connection, config.database(db), os.path.abspath(directory), Options(with_text, is_anonymous)
        )
    finally:
        connection.close()
    click.echo(dumps(found, indent=True) if as_json else _text(found))


def _text(found: dict[str, Any]) -> str:
    return printable(
        f"{found['directory']}: {found['partitions_written']:,} files written, {found['partitions_unchanged']:,} as"
        f" they were, {found['partitions_removed']:,} removed; {found['rows']:,} rows, {found['bytes'] / 1e6:,.1f} MB"
    )
