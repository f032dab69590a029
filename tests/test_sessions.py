"""What a session was: its title, what happened in it, and how it is taken up again."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from builders import PROJECT, SESSION, Home, assistant, chained, text, title, tool_result, tool_use, user, write
from conftest import RunCm
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import another_home, only, refresh, rows

from indexer import config, schema, sessions, store
from indexer.refresh import refresh as refresh_only

OTHER = "5e551000-0000-4000-8000-000000000002"
PROMPT = user("P.")
SUMMARY = {"type": "summary", "summary": "Summary", "leafUuid": PROMPT["uuid"]}
FACTS = "turns tools tool_errors files pull_requests compactions interruptions api_errors model_changes".split()


def facts(session: str = SESSION) -> dict[str, Any]:
    """What the index counted of a session."""
    row = only(rows("SELECT * FROM conversations WHERE session_id = ?", session))
    return {name: row[name] for name in FACTS}


def about(session: str = SESSION) -> dict[str, Any]:
    connection = store.open_reader(config.database())
    try:
        return sessions.about(connection, sessions.find(connection, session).id)
    finally:
        connection.close()


def eventful() -> list[Any]:
    """A session in which everything happens."""
    records = [user("One.")]
    for name, path in (("Edit", "/a"), ("Write", "/b"), ("MultiEdit", "/a"), ("Read", "/c")):
        call = tool_use(name, file_path=path, content="x")
        records += [assistant(call), tool_result(call["id"], is_error=name == "Write")]
    notebook = tool_use("NotebookEdit", notebook_path="/n.ipynb")
    records += [assistant(notebook), tool_result(notebook["id"])]
    records += [user("[Request interrupted by user for tool use]"), user("Two.")]
    records += [assistant(model="claude-sonnet-4-5"), assistant(), chained("system", subtype="compact_boundary")]
    records += [assistant(text("API Error: 529"), isApiErrorMessage=True, model="<synthetic>")]
    link = {"type": "pr-link", "sessionId": SESSION, "prNumber": 7, "prUrl": "https://git.example/7"}
    return [*records, link, link, user("<command-name>/clear</command-name>")]


def test_what_happened_is_counted(home: Home) -> None:
    write(home.transcript(), eventful())
    refresh()
    assert facts() == {
        "turns": 3, "tools": 5, "tool_errors": 1, "files": 3, "pull_requests": 1, "compactions": 1, "interruptions": 1,
        "api_errors": 1, "model_changes": 2,
    }  # fmt: skip
    told = about()
    assert told["changed_files"] == ["/a", "/b", "/n.ipynb"]
    assert told["pull_request_urls"] == ["https://git.example/7"]
    assert told["models"] == ["claude-opus-4-5-20251101", "claude-sonnet-4-5"]


@settings(max_examples=15)
@given(st.lists(st.integers(0, 5000), max_size=4).map(sorted))
def test_however_it_arrives_the_counts_are_the_same(cuts: list[int]) -> None:
    with another_home() as home:
        path = write(home.transcript(), eventful())
        data = path.read_bytes()
        refresh_only()
        at_once = facts()
    with another_home() as home:
        path = home.transcript()
        path.parent.mkdir(parents=True)
        for cut in [*cuts, len(data)]:
            path.write_bytes(data[:cut])
            refresh_only()
        assert facts() == at_once


def test_a_subagent_s_tools_count_and_its_prompts_are_no_turns(home: Home) -> None:
    write(home.transcript(), [user("One."), assistant()])
    call = tool_use("Edit", file_path="/a")
    own = {"isSidechain": True, "agentId": "a1"}
    write(home.subagent(), [user("Look.", **own), assistant(call, **own), tool_result(call["id"], **own)])
    refresh()
    found = facts()
    assert (found["turns"], found["tools"], found["files"]) == (1, 1, 1)


def test_what_stands_in_two_transcripts_happened_once(home: Home) -> None:
    path = write(home.transcript(), eventful())
    refresh()
    before = facts()
    moved = home.transcript(project="/home/dev/app/.claude/worktrees/x")
    moved.parent.mkdir()
    path.rename(moved)
    write(path, [title()])  # what Claude Code leaves behind
    refresh()
    copy = write(home.transcript("copy"), [moved.read_bytes()])
    refresh()
    assert copy.exists()
    assert facts() == before
    assert only(rows("SELECT prompt_count FROM sessions"))["prompt_count"] == 2


def test_an_index_made_before_counts_it_once_too(home: Home, db: Path) -> None:
    write(home.transcript("copy"), [write(home.transcript(), eventful()).read_bytes()])
    refresh()
    counted = "SELECT s.prompt_count, f.* FROM sessions AS s JOIN session_facts AS f ON f.session_id = s.id"
    wanted = rows(counted)
    assert (wanted[0]["prompt_count"], wanted[0]["turn_count"]) == (2, 3)
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE sessions SET prompt_count = 2 * prompt_count")
        connection.execute("UPDATE session_facts SET turn_count = 4, compaction_count = 2, interruption_count = 2")
        connection.execute("UPDATE session_facts SET api_error_count = 2 * api_error_count")
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = 'count_turns_once'")
        connection.execute(f"PRAGMA user_version = {schema.VERSION - 1}")
        connection.commit()
    refresh()
    assert rows(counted) == wanted


def test_what_is_gone_stays_counted(home: Home) -> None:
    path = write(home.transcript(), eventful())
    refresh()
    before = facts()
    path.unlink()
    write(home.transcript(OTHER), [user(sessionId=OTHER)])
    refresh()
    assert facts() == before


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([user("Prompt.")], "Prompt.", id="the first prompt"),
        pytest.param([user("Prompt."), user("Later.")], "Prompt.", id="not a later one"),
        pytest.param([PROMPT, SUMMARY], "Summary", id="a summary"),
        pytest.param(
            [PROMPT, title("Titled"), SUMMARY],
            "Titled", id="a title before a summary",
        ),
        pytest.param([user("Mine."), SUMMARY], "Mine.", id="not the summary of another session"),
        pytest.param([title("Early"), user("P."), title("Late")], "Late", id="the last title"),
        pytest.param(
            [title("By AI"), {"type": "custom-title", "customTitle": "Mine", "sessionId": SESSION}],
            "Mine", id="one's own, when it is the last",
        ),
    ],
)  # fmt: skip
def test_the_title_is_the_last_given_else_the_summary_else_the_first_prompt(
    home: Home, records: list[Any], expected: str
) -> None:
    write(home.transcript(), records)
    refresh()
    assert about()["title"] == expected


def test_a_session_is_resumed_where_claude_code_looks_for_it(home: Home) -> None:
    write(home.transcript(), [user("One.", cwd="/home/dev/app/deep"), user("Two."), user("Three.", cwd="/tmp")])
    spaced = "/home/dev/my app"
    write(home.transcript(OTHER, spaced), [user("One.", cwd=spaced, sessionId=OTHER)])
    refresh()
    assert about()["resume"] == f"cd {PROJECT} && claude --resume {SESSION}"
    assert about(OTHER)["resume"] == f"cd '{spaced}' && claude --resume {OTHER}"


def test_what_has_no_transcript_any_more_cannot_be_resumed(home: Home) -> None:
    path = write(home.transcript(), [user()])
    write(home.subagent(OTHER), [user(sessionId=OTHER, isSidechain=True)])
    refresh()
    assert about()["has_transcript"]
    path.unlink()
    refresh()
    assert not about()["has_transcript"]
    assert about(OTHER)["resume"] is None


def test_cm_sessions_tells_it(home: Home, run_cm: RunCm) -> None:
    path = write(home.transcript(), eventful())
    fork = [{**record, "sessionId": OTHER} for record in eventful_lines(path)]
    write(home.transcript(OTHER), fork)
    first, second = (
        json.loads(run_cm("sessions", "--json", "--id", SESSION).stdout)
        + json.loads(run_cm("show", OTHER, "--json", "--no-refresh").stdout)["forked_from"]
    )
    assert {name: first[name] for name in FACTS} == facts()
    assert (first["forked_from"], second) == ([], SESSION)
    wide = run_cm("sessions", env={"COLUMNS": "200"}).stdout
    assert "Turns" in wide and "Files" in wide and "PRs" in wide
    assert "Turns" not in run_cm("sessions", env={"COLUMNS": "80"}).stdout


def eventful_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_file_keeps_its_count_and_not_its_name_when_nothing_of_it_is_to_be_kept(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [user("P."), assistant(tool_use("Edit", file_path="/secret/plan"))])
    refresh()
    assert about()["changed_files"] == ["/secret/plan"]
    assert run_cm("forget", SESSION, "--yes").returncode == 0
    assert facts()["files"] == 1
    assert "secret" not in json.dumps(about())


def test_an_index_made_before_counts_what_it_still_has(home: Home, db: Path) -> None:
    import sqlite3

    path = write(home.transcript(), eventful())
    refresh()
    before = facts()
    path.unlink()
    refresh()
    from indexer import schema

    migration = next(item for item in schema.load_migrations().pending(_memory()) if item.name == "count_what_happened")
    with sqlite3.connect(db) as connection:
        connection.execute("DROP TABLE session_facts")
        migration.fn(connection)
    connection.close()
    # What tools changed, it was not told.
    assert facts() == before | {"files": 0, "model_changes": 0}


def _memory() -> Any:
    from sqlite_utils import Database

    return Database(memory=True)
