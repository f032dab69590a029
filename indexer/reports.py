"""The reports: what their rows are about, what they sum, and in which order; the SQL of them and of their views.

Every report sums rows of `local_days`, of `local_quarters` where it looks within days or at what a session's parts were
attributed to, or of `local_tools` where it is about tools. A filter is a condition on these.
"""

from __future__ import annotations

import json
import re

from . import blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, NamedTuple

    Row = dict[str, Any]

    class Report(NamedTuple):
        """One report, and the view that has its rows."""

        view: str
        about: str  # what a row is about
        key: str  # the column by which a row is known
        columns: str  # SQL of what stands before the sums
        group: str
        order: str
        is_timeline: bool = False  # newest rows last; else the largest come first
        omits: Sequence[str] = ()  # sums that would say nothing
        joins: str = ""
        form: str = ""  # SQL where the common form does not fit
        source: str = "local_days"  # view whose rows it sums

    class Query(NamedTuple):
        """What is asked of a report. Times are in milliseconds, ids are those of the tables; None is no limit."""

        since: int | None = None  # local time from then
        until: int | None = None  # local time before then
        ending_after: int | None = None  # blocks only
        projects: Sequence[int] | None = None
        models: Sequence[int] | None = None
        sessions: Sequence[int] | None = None
        hosts: Sequence[int] | None = None
        splits: Sequence[str] = ()  # what rows are split by besides
        is_recorded: bool = False  # what old transcripts say a response cost, where they do
        start_of_week: int | None = None  # 0 is Monday; None is as configured
        block_hours: int = blocks.HOURS

else:
    from collections import namedtuple

    Report = namedtuple(
        "Report",
        "view about key columns group order is_timeline omits joins form source",
        defaults=(False, (), "", "", "local_days"),
    )
    Query = namedtuple(
        "Query",
        "since until ending_after projects models sessions hosts splits is_recorded start_of_week block_hours",
        defaults=(None, None, None, None, None, None, None, (), False, None, blocks.HOURS),
    )

DAY, QUARTER = 86_400_000, 900_000
# What `session_facts` counts.
FACTS = (
    "turns", "tools", "tool_errors", "files", "pull_requests", "compactions", "interruptions", "api_errors",
    "model_changes",
)  # fmt: skip
EVERYTHING = Query()

# A sum of costs is that of the part that has a price, and NULL only where nothing has one.
SUMS = {
    "input_tokens": "sum(u.input_tokens)",
    "output_tokens": "sum(u.output_tokens)",
    "cache_creation_tokens": "sum(u.cache_creation_tokens)",
    "cache_read_tokens": "sum(u.cache_read_tokens)",
    "total_tokens": "sum(u.total_tokens)",
    "cost_usd": "sum({cost}) / 1e9",
    "responses": "sum(u.responses)",
    "sessions": "count(DISTINCT u.session_id)",
    "models": "json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL)",
    "unpriced_tokens": "sum(CASE WHEN {cost} IS NULL THEN u.total_tokens ELSE 0 END)",
    "undercounted_responses": "sum(u.undercounted_responses)",
}
# What they are where there is nothing, in a gap between two blocks.
_NOTHING = {"cost_usd": "NULL", "models": "'[]'"}
_COMPUTED, _RECORDED = "u.cost_nano", "coalesce(u.recorded_nano, u.cost_nano)"

_FORM = """
SELECT
  {columns},
  {sums}
FROM {source} AS u
JOIN models AS m ON m.id = u.model_id
{joins}
{where}
GROUP BY {group}
"""

_OF_SESSION = "JOIN sessions AS s ON s.id = u.session_id\nJOIN projects AS p ON p.id = s.project_id"
_OF_CONTEXT = "JOIN contexts AS x ON x.id = u.context_id"
_OF_HOST = "JOIN hosts AS o ON o.id = u.host_id"
# What a row can be split by: column, group, and what is joined for it.
_SPLITS = {
    "model": ("m.name AS model", "m.id", ""),
    "project": ("p.path AS project", "p.id", _OF_SESSION),
    "host": ("o.name AS host", "o.name", _OF_HOST),
    "user": ("o.user AS user", "o.user", _OF_HOST),
}
# The same of tool calls, among which percentiles are found.
_PARTITIONS = {
    "tool": ("u.name", "u.name"),
    "model": ("u.model_id", "m.id"),
    "host": ("(SELECT name FROM hosts WHERE id = u.host_id)", "o.name"),
    "user": ("(SELECT user FROM hosts WHERE id = u.host_id)", "o.user"),
}

