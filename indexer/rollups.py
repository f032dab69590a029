"""Rollups: sums of responses by quarter of an hour, by local day and by project, and of tool calls: what reports read.

What changes of responses and calls changes them in the same transaction. The offset of a time zone is a multiple of a
quarter of an hour, so the quarters serve every zone, hours and blocks; the days are those of the configured zone. Each
row holds what its responses cost: where a price is a whole number of nanodollars per token, one that changes is
multiplied with a row's tokens, else with those of each response, because each is rounded.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

DAY, QUARTER = 86_400_000, 900_000
# 64 days: to sum one of them anew takes 1 ms at a million messages, and all projects are half as many rows as of 32.
SPAN = 6

# What is summed from responses and calls, with what is touched of it and its key; the days are from the quarters.
SUMMED = {
    "usage_quarters": ("touched_quarters", "quarter, session_id, context_id, model_id, host_id, kind"),
    "usage_tools": ("touched_tools", "quarter, session_id, name, model_id, host_id, day, kind"),
}
# Rows that are made anew, and by what they are known: those of usage_quarters, usage_days, usage_tools, usage_projects.
_TOUCHED = {
    "touched_quarters": ("quarter", "session_id"),
    "touched_days": ("day", "session_id"),
    "touched_tools": ("quarter", "session_id"),
    "touched_projects": ("project_id", "span"),
}
TOUCHED = tuple(
    f"CREATE TEMP TABLE IF NOT EXISTS {table} ("
    f"{first} INTEGER, {second} INTEGER, PRIMARY KEY ({first}, {second})) WITHOUT ROWID;\n"
    for table, (first, second) in _TOUCHED.items()
)

_TOUCH_QUARTERS = f"""
INSERT OR IGNORE INTO temp.touched_quarters
SELECT at / {QUARTER}, session_id FROM responses WHERE id IN (SELECT id FROM temp.touched_responses)
"""
# Both ends of a quarter, because it may lie in two days; another day that is touched is only made again.
_TOUCH_DAYS = f"""
INSERT OR IGNORE INTO temp.touched_days
SELECT (t.quarter * {QUARTER} + e.ms + coalesce(
  (SELECT z.offset_ms FROM zone_offsets AS z WHERE z.from_at <= t.quarter * {QUARTER} + e.ms
  ORDER BY z.from_at DESC LIMIT 1), 0
)) / {DAY}, t.session_id
FROM temp.touched_quarters AS t
CROSS JOIN (SELECT 0 AS ms UNION ALL SELECT {QUARTER - 1}) AS e
"""
# All calls of a response: the first of them may be another now.
_TOUCH_TOOLS = f"""
INSERT OR IGNORE INTO temp.touched_tools
SELECT started_at / {QUARTER}, session_id FROM tool_calls
WHERE id IN (SELECT id FROM temp.touched_calls) OR response_id IN (
  SELECT id FROM temp.touched_responses
  UNION SELECT response_id FROM tool_calls WHERE id IN (SELECT id FROM temp.touched_calls)
)
"""

_TOKENS = (
    "input_tokens", "output_tokens", "cache_write_tokens", "cache_write_1h_tokens", "cache_read_tokens", "web_searches",
    "recorded_nano",
)  # fmt: skip
_COSTS = ("input", "output", "cache_write", "cache_read", "web_search", "cache_saved")
_UNPRICED = ", ".join("NULL" for _ in _COSTS)
_PRICED = ", ".join(f"sum(u.{name})" for name in _COSTS)
_QUARTERS = f"""
SELECT
  u.at / {QUARTER}, u.session_id, u.context_id, u.model_id, u.host_id, u.kind,
  min(u.at), max(u.at), count(*), sum(u.part = 0), sum(u.is_undercounted),
  {", ".join(f"sum(u.{name})" for name in _TOKENS)}, {{costs}}
FROM {{source}}
GROUP BY 1, 2, 3, 4, 5, 6
"""
_DAYS = """
SELECT
  u.local_day, u.session_id, u.model_id, u.host_id, (u.kind & 16) + 128 * (u.cost_nano IS NULL),
  min(u.at), max(u.last_at), sum(u.parts), sum(u.responses), sum(u.undercounted_responses),
  sum(u.input_tokens), sum(u.output_tokens), sum(u.cache_creation_tokens), sum(u.cache_creation_1h_tokens),
  sum(u.cache_read_tokens), sum(u.web_searches), sum(u.recorded_nano),
  sum(u.input_nano), sum(u.output_nano), sum(u.cache_write_nano), sum(u.cache_read_nano), sum(u.web_search_nano),
  sum(u.cache_saved_nano)
