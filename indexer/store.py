"""The index as a file: opening it, locking it, and storing what was read."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager

from . import schema
from .errors import IndexUnusable, Locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

# A reader never waits for the writer in WAL mode; this is for the moments when SQLite itself takes the file.
BUSY_SECONDS = 30.0
_MAGIC = b"SQLite format 3\0"


def _uri(path: str, mode: str) -> str:
    # Not urllib's quote: to import it takes as long as to open the index.
    for character in "%?#":
        path = path.replace(character, f"%{ord(character):02x}")
    return f"file:{path}?mode={mode}"


def explain(path: str, error: sqlite3.Error) -> IndexUnusable:
    """SQLite's error as one line with what to do."""
    if "not a database" in str(error) or "malformed" in str(error):
        return IndexUnusable(f"{path} is not a usable index ({error}): move it away, or name another file with --db")
    if "no such table" in str(error):  # or view
        return IndexUnusable(f"{path} was made by another version of cm ({error}); run `cm refresh`")
    return IndexUnusable(f"{path}: {error}")


def make_private(path: str) -> None:
    """Makes the index's file and folder, for this user only; what exists keeps its folder's mode.

    Raises IndexUnusable: it cannot be made, or is something else.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        # SQLite gives -wal and -shm the mode of the database, so it is enough to make that one.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            head = os.read(descriptor, len(_MAGIC))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise IndexUnusable(f"{path}: {error.strerror}; name a writable place with --db or CM_DB") from error
    # SQLite takes a short file for an empty one, and would write over it.
    if head not in (b"", _MAGIC):
        raise explain(path, sqlite3.DatabaseError("file is not a database"))


def connect(path: str, is_writer: bool = False) -> sqlite3.Connection:
    """A database of ours as it is; read-only, unless it is for the writer. Raises sqlite3.Error."""
    target = _uri(path, "rw" if is_writer else "ro")
    return sqlite3.connect(target, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def open_writer(path: str) -> sqlite3.Connection:
    """The index, made or migrated where it must be. The caller holds the lock. Raises IndexUnusable."""
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        schema.check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        schema.migrate(connection)
        connection.execute("INSERT OR IGNORE INTO hosts SELECT 1, ?, ? WHERE NOT EXISTS (SELECT 1 FROM hosts)", _me())
    except sqlite3.Error as error:
        raise explain(path, error) from error
    return connection


def _me() -> tuple[str, str]:
    try:
        user = os.environ.get("USER") or __import__("pwd").getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return os.uname().nodename, user


def open_reader(path: str, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """The index as it is, read-only: never migrates and never waits for a refresh.

    Raises:
        IndexUnusable: there is no index yet, or it was made by an older or a newer cm.
    """
    if not os.path.exists(path):
        raise IndexUnusable(f"{path}: there is no index yet; run `cm refresh`")
    try:
        connection = sqlite3.connect(_uri(path, "ro"), uri=True, timeout=busy_seconds, isolation_level=None)
        schema.check(connection, path)
        if schema.version(connection) < schema.VERSION:
            raise IndexUnusable(f"{path} was made by an older cm; run `cm refresh` to bring it up to date")
    except sqlite3.Error as error:
        raise explain(path, error) from error
    return connection


def display_path(path: str) -> str:
    """A path as the index keeps it: text, with bytes that are not UTF-8 as \\xNN and backslashes doubled."""
    if path.isascii() and "\\" not in path:
        return path
    return os.fsencode(path.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")


def real_path(shown: str) -> str:
    """The path that `display_path` shows so."""
    if "\\" not in shown:
        return shown
    import re

    def byte(match: re.Match[bytes]) -> bytes:
        return bytes.fromhex(match[1].decode()) if match[1] else b"\\"

    return os.fsdecode(re.sub(rb"\\(?:\\|x([0-9a-f]{2}))", byte, shown.encode()))


class Lock:
    """A lock file beside the index: one refresh, or one watch, at a time. `flock` lets go when its process dies."""

    def __init__(self, path: str, wait: bool = False, of: str = "refresh") -> None:
        """Takes the lock. Raises Locked if another process has it and `wait` is false."""
        import fcntl

        suffix = "lock" if of == "refresh" else f"{of}.lock"
        self._file = os.open(f"{path}.{suffix}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise Locked(f"{path}: another {of} (process {holder or 'unknown'}) is at work on it") from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def insert(table: str, columns: str, conflict: str = "OR IGNORE") -> str:
    """An INSERT of the named columns, with one placeholder each."""
    return f"INSERT {conflict} INTO {table} ({columns}) VALUES ({', '.join('?' * len(columns.split(',')))})"


def transaction(connection: sqlite3.Connection, work: Callable[[], Any]) -> Any:
    """Runs the work in one transaction that is rolled back if it fails."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """One state of the index for several queries, whatever a refresh commits meanwhile; may be nested."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def fetch_dicts(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[dict[str, Any]]:
    """Rows of a query as dictionaries in column order."""
    cursor = connection.execute(sql, parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