# Sessions that a session goes on from, the nearest as the view `relations` ranks them, or has responses in common with.
# Not joined: that would be done for every response.
_NEAREST = """(
    SELECT w.{column}
    FROM session_relations AS w
    WHERE w.session_id = u.session_id AND w.kind <> 'shared'
    ORDER BY w.kind = 'continued', w.shared_until DESC, w.parent
    LIMIT 1
  )"""
_FORKED_FROM = """(
    SELECT json_group_array(w.parent) FROM session_relations AS w WHERE w.session_id = u.session_id AND w.kind = 'fork'
  )"""
_SHARED_WITH = """(
    SELECT json_group_array(x.other)
    FROM (
      SELECT w.parent AS other FROM session_relations AS w WHERE w.session_id = u.session_id AND w.response_count > 0
      UNION ALL
      SELECT e.session_id
      FROM session_relations AS w JOIN sessions AS e ON e.id = w.session_id
      WHERE w.parent_id = u.session_id AND w.response_count > 0
    ) AS x
  )"""

# A percentile is the smallest duration that so many per cent are not above. A response that calls a tool twice counts
# once for it; one that calls two tools, once for each.
_PERCENTILES = """
durations AS (
  SELECT
    {keys}, u.duration_ms,
    row_number() OVER (PARTITION BY {partition} ORDER BY u.duration_ms) AS n,
    count(*) OVER (PARTITION BY {partition}) AS total
  FROM local_calls AS u
  {where_calls}
), percentiles AS (
  SELECT
    {names},
    max(CASE WHEN n = (total + 1) / 2 THEN duration_ms END) AS median_ms,
    max(CASE WHEN n = (total * 95 + 99) / 100 THEN duration_ms END) AS p95_ms
  FROM durations
  GROUP BY {names}
)
"""
# The same of all calls, a tenth of the time: a list of a tool's durations comes sorted from an index that has all it
# takes, and is cheaper than to number them. Not by GROUP BY: what is grouped has no order that one could count on.
_PERCENTILES_OF_ALL = """
durations AS MATERIALIZED (
  SELECT
    n.name AS tool,
    (
      SELECT json_group_array(c.duration_ms)
      FROM (
        SELECT max(t.ended_at - t.started_at, 0) AS duration_ms
        FROM tool_calls AS t
        WHERE t.name = n.name AND max(t.ended_at - t.started_at, 0) IS NOT NULL
        ORDER BY max(t.ended_at - t.started_at, 0)
      ) AS c
    ) AS sorted
  FROM (SELECT DISTINCT name FROM usage_tools) AS n
), percentiles AS MATERIALIZED (
  SELECT
    tool,
    json_extract(sorted, '$[' || ((json_array_length(sorted) + 1) / 2 - 1) || ']') AS median_ms,
    json_extract(sorted, '$[' || ((json_array_length(sorted) * 95 + 99) / 100 - 1) || ']') AS p95_ms
  FROM durations
  WHERE sorted <> '[]'
)
"""
_TOOLS = """
WITH {percentiles}
SELECT
  {columns},
  sum(u.calls) AS calls,
  sum(u.errors) AS errors,
  1.0 * sum(u.errors) / nullif(sum(u.results), 0) AS error_rate,
  (SELECT d.median_ms FROM percentiles AS d WHERE {same}) AS median_ms,
  (SELECT d.p95_ms FROM percentiles AS d WHERE {same}) AS p95_ms,
  sum(u.result_bytes) AS result_bytes,
  sum(u.searches) AS web_searches,
  coalesce(sum(u.search_fee_nano), 0) / 1e9 AS web_search_cost_usd,
  {sums}
FROM local_tools AS u
LEFT JOIN models AS m ON m.id = u.model_id
{joins}
{where}
GROUP BY {group}
"""

# {start_of_week} is 0 for Monday; day 0, in 1970, was a Thursday.
_WEEK = """u.local_day - (
    u.local_day + 10 - {start_of_week}
  ) % 7"""
