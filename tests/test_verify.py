"""`cm verify` holds the index against the files: it is quiet when they agree, and finds what does not."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from builders import (
    Home,
    agent_progress,
    append,
    assistant,
    fresh,
    line,
    text,
    title,
    tool_result,
    tool_use,
    usage,
    user,
    write,
)
from conftest import RunCm

from indexer import config, store, verify
from indexer.refresh import refresh

OTHER = "5e552000-0000-4000-8000-000000000002"


@pytest.fixture
def a_history(home: Home) -> list[Path]:
    """All kinds of records and of bad lines."""
    call = tool_use("WebSearch")
    split = {"id": fresh("msg_01{:022}"), "requestId": "req_1"}
    advised = usage(iterations=[{"type": "advisor_message", "model": "claude-opus-4-6", "input_tokens": 3}])
    records: list[Any] = [title(), user("first"), assistant(call, **split, usage=usage(output=1))]
    records += [
        assistant(text("b"), **split),
        tool_result(call["id"], result={"searchCount": 2}),
        b"\0\0\n",
        b"{oops\n",
    ]
    records += [assistant(usage=advised), agent_progress(), line(user())[:50] + line(assistant())]
    sub = [user("look", isSidechain=True, agentId="a1"), assistant(isSidechain=True, agentId="a1")]
    copied = [*records[1:4], assistant(sessionId=OTHER)]
    paths = [write(home.transcript(), records), write(home.subagent(), sub)]
    return [*paths, write(home.transcript(OTHER), copied, newline=False)]


def test_it_compares_as_many_responses_as_the_reports_count(a_history: list[Path], run_cm: RunCm) -> None:
    counted = json.loads(run_cm("stats", "--json").stdout)["messages_count"]
    assert f", {counted} responses compared" in run_cm("verify").stdout


@pytest.fixture
def tamper(db: Path) -> Any:
    def change(*statements: str) -> None:
        connection = sqlite3.connect(db)
        for statement in statements:
            assert connection.execute(statement).rowcount > 0
        connection.commit()
        connection.close()

    return change


def verified(run_cm: RunCm, code: int = 0) -> dict[str, Any]:
    done = run_cm("verify", "--json")
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert bool(found["difference_count"]) == bool(code)
    return found


def test_an_index_that_is_right_has_no_difference(a_history, run_cm: RunCm):
    found = verified(run_cm)
    assert (found["files"], found["records"], found["differences"]) == (3, 14, [])
    assert found["kept"]["sources"] == 0
    done = run_cm("verify")
    assert (done.returncode, "no difference" in done.stdout) == (0, True)


def test_it_refreshes_first(a_history, run_cm: RunCm):
    verified(run_cm)
    append(a_history[0], [assistant()])
    assert verified(run_cm)["records"] == 15


def test_what_grew_since_the_refresh_is_compared_up_to_where_the_index_stands(a_history):
    refresh()
    append(a_history[0], [assistant()])
    connection = store.open_reader(config.database())
    try:
        assert verify.verify(connection).differences == []
    finally:
        connection.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE responses SET output_tokens = output_tokens + 1 WHERE id = (SELECT min(id) FROM responses)",
        "UPDATE responses SET web_searches = 0 WHERE web_searches > 0",
        "UPDATE responses SET session_id = (SELECT id FROM sessions WHERE id <> responses.session_id)",
        "UPDATE responses SET at = at + 1",
        "UPDATE responses SET model_id = (SELECT id FROM models WHERE id <> responses.model_id LIMIT 1) WHERE part = 1",
        "DELETE FROM responses WHERE part = 1",
        "DELETE FROM responses WHERE id = (SELECT max(id) FROM responses)",
        "UPDATE rates SET output_num = output_num * 2",
        "UPDATE records SET text = 'tampered' WHERE id = (SELECT min(id) FROM records WHERE text IS NOT NULL)",
        "UPDATE records SET at = at + 1 WHERE id = (SELECT max(id) FROM records)",
        "UPDATE records SET length = length + 1 WHERE id = (SELECT max(id) FROM records)",
        "UPDATE records SET line = line + 1 WHERE id = (SELECT max(id) FROM records)",
        "DELETE FROM records WHERE id = (SELECT max(id) FROM records)",
        "UPDATE skipped_lines SET reason = 'blank'",
        "DELETE FROM skipped_lines",
        "INSERT INTO skipped_lines SELECT id, 1, 1, 'blank', 0 FROM records LIMIT 1",
        "UPDATE projects SET path = '/elsewhere'",
        "UPDATE sessions SET project_id = (SELECT id FROM projects UNION SELECT 5 ORDER BY 1 LIMIT 1)",
    ],
)
def test_a_tampered_row_is_found(a_history, run_cm: RunCm, tamper, change):
    verified(run_cm)
    tamper("INSERT INTO projects VALUES (5, '/x', 'x')")
    tamper(change)
    assert verified(run_cm, 1)["differences"]
    assert run_cm("verify").returncode == 1


def test_a_record_that_is_not_in_the_file_is_found_by_its_place(a_history, run_cm: RunCm, tamper):
    verified(run_cm)
    tamper(
        "INSERT INTO records (id, line, length, type_id, context_id, at, flags)"
        " SELECT max(id) + 7, line, length, type_id, context_id, at, flags FROM records"
    )
    (told,) = verified(run_cm, 1)["differences"]
    assert "at byte" in told
    assert any(str(path) in told for path in a_history)


def test_what_is_gone_or_rewritten_is_listed_apart_and_is_no_difference(a_history, home: Home, run_cm: RunCm):
    kept = [assistant(usage=usage(1, 2, 3, 4, 5)), assistant(sessionId="third"), user()]
    gone = write(home.transcript("third"), kept)
    rewritten = write(home.transcript("fourth"), [assistant(sessionId="fourth"), user()])
    verified(run_cm)
    gone.unlink()
    write(rewritten, [user("something else")])
    found = verified(run_cm)
    assert found["kept"]["sources"] == 2
    assert found["kept"]["records"] == 5
    assert found["kept"]["responses"] == 3
    assert found["kept"]["tokens"] == 15 + 30 + 30
    assert "gone, rewritten or merged" in run_cm("verify").stdout


def test_an_advisor_s_call_whose_response_another_line_owned_that_is_gone_is_no_difference(home: Home, run_cm: RunCm):
    advised = usage(iterations=[{"type": "advisor_message", "model": "claude-opus-4-6", "input_tokens": 3}])
    split = {"id": fresh("msg_01{:022}"), "requestId": "req_1"}
    lines = [user(), assistant(**split, usage=usage(output=1)), assistant(**split, usage=advised)]
    path = write(home.transcript(), lines)
    refresh()
    write(path, [lines[0], lines[2]])
    done = run_cm("verify")
    assert (done.returncode, done.stderr) == (0, "")


def test_searches_of_a_call_whose_owner_is_gone_are_no_difference(home: Home, run_cm: RunCm):
    call = tool_use("WebSearch")
    lines = [assistant(call, id="gen-1", requestId=None), tool_result(call["id"], result={"searchCount": 3})]
    paths = [write(home.transcript(name), [{**record, "sessionId": name} for record in lines]) for name in "ab"]
    refresh()
    paths[0].unlink()
    done = run_cm("verify")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE responses SET output_tokens = 0 WHERE session_id = (SELECT max(session_id) FROM responses)",
        "UPDATE rates SET output_num = output_num * 2",
    ],
)
def test_a_difference_is_found_beside_what_is_gone(a_history, home: Home, run_cm: RunCm, tamper, change):
    verified(run_cm)
    a_history[1].unlink()
    verified(run_cm)
    tamper(change)
    verified(run_cm, 1)


def test_a_root_that_vanished_is_listed_apart_and_is_no_difference(
    a_history, home: Home, tmp_path, run_cm, monkeypatch
):
    second = tmp_path / "second"
    write(second / "projects" / "p" / "x.jsonl", [assistant(sessionId="x")])
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", f"{home.root},{second}")
    verified(run_cm)
    shutil.rmtree(second)
    found = verified(run_cm)
    assert (found["kept"]["sources"], found["kept"]["responses"]) == (1, 1)


def test_a_file_that_cannot_be_read_again_is_a_difference(a_history, run_cm: RunCm, make_unreadable):
    verified(run_cm)
    make_unreadable(a_history[1])
    assert any("Permission denied" in told for told in verified(run_cm, 1)["differences"])


# Real transcripts


TRANSCRIPTS = Path(os.environ.get("CM_TRANSCRIPTS") or "/nowhere")
needs_transcripts = pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="CM_TRANSCRIPTS names no folder of transcripts")


@needs_transcripts
@pytest.mark.parametrize("folder", sorted(TRANSCRIPTS.glob("*/projects")), ids=lambda path: path.parent.name)
def test_real_transcripts(folder: Path, tmp_path, run_cm: RunCm, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(folder.parent, root, symlinks=True)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(root))
    found = verified(run_cm)
    assert found["files"] > 0
    assert found["responses"] > 0
    again = json.loads(run_cm("refresh", "--json").stdout)
    assert (again["files_parsed"], again["bytes_read"]) == (0, 0)
    path = next(path for path in sorted(root.rglob("*.jsonl")) if path.read_bytes().endswith(b"\n"))
    new = line(assistant(sessionId="appended"))
    append(path, [new])
    grown = json.loads(run_cm("refresh", "--json").stdout)
    assert (grown["files_parsed"], grown["bytes_read"], grown["records_added"]) == (1, len(new), 1)
    assert verified(run_cm)["responses"] == found["responses"] + 1
    cover = json.loads(run_cm("status", "--json").stdout)["coverage"]
    data = [path.read_bytes() for path in root.rglob("*.jsonl")]
    assert cover["lines_seen"] == sum(text.count(b"\n") + (text[-1:] not in (b"", b"\n")) for text in data)
    assert cover["lines_seen"] == cover["lines_indexed"] + cover["lines_skipped"] + cover["lines_pending"]


@needs_transcripts
@pytest.mark.parametrize("before", sorted(TRANSCRIPTS.glob("*/before.jsonl")), ids=lambda path: path.parent.name)
def test_a_real_transcript_that_was_rewritten(home: Home, before: Path, run_cm: RunCm):
    path = home.transcript()
    path.parent.mkdir()
    shutil.copy(before, path)
    verified(run_cm)
    first = numbers(run_cm)
    shutil.copy(before.with_name("after.jsonl"), path)
    found = verified(run_cm)
    both = numbers(run_cm)
    assert found["kept"]["records"] > 0
    assert {key: max(output, both.get(key, -1)) for key, output in first.items()}.items() <= both.items()
    assert len(both) > len(first)


@needs_transcripts
@pytest.mark.parametrize("loose", sorted(TRANSCRIPTS.glob("*/two-records*.jsonl")), ids=lambda path: path.name)
def test_a_real_transcript_with_two_records_on_a_line(home: Home, loose: Path, run_cm: RunCm):
    home.transcript().parent.mkdir()
    shutil.copy(loose, home.transcript())
    found = verified(run_cm)
    lines = home.transcript().read_bytes().count(b"\n")
    assert found["records"] > lines
    assert json.loads(run_cm("status", "--json").stdout)["coverage"]["lines_skipped"] == 0


def numbers(run_cm: RunCm) -> dict[str, int]:
    rows = json.loads(run_cm("query", "SELECT response_key, output_tokens FROM usage").stdout)
    return {row["response_key"]: row["output_tokens"] for row in rows}
