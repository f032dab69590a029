"""Putting a backup in the index's place while others use it: through SQLite, never by replacing the file.

A reader that has the old file's WAL open would go on writing into the new one's, and corrupt it silently.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from datetime import datetime

from . import backup, schema, store
from .errors import BadInput


def restore(source: str, path: str) -> str | None:
    """Makes the index what the backup is, under the refresh lock. Readers see the one or the other, never a mixture.

    Returns:
        where the index that was there before is kept; None: there was none.

    Raises:
        BadInput: the source is no usable backup. Locked: a refresh is at work.
        IndexUnusable: the index cannot be written; then it is as it was.
    """
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(source, path):
        raise BadInput(f"{source} is the index itself; name a backup of it")
    with closing(_open_backup(source)) as connection:
        store.make_folder(path)
        with store.Lock(path, needs_index=False):
            kept = _keep(path)
            store.make_private(path)
            try:
                with closing(store.connect_to_write(path)) as live:
                    live.execute("PRAGMA journal_mode = WAL")  # a file that is new has none yet
                    connection.backup(live)
            except sqlite3.Error as error:
                raise store.explain(path, error) from error
    return kept


def _open_backup(source: str) -> sqlite3.Connection:
    if not os.path.isfile(source):
        raise BadInput(f"{source}: there is no such file; name a backup that `cm backup` made")
    try:
        connection = store.connect_to_read(source)
        schema.check(connection, source)
        is_index = schema.version(connection) > 0 and backup.is_index(connection)
    except sqlite3.Error as error:
        raise BadInput(f"{source} is no usable backup ({error}): nothing was restored; name another") from error
    problem = backup.damage(connection) if is_index else "it is no index of cm"
    if problem:
        connection.close()
        raise BadInput(f"{source} is no usable backup ({problem}): nothing was restored; name another")
    return connection


def _keep(path: str) -> str | None:
    """Saves what is there, which may know what no transcript says any more; moves it away if it is damaged."""
    if not os.path.exists(path) or not os.path.getsize(path):
        return None
    kept = f"{path}.before-restore-{datetime.now():%Y%m%dT%H%M%S.%f}"
    with closing(store.connect_to_read(path)) as connection:
        if not backup.damage(connection):
            backup.save(connection, kept)
            return kept
    # Whoever has it open keeps it, WAL and all, under the new names.
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{kept}{suffix}")
    return kept