_CONFIGURED = "coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'start_of_week'), 0)"
_MONTH = "strftime('%Y-%m', u.local_day * 86400, 'unixepoch')"
# With the offset: the hour in which clocks are put back comes twice.
_HOUR = """strftime('%Y-%m-%dT%H:00', u.local_at / 1000, 'unixepoch')
  || printf(
    '%s%02d:%02d', CASE WHEN u.local_at < u.at THEN '-' ELSE '+' END,
    abs(u.local_at - u.at) / 3600000, abs(u.local_at - u.at) / 60000 % 60
  )"""
_AGENT = """CASE WHEN u.is_sidechain
    THEN coalesce(a.type, CASE WHEN x.agent LIKE 'acompact%' THEN 'compact' END, 'unknown')
  END"""
_FIRST_AT = "strftime('%Y-%m-%dT%H:%M:%fZ', min(u.at) / 1000.0, 'unixepoch') AS first_at"
_LAST_AT = "strftime('%Y-%m-%dT%H:%M:%fZ', max(u.last_at) / 1000.0, 'unixepoch') AS last_at"


def _timeline(view: str, about: str, key: str, column: str, group: str, source: str = "local_days") -> Report:
    return Report(view, about, key, f"{column} AS {key}", group, "min(u.at)", is_timeline=True, source=source)


def _ranking(view: str, about: str, key: str, columns: Sequence[str], group: str, **rest: Any) -> Report:
    order = "cost_usd DESC, total_tokens DESC, 1"
    return Report(view, about, key, ",\n  ".join(columns), group, **{"order": order, **rest})


def _attributed(key: str) -> Report:
    """What newer versions of Claude Code attribute responses to."""
    about = f"{key} that responses are attributed to; NULL: none"
    columns, group = [f"x.{key} AS {key}"], f"x.{key}"
    return _ranking(f"{key}_usage", about, key, columns, group, joins=_OF_CONTEXT, source="local_quarters")


REPORTS = {
    "daily": _timeline("daily_usage", "local day", "day", "date(u.local_day * 86400, 'unixepoch')", "u.local_day"),
    "weekly": _timeline(
        "weekly_usage", "local week, by its first day", "week", f"date(({_WEEK}) * 86400, 'unixepoch')", _WEEK
    ),
    "monthly": _timeline("monthly_usage", "local month", "month", _MONTH, _MONTH),
    "hourly": _timeline(
        "hourly_usage", "local hour", "hour", _HOUR, "u.local_at / 3600000, u.local_at - u.at", "local_quarters"
    ),
    "sessions": _ranking(
        "session_usage",
        "session, its subagents included",
        "session_id",
        [
            "s.session_id AS session_id",
            "p.path AS project",
            "s.title AS title",
            _FIRST_AT,
            _LAST_AT,
            f"{_NEAREST.format(column='parent')} AS parent",
            f"{_NEAREST.format(column='kind')} AS relation",
            "k.shared_count AS shared_responses",
            f"{_SHARED_WITH} AS shared_with",
            f"{_FORKED_FROM} AS forked_from",
            *(f"k.{name[:-1]}_count AS {name}" for name in FACTS),
        ],
        "u.session_id",
        order="max(u.last_at), 1",
        is_timeline=True,
        omits=("sessions",),
        joins=f"{_OF_SESSION}\nLEFT JOIN session_facts AS k ON k.session_id = u.session_id",
    ),
    "projects": _ranking(
        "project_usage",
        "project",
        "project",
        ["p.path AS project", "p.name AS name", _FIRST_AT, _LAST_AT],
        "p.id",
        joins=_OF_SESSION,
    ),
    "hosts": _ranking(
        "host_usage",
        "machine and user whose history is in the index",
        "host",
        ["o.name AS host", "o.user AS user", _FIRST_AT, _LAST_AT],
        "o.id",
        joins=_OF_HOST,
    ),
    "models": _ranking("model_usage", "model", "model", ["m.name AS model"], "m.id", omits=("models",)),
    "agents": _ranking(
        "agent_usage",
        "type of subagent; NULL: the main conversation",
        "agent",
        [
            f"{_AGENT} AS agent",
            "count(DISTINCT CASE WHEN u.is_sidechain THEN u.session_id || ' ' || x.agent END) AS runs",
        ],
        _AGENT,
        joins=f"{_OF_CONTEXT}\nLEFT JOIN agents AS a ON a.session_id = x.session_id AND a.agent = x.agent",
        source="local_quarters",
    ),
    "skills": _attributed("skill"),
    "mcp-servers": _attributed("mcp_server"),
    "plugins": _attributed("plugin"),
    "tools": _ranking(
        "tool_usage",
        "tool: its calls, and the usage of the responses that call it",
        "tool",
        ["u.name AS tool", "max(u.mcp_server) AS mcp_server"],
        "u.name",
        order="calls DESC, 1",
        form=_TOOLS,
        source="local_tools",
    ),
    "blocks": Report(
        "blocks",
        "window of five hours in which something was used, and per gap between two",
        "block",
        "",
        "w.at",
        "1, end_at",
        is_timeline=True,
        form=blocks.FORM,
        source="windows",
    ),
}


