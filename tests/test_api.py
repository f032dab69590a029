"""What a Python program gets: two loaders that agree, and an index it can read and not change."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import Home, agent_progress, append, assistant, fresh, text, tool_result, tool_use, usage, user, write
from conftest import CHECKOUT, RunCm, clean_environment

from indexer import (
    ClaudeMetrics,
    connect,
    load_claude_metrics_from_home_dir,
    load_claude_metrics_from_home_dir_parallel,
    query,
    refresh,
)
from indexer.errors import BadInput, CmError, IndexUnusable

OTHER = "5e552000-0000-4000-8000-000000000002"
ADVISED = usage(iterations=[{"type": "advisor_message", "model": "claude-opus-4-6", "input_tokens": 1000}])


def split() -> list[dict[str, Any]]:
    same = {"id": fresh("msg_01{:022}"), "requestId": "req_1"}
    return [assistant(text("a"), **same, usage=usage(output=1)), assistant(text("b"), **same, usage=usage(output=300))]


def searched() -> list[dict[str, Any]]:
    call = tool_use("WebSearch")
    return [assistant(call), tool_result(call["id"], result={"searchCount": 7})]


HISTORIES: dict[str, dict[str, list[Any]]] = {
    "nothing": {},
    "an empty file": {"a": []},
    "words only": {"a": [user(), user()]},
    "one response": {"a": [assistant()]},
    "a response on three lines": {"a": split()},
    "a fork": {"a": (shared := [user(), *split()]), "b": [*shared, assistant(sessionId=OTHER)]},
    "several projects and models": {
        "a": [assistant(cwd="/p/a"), assistant(cwd="/p/a", model="claude-haiku-4-5")],
        "b": [assistant(cwd="/p/b/.claude/worktrees/x", sessionId=OTHER)],
        "c": [assistant(cwd=None, sessionId="c")],
    },
    "no price": {"a": [assistant(model="claude-zeta-99"), assistant(model=None), assistant()]},
    "searches, an advisor, another's response": {"a": [*searched(), assistant(usage=ADVISED), agent_progress()]},
    "bad lines": {"a": [assistant(), b"{oops\n", b"\0\n", b"[]\n", assistant(timestamp=None, sessionId=None)]},
    "numbers that cost fractions": {"a": [assistant(usage=usage(n, 3 * n, n, 7, 11 * n)) for n in range(1, 40)]},
}


@pytest.mark.parametrize("workers", [None, 1, 4])
@pytest.mark.parametrize("name", HISTORIES)
def test_both_loaders_return_equal_objects(home: Home, name, workers):
    for session, records in HISTORIES[name].items():
        write(home.transcript(session, f"/p/{session}"), records)
    read = load_claude_metrics_from_home_dir()
    indexed = load_claude_metrics_from_home_dir_parallel(workers=workers)
    assert isinstance(read, ClaudeMetrics)
    assert indexed == read
    assert indexed.to_dict() == read.to_dict()
    assert list(indexed.to_dict()["project_breakdown"]) == list(read.to_dict()["project_breakdown"])


def test_they_stay_equal_while_files_grow(home: Home):
    path = write(home.transcript(), split())
    for records in (searched(), [user()], [assistant(usage=ADVISED)], split()):
        append(path, records)
        assert load_claude_metrics_from_home_dir_parallel() == load_claude_metrics_from_home_dir()


def test_the_one_reads_what_is_there_and_the_other_remembers_what_was(home: Home):
    gone = write(home.transcript(), split())
    write(home.transcript(OTHER), [assistant(sessionId=OTHER)])
    before = load_claude_metrics_from_home_dir_parallel()
    gone.unlink()
    assert load_claude_metrics_from_home_dir_parallel() == before
    assert load_claude_metrics_from_home_dir().messages_count == before.messages_count - 1


def test_the_one_that_reads_stores_nothing(home: Home, db: Path, tmp_path):
    write(home.transcript(), split())
    before = sorted(tmp_path.rglob("*"))
    assert load_claude_metrics_from_home_dir().messages_count == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_object_has_the_fields_that_other_peoples_scripts_rely_on(home: Home, run_cm: RunCm):
    write(home.transcript(), [assistant(usage=usage(1, 2, 3, 4, 5)), assistant(model="claude-zeta-99")])
    found = load_claude_metrics_from_home_dir_parallel().to_dict()
    tokens = [f"total_{kind}_tokens" for kind in ("input", "output", "cache_creation", "cache_read")]
    rest = ["messages_count", "conversations_count", "model_breakdown", "project_breakdown", "last_updated"]
    assert list(found) == [*tokens, "total_cost", *rest, "unpriced_models"]
    (project,) = found["project_breakdown"].values()
    assert list(project) == ["name", *tokens, "total_cost", "message_count", "conversation_count", "models"]
    model = found["model_breakdown"]["claude-opus-4-5-20251101"]
    counts = ["input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens"]
    costs = ["input_cost", "output_cost", "cache_write_cost", "cache_read_cost", "web_search_cost", "total_cost"]
    assert list(model) == [*counts, *costs, "message_count"]
    assert [model[name] for name in counts] == [1, 2, 7, 5]
    assert found["unpriced_models"] == {"claude-zeta-99": 30}
    assert found["model_breakdown"]["claude-zeta-99"]["total_cost"] == 0.0
    assert json.loads(run_cm("stats", "--json").stdout) == found


def test_a_search_costs_a_cent_and_totals_are_the_sums_of_their_parts(home: Home):
    write(home.transcript(), [*searched(), assistant(model="claude-haiku-4-5")])
    found = load_claude_metrics_from_home_dir()
    assert found.model_breakdown["claude-opus-4-5-20251101"].web_search_cost == 0.07
    assert found.total_cost == pytest.approx(sum(model.total_cost for model in found.model_breakdown.values()))
    assert found.total_cost == pytest.approx(sum(project.total_cost for project in found.project_breakdown.values()))


def test_roots_may_be_named(home: Home, tmp_path):
    second = tmp_path / "second"
    write(second / "projects" / "p" / "x.jsonl", split())
    assert load_claude_metrics_from_home_dir([str(second)]).messages_count == 1
    assert load_claude_metrics_from_home_dir().messages_count == 0
    with pytest.raises(CmError, match="nowhere"):
        load_claude_metrics_from_home_dir([str(tmp_path / "nowhere")])


def test_queries_give_dictionaries(home: Home):
    record = assistant(usage=usage(1, 2))
    write(home.transcript(), [record])
    refresh()
    sql = "SELECT session_id, output_tokens FROM usage WHERE output_tokens > :least"
    assert query(sql, {"least": 1}) == [{"session_id": record["sessionId"], "output_tokens": 2}]
    assert query("SELECT ? AS a", ["x"]) == [{"a": "x"}]
    assert query("dearest-sessions", {"limit": 1})[0]["session_id"] == record["sessionId"]
    with pytest.raises(BadInput):
        query("DELETE FROM records")


def test_a_connection_reads_and_cannot_write(home: Home):
    write(home.transcript(), [assistant()])
    refresh()
    connection = connect()
    try:
        assert connection.execute("SELECT count(*) FROM usage").fetchone() == (1,)
        for statement in ("DELETE FROM records", "CREATE TABLE x (a)", "PRAGMA user_version = 5"):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                connection.execute(statement)
    finally:
        connection.close()


def test_without_an_index_a_connection_says_so(tmp_path):
    with pytest.raises(IndexUnusable, match="no index yet"):
        connect(str(tmp_path / "nothing.db"))
    assert not (tmp_path / "nothing.db").exists()


def test_a_reader_keeps_its_view_while_a_refresh_writes(home: Home):
    path = write(home.transcript(), [assistant()])
    refresh()
    connection = connect()
    try:
        connection.execute("BEGIN")
        assert connection.execute("SELECT count(*) FROM usage").fetchone() == (1,)
        append(path, [assistant()])
        assert refresh().records_added == 1
        assert connection.execute("SELECT count(*) FROM usage").fetchone() == (1,)
        connection.execute("COMMIT")
        assert connection.execute("SELECT count(*) FROM usage").fetchone() == (2,)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "first",
    ["import indexer.refresh", "import indexer.api", "from indexer import query", "import indexer.commands.stats"],
)
def test_every_public_name_is_what_it_says_whatever_was_imported_before(first):
    code = f"{first}\nimport indexer\nfrom indexer import *\n"
    code += "assert all(callable(getattr(indexer, name)) for name in indexer.__all__)\n"
    code += "assert refresh is indexer.refresh and refresh.__name__ == 'refresh'\n"
    subprocess.run([sys.executable, "-c", code], env=clean_environment(), cwd=CHECKOUT, check=True)


TRANSCRIPTS = Path(os.environ.get("CM_TRANSCRIPTS") or "/nowhere")


@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="CM_TRANSCRIPTS names no folder of transcripts")
@pytest.mark.parametrize("folder", sorted(TRANSCRIPTS.glob("*/projects")), ids=lambda path: path.parent.name)
def test_both_loaders_agree_on_real_transcripts(folder: Path):
    roots = [str(folder.parent)]
    found = load_claude_metrics_from_home_dir_parallel(roots)
    assert found == load_claude_metrics_from_home_dir(roots)
    assert found.messages_count > 0
