"""The numbers of the web page, as one plain object: what the page draws live, and what a report file carries."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta

from .. import __version__, config, filters, hosts, projects, reports, settings, zones
from ..errors import BadInput
from ..pricing import unpriced
from ..store import fetch_dicts, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from typing import Any, NamedTuple

    Row = dict[str, Any]

    class Wanted(NamedTuple):
        """What is asked of the page: days, projects, models and hosts, as `filters` reads them."""

        since: str | None = None
        until: str | None = None
        projects: Sequence[str] = ()
        models: Sequence[str] = ()
        timezone: str | None = None
        hosts: Sequence[str] = ()

    class Days(NamedTuple):
        """The days that are shown, both inclusive; local, as today is."""

        since: date
        until: date
        today: date
        start_of_week: int  # 0 is Monday
        is_past: bool  # nothing was asked for, and nothing was used since

else:
    from collections import namedtuple

    Wanted = namedtuple("Wanted", "since until projects models timezone hosts", defaults=(None, None, (), (), None, ()))
    Days = namedtuple("Days", "since until today start_of_week is_past")

DEFAULT_DAYS = 30
EVERYTHING = "all"
_EPOCH = date(1970, 1, 1)
_CALENDAR_WEEKS = 53
_LARGEST = 12

_OLDEST = "SELECT min(u.local_day) FROM local_days AS u {where}"
_NEWEST = "SELECT max(u.local_day) FROM local_days AS u {where}"

# Costs of what has a price; NULL where nothing has one.
_UNPRICED = "sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens"
_COST = f"sum(u.cost_nano) / 1e9 AS cost_usd, {_UNPRICED}"
_COUNTS = "sum(u.total_tokens) AS total_tokens, sum(u.responses) AS responses"
_TOKENS = """sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens, sum(u.cache_read_tokens) AS cache_read_tokens"""
_SAVED = "sum(u.cache_saved_nano) / 1e9 AS cache_saved_usd"
_SESSIONS = "count(DISTINCT u.session_id) AS sessions"
_TIMES = "min(u.at) AS first_at, max(u.last_at) AS last_at"
_DAY = "date(u.local_day * 86400, 'unixepoch') AS day"
_DEAREST = f"ORDER BY cost_usd DESC, total_tokens DESC, 1 LIMIT {_LARGEST}"

_DAILY = f"""
SELECT {_DAY}, m.name AS model, {_COST}, {_COUNTS}, {_TOKENS}, {_SAVED}, {_TIMES}
FROM {{source}} AS u
JOIN models AS m ON m.id = u.model_id
{{where}}
GROUP BY u.local_day, m.id
ORDER BY u.local_day, m.name
"""
_CALENDAR = f"""
SELECT {_DAY}, {_COST}, {_COUNTS}, {_SESSIONS}, {_TIMES}
FROM {{source}} AS u
{{where}}
GROUP BY u.local_day
ORDER BY u.local_day
"""
# Day 0 was a Thursday.
_WEEKDAYS = f"""
SELECT (u.local_day + 3) % 7 AS weekday, u.local_at / 3600000 % 24 AS hour, {_COST}, {_COUNTS}
FROM {{source}} AS u
{{where}}
GROUP BY 1, 2
ORDER BY 1, 2
"""
_TOTALS = f"""
SELECT
  {_COST}, {_COUNTS}, {_TOKENS}, {_SAVED}, {_SESSIONS}, {_TIMES}, count(DISTINCT u.local_day) AS days,
  sum(u.undercounted_responses) AS undercounted_responses
