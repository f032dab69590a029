"""What was said is found: by words as people type them, whatever happened to the transcripts since."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import (
    SESSION,
    Home,
    agent_progress,
    append,
    assistant,
    fresh,
    text,
    title,
    tool_result,
    tool_use,
    user,
    write,
)
from conftest import RunCm
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import another_home, refresh, rows
from machines import Machines

from indexer import config, fulltext, passages, search, store
from indexer.errors import BadInput
from indexer.refresh import refresh as refresh_only
from indexer.sources import Source

OTHER = "5e551000-0000-4000-8000-000000000002"
THIRD = "5e551000-0000-4000-8000-000000000003"


@pytest.fixture
def find(run_cm: RunCm) -> Any:
    """Runs `cm search --json`."""

    def run(*arguments: object) -> list[dict[str, Any]]:
        done = run_cm("search", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    return run


def snippets(found: list[dict[str, Any]]) -> list[str]:
    return [row["snippet"] for row in found]


# What is found


def test_prompts_answers_and_what_tools_were_given_are_found(home: Home, find: Any) -> None:
    call = tool_use("Bash", command="make zebra", description="Build it")
    records = [user("Where is the zebra?"), assistant(text("The zebra is here.")), assistant(call)]
    write(home.transcript(), [title("Zebras"), *records, tool_result(call["id"], "zebra built")])
    found = find("ZEBRA")
    assert {(row["role"], row["tool"]) for row in found} == {("prompt", None), ("answer", None), ("tool", "Bash")}
    assert {row["session_id"] for row in found} == {SESSION}
    assert {row["title"] for row in found} == {"Zebras"}
    assert {row["resume"] for row in found} == {f"cd /home/dev/app && claude --resume {SESSION}"}
    assert all(row["has_transcript"] for row in found)


def test_what_tools_gave_back_and_thinking_are_found_once_asked_for_and_from_then_on(home: Home, find: Any) -> None:
    call = tool_use("Bash", command="ls")
    thought = {"type": "thinking", "thinking": "A zebra, perhaps.", "signature": "x"}
    path = write(home.transcript(), [user(), assistant(thought), assistant(call), tool_result(call["id"], "a zebra")])
    assert find("zebra") == []
    assert {row["role"] for row in find("zebra", "--include", "tool-results", "--include", "thinking")} == {
        "result",
        "thinking",
    }
    append(path, [tool_result(call["id"], [{"type": "text", "text": "another zebra"}])])
    assert len(find("zebra")) == 3
    assert find("zebra", "--rebuild") == []


def test_the_config_file_says_what_else_is_searched(home: Home, find: Any) -> None:
    call = tool_use()
    write(home.transcript(), [assistant(call), tool_result(call["id"], "a zebra")])
    file = Path(os.environ["XDG_CONFIG_HOME"]) / "cm" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('search = ["tool-results"]\n')
    assert snippets(find("zebra")) == ["a zebra"]


def test_what_tools_were_given_stays_found_after_the_transcript_is_gone(home: Home, find: Any) -> None:
    path = write(home.transcript(), [user("Go."), assistant(tool_use("Write", file_path="/a", content="a zebra"))])
    assert len(find("zebra")) == 1
    path.unlink()
    (row,) = find("zebra")
    assert not row["has_transcript"]
    assert len(find("zebra", "--rebuild")) == 1


def test_a_transcript_that_went_before_the_first_search_is_told(home: Home, run_cm: RunCm) -> None:
    path = write(home.transcript(), [user("A zebra."), assistant(tool_use(command="zebra"))])
    refresh()
    path.unlink()
    done = run_cm("search", "zebra")
    assert "A zebra" in done.stdout
    assert "Bash" not in done.stdout
    assert f"1 messages of {path} is not in it: it is deleted" in done.stderr


def test_copies_are_found_once(home: Home, find: Any) -> None:
    records = [user("A zebra."), assistant(text("Yes, a zebra."))]
    write(home.transcript(), records)
    write(home.transcript(OTHER), [{**record, "sessionId": OTHER} for record in records])
    again = {**records[1], "uuid": fresh("again-{}")}  # as teleported sessions have it
    write(home.transcript(THIRD), [again, agent_progress(assistant(text("zebra")))])
    assert sorted(snippets(find("zebra"))) == ["A zebra.", "Yes, a zebra."]


def test_the_same_words_said_twice_are_two(home: Home, find: Any) -> None:
    write(home.transcript(), [user("A zebra."), user("A zebra.")])
    assert len(find("zebra")) == 2


def test_what_another_machine_said_is_found_after_its_index_was_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines(tmp_path, monkeypatch)
    machines.use("beta")
    records = [user("Their zebra."), assistant(tool_use(command="zebra of theirs"))]
    write(machines.home.transcript(), [{**record, "sessionId": OTHER} for record in records])
    machines.refresh("beta")
    build()
    machines.use("alpha")
    write(machines.home.transcript(), [user("Our zebra.")])
    machines.refresh("alpha")
    build()
    for _ in range(2):
        machines.merge("alpha", "beta")
        machines.use("alpha")
        assert sorted(snippets(found_now(["zebra"]))) == ["Our zebra.", "Their zebra.", "zebra of theirs"]


# How it is asked


@pytest.mark.parametrize(
    ("words", "count"),
    [
        pytest.param(["queue", "retry"], 2, id="words in any order"),
        pytest.param(["retry queue"], 1, id="a phrase in the shell's quotes"),
        pytest.param(['"retry queue"'], 1, id="a phrase in quotes of its own"),
        pytest.param(["ret*"], 3, id="a beginning"),
        pytest.param(["retry que*"], 1, id="the beginning of a phrase's last word"),
        pytest.param(["full", "OR", "naive"], 2, id="alternatives"),
        pytest.param(["NAÏVE"], 1, id="case and accents"),
        pytest.param(["worker.retry()"], 1, id="punctuation"),
        pytest.param(["queue", "-->", "("], 2, id="what is no word"),
        pytest.param(['"retry'], 2, id="an open quote"),
        pytest.param(["NEAR", "retry"], 0, id="words of FTS5's own"),
        pytest.param(["text:retry"], 0, id="a column"),
        pytest.param(["it's"], 1, id="an apostrophe"),
    ],
)
def test_queries_are_taken_as_they_are_typed(home: Home, words: list[str], count: int) -> None:
    said = ["The retry queue is full.", "A queue; no worker: retry() it.", "worker.retries: it's naïve"]
    write(home.transcript(), [user(line) for line in said])
    write(home.transcript(OTHER), [user("nothing of it")])
    assert len(found_now(words)) == count


@pytest.mark.parametrize("words", [["->"], ['""'], ["*"], ["OR"[:0]]])
def test_a_query_without_a_word_is_told(words: list[str]) -> None:
    with pytest.raises(BadInput, match="no word"):
        search.parse(search.typed(words))


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
@settings(max_examples=150)
def test_nothing_that_is_typed_is_a_syntax_error(words: list[str]) -> None:
    try:
        match, phrases = search.parse(search.typed(words))
    except BadInput:
        return
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5(text, about)")
    for query in (match, *phrases):
        connection.execute("SELECT count(*) FROM t WHERE t MATCH ?", (f"text : ({query})",)).fetchone()
    connection.close()


def test_a_day_whose_first_hour_the_clocks_skip_begins_at_one(
    home: Home, find: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CM_TIMEZONE", "America/Santiago")
    write(home.transcript(), [user("zebra", timestamp="2026-09-06T03:30:00.000Z")])  # the 5th at 23:30
    assert len(find("zebra", "--until", "2026-09-05")) == 1
    assert find("zebra", "--since", "2026-09-06") == []


def test_filters(home: Home, find: Any) -> None:
    old = {"timestamp": "2026-01-05T10:00:00.000Z"}
    bash, edit = tool_use("Bash", command="zebra"), tool_use("Edit", file_path="/zebra")
    write(home.transcript(), [user("zebra one", **old), assistant(text("zebra two")), assistant(bash), assistant(edit)])
    shop = {"cwd": "/home/dev/shop", "sessionId": OTHER}
    write(home.transcript(OTHER, "/home/dev/shop"), [user("zebra three", **shop)])
    assert [len(find("zebra", "--since", "2026-01-06")), len(find("zebra", "--until", "2026-01-05"))] == [4, 1]
    assert snippets(find("zebra", "--project", "shop", "--role", "prompt")) == ["zebra three"]
    assert snippets(find("zebra", "--session", SESSION, "--role", "answer")) == ["zebra two"]
    assert len(find("zebra", "--since", "2026-01-06", "--until", "9999-12-31")) == 4
    assert [row["tool"] for row in find("zebra", "--tool", "Bash")] == ["Bash"]
    assert find("zebra", "--session", "none") == []
    assert len(find("zebra", "--limit", "2")) == 2


def test_a_filter_that_matches_nothing_is_told(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [user("a zebra")])
    for option, what in (("--project", "project"), ("--session", "session")):
        assert f"no {what} matches nowhere" in run_cm("search", "zebra", option, "nowhere").stderr


def test_the_best_comes_first_and_of_equals_the_newest(home: Home, find: Any) -> None:
    long = "zebra " + "and something else entirely " * 40
    write(home.transcript(), [user(long), user("a zebra"), user("the zebra")])
    assert snippets(find("zebra"))[:2] == ["the zebra", "a zebra"]


# How it is shown


def test_what_was_found_stands_below_its_session(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [title("Animals"), user("A zebra."), assistant(text("One zebra."))])
    shown = run_cm("search", "zebra").stdout
    assert shown.count("Animals") == 1
    assert f"cd /home/dev/app && claude --resume {SESSION}" in shown
    assert "A zebra." in shown
    coloured = run_cm("search", "zebra", env={"FORCE_COLOR": "1"}).stdout
    assert re.search("\x1b\\[33m\x1b\\[1mzebra", coloured)


def test_no_escape_sequence_of_a_transcript_reaches_the_terminal(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [title("\x1b]0;owned\x07"), user("a \x1b[31m zebra\x1b[0m \x02x\x03")])
    shown = run_cm("search", "zebra").stdout
    assert "\x1b" not in shown
    assert "\\x1b[31m zebra" in shown


def test_highlights_say_where_in_the_snippet_it_was_found(home: Home, find: Any) -> None:
    write(home.transcript(), [user("A\n\n  zebra and\ta Zebra.")])
    (row,) = find("zebra")
    assert [row["snippet"][start:end] for start, end in row["highlights"]] == ["zebra", "Zebra"]
    assert row["snippet"] == "A zebra and a Zebra."


def test_nothing_found_is_no_failure(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [user("Go.")])
    done = run_cm("search", "zebra")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing was said" in done.stderr


# What it costs


def test_nobody_who_never_searched_pays_for_it(home: Home) -> None:
    write(home.transcript(), [user("A zebra."), assistant(tool_use())])
    refresh()
    assert rows("SELECT * FROM passages") == []
    assert rows("SELECT name FROM sqlite_schema WHERE name = 'search'") == []


def test_a_search_that_was_killed_while_it_made_the_index_is_made_up_for(home: Home, db: Path, find: Any) -> None:
    write(home.transcript(), [user(f"zebra {number}") for number in range(30)])
    refresh()
    with sqlite3.connect(db) as connection:
        connection.execute(fulltext._TABLE)
        connection.execute("INSERT INTO passages (record_id, kind) SELECT id, 0 FROM records LIMIT 3")
    connection.close()
    assert len(find("zebra", "--limit", "100")) == 30


def test_two_first_searches_at_once_both_answer(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [user(f"zebra {number}") for number in range(300)])
    refresh()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: run_cm("search", "zebra", "--json", "--limit", "400"), range(2)))
    assert [len(json.loads(one.stdout)) for one in done] == [300, 300]


# Whatever happened to the transcripts

WORDS = ("apple", "pear", "plum", "fig")
said = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
place = st.integers(0, 2)
steps = st.one_of(
    st.tuples(st.just("append"), place, st.lists(said, min_size=1, max_size=3), st.booleans()),
    st.tuples(st.just("rewrite"), place, st.lists(said, max_size=3), st.booleans()),
    st.tuples(st.just("cut"), place, st.integers(1, 300)),
    st.tuples(st.just("drop"), place, st.integers(0, 3)),
    st.tuples(st.just("delete"), place),
    st.tuples(st.just("move"), place, place),
    st.tuples(st.just("copy"), place, place),
    st.tuples(st.just("full")),
)


def found_now(words: list[str], **limits: Any) -> list[dict[str, Any]]:
    """What a search finds after a refresh, without the command."""
    refresh_only()
    build()
    connection = store.open_reader(config.database())
    try:
        match, phrases = search.parse(search.typed(words))
        return search.find(connection, search.Query(match, phrases, **limits), 10_000)
    finally:
        connection.close()


def build() -> None:
    connection = store.open_writer(config.database())
    try:
        if fulltext.kept(connection) is None:
            fulltext.build(connection, frozenset({passages.INPUT}), Source(connection, None))
    finally:
        connection.close()


def take(home: Home, step: tuple[Any, ...]) -> None:
    paths = [home.transcript(project=f"/p{number}") for number in range(3)]
    kind, *rest = step
    if kind == "full":
        return
    path = paths[rest[0]]
    data = path.read_bytes() if path.exists() else b""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind in ("append", "rewrite"):
        records = [record for line in rest[1] for record in (user(line), assistant(tool_use(command=line)))]
        before = data + b"\n" * (bool(data) and not data.endswith(b"\n")) if kind == "append" else b""
        write(path, [before, *records] if before else records, newline=rest[2])
    elif kind == "cut":
        path.write_bytes(data[: -rest[1]])
    elif kind == "drop":
        path.write_bytes(b"".join(line for n, line in enumerate(data.splitlines(True)) if n != rest[1]))
    elif kind == "delete":
        path.unlink(missing_ok=True)
    elif kind == "move" and path.exists():
        os.replace(path, paths_made(paths[rest[1]]))
    elif kind == "copy":
        paths_made(paths[rest[1]]).write_bytes(data)


def paths_made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def agrees(sequence: list[tuple[Any, ...]], first: int) -> None:
    """The search against a reading of the records, and of what tools were given, as they are in the index."""
    with another_home() as home:
        for number, step in enumerate(sequence):
            take(home, step)
            refresh_only(full=step[0] == "full")
            if number == first:
                build()
        build()
        for word in WORDS:
            naive = rows("SELECT DISTINCT uuid FROM records WHERE text LIKE '%' || ? || '%'", word)
            naive += rows(
                "SELECT DISTINCT r.uuid FROM passages AS p JOIN records AS r ON r.id = p.record_id"
                " WHERE p.kind = 1 AND p.text LIKE '%' || ? || '%'",
                word,
            )
            found = found_now([word])
            assert sorted(row["uuid"] for row in found) == sorted({row["uuid"] for row in naive}), (word, sequence)
        connection = sqlite3.connect(config.database())
        connection.execute("INSERT INTO search (search, rank) VALUES ('integrity-check', 1)")
        (told,) = connection.execute("SELECT count(*) FROM passages WHERE kind = 0").fetchone()
        assert (told,) == connection.execute("SELECT count(*) FROM records WHERE text IS NOT NULL").fetchone()
        connection.close()


@settings(max_examples=25)
@given(st.lists(steps, min_size=1, max_size=5), st.integers(0, 4))
def test_a_search_finds_what_a_naive_reading_finds(sequence: list[tuple[Any, ...]], first: int) -> None:
    agrees(sequence, first)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@settings(max_examples=2000)
@given(st.lists(steps, min_size=1, max_size=20), st.integers(0, 19))
def test_a_search_finds_what_a_naive_reading_finds_for_long(sequence: list[tuple[Any, ...]], first: int) -> None:
    agrees(sequence, first)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_at_a_million_messages_a_search_answers_within_100_ms(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "scripts" / "bench_search.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(script.parent.parent), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert float(re.findall(r"slowest: ([\d.]+) ms", done.stdout)[0]) < 100
