"""The index as a file: opening it, locking it, and storing what was read."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import sys

from . import private, schema
from .errors import IndexUnusable, Locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

# A reader never waits for the writer in WAL mode; this is for the moments when SQLite itself takes the file.
BUSY_SECONDS = 30.0
# Without a WAL, as in the first load of an index, each waits for the other: what reads may take its time.
_LOAD_BUSY_SECONDS = 600.0
# A database has at least one page.
_SHORTEST = 512


def uri(path: str, mode: str) -> str:
    """What SQLite opens a file by; the mode is `ro` or `rw`, and what else follows it."""
    # Not urllib's quote: to import it takes as long as to open the index.
    for character in "%?#":
        path = path.replace(character, f"%{ord(character):02x}")
    return f"file:{path}?mode={mode}"


def explain(path: str, error: Exception) -> IndexUnusable:
    """SQLite's error as one line with what to do."""
    if "not a database" in str(error) or "malformed" in str(error):
        return IndexUnusable(
            f"{path} is not a usable index ({error}): put a backup in its place with `cm restore`, move it away,"
            " or name another file with --db"
        )
    if "disk" in str(error):  # is full, or: I/O error, where the system refused for another reason
        return IndexUnusable(f"{path}: {error}: make room for it; what was committed is safe, and the next run goes on")
    if "readonly database" in str(error) and os.path.exists(f"{path}-journal"):
        return IndexUnusable(f"{path}: its first refresh was killed; run `cm refresh`, which goes on from there")
    if "readonly database" in str(error):
        return IndexUnusable(f"{path}: {error}: make it and its folder writable, or name another file with --db")
    if "is locked" in str(error):
        return IndexUnusable(f"{path}: another program holds it locked; end what that does, or try again later")
    if "no such table" in str(error):  # or view
        return IndexUnusable(f"{path} was made by another version of cm ({error}); run `cm refresh`")
    return IndexUnusable(f"{path}: {error}; look at its permissions, or name another file with --db")