FROM {{source}} AS u
{{where}}
"""
_MODELS = f"""
SELECT m.name AS model, {_COST}, {_COUNTS}, {_TOKENS}, {_SESSIONS}
FROM {{source}} AS u
JOIN models AS m ON m.id = u.model_id
{{where}}
GROUP BY m.id
ORDER BY cost_usd DESC, total_tokens DESC, 1
"""
_PROJECTS = f"""
SELECT p.path AS project, {_COST}, {_COUNTS}, {_SESSIONS}, {_TIMES}
FROM {{source}} AS u
JOIN sessions AS s ON s.id = u.session_id
JOIN projects AS p ON p.id = s.project_id
{{where}}
GROUP BY p.id
{_DEAREST}
"""
_DEAREST_SESSIONS = f"""
SELECT
  s.session_id AS session_id, s.title AS title, p.path AS project, s.prompt_count AS prompts,
  {_COST}, {_COUNTS}, {_TIMES}
FROM {{source}} AS u
JOIN sessions AS s ON s.id = u.session_id
JOIN projects AS p ON p.id = s.project_id
{{where}}
GROUP BY s.id
{_DEAREST}
"""
_NEWEST_SESSIONS = _DEAREST_SESSIONS.replace(_DEAREST, f"ORDER BY last_at DESC, 1 LIMIT {_LARGEST}")
_AGENTS = f"""
SELECT
  CASE WHEN u.is_sidechain
    THEN coalesce(a.type, CASE WHEN x.agent LIKE 'acompact%' THEN 'compact' END, 'unknown')
  END AS agent,
  count(DISTINCT CASE WHEN u.is_sidechain THEN u.session_id || ' ' || x.agent END) AS runs,
  {_COST}, {_COUNTS}, {_SESSIONS}
