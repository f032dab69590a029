"""The reports: `cm daily`, `weekly`, `monthly`, `hourly`, `sessions`, `projects`, `models`, `hosts` and so on."""

from __future__ import annotations

import sqlite3
import time
from datetime import date, timedelta

import click

from .. import blocks as windows
from .. import completion, config, filters, settings, zones
from .. import reports as library
from ..cli import index_options, json_option, refresh_option, timezone_option
from ..errors import BadInput
from ..output import dumps, printable, render
from ..projects import find as find_projects
from ..store import explain, snapshot
from .common import ids_of, open_index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ..reports import Query, Report, Row

    Options = dict[str, Any]
    Option = Callable[[Callable[..., Any]], Callable[..., Any]]

_EPOCH = date(1970, 1, 1)
_RECENT_DAYS = 3
# What `agents --by` is a report of, and what `--by` splits the rows of any report by.
_BY = {"agent": "agents", "skill": "skills", "mcp-server": "mcp-servers", "plugin": "plugins"}
_SPLITS = {"project": ("project",), "host": ("host", "user"), "user": ("user",)}


def _run(name: str, options: Options) -> None:
    if options["as_json"] and options["as_csv"]:
        raise click.UsageError("--json and --csv are two forms; give one of them")
    connection = open_index(options["db"], options["roots"], options["no_refresh"], name)
    try:
        zones.apply(connection, options["timezone"])
        with snapshot(connection):
            _print(connection, name, options)
    except sqlite3.Error as error:
        raise explain(config.database(options["db"]), error) from error
    finally:
        connection.close()


def _print(connection: sqlite3.Connection, name: str, options: Options) -> None:
    report = library.REPORTS[name]
    query = query_of(connection, report, options)
    columns, found = library.rows(connection, report, query)
    if report.key == "block":
        columns = columns + _limit(found, options)
        found = _wanted_blocks(found, options)
    if not options["as_json"] and not options["as_csv"]:
        from . import report_tables  # it imports rich, which takes longer than most reports

        report_tables.show(connection, name, found, query, options)
        return
    shown = library.limited(report, found, options["limit"])
    if options["breakdown"]:
        library.break_down(connection, report, query, shown)
    if library.is_reversed(report, options["order"]):
        shown.reverse()
    if options["as_json"]:
        click.echo(dumps(shown, indent=True))
    else:
        click.echo(_csv(report, columns, shown, query, options["breakdown"]))


def _csv(report: Report, columns: Sequence[str], rows: Sequence[Row], query: Query, is_broken_down: bool) -> str:
    """One line per row; broken down, one per row and model, with what the row is known by."""
    if is_broken_down:
        keys = [report.key, *query.splits]
        sums = [name for name in library.SUMS if name in columns and name != "models"]
        columns = [*keys, *(["model"] if report.key != "model" else []), *sums]
        rows = [{**{key: row[key] for key in keys}, **part} for row in rows for part in row["breakdown"]]
    return render(columns, [[_csv_cell(row[name]) for name in columns] for row in rows], "csv")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, (str, list)):
        return printable(value if isinstance(value, str) else ", ".join(value))
    return int(value) if isinstance(value, bool) else value


# What is asked


def query_of(connection: sqlite3.Connection, report: Report, options: Options) -> Query:
    """What the options of a report ask for. Raises BadInput."""
    start_of_week = settings.DAYS.index(config.start_of_week(options.get("start_of_week")))
    since, until = _range(connection, report, options, start_of_week)
    return library.Query(
        since=since,
        until=until,
        ending_after=_ending_after(options),
        projects=ids_of(connection, find_projects, "project", options["projects"]),
        models=ids_of(connection, filters.models, "model", options["models"]),
        sessions=ids_of(connection, filters.sessions, "session", options.get("sessions", ())),
        hosts=ids_of(connection, filters.hosts, "host", options["hosts"]),
        splits=_splits(report, options),
        is_recorded=options["cost"] == "recorded",
        start_of_week=start_of_week,
        block_hours=options.get("session_length", windows.HOURS),
    )


