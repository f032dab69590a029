"""What a refresh and a report cost, counted in what no machine makes faster: modules, statements, files and bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import SESSION, Home, append, assistant, line, text, tool_result, tool_use, usage, user, write
from conftest import CHECKOUT, clean_environment

from indexer.refresh import refresh

# Runs `cm` as its script does, and then says what it imported, opened and asked of SQLite.
OBSERVED = """
import sys
before = set(sys.modules)
import sqlite3
opened, statements, connect = [], [], sqlite3.connect
def traced(*arguments, **options):
    connection = connect(*arguments, **options)
    connection.set_trace_callback(statements.append)
    return connection
sqlite3.connect = traced
sys.addaudithook(lambda event, what: event == "open" and isinstance(what[0], str) and opened.append(what[0]))
report, sys.argv = sys.argv[1], ["cm", *sys.argv[2:]]
from indexer.main import main
try:
    main()
except SystemExit as end:
    code = end.code
observed = [code, sorted(set(sys.modules) - before), statements, list(opened)]
import json
with open(report, "w") as file:
    json.dump(observed, file)
"""
# What a start that has nothing to do needs of ours; each takes 0.2 ms.
OURS = {
    *("indexer", "indexer.checkpoint", "indexer.commands", "indexer.commands.refresh", "indexer.config"),
    *("indexer.discovery", "indexer.errors", "indexer.hosts", "indexer.log", "indexer.main", "indexer.pricing"),
    *("indexer.plan", "indexer.private", "indexer.refresh", "indexer.schema", "indexer.settings", "indexer.store"),
    *("indexer.summary", "indexer.watch", "indexer.zones"),
}
# Of the standard library, what takes longer to import than to do without.
SLOW = set(
    "argparse ast asyncio contextlib dataclasses decimal email enum hashlib http importlib.metadata inspect json"
    " logging multiprocessing pathlib random re shutil socket subprocess tempfile threading tomllib typing urllib uuid"
    " zoneinfo".split()
)
FILES = 12
# Tables that grow with the history. What is temporary holds what a refresh changes.
LARGE = (
    "agents contexts files passages record_usage records responses session_facts sessions skipped_lines tool_calls"
    " tool_results tool_uses".split()
)


@dataclass
class Cost:
    """What a run of `cm` took."""

    modules: set[str]
    statements: list[str]
    opened: list[Path]

    @property
    def packages(self) -> set[str]:
        """Libraries that were imported, by their top-level names."""
        return {name.partition(".")[0] for name in self.modules} - sys.stdlib_module_names - {"indexer"}

    @property
    def questions(self) -> list[str]:
        """The statements without their values: those of one kind are equal, whatever they are asked of."""
        return [re.sub(r"'(?:[^']|'')*'|-?\d+", "?", " ".join(sql.split())) for sql in self.statements]

    @property
    def files(self) -> set[Path]:
        """What was opened that is no code."""
        code = (CHECKOUT, Path(sys.prefix), Path(sys.base_prefix))
        return {path for path in self.opened if not any(map(path.is_relative_to, code))}

    @property
    def transcripts(self) -> set[Path]:
        return {path for path in self.files if path.suffix == ".jsonl"}


def observe(*arguments: str) -> Cost:
    report = Path(os.environ["HOME"]) / "cost.json"
    command = [sys.executable, "-c", OBSERVED, str(report), *arguments]
    done = subprocess.run(command, env=clean_environment(), cwd=CHECKOUT, capture_output=True, text=True, check=True)
    code, modules, statements, opened = json.loads(report.read_text())
    assert not code, done.stderr
    return Cost(set(modules), statements, [Path(path) for path in opened])


def session(home: Home, number: int) -> str:
    """A conversation with a tool, a subagent and a title, as of long ago."""
    name = f"5e551000-0000-4000-8000-{number:012}"
    task = tool_use("Task", subagent_type="explore", prompt="Look.")
    edit = tool_use("Edit", file_path="/home/dev/app/a.py")
    paths = [
        write(
            home.transcript(name),
            [
                user(sessionId=name),
                assistant(text(), task, sessionId=name),
                tool_result(task["id"], result={"agentId": f"a{number}"}, sessionId=name),
                assistant(edit, sessionId=name),
                tool_result(edit["id"], sessionId=name),
                assistant(usage=usage(cache_read=5), sessionId=name),
            ],
        ),
        write(home.subagent(name, f"a{number}"), [assistant(sessionId=name, isSidechain=True, agentId=f"a{number}")]),
    ]
    for path in paths:
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return name


@pytest.fixture
def history(home: Home) -> Home:
    """Some sessions, indexed, and nothing new since."""
    for number in range(FILES // 2):
        session(home, number)
    observe("refresh", "--quiet")
    return home


def contents(db: Path) -> list[str]:
    """All that is in the index but the log of runs."""
    with closing(sqlite3.connect(db)) as connection:
        return [row for row in connection.iterdump() if not row.startswith('INSERT INTO "refreshes"')]


# Nothing new


def test_a_refresh_that_finds_nothing_new_imports_no_library_and_reads_no_transcript(history: Home, db: Path):
    before = contents(db)
    cost = observe("refresh", "--quiet")
    assert {name for name in cost.modules if name.partition(".")[0] == "indexer"} == OURS
    assert not cost.packages
    assert not cost.modules & SLOW
    assert cost.files == {db, Path(f"{db}.lock")}
    # The last one is the run's row.
    assert contents(db) == before
    assert len(cost.statements) <= 15
    writes = [sql for sql in cost.statements if not sql.lstrip().startswith(("SELECT", "PRAGMA"))]
    assert [sql.partition("(")[0] for sql in writes] == ["INSERT OR IGNORE INTO refreshes "]


def test_over_a_large_history_nothing_more_is_asked(history: Home):
    before = observe("refresh", "--quiet")
    for number in range(FILES, 3 * FILES):
        session(history, number)
    observe("refresh", "--quiet")
    assert observe("refresh", "--quiet").questions == before.questions


def test_a_transcript_too_young_to_be_trusted_is_looked_at_without_what_reads_one(history: Home):
    path = history.transcript(SESSION)
    now = path.stat().st_atime
    write(path, [user(), assistant()])
    os.utime(path, (now, now))
    observe("refresh", "--quiet")
    os.utime(path, None)
    observe("refresh", "--quiet")  # it was touched, and is read again
    cost = observe("refresh", "--quiet")
    assert not cost.packages
    assert "indexer.writer" not in cost.modules


# One line


def test_a_line_that_was_appended_imports_what_one_line_needs(history: Home):
    path = append(history.transcript(SESSION), [assistant()])
    cost = observe("refresh", "--quiet")
    assert cost.transcripts == {path}
    assert cost.packages - {"typing_extensions"} == {"msgspec"}  # which imports it where it is installed
    assert not cost.modules & {"json", "tomllib", "logging", "threading", "multiprocessing", "dataclasses", "asyncio"}
    assert not cost.modules & {"indexer.cli", "indexer.processes", "indexer.redaction", "indexer.archive"}


def test_nothing_more_is_asked_for_a_line_in_a_large_history(history: Home):
    name = session(history, FILES - 1)
    asked = []
    for numbers in (range(0), range(FILES, 3 * FILES)):
        for number in numbers:
            session(history, number)
        observe("refresh", "--quiet")
        append(history.transcript(name), [assistant(sessionId=name)])
        asked.append(observe("refresh", "--quiet").questions)
    assert asked[0] == asked[1]
    assert len(asked[0]) <= 105


def read_bytes(path: Path) -> int:
    """Bytes that a refresh reads of a transcript, as the system counts them."""
    report = path.parent / "strace.txt"
    command = ["strace", "-f", "-y", "-e", "trace=read,pread64,readv,preadv,mmap", "-o", str(report)]
    command += [sys.executable, "-m", "indexer", "refresh", "--quiet"]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"strace may trace nothing here: {done.stderr.strip()}")
    calls = [call for call in report.read_text().splitlines() if f"<{path}>" in call]
    assert not [call for call in calls if "mmap(" in call]
    return sum(int(call.rpartition("= ")[2]) for call in calls)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_of_a_transcript_that_grew_only_what_is_new_is_read_and_samples_of_what_is_not(history: Home):
    path = write(history.transcript(SESSION), [user("x" * 1000) for _ in range(1000)])
    os.utime(path, (1_700_000_000, 1_700_000_000))
    observe("refresh", "--quiet")
    assert read_bytes(path) == 0
    append(path, [added := line(assistant())])
    # The first and the last 4 KiB of what was known, and of what is known now.
    assert len(added) <= read_bytes(path) <= len(added) + 4 * 4096


# The first index


def steps_of_a_load(db: Path) -> int:
    """How often SQLite stopped, at every thousandth step of its programs, while all transcripts were indexed."""
    stops: list[None] = []

    class Counted(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.set_progress_handler(lambda: stops.append(None), 1000)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Counted))
        refresh(db=str(db))
    return len(stops)


def test_twice_the_history_takes_a_load_twice_the_steps(home: Home, tmp_path: Path):
    """While an index is loaded its tables have few indexes: what looks for each row reads through all others."""
    steps = []
    for number in range(120):
        session(home, number)
        if number in (59, 119):
            steps.append(steps_of_a_load(tmp_path / f"{number}.db"))
    assert steps[1] < 2.2 * steps[0]


# Plans


def scans(db: Path, statements: Sequence[str]) -> Iterator[str]:
    """Statements that read all of a table that grows with the history."""
    with closing(sqlite3.connect(db)) as connection:
        for sql in statements:
            if "CREATE TEMP TABLE" in sql:
                connection.execute(sql)
            if not sql.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
                continue
            aliases = dict(re.findall(r"\b(?:FROM|JOIN) (?:main\.)?(\w+) AS (\w+)", sql))
            large = {*LARGE, *(alias for table, alias in aliases.items() if table in LARGE)}
            large -= set(re.findall(r"\) AS (\w+)", sql))  # rows that were found already
            for *_, plan in connection.execute(f"EXPLAIN QUERY PLAN {sql}"):
                if plan.startswith("SCAN ") and plan.split()[1] in large and "COVERING" not in plan:
                    yield f"{plan}: {sql}"


def test_no_statement_of_a_refresh_reads_a_whole_table(history: Home, db: Path):
    name = session(history, 0)
    call = tool_use("Agent", subagent_type="plan", prompt="Plan.")
    rewritten = history.transcript(f"5e551000-0000-4000-8000-{1:012}")
    observe("refresh", "--quiet")
    statements = observe("refresh", "--quiet").statements
    append(history.transcript(name), [assistant(call, sessionId=name), tool_result(call["id"], sessionId=name)])
    append(history.subagent(name, "a0"), [assistant(sessionId=name, isSidechain=True, agentId="a0")])
    session(history, FILES)
    statements += observe("refresh", "--quiet").statements
    write(rewritten, [line(user())])
    history.transcript(f"5e551000-0000-4000-8000-{2:012}").unlink()
    statements += observe("refresh", "--quiet").statements
    assert list(scans(db, statements)) == []


# Reports


@pytest.mark.parametrize("command", ["stats", "daily"])
def test_a_report_imports_neither_what_reads_transcripts_nor_what_draws_tables(history: Home, db: Path, command):
    cost = observe(command, "--json")
    assert not cost.packages & {"msgspec", "rich", "sqlite_utils", "watchdog", "concurrent_log_handler", "tabulate"}
    assert not cost.modules & {"indexer.writer", "indexer.parser", "indexer.prices", "logging", "asyncio", "decimal"}
    assert not cost.transcripts
    assert cost.files == {db, Path(f"{db}.lock")}


@pytest.mark.parametrize("command", ["stats", "daily"])
def test_a_report_asks_nothing_more_of_a_large_history(history: Home, command):
    before = observe(command, "--json")
    for number in range(FILES, 3 * FILES):
        session(history, number)
    observe("refresh", "--quiet")
    after = observe(command, "--json")
    assert before.questions == after.questions
    assert len(after.questions) <= 40
