"""What was counted once stays counted, and once, whatever happens to the files it was read from."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pytest
from builders import SESSION, Home, Record, append, assistant, line, text, tool_result, tool_use, user, write
from builders import usage as counts
from conftest import RunCm
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import another_home, health, indexed, only, refresh, rows, stats, tokens, usage

from indexer import refresh as refresh_only

OTHER = "5e552000-0000-4000-8000-000000000002"


def said(*outputs: int) -> list[Record]:
    """Responses of one line each."""
    return [assistant(text(f"{output}."), usage=counts(output=output)) for output in outputs]


def outputs() -> list[int]:
    """Output of each response that is counted."""
    return sorted(row["output_tokens"] for row in usage())


def gone() -> tuple[int, int, int]:
    """Files gone, files rewritten, and responses that no file has any more."""
    found = health()
    return found["files"]["gone"], found["files"]["rewritten"], found["sources_gone"]["responses"]


# Stories


def test_a_deleted_file_keeps_its_responses_and_status_says_so(home: Home) -> None:
    path = write(home.transcript(), said(1, 2))
    before = indexed()
    path.unlink()
    assert refresh().files_gone == 1
    assert usage() == before
    assert gone() == (1, 0, 2)
    assert health()["sources_gone"]["tokens"] == sum(tokens(before))
    assert {row["is_source_gone"] for row in rows("SELECT is_source_gone FROM messages")} == {1}


def test_a_whole_project_that_is_deleted_keeps_its_total(home: Home) -> None:
    path = write(home.transcript(), said(1, 2))
    write(home.subagent(), said(4))
    write(home.transcript(project="/else"), said(8))
    before = stats_after_refresh()
    shutil.rmtree(path.parent)
    refresh()
    assert outputs() == [1, 2, 4, 8]
    assert gone() == (2, 0, 3)
    assert before == 15


def stats_after_refresh() -> int:
    refresh()
    return stats().total_output_tokens


def test_a_deleted_file_that_comes_back_is_not_gone_any_more_and_not_counted_again(home: Home) -> None:
    path = write(home.transcript(), said(1, 2))
    data = path.read_bytes()
    refresh()
    path.unlink()
    refresh()
    path.write_bytes(data)
    refresh()
    assert outputs() == [1, 2]
    assert gone() == (0, 0, 0)


def test_a_file_rewritten_shorter_keeps_what_it_dropped(home: Home) -> None:
    records = said(1, 2, 4)
    path = write(home.transcript(), records)
    refresh()
    write(path, records[1:])
    refresh()
    assert outputs() == [1, 2, 4]
    assert gone() == (0, 1, 1)
    assert [row["is_source_gone"] for row in rows("SELECT is_source_gone FROM messages ORDER BY text")] == [1, 0, 0]


def test_a_file_emptied_keeps_everything(home: Home) -> None:
    path = write(home.transcript(), said(1, 2))
    refresh()
    path.write_bytes(b"")
    refresh()
    assert outputs() == [1, 2]
    append(path, said(4))
    refresh()
    assert outputs() == [1, 2, 4]


def test_a_file_rewritten_and_grown_between_two_looks(home: Home) -> None:
    records = said(1, 2, 4)
    path = write(home.transcript(), records)
    refresh()
    write(path, [records[0], *said(8, 16, 32)])
    refresh()
    assert outputs() == [1, 2, 4, 8, 16, 32]
    assert gone() == (0, 1, 2)


def test_rewritten_4_to_2_then_grown_then_deleted_then_restored_as_it_was_first(home: Home) -> None:
    records = said(1, 2, 4, 8)
    path = write(home.transcript(), records)
    first = path.read_bytes()
    assert tokens(indexed())[1] == 15
    write(path, records[:2])
    assert tokens(indexed())[1] == 15
    append(path, said(16))
    assert tokens(indexed())[1] == 31
    path.unlink()
    assert tokens(indexed())[1] == 31
    path.write_bytes(first)
    assert tokens(indexed())[1] == 31
    assert outputs() == [1, 2, 4, 8, 16]
    assert gone()[2] == 1


def test_a_file_moved_to_another_folder_is_the_same_file(home: Home) -> None:
    path = write(home.transcript(), said(1, 2))
    before = indexed()
    moved = home.transcript(project="/home/dev/app-2")
    moved.parent.mkdir()
    path.rename(moved)
    summary = refresh()
    assert (summary.files_gone, summary.records_added) == (0, 0)
    assert usage() == before
    assert gone() == (0, 0, 0)
    append(moved, said(4))
    refresh()
    assert outputs() == [1, 2, 4]


def test_a_file_moved_into_a_worktrees_folder_leaves_a_stub_behind(home: Home) -> None:
    path = write(home.transcript(), said(1, 2))
    before = indexed()
    moved = home.transcript(project="/home/dev/app/.claude/worktrees/one")
    moved.parent.mkdir()
    path.rename(moved)
    write(path, [{"type": "relocated", "relocatedCwd": "/home/dev/app/.claude/worktrees/one", "sessionId": SESSION}])
    after = indexed()
    assert tokens(after) == tokens(before)
    assert [row["project"] for row in after] == ["/home/dev/app"] * 2
    assert gone()[2] == 0


def test_a_copy_counts_nothing(home: Home) -> None:
    path = write(home.transcript(), said(1, 2))
    refresh()
    copy = home.transcript(project="/home/dev/copy")
    copy.parent.mkdir()
    shutil.copy(path, copy)
    refresh()
    assert outputs() == [1, 2]
    path.unlink()
    refresh()
    assert outputs() == [1, 2]
    assert gone() == (1, 0, 0), "the copy still has them"


def test_a_line_dropped_that_had_no_newline_yet_keeps_its_response(home: Home) -> None:
    records = said(1, 2)
    path = write(home.transcript(), records, newline=False)
    refresh()
    write(path, [records[0], *said(4, 8)])
    refresh()
    assert outputs() == [1, 2, 4, 8]


def test_a_line_dropped_that_had_no_newline_yet_for_one_of_the_same_length(home: Home) -> None:
    records = said(1, 2)
    path = write(home.transcript(), records, newline=False)
    refresh()
    write(path, [records[0], *said(4)], newline=False)
    refresh()
    assert outputs() == [1, 2, 4]


@pytest.mark.parametrize(
    "pruned",
    [
        pytest.param(lambda record: {**record, "message": {**record["message"], "usage": None}}, id="no usage"),
        pytest.param(
            lambda record: {**record, "message": {**record["message"], "usage": counts(10, 1)}}, id="less output"
        ),
        pytest.param(lambda record: {**record, "message": {**record["message"], "id": None}}, id="no id"),
        pytest.param(lambda record: {**record, "message": None}, id="no message"),
        pytest.param(lambda record: {**record, "type": "system"}, id="another type"),
    ],
)
def test_a_record_that_a_tool_pruned_and_left_its_uuid_still_counts(home: Home, pruned: Any) -> None:
    records = said(300, 500)
    path = write(home.transcript(), records)
    refresh()
    write(path, [pruned(records[0]), records[1]])
    refresh_only()
    assert sum(outputs()) >= 800
    assert 300 in outputs()


ADVICE = {"type": "advisor_message", "model": "claude-opus-4-5-20251101", "input_tokens": 9, "output_tokens": 9}
FULL = {
    **counts(100, 300, 200, 50, 900, speed="fast", inference_geo="us"),
    "server_tool_use": {"web_search_requests": 3},
}  # fmt: skip


@pytest.mark.parametrize(
    "less",
    [
        {"input_tokens": 1}, {"cache_read_input_tokens": 1}, {"speed": None}, {"inference_geo": None},
        {"server_tool_use": None}, {"cache_creation": None}, {"iterations": None},
        {"cache_creation_input_tokens": 50, "cache_creation": {"ephemeral_1h_input_tokens": 50}},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_number_a_tool_prunes_stays_counted(home: Home, less: Record) -> None:
    own = {"type": "message", **{name: FULL[name] for name in FULL if name.endswith("tokens")}}
    spent = {**FULL, "iterations": [own, ADVICE]}
    record = assistant(usage=spent)
    path = write(home.transcript(), [record])
    before = [(*tokens([row]), row["cost_usd"], row["is_fast"], row["web_searches"]) for row in indexed()]
    pruned = {**spent, "iterations": [{**own, **less}, ADVICE], **less}
    write(path, [{**record, "message": {**record["message"], "usage": pruned}}])
    refresh_only()
    assert [(*tokens([row]), row["cost_usd"], row["is_fast"], row["web_searches"]) for row in usage()] == before


@pytest.mark.parametrize(
    ("name", "value"), [("stop_reason", None), ("model", "claude-haiku-4-5-20251001"), ("content", "[pruned]")]
)
def test_whatever_else_a_tool_prunes_of_an_answer_stays_known(home: Home, name: str, value: str | None) -> None:
    record = assistant(tool_use("Bash"), costUSD=0.25)
    path = write(home.transcript(), [record])
    told = "SELECT model, stop_reason, is_undercounted, recorded_cost_usd FROM usage", "SELECT name FROM tool_calls"
    refresh()
    before = [rows(sql) for sql in told]
    write(path, [{**record, "message": {**record["message"], name: value}}])
    refresh_only()
    assert [rows(sql) for sql in told] == before


def test_a_recorded_cost_that_a_tool_pruned_stays_known(home: Home) -> None:
    record = assistant(costUSD=0.25)
    path = write(home.transcript(), [record])
    refresh()
    write(path, [{**record, "costUSD": None}])
    refresh_only()
    assert only(usage())["recorded_cost_usd"] == 0.25


def test_a_subagent_whose_call_a_tool_pruned_keeps_its_type(home: Home) -> None:
    call = tool_use("Task", subagent_type="Explore")
    answer, result = assistant(call), tool_result(call["id"], result={"agentId": "a1"})
    path = write(home.transcript(), [answer, result])
    write(home.subagent(), [assistant(agentId="a1", isSidechain=True)])
    refresh()
    write(path, [answer, {**result, "toolUseResult": "…"}])
    refresh_only()
    assert {row["agent"] for row in usage()} == {None, "Explore"}


def test_results_that_a_tool_pruned_keep_their_searches(home: Home) -> None:
    call = tool_use("WebSearch")
    answer, result = assistant(call), tool_result(call["id"], result={"searchCount": 7})
    path = write(home.transcript(), [answer, result])
    before = only(indexed())["cost_usd"]
    write(path, [answer, {**result, "toolUseResult": "…"}])
    refresh_only()
    assert only(usage())["cost_usd"] == before


def test_text_that_a_tool_pruned_stays_known(home: Home) -> None:
    prompt = user("The whole story.")
    path = write(home.transcript(), [prompt])
    refresh()
    write(path, [{**prompt, "message": {"role": "user", "content": "[pruned]"}}])
    refresh()
    assert [row["text"] for row in rows("SELECT text FROM messages ORDER BY id")] == ["The whole story.", "[pruned]"]


def test_records_that_a_tool_gave_another_session_leave_nothing_that_names_the_first(home: Home, run_cm: RunCm) -> None:
    one, two = user(), user(sessionId="5e551000-0000-4000-8000-000000000002")
    path = write(home.transcript(), [one, two])
    refresh()
    write(path, [{**one, "sessionId": two["sessionId"]}])
    refresh()
    assert run_cm("check").returncode == 0


def test_reading_everything_again_changes_nothing(home: Home) -> None:
    write(home.transcript(), [user(), *said(1, 2), tool_result("toolu_1", result={"searchCount": 3})])
    write(home.subagent(), said(4), newline=False)
    before = indexed()
    count = "SELECT count(*) AS n FROM records"
    records = rows(count)
    refresh(full=True)
    assert rows(count) == records
    assert [{**row, "message_id": 0} for row in usage()] == [{**row, "message_id": 0} for row in before]
    assert gone() == (0, 0, 0)


def test_a_newer_parser_that_makes_less_of_the_same_bytes_is_believed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexer import checkpoint, writer
    from indexer import usage as numbers

    write(home.transcript(), said(10**6))
    refresh()
    for module in (checkpoint, writer):
        monkeypatch.setattr(module, "PARSER_VERSION", checkpoint.PARSER_VERSION + 1)
    monkeypatch.setattr(numbers, "PLAUSIBLE", 1000)
    refresh()
    row = only(usage())
    assert (row["output_tokens"], row["is_implausible"], row["record_count"]) == (0, 1, 1)
    assert gone() == (0, 0, 0)


def test_a_newer_parser_keeps_the_numbers_of_what_is_gone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from indexer import checkpoint, writer

    records = said(1, 2, 4)
    path = write(home.transcript(), records)
    write(home.transcript(OTHER), said(8))
    refresh()
    write(path, records[1:])
    home.transcript(OTHER).unlink()
    refresh()
    for module in (checkpoint, writer):
        monkeypatch.setattr(module, "PARSER_VERSION", checkpoint.PARSER_VERSION + 1)
    refresh()
    assert outputs() == [1, 2, 4, 8]


def test_a_real_session_restored_to_an_older_state_that_then_grew_another_way(home: Home) -> None:
    folder = os.environ.get("CM_TRANSCRIPTS")
    if not folder:
        pytest.skip("CM_TRANSCRIPTS names no folder of real transcripts")
    before, after = (Path(folder) / "rewritten" / f"{name}.jsonl" for name in ("before", "after"))
    if not (before.exists() and after.exists()):
        pytest.skip("there is no rewritten/before.jsonl and after.jsonl in CM_TRANSCRIPTS")
    apart = [once(before), once(after)]
    path = home.transcript()
    path.parent.mkdir(parents=True)
    shutil.copy(before, path)
    refresh()
    shutil.copy(after, path)
    refresh()
    together = {row["response_key"]: tokens([row]) for row in usage()}
    assert together.keys() == apart[0].keys() | apart[1].keys()
    for key, found in together.items():
        seen = [one[key] for one in apart if key in one]
        assert found == tuple(max(numbers) for numbers in zip(*seen, strict=True))
    lost = apart[0].keys() - apart[1].keys()
    assert gone() == (0, 1 if lost else 0, len(lost)) or not lost
    path.unlink()
    refresh()
    assert {row["response_key"]: tokens([row]) for row in usage()} == together


def once(path: Path) -> dict[str, tuple[int, ...]]:
    """Tokens of each response of a transcript that is the only one."""
    with another_home() as home:
        home.transcript().parent.mkdir(parents=True)
        shutil.copy(path, home.transcript())
        return {row["response_key"]: tokens([row]) for row in indexed()}


# Any sequence of what can happen to files

Step: TypeAlias = tuple[Any, ...]
PLACES = ("/a", "/b", "/c")
ids = st.integers(0, 7)
outs = st.integers(0, 9)
place = st.sampled_from(PLACES)
entries = st.lists(st.tuples(ids, outs), min_size=1, max_size=4)
steps = st.one_of(
    st.tuples(st.just("append"), place, entries, st.booleans()),
    st.tuples(st.just("rewrite"), place, entries, st.booleans()),
    st.tuples(st.just("drop"), place, st.sets(st.integers(0, 7), min_size=1, max_size=3)),
    st.tuples(st.just("lower"), place, st.integers(0, 7), outs),
    st.tuples(st.just("cut"), place, st.integers(1, 400)),
    st.tuples(st.just("delete"), place),
    st.tuples(st.just("move"), place, place),
    st.tuples(st.just("copy"), place, place),
    st.tuples(st.just("swap"), place, place),
    st.tuples(st.just("restore"), place, st.integers(0, 5)),
    st.tuples(st.just("full")),
)


class Files:
    """Transcripts in a few places, all states that each had, and the largest output of each response ever on disk."""

    def __init__(self, home: Home) -> None:
        self.paths = {name: home.transcript(project=name) for name in PLACES}
        for path in self.paths.values():
            path.parent.mkdir(parents=True)
        self.past: dict[str, list[bytes]] = {name: [] for name in PLACES}
        self.seen: dict[str, int] = {}
        self._uuids = itertools.count()

    def record(self, entry: tuple[int, int]) -> bytes:
        number, output = entry
        message = {"id": f"msg_{number:020}", "model": "claude-opus-4-5", "usage": {"output_tokens": output}}
        record = {"type": "assistant", "uuid": f"u{next(self._uuids)}", "sessionId": SESSION, "message": message}
        return line({**record, "timestamp": "2026-10-01T09:00:00.000Z", "cwd": "/home/dev/app"})

    def read(self, name: str) -> bytes:
        path = self.paths[name]
        return path.read_bytes() if path.exists() else b""

    def put(self, name: str, data: bytes) -> None:
        self.past[name].append(self.read(name))
        self.paths[name].write_bytes(data)

    def take(self, step: Step) -> None:
        kind, *rest = step
        if kind != "full":
            getattr(self, kind)(*rest)

    def append(self, name: str, added: list[tuple[int, int]], newline: bool) -> None:
        data = self.read(name)
        data += b"\n" if data and not data.endswith(b"\n") else b""
        data += b"".join(map(self.record, added))
        self.put(name, data if newline else data[:-1])

    def rewrite(self, name: str, added: list[tuple[int, int]], newline: bool) -> None:
        data = b"".join(map(self.record, added))
        self.put(name, data if newline else data[:-1])

    def drop(self, name: str, numbers: set[int]) -> None:
        kept = [line for n, line in enumerate(self.read(name).splitlines(True)) if n not in numbers]
        self.put(name, b"".join(kept))

    def lower(self, name: str, number: int, output: int) -> None:
        """The same record with another count, as a tool might write it."""
        lines = self.read(name).splitlines(True)
        if number < len(lines) and (record := whole(lines[number])) is not None:
            record["message"]["usage"]["output_tokens"] = output
            lines[number] = line(record)
            self.put(name, b"".join(lines))

    def cut(self, name: str, count: int) -> None:
        self.put(name, self.read(name)[:-count])

    def delete(self, name: str) -> None:
        self.past[name].append(self.read(name))
        self.paths[name].unlink(missing_ok=True)

    def move(self, name: str, other: str) -> None:
        if self.paths[name].exists():
            self.past[other].append(self.read(other))
            os.replace(self.paths[name], self.paths[other])

    def copy(self, name: str, other: str) -> None:
        self.put(other, self.read(name))

    def swap(self, name: str, other: str) -> None:
        data = self.read(name), self.read(other)
        self.put(name, data[1])
        self.put(other, data[0])

    def restore(self, name: str, number: int) -> None:
        if number < len(self.past[name]):
            self.put(name, self.past[name][number])

    def look(self) -> dict[str, int]:
        """What is on disk now, which a refresh is about to see."""
        present: dict[str, int] = {}
        for name in PLACES:
            for record in filter(None, map(whole, self.read(name).splitlines())):
                message = record["message"]
                present[message["id"]] = max(message["usage"]["output_tokens"], present.get(message["id"], 0))
        for key, output in present.items():
            self.seen[key] = max(output, self.seen.get(key, 0))
        return present


def whole(data: bytes) -> Record | None:
    try:
        record: Record = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return record


def never_falls(sequence: list[Step]) -> None:
    with another_home() as home:
        files = Files(home)
        for step in sequence:
            files.take(step)
            present = files.look()
            refresh_only(full=step[0] == "full")
            found = [(row["response_key"], row["output_tokens"]) for row in usage()]
            assert found == sorted(files.seen.items()), step
            assert gone()[2] == len(files.seen.keys() - present.keys()), step
        refresh()


@settings(max_examples=70)
@given(st.lists(steps, min_size=2, max_size=8))
def test_whatever_happens_to_files_no_total_falls_and_nothing_counts_twice(sequence: list[Step]) -> None:
    never_falls(sequence)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@settings(max_examples=5000)
@given(st.lists(steps, min_size=2, max_size=25))
def test_whatever_happens_to_files_for_long(sequence: list[Step]) -> None:
    never_falls(sequence)