def _splits(report: Report, options: Options) -> tuple[str, ...]:
    wanted = [*(["project"] if options.get("instances") else []), *options["by"]]
    if report.key == "host":
        wanted.append("user")
    return tuple(dict.fromkeys(name for by in wanted for name in _SPLITS.get(by, ()) if name != report.key))


def _range(
    connection: sqlite3.Connection, report: Report, options: Options, start_of_week: int
) -> tuple[int | None, int | None]:
    """The first millisecond of local time, and the first after the range."""
    now = int(time.time() * 1000)
    local = now + zones.offset_at(connection, now)
    today = _EPOCH + timedelta(local // library.DAY)
    first = filters.first_day(options["since"], today, start_of_week) if options["since"] else None
    last = filters.last_day(options["until"], today, start_of_week) if options["until"] else None
    if first and last and last < first:
        raise BadInput(f"--until {options['until']} is before --since {options['since']}; exchange them")
    if count := options.get("last"):
        if first:
            raise click.UsageError("--last and --since both say where to begin; give one of them")
        if report.key == "hour":
            return (local // windows.HOUR - count + 1) * windows.HOUR, _after(last)
        first = filters.day_of_last(count, report.key, today, start_of_week)
    return None if first is None else _milliseconds(first), _after(last)


def _milliseconds(day: date) -> int:
    return (day - _EPOCH).days * library.DAY


def _after(day: date | None) -> int | None:
    return None if day is None else _milliseconds(day) + library.DAY


# Blocks


def _ending_after(options: Options) -> int | None:
    """Spares the sums of blocks that are not asked for, unless the largest of all is."""
    if options.get("token_limit") == "max" or not (options.get("is_active") or options.get("is_recent")):
        return None
    now = int(time.time() * 1000)
    return now if options["is_active"] else now - _RECENT_DAYS * library.DAY


def _wanted_blocks(found: list[Row], options: Options) -> list[Row]:
    if options["is_active"]:
        return [row for row in found if row["is_active"]]
    if options["is_recent"]:
        from datetime import UTC, datetime

        since = (datetime.now(UTC) - timedelta(_RECENT_DAYS)).isoformat(timespec="milliseconds")
        return [row for row in found if row["is_active"] or row["block"] >= since]
    return found


def _limit(found: Sequence[Row], options: Options) -> list[str]:
    """Holds blocks against a limit of tokens, and names the columns that say so."""
    if options["token_limit"] is None:
        return []
    ended = [row["total_tokens"] for row in found if not row["is_active"]]
    limit = max(ended, default=0) if options["token_limit"] == "max" else options["token_limit"]
    for row in found:
        expected = row["projected_total_tokens"] or row["total_tokens"]
        row["token_limit"] = limit
        row["limit_percent"] = 100 * row["total_tokens"] / limit if limit else None
        row["is_over_limit"] = bool(limit) and expected > limit
    return ["token_limit", "limit_percent", "is_over_limit"]


def _token_limit(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    """A number of tokens, or `max`: the most that any block used."""
    if value is None or value == "max":
        return value
    if not (value.isascii() and value.isdigit() and int(value)):
        raise click.BadParameter(f"{value!r} is neither a number of tokens nor max")
    return int(value)


# The commands


def _shared(name: str, own: Sequence[Option]) -> list[Option]:
    """Options of every report, with its own in between."""
    is_timeline = library.REPORTS[name].is_timeline
    kinds = [*(_BY if name == "agents" else ()), "host", "user"]
    by = "What it is for; host or user: one row for each, too." if name == "agents" else "One row for each, too."
    return [
        click.option("-s", "--since", metavar="DAY", help=f"From that local day on: {filters.DATES}."),
        click.option("-u", "--until", metavar="DAY", help="To the end of that local day; 7d: before the last seven."),
        *own,
        click.option(
            "-p", "--project", "projects", multiple=True, metavar="TEXT", shell_complete=completion.projects,
            help="Only that project: its path, its name, or a part of one path.",
        ),
        click.option(
            "--model", "models", multiple=True, metavar="TEXT", shell_complete=completion.models,
            help="Only models with that in their name.",
        ),
        click.option(
            "--host", "hosts", multiple=True, metavar="TEXT", shell_complete=completion.hosts,
            help="Only that machine of a merged index: its name, its user, user@host, or a part of it.",
        ),
        click.option("--by", multiple=True, type=click.Choice(kinds), help=by),
        click.option("-b", "--breakdown", is_flag=True, help="Show each model's part."),
        click.option(
            "-o", "--order", type=click.Choice(["asc", "desc"]),
            help="By time; default: asc." if is_timeline else "By size; default: desc.",
        ),
        click.option(
            "--limit", type=click.IntRange(0), metavar="N",
            help=f"Only so many rows, the {'newest' if is_timeline else 'largest'}; 0: all, also on a terminal.",
        ),
        timezone_option,
        click.option(
            "--cost", type=click.Choice(["computed", "recorded"]), default="computed", show_default=True,
            help="recorded: what very old transcripts say it cost, where they do.",
        ),
        click.option("-O", "--offline", is_flag=True, hidden=True),  # nothing is ever fetched
        click.option("--csv", "as_csv", is_flag=True, help="Print CSV."),
        json_option,
        refresh_option,
        index_options,
    ]  # fmt: skip


def _command(name: str, text: str, *own: Option) -> click.Command:
    def run(**options: Any) -> None:
        _run(next((_BY[by] for by in options["by"] if by in _BY), name), options)

    for option in reversed(_shared(name, own)):
        run = option(run)
    return click.command(name, help=text)(run)


def _last(periods: str) -> Option:
    return click.option(
        "--last", type=click.IntRange(1), metavar="N", help=f"The last N {periods}; the present one counts."
    )


_BY_PROJECT = click.option("-i", "--instances", is_flag=True, help="One row per project, too.")

daily = _command("daily", "Usage by day.", _last("days"), _BY_PROJECT)
weekly = _command(
    "weekly",
    "Usage by week.",
    _last("weeks"),
    click.option(
        "-w", "--start-of-week", type=click.Choice(settings.DAYS), help="Default: as configured, else monday."
    ),
    _BY_PROJECT,
)
monthly = _command("monthly", "Usage by month.", _last("months"), _BY_PROJECT)
hourly = _command("hourly", "Usage by hour.", _last("hours"), _BY_PROJECT)
sessions = _command(
    "sessions",
    "Usage by session, subagents included; and how much of it stands in other sessions too.",
    click.option(
        "-i", "--id", "sessions", multiple=True, metavar="ID", help="Only that session; the beginning is enough."
    ),
)
projects = _command("projects", "Usage by project.")
models = _command("models", "Usage by model.")
hosts = _command("hosts", "Usage by machine and user: this one, and those whose indexes were merged into this one.")
agents = _command(
    "agents",
    "Usage by type of subagent, or by what newer versions of Claude Code attribute it to.",
)
tools = _command(
    "tools",
    """Calls by tool: how many, how many failed, how long they took, how much they gave back, what searches cost.

    Tokens and cost are those of the responses that call the tool. One that calls two tools counts for both.""",
)
blocks = _command(
    "blocks",
    """Usage by block: the windows of five hours in which a subscription's limits are counted.

    A block starts with the full hour, UTC, of its first response. The next starts with the first response more than
    five hours after that.""",
    click.option("-a", "--active", "is_active", is_flag=True, help="Only the block that is open now."),
    click.option("-r", "--recent", "is_recent", is_flag=True, help=f"Only blocks of the last {_RECENT_DAYS} days."),
    click.option(
        "-t",
        "--token-limit",
        metavar="N|max",
        callback=_token_limit,
        help="Hold blocks against so many tokens; max: the most so far.",
    ),
    click.option(
        "-n",
        "--session-length",
        type=click.IntRange(1, 720),
        default=windows.HOURS,
        show_default=True,
        metavar="HOURS",
        help="How long a block is.",
    ),
)
