"""`cm mcp` as Claude Code uses it: a process that is asked by the protocol, on stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import Home, append, assistant, text, usage, user, write
from conftest import RunCm, clean_environment

from indexer import queries
from indexer.refresh import refresh

client = pytest.importorskip("mcp.client", reason="the MCP SDK is not installed")

Ask = Callable[..., list[Any]]


@pytest.fixture
def a_history(home: Home) -> Path:
    records = [user("Deploy \x1b[31mit\u202e"), assistant(text("x" * 5_000), usage=usage(output=100))]
    return write(home.transcript(), [*records, assistant(model="claude-sonnet-4-5", usage=usage(output=7))])


@pytest.fixture
def ask() -> Ask:
    """Starts the server, calls tools one after the other, and gives their results; without a call, the tools."""

    def run(*calls: tuple[str, dict[str, Any]], options: tuple[str, ...] = ("--refresh",)) -> list[Any]:
        async def talk() -> list[Any]:
            parameters = client.stdio.StdioServerParameters(
                command=sys.executable, args=["-m", "indexer", "mcp", *options], env=clean_environment()
            )
            async with client.Client(parameters, read_timeout_seconds=60) as server:
                if not calls:
                    return [server.instructions, *(await server.list_tools()).tools]
                return [await server.call_tool(name, arguments) for name, arguments in calls]

        return asyncio.run(talk())

    return run


def told(result: Any) -> Any:
    assert not result.is_error, result.content
    (content,) = result.content
    return json.loads(content.text)


def refused(result: Any) -> str:
    assert result.is_error
    return str(result.content[0].text)


def test_tools_say_what_they_are_for_and_that_they_only_read(a_history, ask: Ask):
    instructions, *tools = ask()
    assert "never instructions" in instructions
    assert {tool.name for tool in tools} == {
        "report",
        "stats",
        "search",
        "explain",
        "describe",
        "query",
        *queries.named(),
    }
    for tool in tools:
        assert len(tool.description) > 30
        assert "  " not in tool.description
        assert tool.annotations.read_only_hint
        for name, schema in tool.input_schema["properties"].items():
            assert schema.get("description"), f"{tool.name}.{name}"


def test_reports_are_those_of_the_command_line(a_history, ask: Ask, run_cm: RunCm):
    names = ["daily", "sessions", "tools", "blocks"]
    for name, result in zip(names, ask(*(("report", {"name": name}) for name in names)), strict=True):
        assert told(result)["rows"] == json.loads(run_cm(name, "--json").stdout), name
    broken_down, one, none = ask(
        ("report", {"name": "daily", "by_model": True, "by_host": True}),
        ("report", {"name": "models", "model": "opus", "limit": 1}),
        ("report", {"name": "daily", "until": "2020-01-01"}),
    )
    (day,) = told(broken_down)["rows"]
    assert sorted(part["output_tokens"] for part in day["breakdown"]) == [7, 100]
    assert "host" in day
    assert [row["output_tokens"] for row in told(one)["rows"]] == [100]
    assert told(none)["rows"] == []


def test_stats_explain_and_named_queries(a_history, ask: Ask, run_cm: RunCm):
    stats, explained, dearest = ask(
        ("stats", {}), ("explain", {"target": "2026-10-01", "limit": 1}), ("dearest-sessions", {"limit": 1})
    )
    assert told(stats) == json.loads(run_cm("stats", "--json").stdout)
    assert told(explained)["sum"]["output_tokens"] == 107
    assert len(told(explained)["responses"]) == 1
    assert [row["output_tokens"] for row in told(dearest)["rows"]] == [107]


def test_stats_of_many_projects_have_the_dearest_ones(home: Home, ask: Ask):
    for n in range(150):
        path = f"/home/dev/a-project-with-a-longer-name-{n:03}"
        write(home.transcript(f"{n}", path), [assistant(cwd=path, sessionId=f"{n}", usage=usage(output=n))])
    few, none = ask(("stats", {}), ("stats", {"projects": 0}))
    assert [project[-3:] for project in told(few)["project_breakdown"]] == [f"{n:03}" for n in range(149, 129, -1)]
    assert told(few)["messages_count"] == told(none)["messages_count"] == 150
    assert "150 more projects" in told(none)["note"]


def test_what_was_said_is_found_once_there_is_a_full_text_index(a_history, ask: Ask, run_cm: RunCm):
    refresh()
    (before,) = ask(("search", {"words": "deploy"}), options=())
    assert "cm search" in refused(before)
    found = json.loads(run_cm("search", "deploy", "--json").stdout)
    assert found
    again, none, any_order, phrase, nowhere = ask(
        ("search", {"words": "deploy", "role": "prompt"}),
        ("search", {"words": "deploy", "role": "answer"}),
        ("search", {"words": "31mit deploy"}),
        ("search", {"words": '"31mit deploy"'}),
        ("search", {"words": "deploy", "project": "nowhere"}),
    )
    assert "no session matches nowhere" in refused(nowhere)
    assert told(again)["rows"] == found
    assert [row["uuid"] for row in told(any_order)["rows"]] == [row["uuid"] for row in found]
    assert told(none)["rows"] == told(phrase)["rows"] == []


def test_what_is_asked_is_of_the_days_of_the_zone_of_now(
    home: Home, ask: Ask, run_cm: RunCm, monkeypatch: pytest.MonkeyPatch
):
    write(home.transcript(), [user("zebra", timestamp="2026-10-01T22:30:00.000Z")])
    run_cm("search", "zebra", env={"CM_TIMEZONE": "UTC"})
    monkeypatch.setenv("CM_TIMEZONE", "Asia/Tokyo")
    calls = [("search", {"words": "zebra", "since": day}) for day in ("2026-10-02", "2026-10-03")]
    assert [len(told(result)["rows"]) for result in ask(*calls, options=())] == [1, 0]


def test_sql_reads_and_nothing_else(a_history, ask: Ask, db: Path):
    refresh()
    objects, view, rows, *refusals = ask(
        ("describe", {}),
        ("describe", {"name": "usage"}),
        ("query", {"sql": "SELECT count(*) AS n FROM messages"}),
        ("query", {"sql": "DELETE FROM files"}),
        ("query", {"sql": f"ATTACH '{db}' AS other"}),
        ("query", {"sql": "SELECT load_extension('x')"}),
        ("query", {"sql": "SELECT 1; SELECT 2"}),
        ("query", {"sql": "SELECT nothing FROM nowhere"}),
        ("report", {"name": "yearly"}),
        ("report", {"name": "daily", "since": "someday"}),
        ("explain", {"target": "nothing"}),
        ("report", {"name": "daily", "project": "nowhere"}),
        ("report", {"name": "daily", "model": "gpt"}),
        ("describe", {"name": "nothing"}),
    )
    assert {"messages", "usage"} <= {row["name"] for row in told(objects)["rows"]}
    assert "cost_usd" in told(view)["rows"][0]["columns"]
    assert told(rows)["rows"] == [{"n": 3}]
    assert all(refused(result) for result in refusals)
    assert "only reading" in refused(refusals[0])
    assert "someday: there is no such day" in refused(refusals[-5])
    assert "no project matches nowhere" in refused(refusals[-3])


def test_an_answer_is_cut_where_it_is_long_and_says_so(a_history, ask: Ask):
    append(a_history, [user(f"{number} " + "y" * 500) for number in range(200)])
    cut, few, many = ask(
        ("query", {"sql": "SELECT text FROM messages WHERE length(text) = 5000"}),
        ("query", {"sql": "SELECT uuid FROM messages", "limit": 3}),
        ("query", {"sql": "SELECT uuid, text FROM messages"}),
    )
    assert told(cut)["rows"][0]["text"].endswith("x… (3,000 more characters)")
    assert len(told(few)["rows"]) == 3
    assert "more rows" in told(few)["note"]
    assert 50 < len(told(many)["rows"]) < 100
    assert len(many.content[0].text) < 41_000


def test_control_characters_of_a_transcript_are_escaped(a_history, ask: Ask):
    (result,) = ask(("query", {"sql": "SELECT text FROM messages WHERE text LIKE 'Deploy%'"}))
    assert told(result)["rows"] == [{"text": "Deploy \x1b[31mit\u202e"}]
    assert result.content[0].text.isprintable()


def test_the_index_is_read_as_it_is_unless_it_is_to_be_refreshed(a_history, ask: Ask):
    (nothing,) = ask(("stats", {}), options=())
    assert "there is no index yet" in refused(nothing)
    refresh()
    append(a_history, [assistant()])
    (before,) = ask(("stats", {}), options=())
    (after,) = ask(("stats", {}))
    assert (told(before)["messages_count"], told(after)["messages_count"]) == (2, 3)


def test_nothing_but_the_protocol_comes_on_stdout(a_history):
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "stats", "arguments": {}}},
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer", "mcp", "--refresh"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment(), text=True,
    )  # fmt: skip
    with process:
        assert process.stdin is not None and process.stdout is not None
        for message in messages:
            process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.stdin.close()
        assert process.wait(20) == 0
        assert process.stdout.read() == ""
    assert [line["id"] for line in lines] == [1, 2]
    assert lines[0]["result"]["serverInfo"]["name"] == "cm"


def test_without_the_sdk_it_says_what_to_install(run_cm: RunCm, tmp_path: Path):
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')\n")
    checkout = Path(__file__).resolve().parent.parent
    done = run_cm("mcp", env={"PYTHONPATH": f"{tmp_path}:{checkout}"})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "-m pip install mcp`" in done.stderr
