"""Stories of files that grow, move, shrink and vanish, and of refreshes that are killed in the middle of it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
from builders import (
    ABSENT,
    Home,
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
from conftest import CHECKOUT, RunCm, clean_environment
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from ledger import health, only, refresh, rows, stats

from indexer import reader, rollups
from indexer.errors import Locked
from indexer.refresh import refresh as refresh_unverified

OTHER = "5e552000-0000-4000-8000-000000000002"
THIRD = "5e553000-0000-4000-8000-000000000003"
OLD = 1_600_000_000 * 10**9


def responses() -> dict[str, int]:
    """Output tokens by response."""
    return {row["response_key"]: row["output_tokens"] for row in rows("SELECT * FROM usage")}


def key(record: dict[str, Any]) -> str:
    return str(record["message"]["id"])


def output(*records: dict[str, Any]) -> dict[str, int]:
    return {key(record): record["message"]["usage"]["output_tokens"] for record in records}


def facts() -> dict[str, list[dict[str, Any]]]:
    """All that the index says, but for the ids of its rows."""
    found = {
        "messages": rows("SELECT * FROM messages ORDER BY file, offset"),
        "usage": rows("SELECT * FROM usage ORDER BY response_key, part DESC, model"),
        "sessions": rows("SELECT * FROM sessions ORDER BY session_id"),
        "calls": rows("SELECT * FROM tool_calls ORDER BY tool_use_id"),
        "skipped": rows(
            "SELECT f.path, s.line, s.offset, s.length, s.reason, s.is_partial FROM skipped_lines AS s"
            " JOIN files AS f ON f.id = s.file_id ORDER BY f.path, s.offset"
        ),
        "coverage": [health()["coverage"]],
    }
    for name, of_rows in (("messages", ("id", "duplicate_of")), ("usage", ("message_id",)), ("calls", ("record_id",))):
        for row in found[name]:
            for column in of_rows:
                row.pop(column)
    return found


@pytest.fixture
def a_history(home: Home) -> list[Path]:
    """Two sessions, one of them with a subagent, and a bad line."""
    call = tool_use("Task", subagent_type="Explore")
    split = {"id": fresh("msg_01{:022}"), "requestId": "req_1"}
    one = [title(), user("first"), assistant(call, **split, usage=usage(output=1)), assistant(text("b"), **split)]
    one += [tool_result(call["id"], "found", result={"agentId": "a1"}), b"{broken\n", assistant(text("last"))]
    sub = [user("look", isSidechain=True, agentId="a1"), assistant(isSidechain=True, agentId="a1", usage=usage(5, 7))]
    two = [user("second", sessionId=OTHER), assistant(sessionId=OTHER, usage=usage(3, 4, cache_read=9))]
    return [write(home.transcript(), one), write(home.subagent(), sub), write(home.transcript(OTHER), two)]


def dated(path: Path, ns: int) -> None:
    os.utime(path, ns=(ns, ns))


def sizes(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths)


def as_json(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# What is new, and only that


def test_the_first_refresh_reads_everything_and_the_second_nothing(a_history, run_cm: RunCm):
    first = as_json(run_cm("refresh", "--json"))
    expected = {"files_seen": 3, "files_parsed": 3, "files_unchanged": 0, "files_failed": 0, "files_gone": 0}
    expected |= {"bytes_read": sizes(*a_history), "records_added": 10, "responses_added": 4, "lines_skipped": 1}
    assert expected.items() <= first.items()
    assert first["seconds"] >= sum(first["phases"].values()) > 0
    assert set(first["phases"]) == {"discover", "parse", "finalize"}
    second = as_json(run_cm("refresh", "--json"))
    expected = {"files_seen": 3, "files_parsed": 0, "files_unchanged": 3, "files_failed": 0, "files_gone": 0}
    expected |= {"bytes_read": 0, "records_added": 0, "responses_added": 0, "lines_skipped": 0}
    assert expected.items() <= second.items()


def test_after_one_line_is_appended_one_file_is_parsed_and_only_that_line_read(a_history, run_cm: RunCm):
    assert run_cm("refresh").returncode == 0
    new = line(assistant())
    append(a_history[0], [new])
    found = as_json(run_cm("refresh", "--json"))
    expected = {"files_seen": 3, "files_parsed": 1, "files_unchanged": 2, "bytes_read": len(new), "records_added": 1}
    assert expected.items() <= found.items()
    assert found["responses_added"] == 1


def test_a_line_that_adds_to_a_known_response_adds_no_response(home: Home):
    first = assistant(usage=usage(output=1), stop_reason=None)
    write(home.transcript(), [first])
    assert refresh().responses_added == 1
    append(home.transcript(), [first | {"uuid": "u2", "message": first["message"] | {"usage": usage(output=300)}}])
    assert refresh().responses_added == 0
    assert responses() == {key(first): 300}


def test_a_new_file_is_read_and_the_others_are_not(a_history, home: Home):
    refresh()
    new = write(home.transcript(THIRD), [assistant(sessionId=THIRD)])
    found = refresh()
    assert (found.files_parsed, found.bytes_read) == (1, sizes(new))


def test_an_empty_file_is_a_file_and_may_grow(home: Home):
    path = write(home.transcript(), [])
    assert refresh().files_seen == 1
    assert refresh().bytes_read == 0
    record = assistant()
    append(path, [record])
    refresh()
    assert responses() == output(record)


# Ends of files


def test_a_torn_tail_waits_until_its_rest_comes(home: Home):
    first, second = assistant(), assistant()
    whole = line(second)
    path = write(home.transcript(), [first, whole[:200]])
    refresh()
    assert responses() == output(first)
    assert health()["coverage"]["lines_pending"] == 1
    append(path, [whole[200:]])
    found = refresh()
    assert responses() == output(first, second)
    assert found.bytes_read == len(whole)
    assert health()["coverage"] | {"lines_pending": 0, "lines_indexed": 2, "lines_skipped": 0} == health()["coverage"]


def test_a_torn_tail_whose_rest_never_comes_is_one_broken_line_and_costs_nothing_behind_it(home: Home):
    first, killed, second = assistant(), assistant(), assistant()
    path = write(home.transcript(), [first, line(killed)[:200]])
    refresh()
    append(path, [second])
    refresh()
    assert responses() == output(first, second)
    assert health()["coverage"]["lines_pending"] == 0


def test_a_last_line_without_newline_counts_at_once_and_not_twice_when_it_is_read_again(home: Home):
    first, second, third = assistant(), assistant(), assistant()
    path = write(home.transcript(), [first, second], newline=False)
    refresh()
    assert responses() == output(first, second)
    assert refresh().bytes_read == 0
    append(path, [b"\n", third])
    found = refresh()
    assert found.bytes_read == len(line(second)) + len(line(third))
    assert responses() == output(first, second, third)
    assert len(rows("SELECT * FROM messages")) == 3


def test_a_last_line_that_was_counted_still_counts_while_the_next_is_written_on_it(home: Home):
    first, second = assistant(), assistant()
    path = write(home.transcript(), [first], newline=False)
    refresh()
    append(path, [line(second)[:99]])
    refresh()
    assert responses() == output(first)
    append(path, [line(second)[99:]])
    refresh()
    assert responses() == output(first, second)


def test_a_last_line_that_was_counted_and_then_replaced_still_counts(home: Home):
    first, second, third = assistant(), assistant(), assistant(text("longer than the one it takes the place of"))
    path = write(home.transcript(), [first, second], newline=False)
    refresh()
    write(path, [first, third])
    refresh()
    assert responses() == output(first, second, third)


def test_a_file_that_is_one_line_without_newline_and_is_then_replaced_still_counts(home: Home):
    first, second = assistant(), assistant(text("longer than the one it takes the place of"))
    path = write(home.transcript(), [first], newline=False)
    refresh()
    write(path, [second])
    refresh()
    assert responses() == output(first, second)


# Moves


def test_a_moved_file_is_recognised_and_not_read_again(a_history, home: Home):
    refresh()
    before = responses()
    target = home.transcript(project="/home/dev/elsewhere")
    target.parent.mkdir()
    a_history[0].rename(target)
    found = refresh()
    assert (found.files_parsed, found.bytes_read, found.files_gone) == (0, 0, 0)
    assert responses() == before
    assert rows("SELECT DISTINCT file FROM messages WHERE file = ?", str(target)) == [{"file": str(target)}]
    assert health()["files"]["gone"] == 0


def test_a_file_that_was_copied_and_then_deleted_is_recognised_by_its_bytes(a_history, home: Home):
    refresh()
    before = responses()
    target = home.root / "projects" / "moved.jsonl"
    shutil.copy(a_history[0], target)
    a_history[0].unlink()
    found = refresh()
    assert (found.bytes_read, found.files_gone, health()["files"]["gone"]) == (0, 0, 0)
    assert responses() == before


def test_a_moved_file_that_grew_gives_only_its_new_lines(a_history, home: Home):
    refresh()
    before, new = responses(), assistant()
    a_history[2].rename(home.transcript(THIRD))
    append(home.transcript(THIRD), [new])
    found = refresh()
    assert (found.files_parsed, found.bytes_read) == (1, len(line(new)))
    assert responses() == before | output(new)


def test_a_moved_file_that_names_no_session_takes_that_of_its_new_name(home: Home):
    path = write(home.transcript("one"), [assistant(sessionId=ABSENT), user(sessionId=ABSENT)])
    refresh()
    path.rename(home.transcript("two"))
    refresh()
    assert only(rows("SELECT DISTINCT session_id FROM usage"))["session_id"] == "two"
    assert health()["files"]["gone"] == 0


def test_a_moved_file_without_times_takes_its_new_one(home: Home):
    path = write(home.transcript("one"), [assistant(timestamp=ABSENT)])
    os.utime(path, ns=(OLD, OLD))
    refresh()
    shutil.copy(path, home.transcript("two"))
    path.unlink()
    refresh()
    assert only(rows("SELECT at FROM usage"))["at"] > "2025"


def test_a_copy_beside_its_original_counts_nothing_twice(a_history, home: Home):
    refresh()
    before = responses()
    shutil.copy(a_history[0], home.root / "projects" / "copy.jsonl")
    found = refresh()
    assert (found.files_seen, found.files_parsed) == (4, 1)
    assert responses() == before


def test_two_files_that_change_names_count_nothing_twice(a_history):
    refresh()
    before = responses()
    first, _, second = a_history
    between = first.with_suffix(".tmp")
    first.rename(between)
    second.rename(first)
    between.rename(second)
    refresh()
    assert responses() == before
    assert refresh().bytes_read == 0


def test_a_session_without_directory_belongs_to_the_smaller_path_whichever_copy_came_first(home: Home):
    record = assistant(cwd=ABSENT)
    write(home.transcript(project="/z"), [record])
    refresh()
    write(home.transcript(project="/a"), [record])
    refresh()
    assert only(rows("SELECT project FROM usage"))["project"] == "-a"
    stats()


# Rewrites and losses


def test_a_file_rewritten_shorter_grown_and_deleted_loses_no_response(home: Home):
    records = [assistant() for _ in range(6)]
    path = write(home.transcript(), records[:4])
    refresh()
    write(path, records[:2])
    refresh()
    assert responses() == output(*records[:4])
    append(path, [records[4]])
    refresh()
    append(path, [records[5]])
    refresh()
    path.unlink()
    assert refresh().files_gone == 1
    assert responses() == output(*records)
    assert health()["sources_gone"]["responses"] == 6


def test_a_line_removed_from_the_middle_stays_known_and_the_others_stand_once(home: Home):
    records = [assistant() for _ in range(3)]
    path = write(home.transcript(), records)
    refresh()
    write(path, [records[0], records[2]])
    refresh()
    assert responses() == output(*records)
    found = rows("SELECT uuid, is_source_gone FROM messages ORDER BY at")
    assert found == [{"uuid": r["uuid"], "is_source_gone": int(i == 1)} for i, r in enumerate(records)]


def test_a_file_replaced_by_another_keeps_what_it_said(home: Home):
    before, after = [assistant(), user()], [assistant(), assistant(), user()]
    path = write(home.transcript(), before)
    refresh()
    other = write(path.with_suffix(".tmp"), after)
    os.replace(other, path)
    refresh()
    assert responses() == output(before[0], after[0], after[1])
    assert refresh().bytes_read == 0


def test_a_rewrite_of_the_same_size_within_the_same_moment_is_seen(home: Home):
    one, two = assistant(), assistant()
    assert len(line(one)) == len(line(two))
    path = write(home.transcript(), [one])
    refresh()
    status = path.stat()
    path.write_bytes(line(two))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    refresh()
    assert responses() == output(one, two)


def test_an_old_rewrite_of_the_same_size_and_time_is_seen_by_full(home: Home):
    one, two = assistant(), assistant()
    path = write(home.transcript(), [one])
    os.utime(path, ns=(OLD, OLD))
    refresh()
    path.write_bytes(line(two))
    os.utime(path, ns=(OLD, OLD))
    assert refresh_unverified().files_parsed == 0
    refresh(full=True)
    assert responses() == output(one, two)


def test_a_touched_file_is_read_again_and_changes_nothing(a_history):
    os.utime(a_history[0], ns=(OLD, OLD))
    refresh()
    before = facts()
    os.utime(a_history[0], ns=(OLD, OLD + 10**9))
    assert refresh().files_parsed == 1
    assert facts() == before


def test_a_time_that_is_too_late_for_an_integer_stops_nobody(home: Home, run_cm: RunCm):
    path = write(home.transcript(), [user(), assistant()])
    os.utime(path, ns=(1 << 63, 1 << 63))
    if path.stat().st_mtime_ns < 1 << 63:
        pytest.skip("this file system knows no times after 2262")
    assert run_cm("refresh").returncode == 0
    append(path, [assistant()])
    os.utime(path, ns=(1 << 63, 1 << 63))
    assert refresh().files_parsed == 1
    assert refresh().files_parsed == 0
    assert len(responses()) == 2


@pytest.mark.parametrize("mtime", [OLD, 0])
def test_full_reads_everything_again_and_changes_nothing(a_history, mtime):
    for path in a_history:
        os.utime(path, ns=(mtime, mtime))
    refresh()
    before = facts()
    for _ in range(2):
        found = refresh(full=True)
        assert (found.files_parsed, found.bytes_read, found.responses_added) == (3, sizes(*a_history), 0)
        assert facts() == before
    assert health()["files"]["rewritten"] == 0


def test_deleted_and_restored_is_as_if_nothing_had_happened(a_history, tmp_path):
    for path in a_history:
        os.utime(path, ns=(OLD, OLD))
    refresh()
    before = facts()
    a_history[0].rename(tmp_path / "kept")
    assert refresh().files_gone == 1
    assert refresh().files_gone == 0
    assert responses() == {row["response_key"]: row["output_tokens"] for row in before["usage"]}
    (tmp_path / "kept").rename(a_history[0])
    assert refresh().bytes_read == 0
    assert facts() == before


def test_deleted_and_restored_with_more_gives_only_what_is_more(a_history):
    refresh()
    before, data, new = responses(), a_history[0].read_bytes(), assistant()
    a_history[0].unlink()
    refresh()
    a_history[0].write_bytes(data + line(new))
    assert refresh().bytes_read == len(line(new))
    assert responses() == before | output(new)


def test_deleted_and_another_put_in_its_place_keeps_both(home: Home):
    one, two = assistant(), assistant(text("of another length"))
    path = write(home.transcript(), [one])
    refresh()
    path.unlink()
    refresh()
    write(path, [two])
    refresh()
    assert responses() == output(one, two)


def test_a_folder_that_was_deleted_has_all_its_files_gone(a_history):
    refresh()
    before = responses()
    shutil.rmtree(a_history[0].parent)
    assert refresh().files_gone == 3
    assert responses() == before


def test_a_file_cut_short_while_it_is_read_is_told_and_read_next_time(home: Home, monkeypatch):
    records = [assistant() for _ in range(5)]
    path = write(home.transcript(), records)
    refresh_unverified(roots=[str(home.root)], paths=[str(home.root / "projects" / "nothing")])
    monkeypatch.setattr(reader, "CHUNK", 100)

    def cut(done: int, total: int) -> None:
        if path.stat().st_size == total:
            write(path, records[:2])

    found = refresh_unverified(workers=1, progress=cut)
    assert (found.files_failed, list(found.failures)) == (1, [str(path)])
    refresh()
    assert responses() == output(*records[:2])
    assert health()["failures"] == {}


@pytest.mark.parametrize("workers", [1, 4])
def test_what_cannot_be_read_does_not_keep_the_rest_from_being_read(a_history, home: Home, run_cm, workers, tmp_path):
    (home.root / "projects" / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    (home.root / "projects" / "folder.jsonl").mkdir()
    found = as_json(run_cm("refresh", "--json", "--workers", workers))
    assert (found["files_parsed"], found["files_failed"]) == (3, 0)


def test_an_unreadable_file_is_named_ends_with_3_and_is_read_when_it_can_be(
    a_history, run_cm: RunCm, make_unreadable: Callable[[Path], None]
):
    shut = a_history[2]
    make_unreadable(shut)
    done = run_cm("refresh", "--json")
    found = as_json(done, 3)
    assert (found["files_parsed"], found["files_failed"], found["files_unchanged"]) == (2, 1, 0)
    assert str(shut) in done.stderr
    assert "Permission denied" in done.stderr
    assert health()["failures"] == {str(shut): "Permission denied"}
    assert as_json(run_cm("refresh", "--json"), 3)["files_failed"] == 1
    shut.chmod(0o600)
    assert as_json(run_cm("refresh", "--json"))["files_parsed"] == 1
    assert health()["failures"] == {}
    assert len(responses()) == 4


def test_a_known_file_that_grew_and_cannot_be_read_keeps_what_it_said(
    a_history, run_cm: RunCm, make_unreadable: Callable[[Path], None]
):
    refresh()
    before = responses()
    append(a_history[2], [assistant()])
    make_unreadable(a_history[2])
    found = as_json(run_cm("refresh", "--json"), 3)
    assert (found["files_parsed"], found["files_unchanged"], found["files_failed"], found["files_gone"]) == (0, 2, 1, 0)
    assert responses() == before


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.jsonl", b"back\\slash.jsonl", b"two\nlines\x1b[2J.jsonl", "ä 😀.jsonl".encode()]
)
def test_any_file_name_can_be_indexed_and_verified(home: Home, run_cm: RunCm, name):
    record = assistant(sessionId=ABSENT)
    path = write(home.root / "projects" / os.fsdecode(name), [record])
    refresh()
    assert responses() == output(record)
    append(path, [assistant(sessionId=ABSENT)])
    assert refresh().files_parsed == 1
    assert refresh().bytes_read == 0
    path.unlink()
    done = run_cm("refresh", "--json")
    assert (as_json(done)["files_gone"], "\x1b" in done.stdout + done.stderr) == (1, False)


def test_a_root_of_any_name_can_be_indexed(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", os.fsdecode(os.fsencode(tmp_path) + b"/r\xff"))
    record = assistant()
    write(Path(os.environ["CLAUDE_CONFIG_DIR"], "projects", "p", "s.jsonl"), [record])
    refresh()
    assert responses() == output(record)
    assert refresh().bytes_read == 0


# Places


def test_a_path_limits_what_is_looked_at(a_history, home: Home, run_cm: RunCm, monkeypatch):
    found = as_json(run_cm("refresh", "--json", a_history[2]))
    assert (found["files_seen"], found["files_parsed"]) == (1, 1)
    monkeypatch.chdir(a_history[1].parent)
    assert as_json(run_cm("refresh", "--json", "."))["files_parsed"] == 1
    assert as_json(run_cm("refresh", "--json", home.root / "projects"))["files_parsed"] == 1
    assert as_json(run_cm("refresh", "--json"))["files_parsed"] == 0


def test_with_a_path_only_what_is_below_it_can_be_gone(a_history):
    refresh()
    a_history[1].unlink()
    a_history[2].unlink()
    assert refresh_unverified(paths=[str(a_history[1].parent)]).files_gone == 1
    assert refresh_unverified(paths=[str(a_history[2])]).files_gone == 1
    assert refresh().files_gone == 0


@pytest.mark.parametrize("place", ["linked", "linked/x.jsonl"])
def test_a_link_in_the_path_looked_at_to_a_known_file_adds_nothing(a_history, home: Home, place):
    refresh()
    before = facts()
    folder = home.root / "projects" / "linked"
    folder.mkdir()
    (folder / "x.jsonl").symlink_to(a_history[0])
    refresh(paths=[str(home.root / "projects" / place)])
    assert facts() == before
    refresh()
    assert facts() == before


def test_a_file_that_moved_out_of_the_path_looked_at_counts_nothing_twice(a_history, home: Home):
    refresh()
    before = responses()
    target = home.transcript(THIRD, "/home/dev/elsewhere")
    target.parent.mkdir()
    a_history[2].rename(target)
    refresh_unverified(paths=[str(target.parent)])
    assert responses() == before
    refresh()
    assert responses() == before


@pytest.mark.parametrize("place", ["projects-old/p/s.jsonl", "other/s.jsonl"])
def test_a_path_that_is_not_below_projects_is_refused(home: Home, run_cm: RunCm, place):
    write(home.root / place, [assistant()])
    done = run_cm("refresh", home.root / place)
    assert done.returncode == 1
    assert place in done.stderr


def test_files_of_roots_that_were_not_asked_for_are_not_gone(a_history, tmp_path):
    second = tmp_path / "second"
    write(second / "projects" / "p" / "x.jsonl", [assistant(sessionId=THIRD)])
    refresh(roots=[str(second)])
    found = refresh()
    assert (found.files_seen, found.files_gone) == (3, 0)
    assert refresh(roots=[str(second)]).files_gone == 0
    assert len(responses()) == 5


def test_files_of_a_root_that_vanished_are_not_gone(a_history, tmp_path, monkeypatch, home: Home):
    second = tmp_path / "second"
    write(second / "projects" / "p" / "x.jsonl", [assistant(sessionId=THIRD)])
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", f"{home.root},{second}")
    refresh()
    second.rename(tmp_path / "unmounted")
    assert refresh_unverified().files_gone == 0
    assert len(responses()) == 5
    (tmp_path / "unmounted").rename(second)
    assert refresh().bytes_read == 0


# The run itself


def test_every_run_has_its_row(a_history, run_cm: RunCm, make_unreadable):
    run_cm("refresh")
    run_cm("refresh", "--quiet")
    run_cm("stats")
    make_unreadable(append(a_history[0], [assistant()]))
    run_cm("refresh")
    found = rows("SELECT * FROM refreshes ORDER BY id")
    assert [row["files_parsed"] for row in found] == [3, 0, 0, 0]
    assert [row["files_failed"] for row in found] == [0, 0, 0, 1]
    assert [row["command"] for row in found] == ["refresh", "refresh", "stats", "refresh"]
    assert [row["files_seen"] for row in found] == [3, 3, 3, 3]
    assert all(row["seconds"] > 0 and row["started_at"] > 0 for row in found)


@contextmanager
def lock_held(db: Path) -> Iterator[None]:
    with open(f"{db}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_while_another_refresh_has_the_lock_it_ends_with_75_and_changes_nothing(a_history, db: Path, run_cm: RunCm):
    run_cm("refresh")
    append(a_history[0], [assistant()])
    with lock_held(db):
        done = run_cm("refresh", "--json")
        assert (done.returncode, done.stdout) == (75, "")
        assert str(db) in done.stderr
        with pytest.raises(Locked):
            refresh_unverified()
    assert len(rows("SELECT * FROM refreshes")) == 1
    assert as_json(run_cm("refresh", "--json"))["files_parsed"] == 1


def test_a_report_answers_from_the_index_as_it_is_while_another_refresh_has_the_lock(
    a_history, db: Path, run_cm: RunCm
):
    run_cm("refresh")
    append(a_history[0], [assistant()])
    with lock_held(db):
        done = run_cm("stats", "--json")
    assert as_json(done)["messages_count"] == 4
    assert "another refresh" in done.stderr


def test_two_first_refreshes_at_once_make_one_index(a_history, run_cm: RunCm):
    command = [sys.executable, "-m", "indexer", "stats", "--json"]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": clean_environment()}
    running = [subprocess.Popen(command, **options) for _ in range(4)]
    said = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert [json.loads(out)["messages_count"] for out, _ in said] == [4] * 4
    assert as_json(run_cm("refresh", "--json"))["bytes_read"] == 0


@pytest.mark.parametrize(
    "command", [["refresh"], ["stats"], ["stats", "--no-refresh"], ["status"], ["query", "SELECT 1"]]
)
def test_an_index_made_by_a_newer_cm_is_refused_in_one_line_and_left_alone(a_history, db: Path, run_cm: RunCm, command):
    run_cm("refresh")
    connection = sqlite3.connect(db)
    connection.executescript("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE")
    connection.close()
    before = db.read_bytes()
    done = run_cm(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(db) in done.stderr
    assert "newer" in done.stderr
    assert db.read_bytes() == before


def test_an_index_made_by_an_older_cm_is_brought_up_by_refresh_only(a_history, db: Path, run_cm: RunCm):
    run_cm("refresh")
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA user_version = 0")
    connection.close()
    done = run_cm("query", "SELECT 1")
    assert (done.returncode, "older" in done.stderr, "cm refresh" in done.stderr) == (1, True, True)
    assert run_cm("refresh").returncode == 0
    assert run_cm("query", "SELECT 1").returncode == 0


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be one" * 100, b"x"])
def test_a_file_that_is_no_index_is_refused_and_left_alone(a_history, db: Path, run_cm: RunCm, content):
    db.parent.mkdir()
    db.write_bytes(content)
    for command in (["refresh"], ["prices"], ["keep", "pack"]):
        done = run_cm(*command)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert str(db) in done.stderr
        assert db.read_bytes() == content
        assert list(db.parent.iterdir()) == [db]


@pytest.mark.parametrize("version", [0, 3])
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_another_programs_database_is_refused_and_left_alone(a_history, db: Path, run_cm: RunCm, version, mode):
    db.parent.mkdir()
    with closing(sqlite3.connect(db)) as connection:
        connection.executescript(f"PRAGMA journal_mode = {mode}; PRAGMA user_version = {version}; CREATE TABLE x (a)")
    before = db.read_bytes()
    for command in (["refresh"], ["prices"], ["keep", "pack"]):
        done = run_cm(*command)
        assert done.returncode == 1
        assert done.stderr == f"cm: {db} is another program's database, no index of cm: name another file with --db\n"
        assert db.read_bytes() == before
        assert list(db.parent.iterdir()) == [db]


def test_an_index_that_is_not_there_or_cannot_be_written_gets_no_lock(a_history, db: Path, run_cm: RunCm):
    db.parent.mkdir()
    done = run_cm("keep", "pack")
    assert (done.returncode, "there is no index yet" in done.stderr, list(db.parent.iterdir())) == (1, True, [])
    db.touch(mode=0o400)
    done = run_cm("keep", "pack")
    assert (done.returncode, "make it writable" in done.stderr, list(db.parent.iterdir())) == (1, True, [db])


def test_what_a_parser_that_was_mended_makes_of_what_is_still_there(a_history, db: Path):
    refresh()
    before = facts()
    a_history[2].unlink()
    refresh()
    with closing(sqlite3.connect(db)) as connection:
        connection.executescript(
            "UPDATE files SET parser_version = 0; UPDATE record_usage SET output_tokens = output_tokens + 1000;"
            "UPDATE responses SET output_tokens = output_tokens + 1000; UPDATE records SET text = 'wrong'"
        )
        rollups.sum_all(connection)
        connection.commit()
    found = refresh()
    assert (found.files_parsed, found.bytes_read) == (2, sizes(*a_history[:2]))
    expected = {row["response_key"]: row["output_tokens"] for row in before["usage"]}
    gone = only(rows("SELECT * FROM usage WHERE session_id = ?", OTHER))
    expected[gone["response_key"]] += 1000
    assert responses() == expected
    assert refresh().bytes_read == 0


def dump(db: Path) -> dict[str, list[Any]]:
    connection = sqlite3.connect(db)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found = {}
    for table in sorted(set(tables) - {"refreshes"} - {name for name in tables if name.startswith(("_", "sqlite_"))}):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        kept = ", ".join(name for name in columns if name not in ("checked_ns", "identity"))
        found[table] = sorted(connection.execute(f"SELECT {kept} FROM {table}"), key=repr)
    connection.close()
    return found


def test_the_number_of_workers_makes_no_difference(a_history, home: Home, tmp_path, monkeypatch):
    for number in range(12):
        session = f"s{number}"
        write(home.transcript(session), [assistant(sessionId=session) for _ in range(number)])
    shutil.copy(a_history[0], home.root / "projects" / "copy.jsonl")
    monkeypatch.setattr(reader, "CHUNK", 1000)
    dumps = []
    for workers in (1, 2, 8, 50):
        db = tmp_path / f"{workers}.db"
        refresh_unverified(db=str(db), workers=workers)
        dumps.append(dump(db))
    assert dumps[0]["responses"]
    assert dumps[1] == dumps[0]
    assert dumps[2] == dumps[0]
    assert dumps[3] == dumps[0]


# Kills

KILLED = """
import os, signal, sys
from indexer import reader, writer
from indexer.refresh import refresh