def make_folder(path: str) -> None:
    """Makes the index's folder, for this user only; one that exists keeps its mode. Raises IndexUnusable."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error) from error


def make_private(path: str, tell: Callable[[str], object] = lambda _: None) -> None:
    """Makes the index's file and folder, for this user only; tells if others could read the file until now.

    Raises IndexUnusable: it cannot be made, or is something else.
    """
    make_folder(path)
    try:
        # SQLite gives -wal and -shm the mode of the database, so it is enough to make that one.
        _make_file(path)
        # One that is there is never opened but by SQLite: closing it would take away the locks that other connections
        # of this process have on it, and another process could delete the -wal that they read.
        status = _stat_writable(path)
        if private.is_open_to_others(status) and _mend(path):
            tell(f"{path} could be read by other users of this machine; now only you can")
    except OSError as error:
        raise _unusable(path, error) from error


def _make_file(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    os.close(descriptor)


def _stat_writable(path: str) -> os.stat_result:
    """Raises OSError, and IndexUnusable for what is too short to be a database."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", path)
    if not os.access(path, os.R_OK | os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
    # SQLite takes a short file for an empty one, and would write over it.
    if 0 < status.st_size < _SHORTEST:
        raise explain(path, sqlite3.DatabaseError("file is not a database"))
    return status


def _refuse_others(path: str) -> None:
    """Raises IndexUnusable for what is no index and cannot become one."""
    try:
        _stat_writable(path)
        # A connection that only reads would leave the files of WAL mode beside it.
        connection = sqlite3.connect(uri(path, "rw"), uri=True, timeout=0)
        try:
            schema.check(connection, path)
        finally:
            connection.close()
    except FileNotFoundError:
        raise IndexUnusable(f"{path}: there is no index yet; run `cm refresh`") from None
    except OSError as error:
        raise _unusable(path, error) from error
    except sqlite3.OperationalError:  # another program has it locked: whoever opens it next waits, or tells
        return
    except sqlite3.Error as error:
        raise explain(path, error) from error


def connect(path: str, is_writer: bool = False) -> sqlite3.Connection:
    """A database of ours as it is; read-only, unless it is for the writer. Raises sqlite3.Error."""
    target = uri(path, "rw" if is_writer else "ro")
    return sqlite3.connect(target, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _unusable(path: str, error: OSError) -> IndexUnusable:
    return IndexUnusable(f"{path}: {error.strerror}; make it writable, or name another place with --db or CM_DB")


def _mend(path: str) -> bool:
    """Whether the file and what SQLite keeps beside it are for this user alone now."""
    try:
        os.chmod(path, 0o600)
    except OSError:  # another's file, or a file system without modes; `cm check` tells
        return False
    for suffix in ("-wal", "-shm"):
        try:
            os.chmod(f"{path}{suffix}", 0o600)
        except OSError:  # it is not there
            continue
    return not private.is_open_to_others(os.stat(path))


def open_writer(path: str, tell: Callable[[str], object] = lambda _: None) -> sqlite3.Connection:
    """The index, made or migrated where it must be. The caller holds the lock.

    Before a migration an index that holds anything is saved beside itself, and that is told.

    Raises IndexUnusable.
    """
    try:
        connection = connect_to_write(path)
        schema.check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if schema.is_old(connection) and connection.execute("SELECT 1 FROM files LIMIT 1").fetchone():
            tell(_save_before_migration(connection, path))
        schema.migrate(connection)
        if connection.execute("SELECT 1 FROM hosts").fetchone() is None:
            connection.execute("INSERT INTO hosts VALUES (1, ?, ?)", _me())
    except sqlite3.Error as error:
        raise explain(path, error) from error
    return connection


def connect_to_write(path: str) -> sqlite3.Connection:
    """The database as it is, for writing. Raises sqlite3.Error."""
    return sqlite3.connect(uri(path, "rw"), uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def connect_to_load(path: str) -> Any:
    """The database for its first load, through apsw, which is as sqlite3 for what is done there. Raises apsw.Error.

    Its newer SQLite takes 0.75 of the time for the same statements. Every other connection of this process to the
    file must be closed before: each of the two libraries lets go of the other's locks.

    What a load adds goes to the end of the file, where a rollback journal has nothing to save: each page is written
    once, and not to a WAL first. `end_load` turns to WAL again, or the next connection that writes.
    """
    from contextlib import suppress

    import apsw

    connection = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX)  # only one thread uses it
    connection.execute("PRAGMA synchronous = NORMAL")
    with suppress(apsw.BusyError):  # somebody reads it
        connection.execute("PRAGMA journal_mode = TRUNCATE")
    connection.set_busy_timeout(int(_LOAD_BUSY_SECONDS * 1000))
    return connection


def end_load(connection: Any) -> None:
    """Turns to WAL again; where somebody reads for long just then, that is left to the next who writes."""
    from contextlib import suppress

    with suppress(*errors()):
        connection.execute("PRAGMA journal_mode = WAL")


def errors() -> tuple[type[Exception], ...]:
    """What goes wrong in SQLite, by whichever library."""
    return (sqlite3.Error, *(module.Error for name, module in sys.modules.items() if name == "apsw"))


def connect_to_read(path: str, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """The database as it is, for reading. Raises sqlite3.Error."""
    # Where no file can be made beside it, SQLite reads a WAL database only if told that nobody writes it.
    is_fixed = not os.access(os.path.dirname(path), os.W_OK) and not os.path.exists(f"{path}-wal")
    mode = "ro&immutable=1" if is_fixed else "ro"
    return sqlite3.connect(uri(path, mode), uri=True, timeout=busy_seconds, isolation_level=None)


def _save_before_migration(connection: sqlite3.Connection, path: str) -> str:
    from . import backup

    found = schema.version(connection)
    kept = f"{path}.schema-{found}"
    backup.save(connection, kept)
    return (
        f"{path} is brought from schema {found} to {schema.VERSION}; as it was, it is kept as {kept}"
        " (`cm restore` goes back to it; delete it when all is well)"
    )


def _me() -> tuple[str, str]:
    import pwd

    # cron and containers set no USER, or another one than a login does.
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = os.environ.get("USER") or str(os.getuid())
    return os.uname().nodename, user


def open_reader(path: str, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """The index as it is, read-only: never migrates and never waits for a refresh.

    Raises:
        IndexUnusable: there is no index yet, or it was made by an older or a newer cm.
    """
    connection = open_existing(path, busy_seconds)
    try:
        if schema.version(connection) < schema.VERSION:
            raise IndexUnusable(f"{path} was made by an older cm; run `cm refresh` to bring it up to date")
    except sqlite3.Error as error:
        raise explain(path, error) from error
    return connection


def open_existing(path: str, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """The index as it is, read-only, of whatever older version of cm. Raises IndexUnusable."""
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        raise IndexUnusable(f"{path}: there is no index yet; run `cm refresh`") from None
    except OSError as error:
        raise _unusable(path, error) from error
    if not is_file:
        raise IndexUnusable(f"{path} is no file; name another with --db or CM_DB")
    try:
        connection = connect_to_read(path, busy_seconds)
        schema.check(connection, path)
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

    def __init__(self, path: str, wait: bool = False, of: str = "refresh", needs_index: bool = True) -> None:
        """Takes the lock. Its file stays: another process may wait for it.

        Raises:
            Locked: another process has it, and `wait` is false. IndexUnusable: its file cannot be written, or there is
            none yet and `path` is no index that could be written, unless that is not needed.
        """
        import fcntl

        suffix = "lock" if of == "refresh" else f"{of}.lock"
        if needs_index and not os.path.exists(f"{path}.{suffix}"):
            _refuse_others(path)
        try:
            self._file, _ = private.open_file(f"{path}.{suffix}", os.O_RDWR)
        except OSError as error:
            raise _unusable(f"{path}.{suffix}", error) from error
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


class snapshot:
    """One state of the index for several queries, whatever a refresh commits meanwhile; may be nested."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_nested = connection.in_transaction

    def __enter__(self) -> None:
        if not self._is_nested:
            self._connection.execute("BEGIN")

    def __exit__(self, *_: object) -> None:
        if not self._is_nested:
            self._connection.execute("ROLLBACK")


def fetch_dicts(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[dict[str, Any]]:
    """Rows of a query as dictionaries in column order."""
    cursor = connection.execute(sql, parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
