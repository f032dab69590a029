"""Backups of the index: each a single file, whole or not there at all."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress

from .errors import BadInput, IndexUnusable

_MAGIC = b"SQLite format 3\0"
# Header bytes 18 and 19: how the file is written and read. 1 is by a rollback journal, 2 by a WAL beside it.
_SINGLE_FILE = b"\1\1"


def save(source: sqlite3.Connection, target: str) -> int:
    """Copies the index as it is at this moment, whoever reads or writes it; the size of the copy in bytes.

    The copy takes its name when it is whole, so that a backup is never half a one, and an earlier one stays until then.

    Raises:
        BadInput: something else has that name. IndexUnusable: no room for it, or the index itself is damaged.
    """
    from tempfile import mkstemp

    folder, name = os.path.split(target)
    if os.path.lexists(target):
        _refuse_others(target)
    try:
        descriptor, partial = mkstemp(".partial", f"{name}.", folder)  # mode 0600
        os.close(descriptor)
        try:
            _copy(source, partial, target)
            os.replace(partial, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(partial)
            raise
        _sync(folder)
    except OSError as error:
        raise IndexUnusable(f"{target}: {error.strerror}; nothing was saved: name a writable place") from error
    return os.path.getsize(target)


def _refuse_others(target: str) -> None:
    """A file that has the target's name may be replaced only if it is a backup, and no index that somebody uses."""
    try:
        with open(target, "rb") as file:
            head = file.read(20)
    except OSError as error:
        raise BadInput(f"{target}: {error.strerror}; name another file") from error
    if not head.startswith(_MAGIC) or head[18:] != _SINGLE_FILE or not _is_backup(target):
        raise BadInput(f"{target} is there already and is no backup: nothing was saved; name another file")


def _is_backup(path: str) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return is_index(connection)


def is_index(connection: sqlite3.Connection) -> bool:
    """Whether a database has an index's tables, of whatever version."""
    sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('files', 'records')"
    return bool(connection.execute(sql).fetchone()[0] == 2)


def _copy(source: sqlite3.Connection, partial: str, target: str) -> None:
    try:
        with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            # A file that nobody knows yet needs no journal; synced once, at the end.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            source.backup(copy)
            # The header came along: without this a backup would want a WAL beside it, wherever it is kept.
            copy.execute("PRAGMA journal_mode = DELETE")
            problem = damage(copy)
    except sqlite3.Error as error:
        raise IndexUnusable(f"{target}: {error}; nothing was saved") from error
    if problem:
        raise IndexUnusable(f"{target}: the index is damaged ({problem}), so nothing was saved: `cm check` says more")
    _sync(partial)


def damage(connection: sqlite3.Connection) -> str | None:
    """The first thing that is wrong with a database file, or None; a second for some hundred MB."""
    try:
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else " ".join(found.split())


def _sync(path: str) -> None:
    descriptor = os.open(path or os.curdir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