def sql(report: Report, query: Query = EVERYTHING) -> str:
    """The SELECT that answers a query, without its order: every value in it is a number of ours."""
    names = [name for name in query.splits if not re.search(rf" AS {name}\b", report.columns)]
    splits = [_SPLITS[name] for name in names]
    cost = _RECORDED if query.is_recorded else _COMPUTED
    sums = {name: text.format(cost=cost) for name, text in SUMS.items() if name not in report.omits}
    if report.form is _TOOLS:
        sums |= {"sessions": "count(DISTINCT CASE WHEN u.parts > 0 THEN u.session_id END)"}
    split_columns = "".join(f",\n  {column}" for column, _, _ in splits)
    source = _source(report, query)
    parts = {
        "source": source,
        "columns": report.columns + split_columns,
        "sums": ",\n  ".join(f"{text} AS {name}" for name, text in sums.items()),
        "joins": "\n".join(dict.fromkeys([report.joins, *(join for _, _, join in splits if join not in report.joins)])),
        "where": condition(query, source),
        "group": ", ".join([report.group, *(group for _, group, _ in splits)]),
    }
    if report.form is blocks.FORM:
        text = _blocks(query, parts, sums, names)
    else:
        text = (report.form or _FORM).format(**parts, **_percentiles(query, names))
    first = _CONFIGURED if query.start_of_week is None else str(query.start_of_week)
    return "\n".join(line for line in text.replace("{start_of_week}", first).splitlines() if line.strip())


def _percentiles(query: Query, splits: Sequence[str]) -> dict[str, str]:
    """What the report on tools has besides: the percentiles of the calls it is about, and which are whose."""
    partitions = {name: _PARTITIONS[name] for name in ("tool", *splits) if name in _PARTITIONS}
    conditions = [*_of_times(query), *_of_usage(query)]
    form = _PERCENTILES if conditions or len(partitions) > 1 else _PERCENTILES_OF_ALL
    percentiles = form.format(
        keys=", ".join(f"{column} AS {name}" for name, (column, _) in partitions.items()),
        partition=", ".join(column for column, _ in partitions.values()),
        names=", ".join(partitions),
        where_calls=_condition(["u.duration_ms IS NOT NULL", *conditions]),
    )
    return {
        "percentiles": percentiles.strip(),
        "same": " AND ".join(f"d.{name} IS {column}" for name, (_, column) in partitions.items()),
    }


def _blocks(query: Query, parts: dict[str, str], sums: Iterable[str], splits: Sequence[str]) -> str:
    length = query.block_hours * blocks.HOUR
    names = "".join(f",\n  {name}" for name in splits)
    text = blocks.FORM.format(**parts, length=length, names=names, sum_names=",\n  ".join(sums))
    if splits or _of_usage(query):
        return text  # a gap in all usage says nothing of a part of it
    nothing = ", ".join(_NOTHING.get(name, "0") for name in sums)
    return text + blocks.GAPS.format(length=length, nothing=nothing, where=_condition(_of_times(query, "g")))


def _source(report: Report, query: Query) -> str:
    """The view whose rows are summed: those of the report, where the range begins and ends with one of them."""
    grain = _GRAINS.get(report.source, 1)
    return "local_usage" if (query.since or 0) % grain or (query.until or 0) % grain else report.source


def condition(query: Query, source: str = "local_usage") -> str:
    """The WHERE that limits rows `u` of one of the views to what is asked for; empty without a limit."""
    return _condition(_OF_RANGE.get(source, _of_times)(query) + _of_usage(query))


