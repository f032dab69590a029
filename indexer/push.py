"""This machine's part of the index into a PostgreSQL that many machines push into.

fingerprints of each day, here and as they were pushed → rows of the days that differ: COPY into a staging table
→ upsert by host and key, delete what is no more → the fingerprints: all in one transaction

What was pushed is known to the database alone, so it may be restored or replaced by another. Hosts change no rows but
their own, so any number can push at once.
"""

from __future__ import annotations

import time
from collections import defaultdict

from . import across, facts, store
from .errors import BadInput, CmError, MissingLibrary
from .facts import VERSION, Facts, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    import psycopg

    from .facts import Host, Table

# Bytes sort as they do in SQLite, whatever the database's language.
_TYPES = {
    "INTEGER": "bigint",
    "TEXT": 'text COLLATE "C"',
    "TIME": "timestamptz",
    "USD": "numeric(20, 9)",
    "PRICE": "numeric(18, 6)",
}
# As the index has them, and what makes the column's type of that.
_STAGED = {"TEXT": "text", "PRICE": "double precision"}
_CONVERSIONS = {
    "TIME": "'epoch'::timestamptz + {} * interval '1 millisecond'",
    "USD": "{} * 0.000000001",
}
# Rows that may change how a query is best answered.
_MANY = 1000
_BOOKS = """
CREATE SCHEMA IF NOT EXISTS cm;
CREATE TABLE IF NOT EXISTS cm.schema_version (version integer NOT NULL);
CREATE TABLE IF NOT EXISTS cm.pushed_days (
  host text COLLATE "C", user_name text COLLATE "C", table_name text, day integer, fingerprint text NOT NULL,
  PRIMARY KEY (host, user_name, table_name, day)
);
"""
# Any number, the same in every cm.
_SCHEMA_LOCK, _HOST_LOCK = 0x636D, 0x636E


def push(connection: sqlite3.Connection, url: str, options: Options) -> dict[str, Any]:
    """Pushes what changed since the last push; the object that `cm push --json` prints.

    Raises:
        BadInput: the URL cannot be used, or a newer cm made the tables there. CmError: psycopg is missing, or the
            database refuses or goes away: then it is as it was.
    """
    started = time.perf_counter()
    check_url(url)
    psycopg = _psycopg()
    try:
        with psycopg.connect(url, application_name="cm push") as target:
            _prepare(target)
            with store.snapshot(connection), target.transaction():
                found = _push(Facts(connection, options), target)
            _analyze(target, found["rows_sent"])
    except psycopg.Error as error:
        raise CmError(f"PostgreSQL: {_first_line(error)}; nothing was changed there") from error
    return {**found, "seconds": time.perf_counter() - started}


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise MissingLibrary("push", "postgres", "'psycopg[binary]'") from error
    return psycopg


def check_url(url: str) -> None:
    """Refuses what is no URL, and a password in it: other users see the arguments of a process."""
    from urllib.parse import parse_qs, urlsplit

    try:
        parts = urlsplit(url)
        has_password = parts.password is not None or any("password" in key for key in parse_qs(parts.query))
    except ValueError:
        parts, has_password = urlsplit(""), False
    if has_password:
        raise BadInput(
            "the URL holds a password, which others can see: leave it out, and give it by PGPASSWORD, ~/.pgpass or a"
            " service file"
        )
    if parts.scheme not in ("postgresql", "postgres"):
        raise BadInput("that is no URL of a PostgreSQL database; give one such as postgresql://me@db.example/team")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _push(found: Facts, target: psycopg.Connection[Any]) -> dict[str, Any]:
    cursor = target.cursor()
    # Until the end of the transaction the tables stay what they are.
    _check_version(cursor.execute("SELECT version FROM cm.schema_version FOR SHARE").fetchone())
    # Two pushes of one host would wait for each other's rows, in any order.
    cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_HOST_LOCK, "\x1f".join(found.host)))
    before, now = _pushed(cursor, found.host), found.fingerprints()
    rows, days = {}, 0
    for table in found.tables:
        different = facts.changed(now[table.name], before[table.name])
        if different:
            rows[table.name] = _replace(cursor, found, table, different, before[table.name])
            days += len(different)
            _note(cursor, found.host, table, different, now[table.name])
    return {"host": found.host.name, "user": found.host.user, "days_changed": days, "rows_sent": rows}


def _check_version(row: tuple[Any, ...] | None) -> int:
    version = int(row[0]) if row else 0
    if version > VERSION:
        raise BadInput(f"a newer cm made the tables there (format {version}, this is {VERSION}): update cm")
    return version


def _pushed(cursor: psycopg.Cursor[Any], host: Host) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = defaultdict(dict)
    sql = "SELECT table_name, day, fingerprint FROM cm.pushed_days WHERE host = %s AND user_name = %s"
    for table, day, fingerprint in cursor.execute(sql, host):
        found[table][day] = fingerprint
    return found


def _note(
    cursor: psycopg.Cursor[Any], host: Host, table: Table, days: Sequence[int], fingerprints: Mapping[int, str]
) -> None:
    where = "host = %s AND user_name = %s AND table_name = %s AND day = ANY(%s)"
    cursor.execute(f"DELETE FROM cm.pushed_days WHERE {where}", (*host, table.name, list(days)))
    with cursor.copy("COPY cm.pushed_days (host, user_name, table_name, day, fingerprint) FROM STDIN") as copy:
        for day in days:
            if day in fingerprints:
                copy.write_row((*host, table.name, day, fingerprints[day]))


