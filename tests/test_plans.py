"""No statement of ordinary use reads through a table that grows with the history: its program is looked at."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
from builders import SESSION, Home, append, assistant, tool_result, tool_use, user, write

from indexer import config, metrics, reports, store
from indexer.cli import run_cli
from indexer.refresh import refresh
from indexer.web import dashboard, session

# What grows with every message; of all others a program may read every row.
LARGE = {"records", "record_usage", "responses", "tool_uses", "tool_results", "tool_calls", "passages", "contexts"}
# What reads all of one of these, and may.
ALLOWED = {
    "durations AS (": "a percentile is one of all calls of a tool, read in the order of an index of durations",
    "SELECT * FROM [tool_usage]": "the same",
    "SELECT count(*) FROM records": "SQLite counts the entries of an index, and looks at none",
    "HAVING NOT max(u.record_id": "`cm status` tells which numbers have no source left, of all there ever were",
}
RANGE = ("--since", "2026-10-01", "--until", "2026-10-31")
EXPLAINED = re.compile(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
# Operations that may go on somewhere else; after the first of these, only there.
ALWAYS = {"Goto", "Init", "Halt", "Return", "EndCoroutine"}
JUMPS = ALWAYS | set(
    "Gosub InitCoroutine Yield If IfNot IfNullRow IfPos IfNotZero DecrJumpZero IfNoHope IfNotOpen IfSmaller Once"
    " IsNull NotNull IsType Eq Ne Lt Le Gt Ge ElseEq Jump MustBeInt Rewind Last Sort SorterSort Next Prev SorterNext"
    " SeekLT SeekLE SeekGE SeekGT SeekRowid NotExists Found NotFound NoConflict IdxLT IdxLE IdxGT IdxGE SeekScan"
    " RowSetRead RowSetTest Filter Program FkIfZero VFilter VNext BeginSubrtn".split()
)


class Recorder:
    """Looks at the program of every statement that connections run which are opened meanwhile."""

    def __init__(self) -> None:
        self.scans: dict[str, set[str]] = {}
        self.seen: set[str] = set()
        self._is_looking = False

    def look(self, connection: sqlite3.Connection, sql: str) -> None:
        text = " ".join(re.sub(r"-?\b\d+\b|'[^']*'", "?", sql).split())
        if self._is_looking or not EXPLAINED.match(sql) or text in self.seen:
            return
        self.seen.add(text)
        self._is_looking = True
        try:
            found = scanned(connection, sql) & LARGE
        finally:
            self._is_looking = False
        if found:
            self.scans[text] = found


@contextmanager
def recording() -> Iterator[Recorder]:
    recorder = Recorder()

    class Watched(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.set_trace_callback(lambda sql: recorder.look(self, sql))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
        yield recorder


def scanned(connection: sqlite3.Connection, sql: str) -> set[str]:
    """Tables of which the program of a statement reads every row, of the table itself or of one of its indexes.

    A cursor that is set to its first row and moved on from there reads all, unless a LIMIT ends the loop. What only
    takes the first, as min() does, is never moved on.
    """
    program = connection.execute(f"EXPLAIN {sql}").fetchall()
    # An index of a few rows only, with a condition of its own, may be read whole.
    whole = "rootpage > 0 AND (type = 'table' OR sql IS NULL OR sql NOT LIKE '%) WHERE %')"
    roots = dict(connection.execute(f"SELECT rootpage, tbl_name FROM main.sqlite_schema WHERE {whole}"))
    reached = reachable(program)
    cursors, found = {}, set()
    for address, operation, cursor, target, third, *_ in program:
        if operation in ("OpenRead", "OpenWrite") and third == 0:
            cursors[cursor] = roots.get(target, "")
        elif operation == "Count":
            found.add(cursors.get(cursor, ""))
        elif operation in ("Next", "Prev") and address in reached and cursor in cursors:
            begin = target - 1  # the loop's first operation follows what sets the cursor
            first = program[begin][1]
            loop = {step[1] for step in program[begin:address]}
            if first in ("Rewind", "Last", "Sort") and "DecrJumpZero" not in loop:
                found.add(cursors[cursor])
    return found


def reachable(program: list[tuple[Any, ...]]) -> set[int]:
    found: set[int] = set()
    waiting = [0]
    while waiting:
        address = waiting.pop()
        if address in found or address >= len(program):
            continue
        found.add(address)
        _, operation, _, target, *_ = program[address]
        if operation in JUMPS:
            waiting.append(target)
        if operation not in ALWAYS - {"Return"}:
            waiting.append(address + 1)
    return found


@pytest.fixture
def history(home: Home) -> Iterator[Home]:
    """A small history with everything in it, as plans do not depend on how much there is."""
    calls = [tool_use("Read"), tool_use("Task", subagent_type="Explore")]
    write(home.transcript(), [user(), *(assistant(call) for call in calls), *(tool_result(c["id"]) for c in calls)])
    write(home.subagent(), [assistant(isSidechain=True, agentId="a1")])
    write(home.transcript("other"), [user(sessionId="other"), assistant(sessionId="other")])
    refresh()
    assert run_cli(["search", "build"]) == 0
    return home


def assert_reads_no_table(recorder: Recorder) -> None:
    assert len(recorder.seen) > 1
    problems = {sql: tables for sql, tables in recorder.scans.items() if not any(part in sql for part in ALLOWED)}
    assert problems == {}, "\n\n".join(f"{', '.join(tables)}: {sql}" for sql, tables in problems.items())


REPORTS = [name for name in reports.REPORTS if name not in ("skills", "mcp-servers", "plugins")]


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("options", [(), RANGE, ("--project", "app"), ("--model", "opus"), ("-z", "Asia/Tokyo")])
def test_a_report_reads_no_table_that_grows(history: Home, name: str, options: tuple[str, ...], capsys: Any) -> None:
    with recording() as recorder:
        assert run_cli([name, "--no-refresh", "--json", *options]) == 0
    assert_reads_no_table(recorder)


@pytest.mark.parametrize(
    "command",
    [
        ["refresh", "--quiet"], ["stats", "--json"], ["status", "--json"], ["statusline"], ["search", "build"],
        ["daily", "--breakdown", "--json"], ["blocks", "--active", "--json"], ["agents", "--by", "skill", "--json"],
        ["sessions", "--limit", "3", "--json"], ["show", SESSION], ["prices", "--json"], ["models", "--json"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_command_reads_no_table_that_grows(history: Home, command: list[str], capsys: Any) -> None:
    with recording() as recorder:
        assert run_cli(command) == 0
    assert_reads_no_table(recorder)


def test_a_refresh_of_what_changed_reads_no_table_that_grows(history: Home) -> None:
    with recording() as recorder:
        append(history.transcript(), [user("Go on."), assistant(tool_use("Bash"))])
        refresh()
        write(history.transcript("new"), [user(sessionId="new"), assistant(sessionId="new")])
        refresh()
        write(history.transcript("other"), [assistant(sessionId="other")])
        refresh()
        history.transcript("new").unlink()
        refresh()
    assert_reads_no_table(recorder)


def test_the_pages_read_no_table_that_grows(history: Home) -> None:
    with recording() as recorder:
        for wanted in (dashboard.Wanted(), dashboard.Wanted(since="all"), dashboard.Wanted(projects=["app"])):
            with closing(store.open_reader(config.database())) as connection:
                dashboard.numbers(connection, wanted)
        with closing(store.open_reader(config.database())) as connection:
            session.read(connection, SESSION)
            metrics.from_index(connection)
    assert_reads_no_table(recorder)


def test_the_first_rows_of_a_table_or_view_are_found_without_reading_all(history: Home) -> None:
    with recording() as recorder, closing(store.open_reader(config.database())) as connection:
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')").fetchall()
        for (name,) in names:
            connection.execute(f"SELECT * FROM [{name}] LIMIT 101").fetchall()
    assert_reads_no_table(recorder)


@pytest.mark.parametrize("view", ["messages", "usage", "conversations", "changed_files"])
def test_what_a_view_says_of_a_session_is_looked_up(history: Home, view: str) -> None:
    with closing(store.open_reader(config.database())) as connection:
        assert not scanned(connection, f"SELECT * FROM {view} WHERE session_id = '{SESSION}'") & LARGE


def test_a_scan_is_seen(history: Home) -> None:
    with closing(store.open_reader(config.database())) as connection:
        for sql in (
            "SELECT count(*) FROM responses WHERE is_undercounted",
            "SELECT count(*) FROM responses",
            "SELECT s.session_id, (SELECT max(r.text) FROM records AS r WHERE r.length > s.id) FROM sessions AS s",
            "SELECT * FROM usage ORDER BY output_tokens LIMIT 5",
        ):
            assert scanned(connection, sql) & LARGE, sql
        for sql in (
            "SELECT min(at), 1 FROM responses",
            "SELECT * FROM usage LIMIT 5",
            "SELECT * FROM responses WHERE at > 5",
            "SELECT EXISTS (SELECT 1 FROM records)",
        ):
            assert not scanned(connection, sql) & LARGE, sql
