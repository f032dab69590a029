"""What other engines are given of the index: tables that follow its schema, and how it is known that these changed.

The rows of a day are known by a fingerprint, so that what takes them in needs no memory of its own but that. A record
changes only where something is taken out of it, which the index remembers: its place and its time stand for all that it
says. What is derived from records is looked at itself.
"""

from __future__ import annotations

import os
from collections import defaultdict
from hashlib import blake2b
from itertools import groupby

from .batch import EDITS
from .privacy import kept_subject
from .schema import SQL
from .store import fetch_dicts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import NamedTuple

    class Column(NamedTuple):
        """Name, and kind: INTEGER, TEXT, TIME (milliseconds since 1970 UTC), USD (nanodollars) or PRICE (a float)."""

        name: str
        kind: str

    class Table(NamedTuple):
        """A table, by which columns a row is known within its host, and whether `occurred_at` cuts it by days."""

        name: str
        key: Sequence[str]
        columns: Sequence[Column]
        is_dated: bool

    class Host(NamedTuple):
        """A machine and the user whose history it is."""

        name: str
        user: str

    class Options(NamedTuple):
        """What is left out: texts unless `with_text`; paths and branches are digests where `is_anonymous`."""

        with_text: bool = False
        is_anonymous: bool = False

else:
    from collections import namedtuple

    Column = namedtuple("Column", "name kind")
    Table = namedtuple("Table", "name key columns is_dated")
    Host = namedtuple("Host", "name user")
    Options = namedtuple("Options", "with_text is_anonymous", defaults=(False, False))

# Version of the tables and views that other engines are given: what an older cm wrote is written anew.
VERSION = 3
DAY = 86_400_000
# The day of what is not cut by days.
UNDATED = -1
KEYS = {
    "messages": ("file_id", "byte_offset"),
    "records": ("response_id", "file_id", "byte_offset"),
    "tool_calls": ("call_id", "file_id", "byte_offset"),
    "tool_results": ("call_id", "file_id", "byte_offset"),
    "responses": ("response_id",),
    "sessions": ("session_id",),
    "files": ("file_id",),
    "models": ("model",),
    "prices": ("id",),
    "rates": ("id",),
    "zone_offsets": ("from_at",),
}
TEXTS = ("text", "title")
PRIVATE = ("path", "root", "cwd", "branch", "project", "project_name", "directory_path")
SECRET = "CM_ANONYMISE_KEY"

_OF_RECORDS = """
SELECT r.at / 86400000, r.id, r.at
FROM records AS r
WHERE r.id >> 40 IN (SELECT id FROM files WHERE host_id = 1)
"""
# When text was last taken out of records that stay.
_TAKEN_OUT = "SELECT value FROM meta WHERE key = 'taken_out'"
# Text is hashed by another number in each run of Python, and NULL in some of its versions.
_OF_RESPONSES = """
SELECT
  r.at / 86400000, r.id, r.owner_id, r.at, r.model_id, r.context_id, s.project_id, r.input_tokens, r.output_tokens,
  r.cache_write_tokens, r.cache_write_1h_tokens, r.cache_read_tokens, r.web_searches, r.flags, r.record_count,
  coalesce(length(r.stop_reason), -1), coalesce(r.recorded_nano, -1)
FROM responses AS r
JOIN sessions AS s ON s.id = r.session_id
WHERE r.owner_id >> 40 IN (SELECT id FROM files WHERE host_id = 1)
"""


