"""Rollups: whatever happens to an index, they hold what the responses and calls sum to, in every zone."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from builders import ABSENT, Home, Record, append, assistant, fresh, tool_result, tool_use, usage, user, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger import only, refresh, rows

from indexer import config, metrics, own_prices, pool, reports, rollups, store, zones
from indexer.check import check
from indexer.erasure import forget
from indexer.merge import merge
from indexer.refresh import refresh as refresh_index

OPUS, SONNET, UNKNOWN = "claude-opus-4-5-20251101", "claude-sonnet-4-5-20250929", "acme-large"
ZONES = ("UTC", "Asia/Kathmandu", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "Europe/Berlin")
SESSIONS = [f"5e551000-0000-4000-8000-00000000000{n}" for n in range(3)]
# Around a full hour, a midnight in UTC and elsewhere, the nights in which clocks change, and a change of price.
MOMENTS = [
    "2025-10-26T00:59:59.999Z", "2025-10-26T01:00:00.000Z", "2025-10-25T22:00:00.000Z", "2026-03-29T01:15:00.000Z",
    "2026-04-04T15:00:00.000Z", "2026-04-04T15:29:59.999Z", "2026-06-30T18:14:59.999Z", "2026-06-30T18:15:00.000Z",
    "2026-06-30T23:59:59.999Z", "2026-07-01T00:00:00.000Z", "2026-07-01T02:30:00.001Z", "2026-07-01T05:00:00.000Z",
]  # fmt: skip


@pytest.fixture
def index(home: Home) -> Iterator[sqlite3.Connection]:
    write(home.transcript(), [assistant(tool_use("Read"), tool_use("Read")), user()])
    refresh()
    with closing(store.open_writer(config.database())) as connection:
        yield connection


def assert_sums_are_right(db: str | None = None) -> None:
    with closing(store.open_reader(config.database(db))) as connection:
        assert rollups.wrong(connection) == {}


# What an index lives through

token = st.sampled_from([0, 1, 7, 333, 100_001])
numbers = st.fixed_dictionaries(
    {"input": token, "output": token, "cache_write": token, "cache_write_1h": token, "cache_read": token},
    optional={
        "speed": st.just("fast"),
        "inference_geo": st.just("us"),
        "server_tool_use": st.just({"web_search_requests": 2}),
    },
)
response = st.fixed_dictionaries(
    {
        "session": st.sampled_from(SESSIONS),
        "at": st.sampled_from(MOMENTS),
        "model": st.sampled_from([OPUS, SONNET, UNKNOWN]),
        "cwd": st.sampled_from(["/home/dev/app", "/home/dev/site"]),  # the earliest tells a session's project
        "usage": numbers,
        "tools": st.lists(st.sampled_from(["Read", "Bash", "mcp__docs__find"]), max_size=3),
        "isSidechain": st.booleans(),
        "stop_reason": st.sampled_from(["end_turn", None]),
        "costUSD": st.sampled_from([None, 0.25]),
    }
)
step = st.one_of(
    st.tuples(st.just("add"), st.lists(response, min_size=1, max_size=6)),
    st.tuples(st.just("grow"), st.integers(0, 5), st.sampled_from(MOMENTS)),
    st.tuples(st.just("copy"), st.sampled_from(SESSIONS), st.sampled_from(SESSIONS)),
    st.tuples(st.just("shorten"), st.sampled_from(SESSIONS)),
    st.tuples(st.just("delete"), st.sampled_from(SESSIONS)),
    st.tuples(
        st.just("price"), st.sampled_from([(1, 2), (Decimal("0.123457"), 3)]), st.sampled_from([None, date(2026, 7, 1)])
    ),
    st.tuples(st.just("zone"), st.sampled_from(ZONES)),
    st.tuples(st.just("full")),
    st.tuples(st.just("forget"), st.sampled_from(SESSIONS)),
    st.tuples(st.just("merge")),
)


class History:
    """Transcripts of three sessions, and what can happen to them."""

    def __init__(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.monkeypatch = home, monkeypatch
        self.lines: dict[str, list[Record]] = {session: [] for session in SESSIONS}

    def add(self, responses: list[dict[str, Any]]) -> None:
        for wanted in responses:
            self._add(**wanted)

    def _add(self, session: str, at: str, tools: list[str], usage: dict[str, Any], **fields: Any) -> None:
        calls = [tool_use(name) for name in tools]
        fields |= {"id": fresh("msg_{}"), "requestId": fresh("req_{}"), "timestamp": at, "sessionId": session}
        if fields["isSidechain"]:
            fields["agentId"] = "a1"
        new = [assistant(call, usage=_usage(usage), **fields) for call in calls or [{"type": "text", "text": "Done."}]]
        for call in calls[:2]:
            new.append(
                tool_result(call["id"], is_error=call["name"] == "Bash", timestamp=_later(at), sessionId=session)
            )
        self._append(session, new)

    def grow(self, number: int, at: str) -> None:
        """A response goes on: more output, another call."""
        for session, lines in self.lines.items():
            said = [record for record in lines if record["type"] == "assistant"]
            if said:
                more = assistant(tool_use("Bash"), **{"timestamp": at, "sessionId": session})
                before = said[number % len(said)]
                more["message"] |= {key: before["message"][key] for key in ("id", "model")}
                more["message"]["usage"] = before["message"]["usage"] | {"output_tokens": 500 + number}
                self._append(session, [more | {"requestId": before["requestId"]}])

    def copy(self, origin: str, fork: str) -> None:
        self._append(fork, [record | {"sessionId": fork} for record in self.lines[origin]])

    def shorten(self, session: str) -> None:
        self.lines[session] = self.lines[session][1:]
        write(self.home.transcript(session), self.lines[session])

    def delete(self, session: str) -> None:
        self.lines[session] = []
        self.home.transcript(session).unlink(missing_ok=True)

    def price(self, usd: tuple[Decimal | int, int], start: date | None) -> None:
        own_prices.set_price(config.prices_file(), OPUS, *usd, valid_from=start)

    def zone(self, name: str) -> None:
        self.monkeypatch.setenv("TZ", name)
        time.tzset()

    def full(self) -> None:
        refresh_index(full=True)

    def forget(self, session: str) -> None:
        refresh_index()
        forget(config.database(), [session], is_all=True)

    def merge(self, other: Path) -> None:
        refresh_index()
        merge(str(other), config.database())

    def _append(self, session: str, records: list[Record]) -> None:
        self.lines[session] += records
        append(self.home.transcript(session), records)


def _usage(counts: dict[str, Any]) -> Record:
    extra = {key: value for key, value in counts.items() if key in ("speed", "inference_geo", "server_tool_use")}
    return usage(**{key: value for key, value in counts.items() if key not in extra}, **extra)


def _later(at: str) -> str:
    return (datetime.fromisoformat(at) + timedelta(seconds=3)).isoformat(timespec="milliseconds")[:23] + "Z"


@pytest.fixture(scope="module")
def other_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of another machine, which has a copy of a session, and one of its own."""
    folder = tmp_path_factory.mktemp("other")
    home = Home(folder)
    for session in (SESSIONS[0], "5e551000-0000-4000-8000-000000000009"):
        calls = [tool_use("Read"), tool_use("Bash")]
        said = [assistant(call, timestamp=MOMENTS[8], sessionId=session) for call in calls]
        write(home.transcript(session), [*said, tool_result(calls[0]["id"], timestamp=MOMENTS[9], sessionId=session)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM_LOG", str(folder / "cm.log"))
        refresh_index([str(home.root)], str(folder / "cm.db"))
    with closing(sqlite3.connect(folder / "cm.db")) as connection, connection:
        connection.execute("UPDATE hosts SET name = 'elsewhere'")
    return folder / "cm.db"


@given(st.lists(step, min_size=1, max_size=7), st.sampled_from(ZONES), st.integers(0, 3))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_rollups_and_reports_are_what_the_responses_sum_to(
    tmp_path_factory: pytest.TempPathFactory, other_index: Path, steps: list[tuple[Any, ...]], zone: str, shift: int
) -> None:
    check_history(tmp_path_factory.mktemp("history"), other_index, steps, zone, shift)


@pytest.mark.nightly
@given(st.lists(step, min_size=1, max_size=12), st.sampled_from(ZONES), st.integers(0, 3))
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_in_a_long_night(
    tmp_path_factory: pytest.TempPathFactory, other_index: Path, steps: list[tuple[Any, ...]], zone: str, shift: int
) -> None:
    check_history(tmp_path_factory.mktemp("history"), other_index, steps, zone, shift)


def check_history(folder: Path, other: Path, steps: list[tuple[Any, ...]], zone: str, shift: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, place in (("HOME", ""), ("XDG_CONFIG_HOME", "config"), ("CM_DB", "cm.db"), ("CM_LOG", "cm.log")):
            patch.setenv(name, str(folder / place))
        home = Home(folder)
        patch.setenv("CLAUDE_CONFIG_DIR", str(home.root))
        history = History(home, patch)
        history.zone("UTC")
        for kind, *rest in steps:
            getattr(history, kind)(*rest, *([other] if kind == "merge" else []))
            refresh_index()
            assert_sums_are_right()
        with closing(store.open_reader(config.database())) as connection:
            assert_reports_are_right(connection, zone, MOMENTS[shift * 3])
    time.tzset()


def assert_reports_are_right(connection: sqlite3.Connection, zone: str, since: str) -> None:
    """Every report in the configured zone and in another, whole and from a day on, against sums in Python."""
    for name in (None, zone):
        if name is not None:
            zones.use(connection, name)
        local = ZoneInfo(name or os.environ["TZ"])
        responses = list(read(connection, local))
        start = datetime.fromisoformat(since).astimezone(local).date()
        for query, wanted in (
            (reports.EVERYTHING, responses),
            (
                reports.Query(since=(start - date(1970, 1, 1)).days * reports.DAY),
                [response for response in responses if response["time"].date() >= start],
            ),
        ):
            for report, key in KEYS.items():
                _, found = reports.rows(connection, reports.REPORTS[report], query)
                assert {row[reports.REPORTS[report].key]: sums_of(row) for row in found} == summed(wanted, key), report
    assert_metrics_are_right(metrics.from_index(connection), responses)


def assert_metrics_are_right(stats: metrics.ClaudeMetrics, responses: list[Record]) -> None:
    """The totals, those of each project, and of each model in it, against sums in Python."""
    by_project = summed(responses, lambda response: response["project"])
    of_models = summed(responses, lambda response: (response["project"], response["model"]))
    assert {path: sums_of_metrics(found) for path, found in stats.project_breakdown.items()} == {
        path: (*sums[:6], sums[7]) for path, sums in by_project.items()
    }
    assert {
        (path, model): (found.output_tokens, found.message_count, round(found.total_cost * 10**9))
        for path, project in stats.project_breakdown.items()
        for model, found in project.models.items()
    } == {key: (sums[1], sums[4], sums[7]) for key, sums in of_models.items()}
    unpriced = summed([response for response in responses if response["cost_usd"] is None], itemgetter("model"))
    assert stats.unpriced_models == {model: sum(sums[:4]) for model, sums in unpriced.items() if sum(sums[:4])}
    assert (stats.messages_count, stats.conversations_count) == (
        sum(response["part"] == "response" for response in responses),
        len({response["session_id"] for response in responses}),
    )
    assert stats.total_cost == pytest.approx(sum(response["cost_usd"] or 0 for response in responses), abs=1e-9)


def sums_of_metrics(found: metrics.ProjectMetrics) -> tuple[int, ...]:
    tokens = (found.total_input_tokens, found.total_output_tokens)
    cached = (found.total_cache_creation_tokens, found.total_cache_read_tokens)
    return (*tokens, *cached, found.message_count, found.conversation_count, round(found.total_cost * 10**9))


TOKENS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
KEYS: dict[str, Callable[[Record], Any]] = {
    "daily": lambda response: str(response["time"].date()),
    "weekly": lambda response: str(response["time"].date() - timedelta(response["time"].weekday())),
    "monthly": lambda response: response["time"].strftime("%Y-%m"),
    "hourly": lambda response: f"{response['time']:%Y-%m-%dT%H:00}{response['time'].isoformat()[-6:]}",
    "sessions": lambda response: response["session_id"],
    "projects": lambda response: response["project"],
    "models": lambda response: response["model"],
    "agents": lambda response: response["agent"],
    "hosts": lambda response: response["host"],
}


def read(connection: sqlite3.Connection, zone: ZoneInfo) -> Iterator[Record]:
    """What each response is in the view `usage`, and its local time by the rules of the zone."""
    for response in store.fetch_dicts(connection, "SELECT * FROM usage"):
        yield response | {"time": datetime.fromisoformat(response["at"]).astimezone(zone)}


def summed(responses: list[Record], key: Callable[[Record], Any]) -> dict[Any, tuple[Any, ...]]:
    groups = defaultdict(list)
    for response in responses:
        groups[key(response)].append(response)
    return {
        name: (
            *(sum(response[token] for response in group) for token in TOKENS),
            sum(response["part"] == "response" for response in group),
            len({response["session_id"] for response in group}),
            sum(response["is_undercounted"] for response in group),
            round(sum(response["cost_usd"] or 0 for response in group) * 10**9),
        )
        for name, group in groups.items()
    }


def sums_of(row: Record) -> tuple[Any, ...]:
    counts = (row["responses"], row.get("sessions", 1), row["undercounted_responses"])
    return (*(row[token] for token in TOKENS), *counts, round((row["cost_usd"] or 0) * 10**9))


# What a person would notice


def test_what_processes_add_to_an_index_is_in_its_sums(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        if number == 4:
            refresh()
            monkeypatch.setattr(pool, "BULK", 0)
        session = f"5e551000-0000-4000-8000-{number:012}"
        called = tool_use("Read")
        write(home.transcript(session), [assistant(called), tool_result(called["id"])])
    assert refresh_index(workers=2).files_parsed == 8
    assert_sums_are_right()


def test_a_price_that_changes_changes_what_each_kind_of_response_cost(home: Home) -> None:
    marks = {"speed": "fast", "inference_geo": "us", "service_tier": "batch"}
    kinds = [dict(some) for count in range(4) for some in combinations(marks.items(), count)]
    write(home.transcript(), [assistant(tool_use("Read"), usage=usage(input=2000, **kind)) for kind in kinds])
    refresh()
    path = Path(config.prices_file())
    path.parent.mkdir(parents=True)
    factors = "fast = 6\nus = 2\nbatch = 0.5"
    path.write_text(f"[[price]]\nmodel = 'claude-opus-4-5'\ninput = 10\noutput = 20\n{factors}\n")
    refresh()
    cost = sum(
        2.04e-2 * (6 if "speed" in kind else 1) * (2 if "inference_geo" in kind else 1) / (1 + ("service_tier" in kind))
        for kind in kinds
    )
    assert only(rows("SELECT sum(cost_usd) AS usd FROM daily_usage"))["usd"] == pytest.approx(cost)


def test_every_number_of_every_sum_is_that_of_the_responses_and_their_calls(home: Home) -> None:
    # Two in one quarter of an hour, in another, on another day, 64 days later, and in another session.
    times = ["2026-05-01T10:00:30.000Z", "2026-05-01T10:01:00.000Z", "2026-05-01T12:00:00.000Z"]
    times += ["2026-05-02T10:00:00.000Z", "2026-08-01T10:00:00.000Z", "2026-05-01T10:02:00.000Z"]
    given = [(3**n, 5**n, 7 * n, 11 + n, 13 * n + 1) for n in range(len(times))]
    for n, (at, counts) in enumerate(zip(times, given, strict=True)):
        session = SESSIONS[n // 5]
        said = usage(*counts, server_tool_use={"web_search_requests": n})
        call = tool_use("Read")
        append(
            home.transcript(session),
            [
                assistant(call, usage=said, stop_reason=None, timestamp=at, sessionId=session, costUSD=0.25),
                tool_result(call["id"], "found", is_error=n > 3, timestamp=at, sessionId=session),
            ],
        )
    refresh()
    input, output, short, long, read = map(sum, zip(*given, strict=True))
    searches, count = sum(range(len(times))), len(times)
    tokens = {"input_tokens": input, "output_tokens": output, "cache_write_tokens": short + long}
    tokens |= {"cache_read_tokens": read, "responses": count}
    costs = {"input": 5000 * input, "output": 25_000 * output, "cache_write": 6250 * short + 10_000 * long}
    costs |= {"cache_read": 500 * read, "web_search": 10**7 * searches}
    saved = 5000 * (short + long + read) - costs["cache_write"] - costs["cache_read"]
    more = {"cache_write_1h_tokens": long, "web_searches": searches, "recorded_nano": 25 * 10**7 * count}
    more |= {"parts": count, "cache_saved": saved, "undercounted_responses": sum(counts[1] <= 10 for counts in given)}
    calls = {"calls": count, "results": count, "errors": 2, "result_bytes": 5 * count}
    for table, wanted in (
        ("usage_quarters", tokens | costs | more),
        ("usage_days", tokens | costs | more),
        ("usage_tools", tokens | costs | more | calls),
        ("usage_projects", tokens | costs),
    ):
        assert only(rows(f"SELECT {', '.join(f'sum({name}) AS {name}' for name in wanted)} FROM {table}")) == wanted


def test_a_session_that_only_stood_in_leaves_nothing_in_the_sums_of_its_project(home: Home) -> None:
    path = write(home.transcript("unnamed"), [assistant(sessionId=ABSENT, timestamp=ABSENT)])
    os.utime(path, ns=(10**18, 10**18))  # a year in which nothing else was said
    refresh()
    append(path, [assistant()])
    refresh()
    assert_sums_are_right()


def test_a_wrong_sum_is_found_by_check_and_mended_by_a_full_refresh(index: sqlite3.Connection) -> None:
    for damage in (
        "UPDATE usage_projects SET output_tokens = output_tokens + 1",
        "DELETE FROM usage_quarters",
        "UPDATE usage_tools SET calls = 7",
    ):
        index.execute(damage)
        (problem,) = check(index)["sums"]
        assert damage.split()[2 if "DELETE" in damage else 1] in problem.problem and "--full" in problem.fix
        refresh(full=True)
        assert check(index)["sums"] == []


def test_an_index_of_an_earlier_cm_has_its_sums_after_the_next_refresh(index: sqlite3.Connection) -> None:
    for table in ("usage_days", "usage_quarters", "usage_tools", "usage_projects"):
        index.execute(f"DELETE FROM {table}")
    index.execute("DELETE FROM meta WHERE key IN ('rollups', 'views')")
    refresh()
    assert check(index)["sums"] == []
    assert metrics.from_index(index).messages_count == 1


def test_a_response_at_the_last_millisecond_of_a_block_is_in_it_and_the_next_one_is_not(home: Home) -> None:
    times = ["2026-07-01T00:10:00.000Z", "2026-07-01T05:00:00.000Z", "2026-07-01T05:00:00.001Z"]
    write(home.transcript(), [assistant(timestamp=at) for at in times])
    refresh()
    with closing(store.open_reader(config.database())) as connection:
        _, found = reports.rows(connection, reports.REPORTS["blocks"])
    assert [(row["block"][11:13], row["responses"]) for row in found] == [("00", 2), ("05", 1)]


def test_a_response_that_calls_a_tool_twice_is_counted_once_with_its_first_call(home: Home) -> None:
    calls = [tool_use("Read"), tool_use("Read"), tool_use("Bash")]
    same = {"id": "msg_1", "requestId": "req_1", "usage": usage(10, 20)}
    days = ["2026-07-01T23:59:59.000Z", "2026-07-02T00:00:01.000Z", "2026-07-02T00:00:02.000Z"]
    said = [assistant(call, timestamp=at, **same) for call, at in zip(calls, days, strict=True)]
    write(home.transcript(), said)
    refresh()
    day = (date(2026, 7, 2) - date(1970, 1, 1)).days * reports.DAY
    with closing(store.open_reader(config.database())) as connection:
        zones.use(connection, "UTC")
        whole, second = (
            {row["tool"]: row for row in reports.rows(connection, reports.REPORTS["tools"], query)[1]}
            for query in (reports.EVERYTHING, reports.Query(since=day))
        )
    assert [(whole[tool]["calls"], whole[tool]["output_tokens"]) for tool in ("Read", "Bash")] == [(2, 20), (1, 20)]
    assert [(second[tool]["calls"], second[tool]["output_tokens"]) for tool in ("Read", "Bash")] == [(1, 0), (1, 20)]