FROM {source}
GROUP BY 1, 2, 3, 4, 5
"""
_OF_QUARTERS = f"""temp.touched_quarters AS t
CROSS JOIN response_costs AS u ON
  u.session_id = t.session_id AND u.at >= t.quarter * {QUARTER} AND u.at < (t.quarter + 1) * {QUARTER}"""
_OF_DAYS = f"""temp.touched_days AS t
CROSS JOIN local_usage AS u ON
  u.session_id = t.session_id AND u.at >= (t.day - 1) * {DAY} AND u.at < (t.day + 2) * {DAY} AND u.local_day = t.day"""

# A response is summed with its first call of a tool: of all calls at once, and of some of them.
_FIRST_OF_ALL = "first_value(t.id) OVER (PARTITION BY t.response_id, t.name ORDER BY t.started_at, t.id)"
_FIRST = """(
      SELECT o.id FROM tool_calls AS o
      WHERE o.response_id = t.response_id AND o.name = t.name ORDER BY o.started_at, o.id LIMIT 1
    )"""
# LIMIT, or SQLite would look for the first once for each sum.
_CALLED = """(
  SELECT
    t.id, t.response_id, t.session_id, t.name, t.mcp_server, t.is_error, t.result_bytes, t.web_searches, t.started_at,
    f.host_id,
    t.id = {first} AS is_first
  FROM {calls}
  JOIN files AS f ON f.id = t.record_id >> 40
  LIMIT -1
) AS c"""
_OF_CALLS = """
  max({row}.mcp_server), count(*), count({row}.is_error), coalesce(sum({row}.is_error), 0),
  coalesce(sum({row}.result_bytes), 0), sum({row}.web_searches)
"""
_TOOLS = f"""
SELECT
  c.started_at / {QUARTER} AS quarter, c.session_id, c.name, u.model_id, c.host_id, u.at / {DAY} AS day, u.kind,
  {_OF_CALLS.format(row="c")}, {{fee}},
  sum(c.is_first), sum(c.is_first * (u.part = 0)), sum(c.is_first * u.is_undercounted),
  {", ".join(f"sum(c.is_first * u.{name})" for name in _TOKENS)}, {{costs}}
FROM {_CALLED}
CROSS JOIN {{source}} ON u.id = c.response_id
GROUP BY 1, 2, 3, 4, 5, 6, 7
"""
_PRICED_FIRST = ", ".join(f"sum(c.is_first * u.{name})" for name in _COSTS)
_FEE = "sum(c.web_searches * coalesce(u.web_search / u.web_searches, u.web_search))"
_TOOLS_OF_NOTHING = f"""
SELECT
  t.started_at / {QUARTER}, t.session_id, t.name, 0, f.host_id, 0, 0,
  {_OF_CALLS.format(row="t")}, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, {_UNPRICED}
FROM {{calls}}
JOIN files AS f ON f.id = t.record_id >> 40
WHERE NOT EXISTS (SELECT 1 FROM responses AS r WHERE r.id = t.response_id)
GROUP BY 1, 2, 3, 5
"""
_OF_TOOLS = f"""temp.touched_tools AS k
CROSS JOIN tool_calls AS t ON
  t.session_id = k.session_id
  AND t.started_at >= k.quarter * {QUARTER} AND t.started_at < (k.quarter + 1) * {QUARTER}"""
_LEAVE = "DELETE FROM {table} WHERE ({columns}) IN (SELECT {columns} FROM temp.{touched})"

# All that the touched sessions are summed in: one that has more than a few days of these is rare.
_TOUCH_PROJECTS = f"""
INSERT OR IGNORE INTO temp.touched_projects
SELECT s.project_id, d.day >> {SPAN}
FROM (SELECT session_id FROM temp.touched_days UNION SELECT id FROM temp.touched_sessions) AS t
CROSS JOIN sessions AS s ON s.id = t.session_id
CROSS JOIN usage_days AS d ON d.session_id = s.id
"""
_PROJECTS = f"""
SELECT
  s.project_id, u.model_id, u.day >> {SPAN}, sum(u.responses),
  sum(u.input_tokens), sum(u.output_tokens), sum(u.cache_write_tokens), sum(u.cache_read_tokens),
  sum((u.input_tokens + u.output_tokens + u.cache_write_tokens + u.cache_read_tokens) * (u.input IS NULL)),
  sum(u.input), sum(u.output), sum(u.cache_write), sum(u.cache_read), sum(u.web_search)
FROM {{source}}
GROUP BY 1, 2, 3
"""
_ALL_PROJECTS = _PROJECTS.format(source="usage_days AS u\nJOIN sessions AS s ON s.id = u.session_id")
# Each span is read once, of however many projects.
_OF_PROJECTS = f"""(SELECT DISTINCT span FROM temp.touched_projects) AS t
CROSS JOIN usage_days AS u ON u.day >= t.span << {SPAN} AND u.day < (t.span + 1) << {SPAN}
CROSS JOIN sessions AS s ON s.id = u.session_id
WHERE (s.project_id, t.span) IN (SELECT project_id, span FROM temp.touched_projects)"""

# What a row's tokens cost, where the threshold of long contexts is the usual one.
_RATE = """
daily_prices AS d
JOIN rates AS p ON p.id =
  d.price_id * 16 + 8 * (q.kind >> 3 & (d.long_context_above IS NOT NULL))
  + 4 * (q.kind & 1) + 2 * (q.kind >> 1 & 1) + (q.kind >> 2 & 1)
