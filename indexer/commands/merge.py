"""`cm merge`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

from .. import config
from .. import merge as library
from ..cli import index_options, json_option, say
from ..errors import NoHistory
from ..output import dumps
from .common import bring_up_to_date


@click.command()
@click.argument("others", metavar="OTHER.db...", nargs=-1, required=True, type=click.Path())
@json_option
@index_options
def merge(roots: tuple[str, ...], db: str | None, as_json: bool, others: tuple[str, ...]) -> None:
    """Take over another machine's index: its history counts here from then on, each response once.

    In any order and any number of times: only what is new comes over. The other index is only read; an older one is
    migrated in a copy. What this machine's transcripts say stays this machine's alone to change.

    \b
    Examples:
      ssh laptop 'cm backup ~/laptop.db' && scp laptop:laptop.db . && cm merge laptop.db
      cm merge /backups/*/cm.db --json
    """
    path = config.database(db)
    # A machine may gather the history of others and have none itself.
    with suppress(NoHistory):
        bring_up_to_date(path, roots, "merge")
    found = []
    for other in others:
        found.append(library.merge(other, path))
        if not as_json:
            say(_sentence(found[-1]))
    if as_json:
        click.echo(dumps(found, indent=True))


def _sentence(done: dict[str, Any]) -> str:
    if not (done["files_added"] or done["files_updated"]):
        return f"{done['database']} ({', '.join(done['hosts'])}): nothing new ({done['seconds']:.2f} s)"
    return (
        f"{done['database']} ({', '.join(done['hosts'])}): {done['files_added']:,} new and"
        f" {done['files_updated']:,} changed transcripts, {done['records_added']:,} records,"
        f" {done['responses_added']:,} new responses ({done['seconds']:.2f} s)"
    )
