"""The reports: sums, filters, ranges, order; JSON, CSV and tables that say the same; five-hour blocks; tools."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pytest
from builders import (
    Home,
    Record,
    assistant,
    text,
    title,
    tool_result,
    tool_use,
    usage,
    user,
    write,
)
from conftest import CHECKOUT, RunCm, clean_environment
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import filters, refresh, reports, store
from indexer.cli import run_cli
from indexer.errors import BadInput

Row: TypeAlias = dict[str, Any]
Report: TypeAlias = Callable[..., list[Row]]

APP, TWIN, API = "/home/dev/app", "/home/dev/old/app", "/home/dev/api-server"
ONE, TWO, THREE, FORK = (f"5e55100{n}-0000-4000-8000-000000000000" for n in range(1, 5))
OPUS, SONNET, HAIKU = "claude-opus-4-5-20251101", "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001"
UNPRICED = "claude-zeta-99"
SUMS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
TIMELINES = {"daily": "day", "weekly": "week", "monthly": "month", "hourly": "hour"}
KEYS = TIMELINES | {"sessions": "session_id", "projects": "project", "models": "model", "agents": "agent"}
ALL = [*KEYS, "tools", "blocks"]


def at(day: int, hour: int = 9, minute: int = 0, second: int = 0, month: int = 10) -> str:
    return f"2026-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z"


def tried(
    name: str, start: str, end: str | None, result: str = "ok", is_error: bool = False, searches: int = 0, **call: Any
) -> list[Record]:
    """A response that calls a tool, and the tool's result, if there is one."""
    use = tool_use(name)
    more = {"result": {"searchCount": searches}} if searches else {}
    answer = tool_result(use["id"], result, is_error=is_error, timestamp=end, **more)
    return [assistant(use, timestamp=start, **call), *([answer] if end else [])]


def history(home: Home) -> None:
    """Three projects, five models, a fork, subagents, tools, and all that needs a footnote."""
    shared = [
        user("Fix it.", timestamp=at(1, 8)),
        assistant(text(), timestamp=at(1, 9), usage=usage(100, 2_000, cache_write=500, cache_read=9_000)),
        assistant(text(), timestamp=at(1, 23, 30), usage=usage(10, 200), attributionSkill="review"),
    ]
    calls = [
        *tried("Bash", at(2, 9), at(2, 9, 0, 4), usage=usage(5, 50)),
        *tried("Bash", at(2, 9, 1), at(2, 9, 1, 10), "é" * 10, is_error=True, usage=usage(5, 60)),
        *tried("Bash", at(2, 9, 2), None, usage=usage(5, 70)),
        *tried("WebSearch", at(2, 10), at(2, 10, 0, 20), searches=3, usage=usage(5, 80)),
        *tried("mcp__tracker__list", at(2, 11), at(2, 11, 0, 1), usage=usage(5, 90), attributionMcpServer="tracker"),
    ]
    advice = {"type": "advisor_message", "model": "claude-opus-4-6", "input_tokens": 1_000, "output_tokens": 400}
    advised = assistant(timestamp=at(3), usage=usage(10, 100, iterations=[advice]))
    write(home.transcript(ONE, APP), [*own(ONE, APP, shared + calls + [advised]), title("Fix \x1b[31mit", ONE)])
    fork = [*own(FORK, APP, shared), *own(FORK, APP, [assistant(timestamp=at(4), usage=usage(1, 10))])]
    write(home.transcript(FORK, APP), fork)
    write(
        home.transcript(TWO, TWIN),
        own(TWO, TWIN, [
            assistant(timestamp=at(5), model=SONNET, usage=usage(20, 3_000)),
            assistant(timestamp=at(5, 12), model=SONNET, usage=usage(20, 3), stop_reason=None),
            assistant(timestamp=at(20, month=11), model=SONNET, usage=usage(20, 700), costUSD=2.5),
        ]),
    )  # fmt: skip
    write(
        home.transcript(THREE, API),
        own(THREE, API, [
            assistant(timestamp=at(1, 10), model=UNPRICED, usage=usage(7, 77)),
            assistant(timestamp=at(6), model=UNPRICED, usage=usage(3, 33)),
            assistant(timestamp=at(6, 1), model=HAIKU, usage=usage(1, 1_000)),
        ]),
    )  # fmt: skip
    for agent, kind in (("a1", "Explore"), ("a2", "Explore"), ("a3", None), ("acompact-1", None)):
        path = home.subagent(ONE, agent, APP)
        lines = [assistant(timestamp=at(2, 12), model=HAIKU, usage=usage(9, 900))]
        write(path, own(ONE, APP, lines, isSidechain=True, agentId=agent))
        if kind:
            path.with_suffix(".meta.json").write_text(json.dumps({"agentType": kind}))


