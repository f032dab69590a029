"""A conversation is read back: from the index, its transcript or the archive, and what is missing is said."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from builders import (
    SESSION,
    Home,
    agent_progress,
    assistant,
    chained,
    line,
    text,
    title,
    tool_result,
    tool_use,
    usage,
    user,
    write,
)
from conftest import CHECKOUT, RunCm, clean_environment
from ledger import refresh, rows

from indexer import config, conversation, sessions, store
from indexer.errors import BadInput

OTHER = "5e551000-0000-4000-8000-000000000002"


@pytest.fixture
def show(run_cm: RunCm) -> Any:
    """Runs `cm show --json`."""

    def run(*arguments: object) -> dict[str, Any]:
        done = run_cm("show", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def read(target: str = "last") -> dict[str, Any]:
    """The conversation after a refresh, without the command."""
    refresh()
    connection = store.open_reader(config.database())
    try:
        return conversation.read(connection, sessions.find(connection, target))
    finally:
        connection.close()


def kinds(steps: list[dict[str, Any]]) -> list[str]:
    return [step["kind"] for step in steps]


def story() -> list[Any]:
    """Two turns: a tool that fails, one that works, and a thought."""
    call, again = tool_use("Bash", command="make", description="Build"), tool_use("Read", file_path="/app/main.c")
    thought = {"type": "thinking", "thinking": "Let me see.", "signature": "s"}
    return [
        title("Fix the build"),
        user("Please fix the build."),
        assistant(thought, usage=usage(input=100, output=10)),
        assistant(text("I will look."), usage=usage(input=1, output=1)),
        assistant(call),
        tool_result(call["id"], "make: *** no rule", is_error=True),
        user("And now?"),
        assistant(again),
        tool_result(again["id"], [{"type": "text", "text": "int main;"}]),
        assistant(text("It is **fixed**.")),
    ]


# What a conversation is


def test_turns_begin_with_what_a_human_typed(home: Home) -> None:
    typed = "<command-message>x</command-message><command-name>/review</command-name><command-args>it</command-args>"
    said = "<local-command-stdout>Set model</local-command-stdout>"
    records = [user("One."), assistant(), user("Two."), user(said), assistant(), user(typed), assistant()]
    write(home.transcript(), records)
    found = read()
    assert [turn["prompt"]["text"] for turn in found["turns"]] == ["One.", "Two.", "/review it"]
    assert found["turn_count"] == rows("SELECT turns FROM conversations")[0]["turns"] == 3


def test_a_turn_has_its_steps_in_order_and_tools_their_results(home: Home) -> None:
    write(home.transcript(), story())
    first, second = read()["turns"]
    assert kinds(first["steps"]) == ["thinking", "answer", "tool"]
    assert first["steps"][0]["text"] == "Let me see."
    failed = first["steps"][2]
    assert (failed["name"], failed["subject"], failed["text"]) == ("Bash", "make", "make: *** no rule")
    assert failed["input"] == {"command": "make", "description": "Build"}
    assert failed["is_error"]
    assert second["steps"][0]["text"] == "int main;"
    assert kinds(second["steps"]) == ["tool", "answer"]


def test_what_the_turns_used_is_what_the_session_used(home: Home) -> None:
    write(home.transcript(), story())
    found = read()
    (used,) = rows("SELECT total_tokens, cost_usd FROM session_usage")
    assert sum(turn["total_tokens"] for turn in found["turns"]) == found["total_tokens"] == used["total_tokens"]
    assert sum(turn["cost_usd"] for turn in found["turns"]) == pytest.approx(used["cost_usd"])
    assert found["turns"][0]["input_tokens"] == 111


def test_a_subagent_stands_below_the_call_that_started_it(home: Home) -> None:
    call = tool_use("Task", subagent_type="Explore", prompt="Look around.", description="Look")
    inner = tool_use("Grep", pattern="zebra")
    done = tool_result(call["id"], "Found it.", result={"agentId": "a1"})
    write(home.transcript(), [user("Find it."), assistant(call), done, assistant(text("There."))])
    own = {"isSidechain": True, "agentId": "a1"}
    spoken = [user("Look around.", **own), assistant(inner, **own), tool_result(inner["id"], "zebra", **own)]
    write(home.subagent(), [*spoken, assistant(text("Found it."), **own, usage=usage(input=1000))])
    (turn,) = read()["turns"]
    assert kinds(turn["steps"]) == ["tool", "answer"]
    (agent,) = turn["steps"][0]["agents"]
    assert (agent["agent"], agent["type"]) == ("a1", "Explore")
    assert kinds(agent["steps"]) == ["prompt", "tool", "answer"]
    assert agent["steps"][1]["text"] == "zebra"
    assert agent["input_tokens"] == 1010
    assert turn["input_tokens"] == 1030


def test_a_subagent_whose_result_names_nobody_is_known_by_its_prompt(home: Home) -> None:
    call = tool_use("Task", subagent_type="Explore", prompt="Look around.")
    prompt = user("Look around.", isSidechain=True)
    answer = assistant(text("Here."), isSidechain=True, parentUuid=prompt["uuid"])
    write(home.transcript(), [user("Find it."), assistant(call), prompt, answer, tool_result(call["id"], "Here.")])
    (turn,) = read()["turns"]
    assert kinds(turn["steps"]) == ["tool"]
    assert kinds(turn["steps"][0]["agents"][0]["steps"]) == ["prompt", "answer"]


def test_a_subagent_nobody_is_known_to_have_called_stands_in_its_turn(home: Home) -> None:
    write(home.transcript(), [user("One."), assistant(), user("Two."), assistant()])
    write(home.subagent(agent="acompact-1"), [assistant(isSidechain=True, agentId="acompact-1")])
    found = read()
    (step,) = [step for turn in found["turns"] for step in turn["steps"] if step["kind"] == "agent"]
    assert step["type"] == "compact"


def test_what_is_embedded_in_the_parent_is_all_that_is_left_of_a_subagent(home: Home) -> None:
    call = tool_use("Bash", command="ls")
    embedded = agent_progress(assistant(text("I look."), call))
    write(home.transcript(), [user("Find it."), embedded, agent_progress(tool_result(call["id"], "main.c"))])
    (turn,) = read()["turns"]
    (agent,) = turn["steps"]
    assert kinds(agent["steps"]) == ["answer", "tool"]
    assert agent["steps"][1]["text"] == "main.c"


def test_a_message_told_twice_is_read_once(home: Home) -> None:
    records = [user("One."), assistant(text("Yes."))]
    write(home.transcript(), records)
    write(home.transcript(project="/elsewhere"), [*records, {**records[1], "uuid": "teleported"}])
    (turn,) = read()["turns"]
    assert kinds(turn["steps"]) == ["answer"]


def test_a_fork_says_whose_responses_it_repeats(home: Home) -> None:
    records = [user("One."), assistant(text("Yes."))]
    write(home.transcript(), records)
    write(home.transcript(OTHER), [{**record, "sessionId": OTHER} for record in [*records, user(), assistant()]])
    found = read(OTHER)
    assert [turn["shared_responses"] for turn in found["turns"]] == [1, 0]
    assert found["forked_from"] == [SESSION]
    assert read(SESSION)["forks"] == [OTHER]


def test_compactions_interruptions_and_errors_are_noted(home: Home) -> None:
    records = [
        user("Go."),
        assistant(text("API Error: 500"), isApiErrorMessage=True, model="<synthetic>"),
        user("[Request interrupted by user]"),
        chained("system", subtype="compact_boundary", content="Conversation compacted"),
        user("What came before.", isCompactSummary=True),
    ]
    write(home.transcript(), records)
    (turn,) = read()["turns"]
    assert [step["about"] for step in turn["steps"]] == [
        "api_error", "interruption", "compact_boundary", "compact_summary",
    ]  # fmt: skip


# Which conversation


def test_a_session_is_named_by_what_is_unique_of_its_id(home: Home, run_cm: RunCm) -> None:
    for session, words in (("aaa-111", "First"), ("aaa-222", "Second"), ("bbb-333", "Third")):
        write(home.transcript(session), [title(words, session), user(words, sessionId=session)])
    assert "Third" in run_cm("show", "b").stdout
    assert "Second" in run_cm("show", "aaa-2").stdout
    done = run_cm("show", "aaa")
    assert done.returncode == 1
    assert "2 sessions begin with aaa" in done.stderr
    assert "aaa-111" in done.stderr and "First" in done.stderr
    assert run_cm("show", "ccc").returncode == 1


def test_last_is_the_session_that_spoke_last(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(OTHER, "/home/dev/shop"), [user("Older.", sessionId=OTHER, cwd="/home/dev/shop")])
    write(home.transcript(), [user("Newer.")])
    assert "Newer." in run_cm("show", "last").stdout
    assert "Older." in run_cm("show", "last", "-p", "shop").stdout
    assert "no project matches nothing" in run_cm("show", "last", "-p", "nothing").stderr


def test_a_message_shows_the_turn_it_stands_in(home: Home) -> None:
    records = story()
    write(home.transcript(), records)
    refresh()
    (record,) = rows("SELECT id FROM messages WHERE text = 'It is **fixed**.'")
    for name in (records[-1]["uuid"], str(record["id"]), records[-1]["message"]["id"]):
        (turn,) = read(name)["turns"]
        assert turn["number"] == 2


def test_a_page_of_a_conversation_reads_only_its_turns(home: Home) -> None:
    write(home.transcript(), story())
    refresh()
    connection = store.open_reader(config.database())
    found = conversation.read(connection, sessions.find(connection, SESSION), turns=range(1, 5))
    connection.close()
    assert [turn["number"] for turn in found["turns"]] == [2]
    assert found["turn_count"] == 2


def test_no_session_at_all_is_told(home: Home) -> None:
    write(home.transcript(), [b"{}\n"])
    with pytest.raises(BadInput, match="no session yet"):
        read()


# What is gone


def test_what_needs_a_transcript_that_is_gone_is_said(home: Home, run_cm: RunCm) -> None:
    path = write(home.transcript(), story())
    refresh()
    path.unlink()
    done = run_cm("show", SESSION)
    assert "I will look." in done.stdout
    assert "Bash" in done.stdout
    assert "no rule" not in done.stdout
    assert f"5 records not shown: the transcript {path} is gone" in done.stdout
    found = read(SESSION)
    assert found["turns"][0]["steps"][2]["is_missing"]
    assert not found["turns"][0]["steps"][1]["is_missing"]
    assert found["missing"] == [{"file": str(path), "records": 5, "reason": "deleted"}]


def test_what_was_kept_to_be_searched_is_shown_of_a_transcript_that_is_gone(home: Home, run_cm: RunCm) -> None:
    path = write(home.transcript(), story())
    refresh()
    assert run_cm("search", "make").returncode == 0
    path.unlink()
    (step,) = [step for step in read(SESSION)["turns"][0]["steps"] if step.get("name") == "Bash"]
    assert (step["input"], step["subject"]) == ("make\nBuild", "make")
    assert step["text"] is None and step["is_missing"]
    assert re.search(r"Bash .* make\n", run_cm("show", SESSION).stdout)


def test_of_a_forgotten_session_nothing_is_shown_though_its_transcript_is_there(home: Home, run_cm: RunCm) -> None:
    path = write(home.transcript(), story())
    refresh()
    assert run_cm("forget", SESSION, "--yes").returncode == 0
    for options in ([], ["--full"], ["--json"], ["--raw"], ["--markdown"], ["--html"]):
        done = run_cm("show", SESSION, *options)
        assert done.returncode == 0
        shown = done.stdout
        assert not any(said in shown for said in ("I will look", "no rule", "main.c", "Please fix"))
    shown = run_cm("show", SESSION).stdout
    assert "❯ No longer kept." in shown
    assert f"the transcript {path} is not looked at, because the session was forgotten" in shown


def test_where_no_text_is_stored_it_is_read_from_the_transcript(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), story())
    file = Path(os.environ["XDG_CONFIG_HOME"]) / "cm" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("text = false\n")
    run_cm("refresh")
    without = run_cm("show", SESSION).stdout
    file.write_text("")
    run_cm("refresh", "--full")
    assert "❯ Please fix the build." in without
    assert without.splitlines()[2:] == run_cm("show", SESSION).stdout.splitlines()[2:]


def test_the_archive_has_what_is_gone(home: Home, run_cm: RunCm) -> None:
    pytest.importorskip("backports.zstd")
    file = Path(os.environ["XDG_CONFIG_HOME"]) / "cm" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("keep = true\n")
    records = story()
    path = write(home.transcript(), records)
    assert run_cm("refresh").returncode == 0
    path.unlink()
    found = json.loads(run_cm("show", SESSION, "--json").stdout)
    assert found["missing"] == []
    assert found["turns"][0]["steps"][2]["text"] == "make: *** no rule"
    assert sorted(run_cm("show", SESSION, "--raw").stdout.encode().splitlines(True)) == sorted(map(line, records))


def test_bytes_that_are_another_record_now_are_not_taken_for_it(home: Home) -> None:
    records = story()
    path = write(home.transcript(), records)
    refresh()
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"no rule", b"NO RULE").replace(b'"uuid":"0', b'"uuid":"9'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    connection = store.open_reader(config.database())
    found = conversation.read(connection, sessions.find(connection, SESSION))
    connection.close()
    assert "NO RULE" not in json.dumps(found)
    assert found["missing"][0]["reason"] == "rewritten"


# How it is shown


def test_raw_prints_the_very_records(home: Home, run_cm: RunCm) -> None:
    records = [user("Ünicode"), b'{"type": "user",  "uuid": "u9", "message": {"content": "spaced"}}\n']
    write(home.transcript(), records)
    shown = run_cm("show", "last", "--raw").stdout
    assert sorted(shown.encode().splitlines(True)) == sorted(map(line, records))


def test_raw_of_a_message_is_that_message(home: Home, run_cm: RunCm) -> None:
    records = story()
    write(home.transcript(), records)
    assert run_cm("show", records[5]["uuid"], "--raw").stdout.encode() == line(records[5])


def test_results_are_folded_and_thinking_is_hidden_until_asked_for(home: Home, run_cm: RunCm) -> None:
    call = tool_use("Bash", command="seq")
    thought = {"type": "thinking", "thinking": "I wonder.", "signature": "s"}
    records = [user("Go."), assistant(thought), assistant(call)]
    result = tool_result(call["id"], "\n".join(f"line {number}" for number in range(50)))
    write(home.transcript(), [*records, result])
    shown = run_cm("show", "last").stdout
    assert "line 2" in shown and "line 3" not in shown and "47 more lines" in shown
    assert "I wonder" not in shown
    whole = run_cm("show", "last", "--full", "--thinking").stdout
    assert "line 49" in whole
    assert "I wonder." in whole


def test_no_escape_sequence_of_a_transcript_reaches_the_terminal(home: Home, run_cm: RunCm) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J [bold red]x[/bold red] \u202egnp"
    call = tool_use("Bash", command=evil)
    records = [title(evil), user(evil), assistant(text(evil)), assistant(call), tool_result(call["id"], evil)]
    write(home.transcript(), records)
    for options in ([], ["--full"], ["--markdown"], ["--html"]):
        shown = run_cm("show", "last", *options).stdout
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown), options
        assert "\\x1b" in shown
        assert "[bold red]x" in shown


def test_on_a_terminal_it_goes_through_the_pager(home: Home, tmp_path: Path) -> None:
    write(home.transcript(), story())
    refresh()
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\ncat > {tmp_path}/paged\n")
    pager.chmod(0o755)
    parent, child = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "indexer", "show", "last", "--no-refresh"],
        stdin=child, stdout=child, stderr=subprocess.PIPE, cwd=CHECKOUT, check=False,
        env=clean_environment({"PAGER": str(pager), "TERM": "xterm"}) | {"PAGER": str(pager), "TERM": "xterm"},
    )  # fmt: skip
    os.close(child)
    os.close(parent)
    assert done.returncode == 0, done.stderr
    assert "Please fix the build." in (tmp_path / "paged").read_text()


def test_markdown_keeps_what_looks_like_a_fence_inside_one(home: Home, run_cm: RunCm) -> None:
    call = tool_use("Bash", command="cat README.md")
    records = [user("Go."), assistant(call), tool_result(call["id"], "```sh\nls\n```"), assistant(text("**Done.**"))]
    write(home.transcript(), records)
    shown = run_cm("show", "last", "--markdown").stdout
    assert "````\n```sh\nls\n```\n````" in shown
    assert "\n> Go.\n" in shown
    assert "**Done.**" in shown


class Page(HTMLParser):
    """Tags and addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        named = dict(attributes)
        assert not [name for name in named if name.startswith("on")]
        self.fetched += [str(named[name]) for name in ("src", "srcset", "data") if name in named]
        if tag == "a":
            assert not str(named.get("href")).startswith(("javascript:", "data:"))


