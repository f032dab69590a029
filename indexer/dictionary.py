"""The data dictionary: what every table, view and column means, read from the schema where it is written down."""

from __future__ import annotations

import os
import re
import tomllib

from . import schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import NamedTuple

    class Relation(NamedTuple):
        """A table or view: what a row of it is, and what its columns are."""

        about: str
        columns: dict[str, str]

else:
    from collections import namedtuple

    Relation = namedtuple("Relation", "about columns")

_TABLE = re.compile(r"^CREATE TABLE \w+ \( -- (.*)$", re.MULTILINE)
# A column that was added later stands behind the comma.
_COLUMN = re.compile(r"^(?:  |, )(\w+) .+?,? -- (.*)$", re.MULTILINE)
_VIEW = re.compile(r"((?:^-- .*\n)+)CREATE VIEW (\w+) AS", re.MULTILINE)


def read(connection: sqlite3.Connection) -> dict[str, Relation]:
    """Tables by the comments in their statements, views by views.sql and columns.toml; what has none is left out."""
    found = {}
    for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL"):
        if title := _TABLE.search(sql):
            found[name] = Relation(title[1], dict(_COLUMN.findall(sql)))
    return found | _views(connection)


def _views(connection: sqlite3.Connection) -> dict[str, Relation]:
    with open(os.path.join(schema.SQL, "views.sql"), encoding="utf-8") as file:
        titles = {name: comment for comment, name in _VIEW.findall(file.read())}
    with open(os.path.join(schema.SQL, "columns.toml"), "rb") as file:
        known = tomllib.load(file)
    found = {}
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'").fetchall():
        if name in titles:
            about = " ".join(line.removeprefix("-- ") for line in titles[name].splitlines())
            means = {**known["any"], **known.get(name, {})}
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            found[name] = Relation(about, {column: means[column] for column in columns if column in means})
    return found