WHERE d.model_id = q.model_id AND d.day = {day}"""
_IS_WHOLE = """coalesce(d.long_context_above, 200000) = 200000
  AND (p.input_den, p.output_den, p.cache_write_den, p.cache_read_den) = (1, 1, 1, 1)"""
_NEW_PRICE = f"""
UPDATE {{table}} AS q
SET (input, output, cache_write, cache_read, web_search, cache_saved{{column}}) = (
  SELECT
    q.input_tokens * p.input_num,
    q.output_tokens * p.output_num,
    (q.cache_write_tokens - q.cache_write_1h_tokens) * p.cache_write_5m_num
    + q.cache_write_1h_tokens * p.cache_write_1h_num,
    q.cache_read_tokens * p.cache_read_num,
    q.web_searches * p.web_search,
    (q.cache_write_tokens + q.cache_read_tokens) * p.input_num
    - (q.cache_write_tokens - q.cache_write_1h_tokens) * p.cache_write_5m_num
    - q.cache_write_1h_tokens * p.cache_write_1h_num
    - q.cache_read_tokens * p.cache_read_num{{value}}
  FROM {_RATE}
)
{{where}}
"""
_TOUCH_ROUNDED = f"""
INSERT OR IGNORE INTO temp.{{touched}}
SELECT q.quarter, q.session_id
FROM {{table}} AS q
{{where}} AND EXISTS (SELECT 1 FROM {_RATE} AND NOT ({_IS_WHOLE}))
"""
_TABLES = (
    {"table": "usage_quarters", "touched": "touched_quarters", "day": "q.quarter / 96", "column": "", "value": ""},
    {
        "table": "usage_tools",
        "touched": "touched_tools",
        "day": "q.day",
        "column": ", search_fee",
        "value": ", q.searches * p.web_search",
    },
)
# A transition of a zone that is not at a quarter of an hour, or an offset that is none, since the first response.
_IS_ODD = f"""
SELECT 1
FROM (SELECT min(quarter) * {QUARTER} AS at FROM usage_quarters) AS q
CROSS JOIN (
  SELECT from_at, offset_ms, lead(from_at, 1, 1 << 62) OVER (ORDER BY from_at) AS until_at FROM zone_offsets
) AS z
WHERE z.until_at > q.at AND (z.offset_ms % {QUARTER} <> 0 OR z.from_at > q.at AND z.from_at % {QUARTER} <> 0)
LIMIT 1
"""


def touch_calls(connection: sqlite3.Connection) -> None:
    """Marks the rows that sum the touched tool calls as they are now; asked before these change, and after."""
    connection.execute(_TOUCH_TOOLS)


def touch_responses(connection: sqlite3.Connection) -> None:
    """Marks the rows that sum the touched responses as they are now; asked before these change, and after."""
    connection.execute(_TOUCH_QUARTERS)


def touch_projects(connection: sqlite3.Connection) -> None:
    """Marks the rows that sum the touched sessions as they are now; asked before one of these goes, too."""
    connection.execute(_TOUCH_PROJECTS)


def touch_shard(connection: sqlite3.Connection) -> None:
    """Marks the rows that sum what was copied from the attached shard, which was derived there."""
    for table, touched, at in (("responses", "quarters", "at"), ("tool_calls", "tools", "started_at")):
        connection.execute(
            f"INSERT OR IGNORE INTO temp.touched_{touched} SELECT {at} / {QUARTER}, session_id FROM shard.{table}"
        )


def derive(connection: sqlite3.Connection) -> None:
    """Makes the marked rows anew, and those of what is touched, but of projects; of a load it only marks them."""
    touch_calls(connection)
    touch_responses(connection)
    if not _is_loading(connection):
        connection.execute(_TOUCH_DAYS)
        touch_projects(connection)
        _leave(connection, "usage_days", "touched_days")
        _sum_touched(connection)
        _insert(connection, "usage_days", _DAYS.format(source=_OF_DAYS))


def derive_projects(connection: sqlite3.Connection) -> None:
    """Makes the rows of projects anew, once it is known of which the touched sessions are; forgets what was marked."""
    if not _is_loading(connection):
        touch_projects(connection)
        _leave(connection, "usage_projects", "touched_projects")
        _insert(connection, "usage_projects", _PROJECTS.format(source=_OF_PROJECTS))
        _forget_touched(connection)


def _is_loading(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone() is not None


def _sum_touched(connection: sqlite3.Connection) -> None:
    """Makes the marked quarters of responses and of calls anew."""
    _leave(connection, "usage_quarters", "touched_quarters")
    _leave(connection, "usage_tools", "touched_tools")
    _insert(connection, "usage_quarters", _priced_quarters(_OF_QUARTERS))
    _insert(connection, "usage_tools", _priced_tools(_OF_TOOLS))
    _insert(connection, "usage_tools", _TOOLS_OF_NOTHING.format(calls=_OF_TOOLS))


def _priced_quarters(source: str) -> str:
    return _QUARTERS.format(source=source, costs=_PRICED)


def _priced_tools(calls: str) -> str:
    return _TOOLS.format(calls=calls, first=_FIRST, source="response_costs AS u", fee=_FEE, costs=_PRICED_FIRST)


def _insert(connection: sqlite3.Connection, table: str, rows: str) -> None:
    connection.execute(f"INSERT INTO {table}\n{rows}")


def _leave(connection: sqlite3.Connection, table: str, touched: str) -> None:
    connection.execute(_LEAVE.format(table=table, touched=touched, columns=", ".join(_TOUCHED[touched])))


def _forget_touched(connection: sqlite3.Connection) -> None:
    for table in _TOUCHED:
        connection.execute(f"DELETE FROM temp.{table}")


def sum_all(connection: sqlite3.Connection) -> None:
    """Makes all rows anew, from the responses and the calls."""
    for table in SUMMED:
        connection.execute(f"DELETE FROM {table}")
    sum_unpriced(connection)
    price_all(connection)


def sum_unpriced(connection: sqlite3.Connection) -> None:
    """Sums all responses and calls, for tables that are empty and have no prices yet: those of a shard."""
    calls, source = "tool_calls AS t", "response_kinds AS u"
    tools = _TOOLS.format(calls=calls, first=_FIRST_OF_ALL, source=source, fee="NULL", costs=_UNPRICED)
    _insert(connection, "usage_quarters", _QUARTERS.format(source=source, costs=_UNPRICED))
    _insert(connection, "usage_tools", tools)
    _insert(connection, "usage_tools", _TOOLS_OF_NOTHING.format(calls=calls))


def price_all(connection: sqlite3.Connection) -> None:
    """Gives all rows their costs, makes the marked ones anew, and then the days."""
    price(connection, [model for (model,) in connection.execute("SELECT id FROM models")])
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('rollups', '1')")


def sum_days(connection: sqlite3.Connection) -> None:
    """Makes the days anew, from the quarters, and what sums them: of another zone, or at other prices."""
    source = f"{'local_usage' if is_odd(connection) else 'local_quarters'} AS u"
    for table, rows in (("usage_days", _DAYS.format(source=source)), ("usage_projects", _ALL_PROJECTS)):
        connection.execute(f"DELETE FROM {table}")
        _insert(connection, table, rows)


def is_odd(connection: sqlite3.Connection) -> bool:
    """Whether a quarter of an hour of ours may lie in two local hours; since 2012 it does in no zone."""
    return connection.execute(_IS_ODD).fetchone() is not None


def price(connection: sqlite3.Connection, models: Iterable[int]) -> None:
    """Gives all rows of models the costs of prices that changed."""
    where = f"WHERE q.model_id IN ({', '.join(map(str, models))})"
    for sql in TOUCHED:
        connection.execute(sql)
    for table in _TABLES:
        connection.execute(_NEW_PRICE.format(**table, where=where))
        connection.execute(_TOUCH_ROUNDED.format(**table, where=where))
    _sum_touched(connection)
    _forget_touched(connection)
    sum_days(connection)


def wrong(connection: sqlite3.Connection) -> dict[str, int]:
    """How many rows of each table are not what the responses and calls sum to, or are missing."""
    sums = {
        "usage_quarters": [_priced_quarters("response_costs AS u")],
        "usage_days": [_DAYS.format(source="local_usage AS u")],
        "usage_tools": [_priced_tools("tool_calls AS t"), _TOOLS_OF_NOTHING.format(calls="tool_calls AS t")],
        "usage_projects": [_ALL_PROJECTS],
    }
    return {table: found for table, rows in sums.items() if (found := _differences(connection, table, rows))}


def _differences(connection: sqlite3.Connection, table: str, rows: list[str]) -> int:
    sql = f"""
WITH wanted AS MATERIALIZED ({" UNION ALL ".join(f"SELECT * FROM ({part})" for part in rows)})
SELECT max(
  (SELECT count(*) FROM (SELECT * FROM wanted EXCEPT SELECT * FROM {table})),
  (SELECT count(*) FROM (SELECT * FROM {table} EXCEPT SELECT * FROM wanted))
)
"""
    return int(connection.execute(sql).fetchone()[0])
