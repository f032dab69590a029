"""Staging: what shards derived, in the order in which it comes, until the end of a first load sorts it into its tables.

The ids of responses and tool calls are digests: a load that stored those of one shard after the other in their tables
would write most of each table once for every shard. Temporary tables, because what is left of a load that is killed is
derived anew.
"""

from __future__ import annotations

from . import accounting
from .rollups import QUARTER, SUMMED

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

_TABLES = ("responses", "tool_calls", *SUMMED)
# What stands in several shards is derived again.
_TOUCH = (
    "touched_responses SELECT id FROM temp.staged_responses GROUP BY id HAVING count(*) > 1",
    "touched_calls SELECT id FROM temp.staged_tool_calls GROUP BY id HAVING count(*) > 1",
    # And the response that each shard charged with the searches of its copy of the call.
    "touched_responses SELECT response_id FROM temp.staged_tool_calls"
    " WHERE web_searches > 0 AND response_id IS NOT NULL AND id IN (SELECT id FROM temp.touched_calls)",
    *(
        f"{touched} SELECT quarter, session_id FROM temp.staged_{table} GROUP BY {key} HAVING count(*) > 1"
        for table, (touched, key) in SUMMED.items()
    ),
)
# And whatever its copies were counted in.
_COPIES = (
    ("responses", "id IN (SELECT id FROM temp.touched_responses)", "at", "touched_quarters"),
    (
        "tool_calls",
        "id IN (SELECT id FROM temp.touched_calls) OR response_id IN (SELECT id FROM temp.touched_responses)",
        "started_at",
        "touched_tools",
    ),
)
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
    """Sorts all into their tables, and touches what no shard knew all of; returns new responses."""
    execute = connection.execute
    (before,) = execute(_COUNT).fetchone()
    for sql in _TOUCH:
        execute(f"INSERT OR IGNORE INTO temp.{sql}")
    for table, are_copies, at, touched in _COPIES:
        source = f"FROM temp.staged_{table} WHERE {are_copies}"
        execute(f"INSERT OR IGNORE INTO temp.touched_sessions SELECT session_id {source}")
        execute(f"INSERT OR IGNORE INTO temp.{touched} SELECT {at} / {QUARTER}, session_id {source}")
    accounting.price_days(connection, _DAYS)
    for table in _TABLES:
        order = SUMMED[table][1] if table in SUMMED else "id"
        execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM temp.staged_{table} ORDER BY {order}")
        execute(f"DROP TABLE temp.staged_{table}")
    (after,) = execute(_COUNT).fetchone()
    return int(after - before)
