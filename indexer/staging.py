"""Staging: what shards derived, in the order in which it comes, until the end of a first load sorts it into its tables.

The ids of responses and tool calls are digests: a load that stored those of one shard after the other in their tables
would write most of each table once for every shard. Temporary tables, because what is left of a load that is killed is
derived anew.
"""

from __future__ import annotations

from . import accounting

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

# Each with what is touched when it stands in several shards.
_TABLES = {"responses": "touched_responses", "tool_calls": "touched_calls"}
_COPIES = "SELECT id FROM temp.staged_{table} GROUP BY id HAVING count(*) > 1"
_OWNERS = "SELECT session_id FROM temp.staged_{table} WHERE id IN (SELECT id FROM temp.{touched})"
_DAYS = "SELECT DISTINCT model_id, at / 86400000 AS day FROM temp.staged_responses"
_COUNT = "SELECT count(*) FROM responses WHERE part = 0"


def begin(connection: sqlite3.Connection) -> None:
    """Makes the tables, empty."""
    for table in _TABLES:
        connection.execute(f"CREATE TEMP TABLE staged_{table} AS SELECT * FROM {table} LIMIT 0")


def add(connection: sqlite3.Connection) -> None:
    """Adds what the attached shard has."""
    for table in _TABLES:
        connection.execute(f"INSERT INTO temp.staged_{table} SELECT * FROM shard.{table}")


def settle(connection: sqlite3.Connection) -> int:
    """Sorts all into their tables, and touches what stands in several shards; returns new responses."""
    (before,) = connection.execute(_COUNT).fetchone()
    for table, touched in _TABLES.items():
        names = {"table": table, "touched": touched}
        connection.execute(f"INSERT OR IGNORE INTO temp.{touched} {_COPIES.format(**names)}")
        connection.execute(f"INSERT OR IGNORE INTO temp.touched_sessions {_OWNERS.format(**names)}")
        connection.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM temp.staged_{table} ORDER BY id")
    accounting.price_days(connection, _DAYS)
    for table in _TABLES:
        connection.execute(f"DROP TABLE temp.staged_{table}")
    (after,) = connection.execute(_COUNT).fetchone()
    return int(after - before)