def _replace(
    cursor: psycopg.Cursor[Any], found: Facts, table: Table, days: Sequence[int], before: Mapping[int, str]
) -> int:
    """Makes the rows of those days what they are here; how many were sent."""
    names = [column.name for column in table.columns]
    staged = ", ".join(f"{column.name} {_STAGED.get(column.kind, 'bigint')}" for column in table.columns)
    cursor.execute(f"CREATE TEMP TABLE staged_{table.name} ({staged}) ON COMMIT DROP")
    with cursor.copy(f"COPY staged_{table.name} FROM STDIN") as copy:
        for row in _storable(found.rows(table, days)):
            copy.write_row(row)
    sent = cursor.rowcount
    cursor.execute(f"ANALYZE staged_{table.name}")
    values = [_CONVERSIONS.get(column.kind, "{}").format(f"s.{column.name}") for column in table.columns]
    if table.is_dated:
        names, values = ["day", *names], [f"CAST(s.occurred_at / {facts.DAY} AS integer)", *values]
    others = [name for name in names if name not in table.key]
    cursor.execute(
        f"INSERT INTO cm.{table.name} AS t (host, user_name, {', '.join(names)})"
        f" SELECT %s, %s, {', '.join(values)} FROM staged_{table.name} AS s"
        f" ON CONFLICT (host, user_name, {', '.join(table.key)}) DO UPDATE SET"
        f" {', '.join(f'{name} = excluded.{name}' for name in others)}"
        f" WHERE ({_of('t', others)}) IS DISTINCT FROM ({_of('excluded', others)})",
        found.host,
    )
    if stale := [day for day in days if day in before]:
        same = " AND ".join(f"s.{name} = t.{name}" for name in table.key)
        of_days = "AND t.day = ANY(%s)" if table.is_dated else ""
        cursor.execute(
            f"DELETE FROM cm.{table.name} AS t WHERE t.host = %s AND t.user_name = %s {of_days}"
            f" AND NOT EXISTS (SELECT 1 FROM staged_{table.name} AS s WHERE {same})",
            (*found.host, *([stale] if table.is_dated else [])),
        )
    return sent


def _analyze(target: psycopg.Connection[Any], rows_sent: Mapping[str, int]) -> None:
    """PostgreSQL itself counts only after a while, and until then may plan as if the tables were empty."""
    target.commit()
    for name, count in rows_sent.items():
        if count > _MANY:
            # Another push that counts the same table is enough.
            target.execute(f"ANALYZE (SKIP_LOCKED) cm.{name}")


def _of(alias: str, names: Iterable[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)


def _storable(rows: Iterable[tuple[object, ...]]) -> Iterator[list[object]]:
    """PostgreSQL has no text with a NUL in it."""
    for row in rows:
        yield [value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value for value in row]


# Tables and views there


def _prepare(target: psycopg.Connection[Any]) -> None:
    """Makes the tables and views, or brings those of an older cm up to date."""
    with target.transaction():
        # Whoever comes first makes them; CREATE … IF NOT EXISTS fails where two do it at once.
        target.execute("SELECT pg_advisory_xact_lock(%s, 0)", (_SCHEMA_LOCK,))
        if target.execute("SELECT to_regclass('cm.schema_version')").fetchone() != (None,):
            row = target.execute("SELECT version FROM cm.schema_version").fetchone()
            if _check_version(row) == VERSION:
                return
        target.execute(_BOOKS)
        target.execute("SET LOCAL search_path = cm")
        for thing in (*reversed(across.made(across.POSTGRESQL)), *across.FORMER):
            target.execute(f"DROP {thing.replace(' ', ' IF EXISTS cm.')}")
        for table in facts.schema():
            _bring_up_to_date(target, table)
        for statement in across.views(across.POSTGRESQL):
            target.execute(statement)
        target.execute("DELETE FROM cm.schema_version")
        target.execute("INSERT INTO cm.schema_version VALUES (%s)", (VERSION,))


def _bring_up_to_date(target: psycopg.Connection[Any], table: Table) -> None:
    """Makes a table, or adds and drops columns: each host fills the new ones when a cm of this version pushes there."""
    wanted = {"host": _TYPES["TEXT"], "user_name": _TYPES["TEXT"]} | ({"day": "integer"} if table.is_dated else {})
    wanted |= {column.name: _TYPES[column.kind] for column in table.columns}
    listed = ", ".join(f"{name} {kind}" for name, kind in wanted.items())
    key = ", ".join(["host", "user_name", *table.key])
    target.execute(f"CREATE TABLE IF NOT EXISTS cm.{table.name} ({listed}, PRIMARY KEY ({key}))")
    sql = "SELECT column_name FROM information_schema.columns WHERE table_schema = 'cm' AND table_name = %s"
    there = {row[0] for row in target.execute(sql, (table.name,))}
    for name in wanted.keys() - there:
        target.execute(f"ALTER TABLE cm.{table.name} ADD COLUMN {name} {wanted[name]}")
    for name in there - wanted.keys():
        target.execute(f"ALTER TABLE cm.{table.name} DROP COLUMN {name}")
    if table.is_dated:
        index = f"CREATE INDEX IF NOT EXISTS {table.name}_day ON cm.{table.name} (host, user_name, day)"
        target.execute(index)
