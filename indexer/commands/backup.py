"""`cm backup`."""

from __future__ import annotations

import os
from contextlib import closing

import click

from .. import backup as library
from .. import config, store
from ..cli import index_options, json_option, say
from ..output import dumps


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
@index_options
def backup(roots: tuple[str, ...], db: str | None, as_json: bool, file: str) -> None:
    """Save the index in FILE: one consistent state of it, also while a refresh is at work.

    An earlier backup of that name is replaced when the new one is whole; anything else of that name is left alone.

    \b
    Example:
      cm backup ~/backups/cm-$(date +%F).db
    """
    path, target = config.database(db), os.path.abspath(os.path.expanduser(file))
    with closing(store.open_existing(path)) as connection:
        size = library.save(connection, target)
    if as_json:
        click.echo(dumps({"database": store.display_path(path), "backup": store.display_path(target), "bytes": size}))
    else:
        say(f"{path} is saved as {target}, {size / 1e6:,.1f} MB")