def _of_days(query: Query) -> list[str]:
    found = []
    if query.since is not None:
        found.append(f"u.local_day >= {query.since // DAY}")
    if query.until is not None:
        found.append(f"u.local_day < {query.until // DAY}")
    return found


def _of_quarters(query: Query) -> list[str]:
    """Conditions on local time. No zone is a day away from UTC: that lets the primary key find the range."""
    found = []
    if query.since is not None:
        found.append(f"u.local_at >= {query.since} AND u.quarter >= {(query.since - DAY) // QUARTER}")
    if query.until is not None:
        found.append(f"u.local_at < {query.until} AND u.quarter < {(query.until + DAY) // QUARTER}")
    return found


def _of_times(query: Query, row: str = "u") -> list[str]:
    """The same of rows that have times of their own, by an index of these."""
    found = []
    if query.since is not None:
        found.append(f"{row}.local_at >= {query.since} AND {row}.at >= {query.since - DAY}")
    if query.until is not None:
        found.append(f"{row}.local_at < {query.until} AND {row}.at < {query.until + DAY}")
    if query.ending_after is not None:
        found.append(f"{row}.end_at > {query.ending_after}")
    return found


def _of_windows(query: Query) -> list[str]:
    return _of_times(query, "w")


_GRAINS = {"local_days": DAY, "local_quarters": QUARTER, "local_tools": QUARTER}
_OF_RANGE = {
    "local_days": _of_days,
    "local_quarters": _of_quarters,
    "local_tools": _of_quarters,
    "windows": _of_windows,
}


def _of_usage(query: Query) -> list[str]:
    found = []
    if query.projects is not None:
        found.append(f"u.session_id IN (SELECT id FROM sessions WHERE project_id IN ({_ids(query.projects)}))")
    if query.models is not None:
        found.append(f"u.model_id IN ({_ids(query.models)})")
    if query.sessions is not None:
        found.append(f"u.session_id IN ({_ids(query.sessions)})")
    if query.hosts is not None:
        found.append(f"u.host_id IN ({_ids(query.hosts)})")
    return found


def _condition(found: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(found)}" if found else ""


def _ids(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


def views() -> Iterator[str]:
    """The views of the reports, as they stand in views.sql."""
    for report in REPORTS.values():
        yield f"-- One row per {report.about}.\nCREATE VIEW {report.view} AS\n{sql(report)};\n"


def rows(connection: sqlite3.Connection, report: Report, query: Query = EVERYTHING) -> tuple[list[str], list[Row]]:
    """Columns and rows of a report in its own order: a timeline from old to new, else the largest first."""
    cursor = connection.execute(f"{sql(report, query)}\nORDER BY {report.order}")
    names = [column[0] for column in cursor.description]
    return names, [_readable(dict(zip(names, row, strict=True))) for row in cursor]


def limited(report: Report, found: list[Row], count: int | None) -> list[Row]:
    """The newest rows of a timeline, else the largest; None and 0 are all."""
    if not count:
        return found
    if not report.is_timeline:
        return found[:count]
    used = [place for place, row in enumerate(found) if not row.get("is_gap")]
    return found[used[-count] :] if count < len(used) else found


def is_reversed(report: Report, order: str | None) -> bool:
    """Whether that order is not the report's own."""
    return order is not None and (order == "desc") == report.is_timeline


def break_down(connection: sqlite3.Connection, report: Report, query: Query, found: Sequence[Row]) -> None:
    """Gives each row its parts by model, the dearest first."""
    _, parts = rows(connection, report, query._replace(splits=(*query.splits, "model")))
    keys = [report.key, *query.splits]
    by_key: dict[tuple[Any, ...], list[Row]] = {}
    for part in sorted(parts, key=lambda part: (-(part["cost_usd"] or 0), -part["total_tokens"], part["model"])):
        summed = {name: part[name] for name in ("model", *SUMS) if name in part and name != "models"}
        by_key.setdefault(tuple(part[key] for key in keys), []).append(summed)
    for row in found:
        # A gap may begin with the block that ends it.
        row["breakdown"] = [] if row.get("is_gap") else by_key.get(tuple(row[key] for key in keys), [])


def _readable(row: Row) -> Row:
    """Lists as lists and truth as truth, as JSON has them."""
    for name, value in row.items():
        if name in ("models", "shared_with", "forked_from"):
            row[name] = sorted(json.loads(value))
        elif name.startswith("is_"):
            row[name] = bool(value)
    return row
