"""Read-only SQL for people: statements of their own and the named queries that ship as `.sql` files."""

from __future__ import annotations

import math
import os
import re
import sqlite3
import time
from contextlib import contextmanager

from .errors import BadInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from typing import Any, NamedTuple, TypeVar

    Named = TypeVar("Named")

    class NamedQuery(NamedTuple):
        """A query that ships with cm; its first comment says what it answers."""

        name: str
        description: str
        sql: str
        parameters: dict[str, str]

else:
    from collections import namedtuple

    NamedQuery = namedtuple("NamedQuery", "name description sql parameters")

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "queries")
# A query that runs this long was not meant.
SECONDS = 60.0
# No text in the index is longer than 16 MB; a function that makes gigabytes of one was not meant either.
_LONGEST = 64 * 1024 * 1024
# Rows that are held at a time.
_FETCHED = 1000

_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
# Pragmas that tell about the schema; all others could change how the index is read or written.
_PRAGMAS = {
    "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list",
    "user_version", "schema_version", "page_count", "page_size", "freelist_count", "compile_options",
    "function_list", "collation_list", "database_list", "encoding", "data_version",
}  # fmt: skip
_DEFAULT = re.compile(r"^-- *:(\w+) *= *(.*)$", re.MULTILINE)


def named() -> dict[str, NamedQuery]:
    """The named queries by name."""
    found = {}
    for file in sorted(os.listdir(FOLDER)):
        if file.endswith(".sql"):
            with open(os.path.join(FOLDER, file), encoding="utf-8") as text:
                sql = text.read()
            name = file.removesuffix(".sql")
            description = sql.partition("\n")[0].lstrip("- ").strip()
            found[name] = NamedQuery(name, description, sql, dict(_DEFAULT.findall(sql)))
    return found


class Clock:
    """How long a query may go on; what is done with its rows does not count."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds

    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    @contextmanager
    def stopped(self) -> Iterator[None]:
        left, self.deadline = self.deadline - time.monotonic(), math.inf
        yield
        self.deadline = time.monotonic() + left


def run(
    connection: sqlite3.Connection,
    sql: str,
    parameters: Mapping[str, Any] | Sequence[Any] = (),
    seconds: float = SECONDS,
    limit: int = -1,
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of a SELECT or of a named query: all rows, or so many.

    Raises:
        BadInput: the SQL is wrong, would write, attach or load something, or runs longer than `seconds`.
    """
    with _asked(connection, sql, parameters, Clock(seconds)) as cursor:
        return [column[0] for column in cursor.description], cursor.fetchmany(limit)


def stream(
    connection: sqlite3.Connection, sql: str, parameters: Mapping[str, Any], clock: Clock
) -> tuple[list[str], Generator[tuple[Any, ...]]]:
    """As `run`, with rows that are read as they are asked for, until they are closed. Raises BadInput, then too."""
    found = _rows(connection, sql, parameters, clock)
    return list(next(found)), found


def _rows(
    connection: sqlite3.Connection, sql: str, parameters: Mapping[str, Any], clock: Clock
) -> Generator[tuple[Any, ...]]:
    """The names of the columns, then the rows."""
    with _asked(connection, sql, parameters, clock) as cursor:
        yield tuple(column[0] for column in cursor.description)
        while rows := cursor.fetchmany(_FETCHED):
            with clock.stopped():
                yield from rows


@contextmanager
def _asked(
    connection: sqlite3.Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Any], clock: Clock
) -> Iterator[sqlite3.Cursor]:
    """Asks, and lets nothing but reading be done meanwhile."""
    if re.fullmatch(r"[\w-]+", sql.strip()):
        sql, parameters = _look_up(sql.strip(), parameters)
    denied: list[str] = []
    connection.set_authorizer(lambda *action: _authorize(action, denied))
    connection.set_progress_handler(clock.is_over, 10_000)
    longest = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    try:
        cursor = connection.execute(sql, parameters)
        if cursor.description is None:
            raise BadInput("that statement returns nothing; only a SELECT can be asked")
        yield cursor
    except (sqlite3.Error, OverflowError) as error:
        raise BadInput(_tell(error, denied, clock.seconds)) from error
    except sqlite3.Warning as error:
        raise BadInput("only one statement at a time can be asked") from error
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)


def _tell(error: Exception, denied: list[str], seconds: float) -> str:
    if denied:
        return f"only reading is allowed here: {denied[0]}"
    if "interrupted" in str(error):
        return too_long(seconds)
    missing = re.fullmatch(r"no such (table|column): (.*)", str(error))
    if missing:
        where = "`cm describe` lists tables and views" if missing[1] == "table" else "`cm describe TABLE` lists them"
        return f"SQL: {error}; {where}"
    return f"SQL: {error}"


def too_long(seconds: float) -> str:
    """What is said of a query that was stopped."""
    return f"the query was stopped after {seconds:g} s; narrow it down, or raise --time-limit"


def _authorize(action: tuple[Any, ...], denied: list[str]) -> int:
    code, first, second = action[0], action[1], action[2]
    if code == sqlite3.SQLITE_FUNCTION and str(second).lower() in _FORBIDDEN_FUNCTIONS:
        denied.append(f"{second}() is refused")
    elif code == sqlite3.SQLITE_PRAGMA:
        if str(first).lower() in _PRAGMAS and (second is None or str(first).lower().endswith(("info", "list"))):
            return sqlite3.SQLITE_OK
        denied.append(f"PRAGMA {first} is refused")
    elif code in _READS or (code == sqlite3.SQLITE_UPDATE and first == "sqlite_master"):
        # SQLite asks for the latter when a query names json_each or a full-text table for the first time; to really
        # update it needs a pragma that is refused.
        return sqlite3.SQLITE_OK
    else:
        denied.append("the statement would change something")
    return sqlite3.SQLITE_DENY


def get(name: str) -> NamedQuery:
    """The query of that name. Raises BadInput."""
    return named_so(named(), name, "query", "`cm queries` lists them")


def named_so(listed: Mapping[str, Named], name: str, what: str, how: str) -> Named:
    """What bears the name. Raises BadInput, with the name that may have been meant, or with how to find it."""
    if name not in listed:
        from difflib import get_close_matches

        meant = "".join(f"did you mean {close}?" for close in get_close_matches(name, listed, 1))
        raise BadInput(f"there is no {what} named {name}; {meant or how}")
    return listed[name]


def _look_up(name: str, parameters: Mapping[str, Any] | Sequence[Any]) -> tuple[str, dict[str, Any]]:
    query = get(name)
    known = query.parameters
    given = dict(parameters) if isinstance(parameters, dict) else {}
    unknown = sorted(set(given) - set(known))
    if unknown:
        takes = ", ".join(sorted(known)) or "none"
        raise BadInput(f"query {name} has no parameter {unknown[0]}; it takes: {takes}")
    return query.sql, {key: _default(value) for key, value in known.items()} | given


def _default(text: str) -> int | str | None:
    """A number as a number: SQLite takes any text for larger than any number."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text or None