left, writer.COMMIT_BYTES, reader.CHUNK = int(sys.argv[1]), int(sys.argv[2]), 300

def count(done, total):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

refresh(workers=1, progress=count)
"""


def refresh_killed_after(parts: int, commit_bytes: int) -> bool:
    """Whether a refresh was killed after it had stored some parts, which may have been committed."""
    command = [sys.executable, "-c", KILLED, str(parts), str(commit_bytes)]
    done = subprocess.run(command, env=clean_environment(), cwd=CHECKOUT, check=False)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


def nothing_before(history: list[Path], home: Home) -> None:
    """The first refresh of all."""
    for path in history:
        dated(path, OLD)


def much_has_changed(history: list[Path], home: Home) -> None:
    """A file grew, one was rewritten, one moved, one is new, one is gone."""
    gone = write(home.transcript(THIRD), [assistant(sessionId=THIRD)])
    append(history[2], [assistant(sessionId=OTHER), assistant(sessionId=OTHER)])
    for path in (*history, gone):
        dated(path, OLD)
    refresh()
    gone.unlink()
    append(history[0], [assistant(), user()])
    kept = history[2].read_bytes().splitlines(keepends=True)
    write(history[2], [*kept[:3], assistant(sessionId=OTHER), user(sessionId=OTHER)])
    history[1].rename(home.flat_subagent())
    write(home.transcript("fourth"), [assistant(sessionId="fourth"), user(sessionId="fourth")])
    # Files that look young are looked at once more, which would hide what a kill left undone.
    for path in (history[0], history[2], home.transcript("fourth")):
        dated(path, OLD + 10**9)


@pytest.mark.parametrize("story", [nothing_before, much_has_changed])
@pytest.mark.parametrize("commit_bytes", [1, 1 << 30])
def test_a_kill_after_every_part_leaves_what_the_next_refresh_makes_whole(
    a_history, home: Home, db: Path, tmp_path, story, commit_bytes
):
    story(a_history, home)
    db.parent.mkdir(exist_ok=True)
    backup = shutil.copytree(db.parent, tmp_path / "backup")
    refresh()
    expected, parts = facts(), 0
    is_killed = True
    while is_killed:
        parts += 1
        shutil.rmtree(db.parent)
        shutil.copytree(backup, db.parent)
        is_killed = refresh_killed_after(parts, commit_bytes)
        refresh()
        for name, found in facts().items():
            assert found == expected[name], parts
    assert parts > 5
    assert refresh().bytes_read == 0


def test_a_file_rewritten_again_after_a_kill_stands_once(home: Home):
    records = [assistant(), user(), assistant(), user()]
    path = write(home.transcript(), records)
    refresh()
    write(path, [user(), *records])
    assert refresh_killed_after(1, 1)
    write(path, [user(), user(), *records])
    refresh()
    found = rows(
        "SELECT uuid, is_source_gone FROM messages WHERE uuid IN (SELECT value FROM json_each(?))", uuids(records)
    )
    assert [row["is_source_gone"] for row in found] == [0] * 4


def uuids(records: list[dict[str, Any]]) -> str:
    return json.dumps([record["uuid"] for record in records])


def test_refreshes_that_are_all_killed_early_come_to_an_end(a_history):
    refresh_unverified(db="~/whole.db")
    count = 1
    while refresh_killed_after(2, 1):
        count += 1
        assert count < 50
    assert count > 3
    refresh()
    assert len(responses()) == 4


def test_before_the_first_refresh_has_completed_a_query_says_that_it_is_not_all(a_history, run_cm: RunCm):
    assert refresh_killed_after(3, 1)
    done = run_cm("stats", "--no-refresh", "--json")
    assert "not completed" in done.stderr
    assert as_json(run_cm("stats", "--json"))["messages_count"] == 4


# In any pieces, and after anything


SPLIT = {"id": "msg_01" + "0" * 22, "requestId": "req_1"}
LINES = [
    line(title(session="")),
    line({"type": "summary", "summary": "of something", "leafUuid": "x"}),
    line(user(timestamp=ABSENT, sessionId=ABSENT)),
    line(assistant(tool_use("WebSearch", id="toolu_01" + "1" * 22), **SPLIT, usage=usage(output=1))),
    line(assistant(text("ä😀"), **SPLIT, usage=usage(output=300))),
    line(assistant(id=None, requestId=None, uuid=ABSENT)),
    line(tool_result("toolu_01" + "1" * 22, result={"searchCount": 3})),
    b"{broken\n",
    b"\0\0\0\n",
    b"\n",
    line(user())[:-1] + line(user()),
    line(user())[:99] + line(assistant()),
    line(assistant(sessionId=OTHER)).replace(b"\n", b"\r\n"),
]


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=6).map(b"".join), st.data())
def test_it_does_not_matter_in_how_many_refreshes_the_bytes_arrive(data, draw):
    data = data[: len(data) - draw.draw(st.sampled_from([0, 1, 50]))]
    cuts = sorted(draw.draw(st.sets(st.integers(0, len(data)), max_size=4)) | {len(data)})
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAUDE_CONFIG_DIR", f"{folder}/root")
        patch.setenv("CM_DB", f"{folder}/pieces.db")
        patch.setattr(reader, "CHUNK", draw.draw(st.sampled_from([50, 4 << 20])))
        path = Path(folder, "root", "projects", "p", "s.jsonl")
        start = 0
        for cut in cuts:
            append(path, [data[start:cut]])
            dated(path, OLD)
            refresh()
            start = cut
        in_pieces = facts()
        patch.setenv("CM_DB", f"{folder}/once.db")
        refresh()
        assert facts() == in_pieces


def whole_records(data: bytes) -> bytes:
    """What a line without its newline begins with: records one behind the other."""
    text, end = data.decode(), 0
    try:
        while end < len(text):
            _, end = json.JSONDecoder().raw_decode(text, end)
    except json.JSONDecodeError:
        pass
    return text[:end].encode()


def event(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule after which the index is refreshed or not."""

    def make(happen: Callable[..., None]) -> Any:
        def happen_and_look(self: Life, is_seen: bool, **values: Any) -> None:
            happen(self, **values)
            if is_seen:
                self.check()

        happen_and_look.__name__ = happen.__name__
        return rule(is_seen=st.booleans(), **arguments)(happen_and_look)

    return make


