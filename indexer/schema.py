"""The shape of the index: migrations for its tables, SQL files for its views and indexes."""

from __future__ import annotations

import os

from .errors import IndexUnusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

    from sqlite_utils import Migrations

# How many migrations there are. Known here so that opening a current index imports nothing to find out.
VERSION = 14

# Tables of every version.
OURS = {"hosts", "files", "record_usage"}

_HERE = os.path.dirname(os.path.abspath(__file__))
_DERIVED = ("responses", "tool_calls", "sessions")
SQL = os.path.join(_HERE, "schema")


def version(connection: sqlite3.Connection) -> int:
    """Migrations the index has had; 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check(connection: sqlite3.Connection, path: str) -> None:
    """Refuses what this code cannot read. Raises IndexUnusable."""
    found = version(connection)
    if found > VERSION:
        raise IndexUnusable(
            f"{path} was made by a newer cm (schema {found}, this is {VERSION}): update cm, or name another --db"
        )
    if found < VERSION and _is_of_others(connection):
        raise IndexUnusable(f"{path} is another program's database, no index of cm: name another file with --db")


def _is_of_others(connection: sqlite3.Connection) -> bool:
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    return bool(tables) and not tables >= OURS


def is_old(connection: sqlite3.Connection) -> bool:
    """Whether there are tables, and migrations that they have not had."""
    return 0 < version(connection) < VERSION


def migrate(connection: sqlite3.Connection) -> None:
    """Brings tables, views and indexes up to date. The caller holds the refresh lock."""
    if version(connection) < VERSION:
        _apply_migrations(connection)
        if _meta(connection, "is_loading") is None:
            for of_derived in (False, True):
                create_indexes(connection, of_derived)
    stamp = _stamp()
    if _meta(connection, "views") != stamp:
        _replace_views(connection, stamp)


def create_indexes(connection: sqlite3.Connection, of_derived: bool) -> None:
    """Creates the indexes that do not exist yet, of the tables that are derived or of those they are derived from.

    After the first load, where it is cheaper than along with it.
    """
    for statement in _statements("indexes.sql"):
        table = statement.rpartition(" ON ")[2].split(None, 1)[0]
        if (table in _DERIVED) == of_derived:
            connection.execute(statement)


def load_migrations() -> Migrations:
    """The migrations, loaded by path: beside the package in a checkout, inside it when installed."""
    import importlib.util

    for folder in (os.path.join(_HERE, "migrations"), os.path.join(os.path.dirname(_HERE), "migrations")):
        path = os.path.join(folder, "migrations.py")
        if os.path.exists(path):
            spec = importlib.util.spec_from_file_location("cm_migrations", path)
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                found: Migrations = module.migrations
                return found
    raise IndexUnusable(f"{_HERE}: migrations.py is missing; install cm again")


def _apply_migrations(connection: sqlite3.Connection) -> None:
    from sqlite_utils import Database

    # An outer transaction: without it several processes that migrate one new file lock each other out.
    connection.execute("BEGIN IMMEDIATE")
    try:
        is_new = version(connection) == 0
        # A table that a view names can't be replaced; they are all made again afterwards.
        for (view,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
            connection.execute(f"DROP VIEW {view}")
        load_migrations().apply(Database(connection, execute_plugins=False))
        connection.execute("DELETE FROM meta WHERE key = 'views'")
        if is_new:
            # From its first moment on, so that no report shows an index that nothing is in yet.
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('is_loading', '1')")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def _stamp() -> str:
    """Changes when views.sql does; a `stat`, because it is asked at every refresh."""
    status = os.stat(os.path.join(SQL, "views.sql"))
    return f"{status.st_size} {status.st_mtime_ns}"


def _meta(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _replace_views(connection: sqlite3.Connection, stamp: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        statements = _statements("views.sql")
        for statement in reversed(statements):
            name = statement.partition("CREATE VIEW ")[2].split(None, 1)[0]
            connection.execute(f"DROP VIEW IF EXISTS {name}")
        for statement in statements:
            connection.execute(statement)
        if _meta(connection, "rollups") is None and _meta(connection, "is_loading") is None:
            from . import rollups

            rollups.sum_all(connection)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('views', ?)", (stamp,))
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def _statements(name: str) -> list[str]:
    """Statements of a file of ours: each ends with a semicolon at the end of a line, where no comment has one."""
    with open(os.path.join(SQL, name), encoding="utf-8") as file:
        return [part.strip() for part in file.read().split(";\n") if part.strip()]