FROM {{source}} AS u
JOIN contexts AS x ON x.id = u.context_id
LEFT JOIN agents AS a ON a.session_id = x.session_id AND a.agent = x.agent
{{where}}
GROUP BY 1
{_DEAREST}
"""
_TOOLS = f"""
SELECT tool, mcp_server, calls, errors, error_rate, median_ms, p95_ms, result_bytes
FROM ({{tools}})
ORDER BY calls DESC, 1
LIMIT {_LARGEST}
"""
# To the millisecond: whole days, and responses of the day that has begun.
_MOMENT_COLUMNS = "u.session_id, u.total_tokens, u.cost_nano, u.responses"
_MOMENT = f"""
SELECT {_COST}, {_COUNTS}, {_SESSIONS}
FROM (
  SELECT {_MOMENT_COLUMNS} FROM local_days AS u {{days}}
  UNION ALL
  SELECT {_MOMENT_COLUMNS} FROM local_usage AS u {{rest}}
) AS u
"""


def numbers(connection: sqlite3.Connection, wanted: Wanted) -> dict[str, Any]:
    """The numbers of the page, of a connection that is used for nothing else: days local, times UTC.

    Costs are USD; of what has no price they are None, and `unpriced_tokens` says how many tokens that is.

    Raises BadInput: there is no such day, project or zone.
    """
    zones.apply(connection, wanted.timezone)
    with snapshot(connection):
        return _numbers(connection, wanted, zones.name(config.timezone(wanted.timezone)))


def _numbers(connection: sqlite3.Connection, wanted: Wanted, zone: str) -> dict[str, Any]:
    now = int(time.time() * 1000)
    local_now = now + zones.offset_at(connection, now)
    query = reports.Query(
        projects=_ids(connection, projects.find, wanted.projects),
        models=_ids(connection, _models_named, wanted.models),
        hosts=_ids(connection, filters.hosts, wanted.hosts),
    )
    days = _days(connection, wanted, query, _EPOCH + timedelta(local_now // reports.DAY))
    return {
        "version": __version__,
        "now": datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "zone": zone,
        "today": str(days.today),
        "start_of_week": days.start_of_week,
        "range": {
            "since": str(days.since),
            "until": str(days.until),
            "days": (days.until - days.since).days + 1,
            "is_past": days.is_past,
        },
        "wanted": {key: value for key, value in wanted._asdict().items() if key != "timezone"},
        "choices": _choices(connection),
        "periods": _periods(connection, query, days, local_now),
        "block": _active_block(connection, now),
        **_in_range(connection, days, query),
        **_health(connection),
    }


def _in_range(connection: sqlite3.Connection, days: Days, query: reports.Query) -> dict[str, Any]:
    """What the chosen days hold, and the calendar that ends with them."""

    def rows(sql: str, since: date = days.since, until: date = days.until, source: str = "local_days") -> list[Row]:
        limited = query._replace(since=_number(since) * reports.DAY, until=(_number(until) + 1) * reports.DAY)
        return fetch_dicts(connection, sql.format(source=source, where=reports.condition(limited, source)))

    labels = projects.labels(connection)
    found: dict[str, Any] = {
        "totals": rows(_TOTALS)[0],
        "daily": rows(_DAILY),
        "calendar": rows(_CALENDAR, _calendar_start(days)),
        "hours": rows(_WEEKDAYS, source="local_quarters"),
        "months": rows(_CALENDAR, _first_of_last_month(days.today), days.today),
        "models": rows(_MODELS),
        "projects": rows(_PROJECTS),
        "sessions": rows(_DEAREST_SESSIONS),
        "newest_sessions": rows(_NEWEST_SESSIONS),
        "agents": rows(_AGENTS, source="local_quarters"),
        "tools": _tools(connection, days, query),
        "hosts": _hosts(connection, days, query),
    }
    for row in (*found["projects"], *found["sessions"], *found["newest_sessions"]):
        row["label"] = labels[row["project"]]
    return found


# What is asked for


def _ids(connection: sqlite3.Connection, find: Any, wanted: Sequence[str]) -> list[int] | None:
    """Ids of the rows that match any of the texts; None without a text: no limit."""
    return sorted({id for text in wanted for id in find(connection, text)}) if wanted else None


def _models_named(connection: sqlite3.Connection, wanted: str) -> list[int]:
    """The model of that name, else those that have the text in it."""
    exact = [int(id) for (id,) in connection.execute("SELECT id FROM models WHERE name = ?", (wanted,))]
    return exact or filters.models(connection, wanted)


def _days(connection: sqlite3.Connection, wanted: Wanted, query: reports.Query, today: date) -> Days:
    def found(sql: str) -> date | None:
        (number,) = connection.execute(sql.format(where=reports.condition(query, "local_days"))).fetchone()
        return None if number is None else _EPOCH + timedelta(number)

    start_of_week = settings.DAYS.index(config.start_of_week())
    if not (wanted.since or wanted.until):
        before = timedelta(DEFAULT_DAYS - 1)
        newest = found(_NEWEST) or today
        is_past = newest < today - before
        last = newest if is_past else today
        return Days(last - before, last, today, start_of_week, is_past)
    last = filters.last_day(wanted.until, today, start_of_week) if wanted.until else today
    if wanted.since in (None, "", EVERYTHING):
        first = min(last, found(_OLDEST) or last)
    else:
        first = filters.first_day(wanted.since, today, start_of_week)
    if last < first:
        raise BadInput(f"the range ends on {last}, before it begins on {first}; exchange the two")
    return Days(first, last, today, start_of_week, False)


def _number(day: date) -> int:
    return (day - _EPOCH).days


def _calendar_start(days: Days) -> date:
    return days.until - timedelta(7 * _CALENDAR_WEEKS - 1)


def _first_of_last_month(today: date) -> date:
    return filters.first_day("last-month", today)


# What is shown


def _choices(connection: sqlite3.Connection) -> dict[str, Any]:
    """What the page can be limited to: projects and models that have responses, whatever it is limited to now.

    Hosts are choices where there are several.
    """
    used = connection.execute(
        "SELECT path FROM projects AS p WHERE EXISTS ("
        " SELECT 1 FROM sessions AS s JOIN responses AS r ON r.session_id = s.id WHERE s.project_id = p.id)"
    ).fetchall()
    models = connection.execute(
        "SELECT name FROM models AS m WHERE EXISTS (SELECT 1 FROM responses AS r WHERE r.model_id = m.id) ORDER BY name"
    )
    labels = projects.labels(connection)
    named = [{"project": path, "label": labels[path]} for (path,) in used]
    return {
        "projects": sorted(named, key=lambda row: (row["label"].lower(), row["project"])),
        "models": [name for (name,) in models],
        "hosts": _host_names(connection) if hosts.others(connection) else [],
    }


def _host_names(connection: sqlite3.Connection) -> list[str]:
    return [f"{row['user']}@{row['host']}" for row in hosts.listed(connection)]


def _periods(connection: sqlite3.Connection, query: reports.Query, days: Days, now: int) -> list[Row]:
    """Today, this week and this month so far; the ones before, up to the same moment and whole."""
    week = timedelta((days.today.weekday() - days.start_of_week) % 7)
    starts = (
        ("day", days.today, days.today - timedelta(1)),
        ("week", days.today - week, days.today - week - timedelta(7)),
        ("month", days.today.replace(day=1), _first_of_last_month(days.today)),
    )
    found = []
    for period, start, start_before in starts:
        begin, begin_before = _number(start) * reports.DAY, _number(start_before) * reports.DAY
        same_moment = min(begin_before + now - begin, begin)
        found.append(
            {
                "period": period,
                "since": str(start),
                **_sum(connection, query, begin, now + 1),
                "before": {
                    "since": str(start_before),
                    "so_far": _sum(connection, query, begin_before, same_moment + 1),
                    "whole": _sum(connection, query, begin_before, begin),
                },
            }
        )
    return found


def _sum(connection: sqlite3.Connection, query: reports.Query, since: int, until: int) -> Row:
    """What was used in a span of local time, to the millisecond."""
    day = until // reports.DAY * reports.DAY
    days = reports.condition(query._replace(since=since, until=day), "local_days")
    rest = reports.condition(query._replace(since=max(since, day), until=until))
    (row,) = fetch_dicts(connection, _MOMENT.format(days=days, rest=rest))
    return row


def _active_block(connection: sqlite3.Connection, now: int) -> Row | None:
    """The window of five hours that is running, of all usage: a limit knows no filters."""
    _, rows = reports.rows(connection, reports.REPORTS["blocks"], reports.Query(ending_after=now))
    return next((row for row in reversed(rows) if row["is_active"]), None)


def _hosts(connection: sqlite3.Connection, days: Days, query: reports.Query) -> list[Row]:
    """What each machine used, where the index has several."""
    if not hosts.others(connection):
        return []
    _, rows = reports.rows(connection, reports.REPORTS["hosts"], _within(query, days))
    return [{**row, "name": f"{row['user']}@{row['host']}"} for row in rows]


def _within(query: reports.Query, days: Days) -> reports.Query:
    return query._replace(since=_number(days.since) * reports.DAY, until=(_number(days.until) + 1) * reports.DAY)


def _tools(connection: sqlite3.Connection, days: Days, query: reports.Query) -> list[Row]:
    report = reports.REPORTS["tools"]
    return fetch_dicts(connection, _TOOLS.format(tools=reports.sql(report, _within(query, days))))


def _health(connection: sqlite3.Connection) -> dict[str, Any]:
    """How far the numbers can be relied on."""
    (last,) = connection.execute(
        "SELECT strftime('%Y-%m-%dT%H:%M:%SZ', max(started_at) / 1000, 'unixepoch') FROM refreshes"
    ).fetchone()
    loading = connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone()
    (is_used,) = connection.execute("SELECT EXISTS (SELECT 1 FROM responses)").fetchone()
    return {
        "last_refresh": last,
        "is_loading": loading is not None,
        "is_empty": not is_used,
        "unpriced": unpriced(connection),
    }