def test_the_page_is_self_contained_and_takes_nothing_for_markup(home: Home, run_cm: RunCm) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)> ![x](http://evil/x.png) [y](javascript:alert(1))"
    call = tool_use("Bash", command=evil)
    records = [title(evil), user(evil), assistant(text(evil)), assistant(call), tool_result(call["id"], evil)]
    write(home.transcript(), [*records, assistant(text("| a | b |\n|---|---|\n| 1 | 2 |"))])
    shown = run_cm("show", "last", "--html").stdout
    page = Page(shown)
    assert page.fetched == []
    assert not page.tags & {"script", "img", "iframe", "link", "object"}
    assert "table" in page.tags
    assert "default-src 'none'" in shown


def test_real_sessions_add_up_and_lack_nothing(run_cm: RunCm, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.environ.get("CM_TRANSCRIPTS")
    if not folder:
        pytest.skip("CM_TRANSCRIPTS names no folder of real transcripts")
    roots = [str(path) for path in Path(folder).iterdir() if (path / "projects").is_dir()]
    monkeypatch.setenv("CM_ROOTS", os.pathsep.join(roots[:3]))
    from indexer.refresh import refresh as refresh_only

    refresh_only()
    connection = store.open_reader(config.database())
    for session, session_id in connection.execute("SELECT id, session_id FROM sessions WHERE record_count").fetchall():
        found = conversation.read(connection, sessions.Target(session, session_id, None))
        if not any(turn["shared_responses"] for turn in found["turns"]):
            total = sum(turn["total_tokens"] for turn in found["turns"])
            assert total == found["total_tokens"], session_id
        assert found["missing"] == []
        assert found["turn_count"] >= found["turns"][-1]["number"] if found["turns"] else True
    connection.close()
