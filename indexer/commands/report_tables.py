"""The reports as tables: their title, the lines that fit on the terminal, the sum, and what there is to know of it."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

import click

from .. import config, projects, reports, sessions, tables, zones
from ..cli import say
from ..output import counted, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from typing import Any

    from ..reports import Query, Report, Row
    from ..tables import Line, Names

    Options = dict[str, Any]

# A terminal's lines around rows: title, header, total with their rules, empty lines, the next prompt.
_FRAME = 9
_LEAST_ROWS = 5

_TITLES = {
    "daily": ("Usage by day", "days"),
    "weekly": ("Usage by week", "weeks"),
    "monthly": ("Usage by month", "months"),
    "hourly": ("Usage by hour", "hours"),
    "sessions": ("Usage by session", "sessions"),
    "projects": ("Usage by project", "projects"),
    "models": ("Usage by model", "models"),
    "hosts": ("Usage by machine", "machines"),
    "agents": ("Usage by type of agent", "types"),
    "skills": ("Usage by skill", "skills"),
    "mcp-servers": ("Usage by MCP server", "servers"),
    "plugins": ("Usage by plugin", "plugins"),
    "tools": ("Calls by tool", "tools"),
    "blocks": ("Usage by block of {hours} hours", "blocks"),
}
_MODELS = """
SELECT m.name, m.canonical
FROM models AS m
ORDER BY (SELECT max(p.output) FROM prices AS p WHERE p.model = m.canonical) DESC, m.canonical
"""
# What can be summed over rows: sessions only where each is in one row, a tool's cost never.
_USED = (
    "input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens", "total_tokens",
    "unpriced_tokens", "cost_usd", "responses",
)  # fmt: skip
_SUMMED = {
    "": _USED,
    "agent": (*_USED, "runs"),
    "project": (*_USED, "sessions"),
    "tool": ("calls", "errors", "result_bytes", "web_searches", "web_search_cost_usd"),
}
# Of what has no name.
_UNNAMED = {"agent": "main conversation", "skill": "no skill", "mcp_server": "no MCP server", "plugin": "no plugin"}


def show(connection: sqlite3.Connection, name: str, found: list[Row], query: Query, options: Options) -> None:
    """Prints the table of a report."""
    report = reports.REPORTS[name]
    if not found:
        say(_nothing(connection, query, options))
        return
    notes = _notes(connection, report, found, query)
    shown = reports.limited(report, found, options["limit"])
    if options["breakdown"]:
        reports.break_down(connection, report, query, shown)
    if _is_cut(options):
        shown = _fitting(report, shown, notes)
    if len(shown) < len(found):
        notes.insert(0, _left_out(name, report, _rows(found) - _rows(shown), query, options))
    if reports.is_reversed(report, options["order"]):
        shown = shown[::-1]
    title = click.style(_title(connection, name, query, options), bold=True)
    text = _table(connection, name, shown, _total(report, found, query), query)
    click.echo("\n".join(["", title, "", text, "", *(click.style(note, dim=True) for note in notes)]))


def whole(connection: sqlite3.Connection, name: str) -> str:
    """The table of a report on everything, with colours."""
    report = reports.REPORTS[name]
    _, found = reports.rows(connection, report)
    return _table(connection, name, found, _total(report, found, reports.EVERYTHING), reports.EVERYTHING)


def _table(connection: sqlite3.Connection, name: str, shown: Sequence[Row], total: Row, query: Query) -> str:
    report = reports.REPORTS[name]
    width, _ = tables.terminal_size()
    lines = [line for row in shown for line in _lines(report, row)]
    return tables.draw(name, [*lines, (tables.TOTAL, total)], _names(connection, report, shown), width, query.splits)


def _nothing(connection: sqlite3.Connection, query: Query, options: Options) -> str:
    if options.get("is_active"):
        return "no block is open now; the next response starts one"
    (last,) = connection.execute("SELECT max(at) FROM responses").fetchone()
    if last is not None and (query.since or query.until or options.get("is_recent")):
        when = zones.clock(connection)(sessions.iso(last))
        return f"nothing was used in that time; the last response was at {when}"
    return "nothing was used"


def _title(connection: sqlite3.Connection, name: str, query: Query, options: Options) -> str:
    text = _TITLES[name][0].format(hours=query.block_hours)
    for what in ("since", "until"):
        text += f" {what} {options[what]}" if options[what] else ""
    if options.get("last"):
        text += f", the last {counted(options['last'], _TITLES[name][1][:-1])}"
    for wanted in (*options["projects"], *options["models"], *options.get("sessions", ()), *options["hosts"]):
        text += f", {wanted}"
    return printable(f"{text} · {zones.name(config.timezone(options['timezone']))}")


# Which rows


def _is_cut(options: Options) -> bool:
    """Who names a range or a number of rows wants to see them all."""
    asked = options["since"] or options["until"] or options.get("last") or options["limit"] is not None
    return sys.stdout.isatty() and not asked


def _fitting(report: Report, found: list[Row], notes: Sequence[str]) -> list[Row]:
    """The rows that fit on the terminal, with the notes and one that says what is left out."""
    width, height = tables.terminal_size()
    space = max(_LEAST_ROWS, height - _FRAME - 1 - sum(1 + (len(note) - 1) // width for note in notes))
    count = 0
    for row in reversed(found) if report.is_timeline else found:
        space -= len(_lines(report, row))
        if space < 0:
            break
        count += 1
    count = max(count, 1)
    return found[-count:] if report.is_timeline else found[:count]


def _rows(found: Sequence[Row]) -> int:
    return sum(not row.get("is_gap") for row in found)


def _left_out(name: str, report: Report, count: int, query: Query, options: Options) -> str:
    what = "rows" if query.splits else _TITLES[name][1]
    more = "" if options["limit"] else "; --limit 0 shows all"
    return (
        f"{count:,} {'older' if report.is_timeline else 'smaller'} {what} are not shown, but counted in the total{more}"
    )


def _lines(report: Report, row: Row) -> list[Line]:
    if row.get("is_gap"):
        return [(tables.FAINT, {**row, "lasted": f"{_passed(row['block'], row['end_at'])} unused"})]
    shown = {**row, report.key: row[report.key] or _UNNAMED.get(report.key, "")}
    if report.key == "block":
        left = f"{tables.duration(row['minutes_left'] * 60_000)} left" if row["is_active"] else ""
        shown["lasted"] = left or _passed(row["block"], row["last_at"])
    parts = row.get("breakdown", ())
    # The line itself says what the only model is.
    lines = [
        (tables.PLAIN, shown),
        *((tables.PART, part) for part in parts if len(parts) > 1 or not report.is_timeline),
    ]
    if row.get("projected_total_tokens"):
        lines.append((tables.FAINT, _projected(row)))
    return lines


def _projected(row: Row) -> Row:
    """What an active block will have used at its end, if it goes on like that."""
    limit = row.get("token_limit")
    return {
        "label": "",
        "lasted": "at this pace",
        "total_tokens": row["projected_total_tokens"],
        "cost_usd": row["projected_cost_usd"],
        "limit_percent": 100 * row["projected_total_tokens"] / limit if limit else None,
    }


def _passed(start: str, end: str) -> str:
    passed = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    return tables.duration(passed / timedelta(milliseconds=1))


# Sums


def _total(report: Report, found: Sequence[Row], query: Query) -> Row:
    """The last line of a table."""
    total: Row = {"label": "Total"}
    for name in _SUMMED.get(report.key, _SUMMED[""]):
        if name == "sessions" and query.splits:  # one may be in several rows
            continue
        values = [row[name] for row in found if row[name] is not None]
        total[name] = sum(values) if values else None
    return total


# What there is to know


def _notes(connection: sqlite3.Connection, report: Report, found: Sequence[Row], query: Query) -> list[str]:
    notes = ["Costs are what the API would charge; a subscription is not billed this way."]
    if report.key == "tool":
        notes.append("Cost is of the responses that call a tool; one that calls two counts for both.")
        notes.append("Times are from the call to its result: waiting for a permission counts.")
    if any(row["unpriced_tokens"] for row in found):
        notes.append(_unpriced(connection, query))
    if undercounted := _undercounted(connection, report, found, query):
        who = f"{undercounted:,} responses lack their" if undercounted > 1 else "One response lacks its"
        notes.append(f"{who} final output count, so the output is too low.")
    return notes


def _by_model(connection: sqlite3.Connection, query: Query) -> list[Row]:
    return reports.rows(connection, reports.REPORTS["models"], query._replace(splits=(), ending_after=None))[1]


def _unpriced(connection: sqlite3.Connection, query: Query) -> str:
    models = [row for row in _by_model(connection, query) if row["unpriced_tokens"]]
    listed = ", ".join(f"{printable(row['model'])} ({row['unpriced_tokens']:,} tokens)" for row in models)
    return f"Unpriced: {listed}; give it a price with `cm prices set`."


def _undercounted(connection: sqlite3.Connection, report: Report, found: Sequence[Row], query: Query) -> int:
    if report.key == "tool":  # a response may count for several of them
        return sum(row["undercounted_responses"] for row in _by_model(connection, query))
    return sum(row["undercounted_responses"] for row in found)


# What things are called


def _names(connection: sqlite3.Connection, report: Report, shown: Sequence[Row]) -> Names:
    models = connection.execute(_MODELS).fetchall()
    has_projects = any(row.get("project") for row in shown)
    return tables.Names(
        {name: tables.short_model(canonical) for name, canonical in models},
        projects.labels(connection) if has_projects else {},
        zones.clock(connection),
    )
