"""`cm restore`."""

from __future__ import annotations

import os

import click

from .. import config, store
from .. import restore as library
from ..cli import index_options, json_option, say
from ..output import dumps


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
@index_options
def restore(roots: tuple[str, ...], db: str | None, as_json: bool, file: str) -> None:
    """Put the backup FILE in the index's place, also while the index is being read.

    What the index was before is kept beside it, and can be restored in turn. `cm refresh` then adds what has been
    written since the backup.

    \b
    Example:
      cm restore ~/backups/cm-2026-11-20.db
    """
    path, source = config.database(db), os.path.abspath(os.path.expanduser(file))
    kept = library.restore(source, path)
    if as_json:
        shown = None if kept is None else store.display_path(kept)
        click.echo(dumps({"database": store.display_path(path), "kept": shown}))
        return
    before = f"; what it was before is kept as {kept}" if kept else ""
    say(f"{path} is what {source} was{before}; run `cm refresh` for what has been written since")