def own(session: str, cwd: str, records: list[Record], **more: Any) -> list[Record]:
    return [{**record, "sessionId": session, "cwd": cwd, **more} for record in records]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The Claude config directory and the index of that history."""
    folder = tmp_path_factory.mktemp("reports")
    home = Home(folder)
    history(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("CM_LOG", str(folder / "log"))
        patch.setenv("CM_TIMEZONE", "UTC")
        refresh([str(home.root)], str(folder / "cm.db"))
    return home.root, folder / "cm.db"


@pytest.fixture
def said(
    place: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """What `cm` says on stdout; `said.errors` has what it said on stderr last."""
    monkeypatch.setenv("CM_TIMEZONE", "UTC")
    monkeypatch.setenv("COLUMNS", "100")
    root, db = place

    def say(*arguments: str) -> str:
        assert run_cli([*arguments, "--no-refresh", "--root", str(root), "--db", str(db)]) == 0
        out, say.errors = capsys.readouterr()  # type: ignore[attr-defined]
        return out

    return say


@pytest.fixture
def report(said: Callable[..., str]) -> Report:
    return lambda *arguments: json.loads(said(*arguments, "--json"))


@pytest.fixture
def used(place: tuple[Path, Path]) -> list[Row]:
    """The view `usage`."""
    return select(place[1], "SELECT * FROM usage")


def select(db: Path, sql: str) -> list[Row]:
    connection = store.open_reader(str(db))
    try:
        return store.fetch_dicts(connection, sql)
    finally:
        connection.close()


def totals(rows: list[Row]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in SUMS}


def cost(rows: list[Row]) -> float | None:
    """The priced part; None where there is none."""
    priced = [row["cost_usd"] for row in rows if row["cost_usd"] is not None]
    return pytest.approx(sum(priced)) if priced else None  # type: ignore[no-any-return]


def check(row: Row, parts: list[Row]) -> None:
    """A row of a report against the rows of `usage` that it sums."""
    assert {name: row[name] for name in SUMS} == totals(parts)
    assert row["total_tokens"] == sum(totals(parts).values())
    assert row["cost_usd"] == cost(parts)
    assert row["responses"] == sum(part["part"] == "response" for part in parts)
    assert row["undercounted_responses"] == sum(part["is_undercounted"] for part in parts)
    assert row["unpriced_tokens"] == sum(totals([part for part in parts if part["cost_usd"] is None]).values())
    assert row.get("models", [row.get("model")]) == sorted({part["model"] for part in parts})
    assert row.get("sessions", 1) == len({part["session_id"] for part in parts})


def grouped(rows: list[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return dict(found)


# What rows of `usage` belong to a row, by its key; times are in UTC here.
OF = {
    "daily": lambda row: row["at"][:10],
    "weekly": lambda row: str(monday(row["at"])),
    "monthly": lambda row: row["at"][:7],
    "hourly": lambda row: f"{row['at'][:13]}:00+00:00",
    **{name: (lambda row, key=key: row[key]) for name, key in KEYS.items() if name not in TIMELINES},
}


def monday(at: str) -> date:
    day = date.fromisoformat(at[:10])
    return day - timedelta(day.weekday())


# Sums


@pytest.mark.parametrize("name", KEYS)
def test_every_row_is_the_sum_of_what_the_view_usage_has_of_it(report: Report, used: list[Row], name: str) -> None:
    rows = report(name)
    parts = grouped(used, OF[name])
    assert {row[KEYS[name]] for row in rows} == set(parts)
    assert len(rows) == len(parts)
    for row in rows:
        check(row, parts[row[KEYS[name]]])


@pytest.mark.parametrize("name", KEYS)
def test_all_rows_together_are_all_that_was_used(report: Report, used: list[Row], name: str) -> None:
    rows = report(name)
    assert totals(rows) == totals(used)
    assert sum(row["cost_usd"] or 0 for row in rows) == cost(used)
    assert sum(row["responses"] for row in rows) == sum(row["part"] == "response" for row in used)


@pytest.mark.parametrize("name", ALL)
def test_a_report_is_its_view(place: tuple[Path, Path], report: Report, name: str) -> None:
    described = reports.REPORTS[name]
    viewed = select(place[1], f"SELECT * FROM {described.view}")
    for row in viewed:
        for column in row.keys() & {"models", "shared_with", "forked_from"}:
            row[column] = sorted(json.loads(row[column]))
    found = report(name)
    assert [list(row) for row in found] == [list(row) for row in viewed[:1]] * len(found)
    assert sorted(found, key=repr_of(described.key)) == sorted(viewed, key=repr_of(described.key))


def repr_of(key: str) -> Callable[[Row], str]:
    return lambda row: repr(row[key])


def test_the_views_stand_in_their_file_as_the_reports_say() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "--diff", "indexer/schema/views.sql"],
        cwd=CHECKOUT,
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert checked.returncode == 0, f"run `cog -r indexer/schema/views.sql`\n{checked.stdout}{checked.stderr}"


def test_nothing_used_is_an_empty_array_and_a_word_on_stderr(said: Callable[..., str]) -> None:
    assert json.loads(said("daily", "--json", "--since", "2027-05-01")) == []
    assert said("daily", "--since", "2027-05-01") == ""
    assert "nothing was used" in said.errors  # type: ignore[attr-defined]
    assert said("daily", "--csv", "--since", "2027-05-01").startswith("day,input_tokens,")


# Parts


@pytest.mark.parametrize("name", [*KEYS, "tools"])
def test_the_parts_of_a_breakdown_are_the_models_of_a_row_and_sum_to_it(report: Report, name: str) -> None:
    for row in report(name, "--breakdown"):
        parts = row["breakdown"]
        assert sorted(part["model"] for part in parts) == row.get("models", [row.get("model")])
        assert totals(parts) == {name: row[name] for name in SUMS}
        assert cost(parts) == row["cost_usd"]
        assert parts == sorted(parts, key=lambda part: -(part["cost_usd"] or 0))


def test_instances_split_each_day_by_project(report: Report, used: list[Row]) -> None:
    rows = report("daily", "-i")
    parts = grouped(used, lambda row: (row["at"][:10], row["project"]))
    assert {(row["day"], row["project"]) for row in rows} == set(parts)
    for row in rows:
        check(row, parts[row["day"], row["project"]])


def test_instances_broken_down_keep_both(report: Report) -> None:
    for row in report("monthly", "-i", "-b"):
        assert totals(row["breakdown"]) == {name: row[name] for name in SUMS}


# Filters


def test_a_project_is_named_by_path_by_name_or_by_a_part_of_one_path(report: Report, used: list[Row]) -> None:
    def of(*projects: str) -> dict[str, int]:
        return totals([row for row in used if row["project"] in projects])

    assert totals(report("daily", "--project", APP)) == of(APP)
    assert totals(report("daily", "--project", f"{APP}/")) == of(APP)
    assert totals(report("daily", "--project", "app")) == of(APP, TWIN)
    assert totals(report("daily", "--project", "SERV")) == of(API)
    assert totals(report("daily", "-p", API, "-p", TWIN)) == of(API, TWIN)


def test_a_part_of_several_projects_is_an_error_that_names_them(said: Callable[..., str]) -> None:
    with pytest.raises(BadInput, match=f"{API}, {APP}, {TWIN}"):
        said("daily", "--project", "home")


@pytest.mark.parametrize("name", ALL)
def test_what_there_is_none_of_is_empty_and_told(said: Callable[..., str], name: str) -> None:
    for option in ("--project", "--model"):
        assert json.loads(said(name, "--json", option, "nonesuch")) == []
        assert "nonesuch" in said.errors  # type: ignore[attr-defined]


def test_a_group_and_an_alias_of_the_config_name_projects(
    report: Report, used: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[projects]\n"{APP}" = {{ name = "shop", group = "work" }}\n"{API}" = {{ group = "work" }}\n')
    monkeypatch.setenv("CM_CONFIG", str(file))
    assert totals(report("daily", "--project", "work/shop")) == totals([r for r in used if r["project"] == APP])
    assert totals(report("daily", "--project", "work")) == totals([r for r in used if r["project"] != TWIN])


@pytest.mark.parametrize("name", KEYS)
def test_models_are_named_by_a_part(report: Report, used: list[Row], name: str) -> None:
    assert totals(report(name, "--model", "HAIKU")) == totals([row for row in used if row["model"] == HAIKU])
    wanted = [row for row in used if row["model"] in (HAIKU, SONNET)]
    assert totals(report(name, "--model", "haiku", "--model", "sonnet")) == totals(wanted)


def test_a_session_is_named_by_how_its_id_begins(report: Report, used: list[Row]) -> None:
    assert [row["session_id"] for row in report("session", "-i", TWO[:8])] == [TWO]
    assert totals(report("sessions", "--id", ONE)) == totals([row for row in used if row["session_id"] == ONE])


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
@pytest.mark.parametrize("name", KEYS)
def test_a_range_is_of_local_days_both_ends_included(report: Report, used: list[Row], name: str, zone: str) -> None:
    from zoneinfo import ZoneInfo

    def day(row: Row) -> str:
        return str(datetime.fromisoformat(row["at"]).astimezone(ZoneInfo(zone)).date())

    for since, until in (("2026-10-02", "2026-10-02"), ("20261001", "20261005"), ("2026-10-06", "2026-11-30")):
        first, last = (str(date.fromisoformat(text)) for text in (since, until))
        wanted = [row for row in used if first <= day(row) <= last]
        assert wanted
        assert totals(report(name, "-s", since, "-u", until, "-z", zone)) == totals(wanted)
    assert totals(report(name, "--since", "2026-10-04")) == totals([r for r in used if r["at"] >= "2026-10-04"])
    assert totals(report(name, "--until", "2026-10-03")) == totals([r for r in used if r["at"] < "2026-10-04"])


TODAY = date(2026, 3, 31)


@pytest.mark.parametrize(
    ("word", "first", "last"),
    [
        ("2026-02-28", "2026-02-28", "2026-02-28"),
        ("20260228", "2026-02-28", "2026-02-28"),
        ("2026-02", "2026-02-01", "2026-02-28"),
        ("2025-12", "2025-12-01", "2025-12-31"),
        ("today", "2026-03-31", "2026-03-31"),
        ("Yesterday", "2026-03-30", "2026-03-30"),
        ("this-week", "2026-03-30", "2026-04-05"),
        ("Last-Week", "2026-03-23", "2026-03-29"),
        ("this-month", "2026-03-01", "2026-03-31"),
        ("last-month", "2026-02-01", "2026-02-28"),
        ("1d", "2026-03-31", "2026-03-30"),
        ("7d", "2026-03-25", "2026-03-24"),
        ("2w", "2026-03-18", "2026-03-17"),
    ],
)
def test_words_for_days(word: str, first: str, last: str) -> None:
    assert str(filters.first_day(word, TODAY)) == first
    assert str(filters.last_day(word, TODAY)) == last


@pytest.mark.parametrize(
    "word",
    ["", "tomorrow", "2026-02-30", "2026-2-3", "202602", "d", "-3d", "7 d", "٧d", "0000-00-00", "2026-13", "9999-12"],
)
def test_what_is_no_day_is_an_error_that_lists_what_is(word: str) -> None:
    for read in (filters.first_day, filters.last_day):
        with pytest.raises(BadInput, match="last-month"):
            read(word, TODAY)


def test_a_week_begins_on_the_configured_day() -> None:
    assert str(filters.first_day("this-week", TODAY, 6)) == "2026-03-29"
    assert str(filters.last_day("last-week", TODAY, 6)) == "2026-03-28"


def test_months_are_counted_over_the_end_of_a_year() -> None:
    january = date(2026, 1, 15)
    assert str(filters.first_day("last-month", january)) == "2025-12-01"
    assert str(filters.last_day("last-month", january)) == "2025-12-31"
    assert str(filters.last_day("this-month", date(2026, 12, 1))) == "2026-12-31"
    assert str(filters.day_of_last(3, "month", january, 0)) == "2025-11-01"


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.integers(1, 60), st.integers(0, 6))
def test_the_last_periods_are_so_many_and_the_present_one_is_one_of_them(today: date, count: int, start: int) -> None:
    assert (today - filters.day_of_last(count, "day", today, start)).days == count - 1
    week = filters.day_of_last(count, "week", today, start)
    assert week.weekday() == start
    assert (today - week).days // 7 == count - 1
    month = filters.day_of_last(count, "month", today, start)
    assert month.day == 1
    assert (today.year - month.year) * 12 + today.month - month.month == count - 1


@pytest.mark.parametrize("text", ["7d", "99999d", "99999w", "1d"])
def test_no_number_of_days_is_too_large(text: str) -> None:
    assert filters.first_day(text, TODAY) <= TODAY
    assert filters.day_of_last(10**9, "week", TODAY, 0) < TODAY


def test_the_last_days_are_asked_of_now(tmp_path: Path, home: Home, run_cm: RunCm) -> None:
    now = datetime.now(UTC)
    lines = [assistant(timestamp=(now - timedelta(days=n)).isoformat()[:23] + "Z") for n in range(5)]
    write(home.transcript(), lines)
    environment = {"CM_TIMEZONE": "UTC"}
    days = [str((now - timedelta(days=n)).date()) for n in (2, 1, 0)]

    def found(*options: str) -> list[str]:
        return [row["day"] for row in json.loads(run_cm("daily", "-j", "-O", *options, env=environment).stdout)]

    assert found("--last", "3") == days
    assert found("--since", "3d") == days
    assert found("--since", "today") == days[2:]
    assert found("--since", "yesterday", "--until", "yesterday") == days[1:2]
    assert found("--since", "3d", "-o", "desc") == days[::-1]


def test_a_range_that_ends_before_it_begins_is_an_error(said: Callable[..., str]) -> None:
    with pytest.raises(BadInput, match="exchange"):
        said("daily", "--since", "2026-10-05", "--until", "2026-10-04")


# Order and limit


@pytest.mark.parametrize("name", [*TIMELINES, "blocks"])
def test_time_runs_downwards_unless_asked_otherwise(report: Report, name: str) -> None:
    keys = [row[KEYS.get(name, "block")] for row in report(name)]
    assert keys == sorted(keys)
    assert [row[KEYS.get(name, "block")] for row in report(name, "-o", "asc")] == keys
    assert [row[KEYS.get(name, "block")] for row in report(name, "-o", "desc")] == keys[::-1]
    # What lies between two blocks is none.
    used = [row[KEYS.get(name, "block")] for row in report(name) if not row.get("is_gap")]
    for order, wanted in (("asc", used[-2:]), ("desc", used[:-3:-1])):
        shown = report(name, "--limit", "2", "-o", order)
        assert [row[KEYS.get(name, "block")] for row in shown if not row.get("is_gap")] == wanted


def test_sessions_are_in_the_order_of_their_last_use(report: Report) -> None:
    assert [row["last_at"] for row in report("sessions")] == sorted(row["last_at"] for row in report("sessions"))
    assert [row["session_id"] for row in report("sessions", "--limit", "1")] == [TWO]


@pytest.mark.parametrize("name", ["projects", "models", "agents"])
def test_the_dearest_come_first_and_the_unpriced_last(report: Report, name: str) -> None:
    costs = [-1 if row["cost_usd"] is None else row["cost_usd"] for row in report(name)]
    assert costs == sorted(costs, reverse=True)
    rows = report(name)
    assert report(name, "--limit", "2") == rows[:2]
    assert report(name, "--order", "asc") == rows[::-1]
    assert report(name, "--limit", "0") == rows


# Costs


def test_an_unpriced_model_costs_null_and_a_sum_is_that_of_the_priced_part(report: Report, used: list[Row]) -> None:
    models = {row["model"]: row for row in report("models")}
    assert models[UNPRICED]["cost_usd"] is None
    assert models[UNPRICED]["unpriced_tokens"] == models[UNPRICED]["total_tokens"] == 120
    (day,) = report("daily", "--since", "20261006", "--until", "20261006")
    assert day["cost_usd"] == pytest.approx((1 * 1 + 1_000 * 5) / 1e6)
    assert day["unpriced_tokens"] == 36


def test_the_recorded_cost_is_shown_instead_where_there_is_one(report: Report, used: list[Row]) -> None:
    assert sum(row["cost_usd"] or 0 for row in report("daily")) == cost(used)
    (november,) = report("monthly", "--since", "2026-11-01", "--cost", "recorded")
    assert november["cost_usd"] == 2.5
    recorded = sum(row["cost_usd"] or 0 for row in report("projects", "--cost", "recorded"))
    computed = [row["cost_usd"] for row in used if row["recorded_cost_usd"] is None and row["cost_usd"] is not None]
    assert recorded == pytest.approx(2.5 + sum(computed))


# Sessions


def test_a_fork_says_what_it_shares_and_with_whom(report: Report) -> None:
    sessions = {row["session_id"]: row for row in report("sessions")}
    owner, other = sorted((ONE, FORK))
    assert (sessions[owner]["shared_responses"], sessions[owner]["shared_with"]) == (2, [other])
    assert (sessions[other]["shared_responses"], sessions[other]["shared_with"]) == (2, [owner])
    assert sessions[other]["responses"] == 1
    assert sessions[TWO]["shared_with"] == []


def test_a_session_has_its_project_its_title_and_when_it_was_used(report: Report) -> None:
    (row,) = report("sessions", "--id", TWO)
    assert (row["project"], row["first_at"], row["last_at"]) == (TWIN, at(5), at(20, month=11))
    (titled,) = report("sessions", "--id", ONE)
    assert titled["title"] == "Fix \x1b[31mit"


# Agents and tools


def test_agents_are_told_apart_by_their_type(report: Report) -> None:
    agents = {row["agent"]: row for row in report("agents")}
    assert set(agents) == {None, "Explore", "unknown", "compact"}
    assert (agents["Explore"]["runs"], agents["Explore"]["output_tokens"]) == (2, 1_800)
    assert agents[None]["runs"] == 0


def test_usage_is_attributed_to_skills_servers_and_plugins(report: Report, used: list[Row]) -> None:
    for by, key, name, output in (("skill", "skill", "review", 200), ("mcp-server", "mcp_server", "tracker", 90)):
        rows = {row[key]: row for row in report("agents", "--by", by)}
        assert set(rows) == {None, name}
        assert rows[name]["output_tokens"] == output
        assert totals(list(rows.values())) == totals(used)
    assert [row["plugin"] for row in report("agents", "--by", "plugin")] == [None]


def test_tools_have_their_calls_errors_times_results_and_searches(report: Report) -> None:
    rows = {row["tool"]: row for row in report("tools")}
    bash, search, issues = rows["Bash"], rows["WebSearch"], rows["mcp__tracker__list"]
    assert (bash["calls"], bash["errors"], bash["error_rate"]) == (3, 1, 0.5)
    assert (bash["median_ms"], bash["p95_ms"], bash["result_bytes"]) == (4_000, 10_000, 22)
    assert (search["web_searches"], search["web_search_cost_usd"]) == (3, 0.03)
    assert issues["mcp_server"] == "tracker"
    assert bash["output_tokens"] == 50 + 60 + 70
    assert search["cost_usd"] == pytest.approx((5 * 5 + 80 * 25) / 1e6 + 0.03)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=25))
def test_percentiles_are_the_smallest_times_that_so_many_are_not_above(seconds: list[int]) -> None:
    start = datetime(2026, 10, 1, tzinfo=UTC)
    ends = [(start + timedelta(seconds=n)).isoformat()[:19] + ".000Z" for n in seconds]
    with TemporaryDirectory() as folder:
        home, db = Home(Path(folder)), Path(folder) / "cm.db"
        calls = [line for end in ends for name in ("Bash", "Read") for line in tried(name, at(1, 0), end)]
        write(home.transcript(), [*calls, assistant(tool_use("Glob"))])
        refresh([str(home.root)], str(db))
        never, row, same = select(db, "SELECT tool, median_ms, p95_ms FROM tool_usage ORDER BY tool = 'Bash', tool")
    assert (never, same) == ({"tool": "Glob", "median_ms": None, "p95_ms": None}, row | {"tool": "Bash"})
    ordered = sorted(1000 * n for n in seconds)
    for name, share in (("median_ms", 0.5), ("p95_ms", 0.95)):
        assert row[name] == next(n for n in ordered if sum(other <= n for other in ordered) >= share * len(ordered))


def test_percentiles_are_those_of_the_calls_that_are_asked_for(tmp_path: Path) -> None:
    home, db = Home(tmp_path), tmp_path / "cm.db"
    for session, cwd, day, seconds in ((ONE, APP, 1, 3), (TWO, API, 2, 5)):
        write(home.transcript(session, cwd), own(session, cwd, tried("Bash", at(day), at(day, 9, 0, seconds))))
    refresh([str(home.root)], str(db))
    connection = store.open_reader(str(db))
    (one,), (api,) = (
        [row[0] for row in connection.execute(f"SELECT id FROM {table} WHERE {name} = ?", (value,))]
        for table, name, value in (("sessions", "session_id", ONE), ("projects", "path", API))
    )
    second = (datetime(2026, 10, 2) - datetime(1970, 1, 1)).days * reports.DAY
    asked = {
        3000: [reports.Query(sessions=[one]), reports.Query(until=second)],
        5000: [reports.Query(projects=[api]), reports.Query(since=second)],
    }
    for wanted, queries in asked.items():
        for query in queries:
            _, (row,) = reports.rows(connection, reports.REPORTS["tools"], query)
            assert (row["calls"], row["median_ms"], row["p95_ms"]) == (1, wanted, wanted), query
    connection.close()


# JSON, CSV and the habits of other tools' users


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def as_csv(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(int(value) if isinstance(value, bool) else value).replace("\x1b", "\\x1b")


@pytest.mark.parametrize("name", ALL)
def test_csv_says_what_json_says(said: Callable[..., str], report: Report, name: str) -> None:
    lines = read_csv(said(name, "--csv"))
    assert lines == [{key: as_csv(value) for key, value in row.items()} for row in report(name)]


@pytest.mark.parametrize("name", ["daily", "projects", "models", "tools"])
def test_csv_broken_down_has_a_line_for_each_part(said: Callable[..., str], report: Report, name: str) -> None:
    lines = read_csv(said(name, "--csv", "-b"))
    key = reports.REPORTS[name].key
    parts = [{key: row[key], **part} for row in report(name, "-b") for part in row["breakdown"]]
    assert lines == [{key: as_csv(value) for key, value in part.items()} for part in parts]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_stats_are_as_wide_as_the_terminal(
    said: Callable[..., str], report: Report, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    _, *lines = said("stats").splitlines()
    assert all(len(line) <= width for line in lines if not line.startswith("unpriced:"))
    for name in ("models", "projects"):
        for cost in (row["cost_usd"] for row in report(name)):
            assert sum(f"${cost or 0:,.2f}" in line for line in lines) or not cost or cost < 0.005


def test_cm_alone_is_the_report_by_day(said: Callable[..., str], place: tuple[Path, Path]) -> None:
    assert said("--json") == said("daily", "--json")
    assert said("-j", "-s", "20261001", "-u", "20261002", "-z", "UTC", "-b", "-i", "-O", "-o", "desc")
    assert said() == said("daily")


@pytest.mark.parametrize("name", ALL)
def test_every_report_knows_the_options_of_all(run_cm: RunCm, name: str) -> None:
    shown = run_cm(name, "--help").stdout
    for option in (
        "since",
        "until",
        "project",
        "model",
        "timezone",
        "breakdown",
        "order",
        "limit",
        "json",
        "csv",
        "cost",
    ):
        assert f"--{option}" in shown


@pytest.mark.parametrize("name", ["a b", "50%", "%20", "what?mode=rwc", "#1", "ö✓", "a\nb", "q'\"&"])
def test_the_index_may_have_any_name(home: Home, run_cm: RunCm, tmp_path: Path, name: str) -> None:
    write(home.transcript(), [assistant()])
    db = tmp_path / name / "cm.db"
    assert len(json.loads(run_cm("daily", "--json", "--db", db).stdout)) == 1
    assert sorted(path.name for path in db.parent.iterdir() if path.suffix == ".db") == ["cm.db"]


def test_options_that_contradict_are_a_usage_error(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant()])
    for options in (["--last", "2", "--since", "7d"], ["--last", "0"], ["--limit", "-1"], ["--order", "up"]):
        found = run_cm("daily", *options)
        assert (found.returncode, found.stdout) == (2, "")


@pytest.mark.skipif("CM_TRANSCRIPTS" not in os.environ, reason="CM_TRANSCRIPTS names no folder of transcripts")
def test_real_transcripts_have_the_same_sums_in_every_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [str(folder.parent) for folder in sorted(Path(os.environ["CM_TRANSCRIPTS"]).glob("*/projects"))]
    refresh(roots)
    used = select(Path(os.environ["CM_DB"]), "SELECT * FROM usage")
    for name in KEYS:
        assert run_cli([name, "--json", "--no-refresh"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert totals(rows) == totals(used)
        assert sum(row["cost_usd"] or 0 for row in rows) == cost(used)