class Facts:
    """This machine's part of an index, as tables for other engines; the connection sees one state of it."""

    def __init__(self, connection: sqlite3.Connection, options: Options) -> None:
        self._connection = connection
        self._options = options
        for statement in _statements():
            connection.execute(statement)
        self._anonymous = _Anonymizer()
        connection.create_function("anonymous", 1, self._anonymous, deterministic=True)
        connection.create_function("told_subject", 2, self._subject, deterministic=True)
        self.host = Host(*connection.execute("SELECT name, user FROM hosts WHERE id = 1").fetchone())
        self.tables = tables(connection)

    def rows(self, table: Table, days: Sequence[int] = ()) -> Iterator[tuple[object, ...]]:
        """Rows in the order of their key: of those days, or of a table that is not dated."""
        columns = ", ".join(self._expression(column.name) for column in table.columns)
        where = ""
        if table.is_dated:
            if not days:
                return
            # Days in a row are one range: each costs a look into an index.
            spans = " OR ".join(
                f"occurred_at >= {first * DAY} AND occurred_at < {(last + 1) * DAY}" for first, last in _runs(days)
            )
            where = f"WHERE {spans}"
        yield from self._connection.execute(
            f"SELECT {columns} FROM temp.fact_{table.name} {where} ORDER BY {', '.join(table.key)}"
        )

    def _expression(self, column: str) -> str:
        if column in TEXTS and not self._options.with_text:
            return "NULL"
        if column == "subject":
            return "told_subject(name, subject)"
        return f"anonymous({column})" if column in PRIVATE and self._options.is_anonymous else column

    def _subject(self, tool: str, subject: str | None) -> str | None:
        """What a tool was called for: a path of those that change files, and maybe text of a slash command."""
        if subject is None or (tool not in EDITS and self._options.with_text):
            return subject
        if tool not in EDITS:
            return kept_subject(tool, subject)
        return self._anonymous(subject) if self._options.is_anonymous else subject

    def fingerprints(self) -> dict[str, dict[int, str]]:
        """By table and day, what changes whenever a row does that is given to others."""
        secret = os.environ.get(SECRET) if self._options.is_anonymous else None
        seed = f"{VERSION} {self._options} {secret} {self._connection.execute(_TAKEN_OUT).fetchone()}"
        by_records = _by_day(self._connection.execute(_OF_RECORDS), seed)
        found = {table.name: by_records if table.is_dated else self._of_whole(table, seed) for table in self.tables}
        # A changed price changes what everything cost.
        seed = f"{seed} {found['prices']} {found['rates']} {found['models']}"
        found["responses"] = _by_day(self._connection.execute(_OF_RESPONSES), seed)
        return found

    def _of_whole(self, table: Table, seed: str) -> dict[int, str]:
        digest = blake2b(seed.encode(), digest_size=16)
        for row in self.rows(table):
            digest.update(repr(row).encode("utf-8", "surrogatepass"))
        return {UNDATED: digest.hexdigest()}


def tables(connection: sqlite3.Connection) -> list[Table]:
    """The tables with their columns, whose types are those of the index's own; their views must exist."""
    found = []
    for name, key in KEYS.items():
        rows = fetch_dicts(connection, "SELECT name, type FROM pragma_table_info(?)", (f"fact_{name}",))
        columns = [Column(row["name"], _kind(row["name"], row["type"])) for row in rows]
        found.append(Table(name, key, columns, any(column.name == "occurred_at" for column in columns)))
    return found


def schema() -> list[Table]:
    """The tables as an empty index has them."""
    import sqlite3
    from contextlib import closing

    from . import schema as index

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        index.migrate(connection)
        for statement in _statements():
            connection.execute(statement)
        return tables(connection)


def _kind(name: str, declared: str) -> str:
    if name.endswith("_at") and name != "from_at":
        return "TIME"
    if name.endswith("_usd"):
        return "USD"
    if declared == "TEXT":
        return "TEXT"
    return "PRICE" if declared == "REAL" else "INTEGER"


def _statements() -> list[str]:
    with open(os.path.join(SQL, "facts.sql"), encoding="utf-8") as file:
        return [part.strip() for part in file.read().split(";\n") if part.strip()]


def _by_day(rows: Iterable[tuple[int, ...]], seed: str) -> dict[int, str]:
    """A sum does not depend on the order in which SQLite finds rows; each row's part is 64 bits of all its values."""
    sums: dict[int, int] = defaultdict(int)
    counts: dict[int, int] = defaultdict(int)
    for row in rows:
        sums[row[0]] += hash(row)
        counts[row[0]] += 1
    return {
        day: blake2b(f"{seed} {counts[day]} {total}".encode(), digest_size=16).hexdigest()
        for day, total in sorted(sums.items())
    }


def _runs(days: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of days that follow one another."""
    grouped = (list(group) for _, group in groupby(enumerate(sorted(days)), lambda pair: pair[1] - pair[0]))
    return [(group[0][1], group[-1][1]) for group in grouped]


class _Anonymizer:
    """Digests, the same on every machine with the same key; without a key, what they stand for can be guessed."""

    def __init__(self) -> None:
        secret = os.environ.get(SECRET, "").encode()
        # A key of any length: the function takes up to 64 bytes.
        self._key = blake2b(secret).digest() if secret else b""
        self._known: dict[str, str] = {}

    def __call__(self, value: str | None) -> str | None:
        if value is None:
            return None
        if value not in self._known:
            data = value.encode("utf-8", "surrogatepass")
            self._known[value] = blake2b(data, digest_size=16, key=self._key).hexdigest()
        return self._known[value]


def changed(now: Mapping[int, str], before: Mapping[int, str]) -> list[int]:
    """Days whose rows are not what they were, those included that have none any more."""
    return sorted(day for day in now.keys() | before.keys() if now.get(day) != before.get(day))