class Life(RuleBasedStateMachine):
    """What happens to files between refreshes; at each, nothing that was ever indexed is lost or counted twice."""

    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        self.root = Path(self.folder.name, "root")
        (self.root / "projects").mkdir(parents=True)
        self.clock = OLD
        self.number = 0
        self.trash: list[bytes] = []
        self.seen: dict[str, int] = {}
        self.env = pytest.MonkeyPatch()
        self.env.setenv("CLAUDE_CONFIG_DIR", str(self.root))
        self.env.setenv("CM_DB", f"{self.folder.name}/cm.db")
        refresh()

    def teardown(self) -> None:
        if hasattr(self, "env"):
            self.env.undo()
            self.folder.cleanup()

    def files(self) -> list[Path]:
        return sorted((self.root / "projects").rglob("*.jsonl"))

    def pick(self, number: int) -> Path:
        files = self.files()
        return files[number % len(files)] if files else self.new_name()

    def new_name(self) -> Path:
        self.number += 1
        return self.root / "projects" / f"p{self.number % 3}" / f"s{self.number}.jsonl"

    def record(self, kind: int) -> bytes:
        """A record of a response of its own, or of one that others are of too."""
        self.number += 1
        shared = {"id": f"msg_01{kind % 3:022}", "requestId": "r"} if kind < 3 else {}
        plain = {"sessionId": ABSENT, "timestamp": ABSENT} if kind == 3 else {}
        return line(assistant(**shared, **plain, usage=usage(output=self.number)))

    def put(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self.dated(path)

    def dated(self, path: Path) -> None:
        self.clock += 10**9
        os.utime(path, ns=(self.clock, self.clock))

    @event(which=st.integers(0, 3), kinds=st.lists(st.integers(0, 6), min_size=1, max_size=3), cut=st.integers(0, 3))
    def grow(self, which: int, kinds: list[int], cut: int) -> None:
        path = self.pick(which)
        data = b"".join(map(self.record, kinds))
        before = path.read_bytes() if path.exists() else b""
        self.put(path, before + data[: len(data) - (0, 1, 2, 120)[cut]])

    @event(kinds=st.lists(st.integers(0, 6), max_size=2))
    def create(self, kinds: list[int]) -> None:
        self.put(self.new_name(), b"".join(map(self.record, kinds)))

    @event(which=st.integers(0, 3))
    def close_the_last_line(self, which: int) -> None:
        path = self.pick(which)
        if path.exists():
            self.put(path, path.read_bytes() + b"\n")

    @event(which=st.integers(0, 3), keep=st.integers(0, 7), kinds=st.lists(st.integers(0, 6), max_size=2))
    def rewrite(self, which: int, keep: int, kinds: list[int]) -> None:
        path = self.pick(which)
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [data for index, data in enumerate(lines) if keep >> (index % 3) & 1]
            self.put(path, b"".join([*kept, *map(self.record, kinds)]))

    @event(which=st.integers(0, 3), share=st.floats(0, 1))
    def truncate(self, which: int, share: float) -> None:
        path = self.pick(which)
        if path.exists():
            data = path.read_bytes()
            self.put(path, data[: int(len(data) * share)])

    @event(which=st.integers(0, 3))
    def delete(self, which: int) -> None:
        path = self.pick(which)
        if path.exists():
            self.trash.append(path.read_bytes())
            path.unlink()

    @event(which=st.integers(0, 3), into=st.integers(0, 3))
    def restore(self, which: int, into: int) -> None:
        if self.trash:
            target = self.pick(into) if into < 2 else self.new_name()
            self.put(target, self.trash[which % len(self.trash)])

    @event(which=st.integers(0, 3), is_copied=st.booleans())
    def move(self, which: int, is_copied: bool) -> None:
        path = self.pick(which)
        if path.exists():
            target = self.new_name()
            target.parent.mkdir(exist_ok=True)
            if is_copied:
                shutil.copy(path, target)
                self.dated(target)
            else:
                path.rename(target)

    @event(which=st.integers(0, 3))
    def touch(self, which: int) -> None:
        path = self.pick(which)
        if path.exists():
            self.dated(path)

    @event(which=st.integers(0, 3))
    def replace_by_itself(self, which: int) -> None:
        path = self.pick(which)
        if path.exists():
            self.put(path.with_suffix(".tmp"), path.read_bytes())
            os.replace(path.with_suffix(".tmp"), path)

    def check(self, **options: Any) -> None:
        refresh(**options)
        for data in self.contents():
            *lines, last = data.split(b"\n")
            for told in [*lines, whole_records(last)]:
                self.note(told)
        assert responses() == self.seen
        cover = health()["coverage"]
        assert cover["lines_seen"] == sum(len(data.splitlines()) for data in self.contents())
        assert cover["lines_seen"] == cover["lines_indexed"] + cover["lines_skipped"] + cover["lines_pending"]
        again = refresh()
        assert (again.files_parsed, again.bytes_read, again.files_gone) == (0, 0, 0)

    def contents(self) -> list[bytes]:
        return [path.read_bytes() for path in self.files()]

    def note(self, data: bytes) -> None:
        start = data.find(b'{"parentUuid"')
        while start >= 0:
            end = data.find(b'{"parentUuid"', start + 1)
            try:
                message = orjson.loads(data[start : end if end > 0 else len(data)])["message"]
                self.seen[message["id"]] = max(self.seen.get(message["id"], 0), message["usage"]["output_tokens"])
            except orjson.JSONDecodeError:
                pass
            start = end

    @rule(full=st.booleans(), workers=st.sampled_from([1, 4]))
    def look(self, full: bool, workers: int) -> None:
        self.check(full=full, workers=workers)


@pytest.mark.parametrize("examples", [12, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_whatever_happens_to_files_nothing_is_lost_or_counted_twice(examples):
    # To shrink what failed would take minutes.
    options = settings(max_examples=examples, stateful_step_count=14, phases=[Phase.generate])
    run_state_machine_as_test(Life, settings=settings(options, suppress_health_check=list(HealthCheck)))
