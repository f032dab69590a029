"""What Claude Code deletes by itself: what `cm status` tells before, and of what was deleted before cm came."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from datetime import datetime
from pathlib import Path

import builders
import pytest
from builders import assistant

from indexer import cleanup, refresh

DAY = 86_400
OTHER = "5e551000-0000-4000-8000-000000000002"


def write(path: Path, days_old: float) -> Path:
    builders.write(path, [assistant()])
    touch(path, days_old)
    return path


def touch(path: Path, days_old: float) -> None:
    changed = time.time() - days_old * DAY
    os.utime(path, (changed, changed))


def settings(root: Path, name: str = "settings.json", **values: object) -> None:
    (root / name).write_text(json.dumps(values))


def prompt(text: str = "Please fix the build.", session: str | None = OTHER, at: str = "2026-03-01T10:00:00Z") -> bytes:
    told = {"display": text, "pastedContents": {}, "project": "/home/dev/app"}
    told["timestamp"] = int(datetime.fromisoformat(at).timestamp() * 1000)
    return json.dumps(told | ({"sessionId": session} if session else {})).encode() + b"\n"


def status(run_cm):
    done = run_cm("status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# What is deleted next


def test_transcripts_are_counted_that_claude_code_deletes_within_a_week(home, run_cm):
    for session, days_old in (("new", 1), ("later", 22.9), ("soon", 23.1), ("over", 31)):
        write(home.transcript(session), days_old)
    refresh()
    found = status(run_cm)["deletions"]
    assert (found["within_days"], found["due"], found["overdue"], found["not_indexed"]) == (7, 2, 1, 0)
    assert found["roots"] == [
        {
            "root": str(home.root),
            "cleanup_period_days": 30,
            "transcripts": 4,
            "due": 2,
            "overdue": 1,
            "not_indexed": 0,
        }
    ]


def test_people_are_told_that_they_are_safe(home, run_cm):
    for session in ("one", "two"):
        write(home.transcript(session), 29)
    write(home.subagent(), 31)
    refresh()
    told = run_cm("status").stdout
    assert (
        "3 transcripts within 7 days, 1 of them when Claude Code starts next (it keeps them 30 days);"
        " all of them are safe in the index" in told
    )
    assert "warning" not in told


def test_a_transcript_that_is_not_indexed_as_it_is_now_is_a_warning(home, run_cm):
    for session in ("same", "grown", "unseen"):
        write(home.transcript(session), 29)
    home.transcript("unseen").rename(home.root / "aside")
    refresh()
    (home.root / "aside").rename(home.transcript("unseen"))
    builders.append(home.transcript("grown"), [assistant()])
    touch(home.transcript("grown"), 29)
    found = status(run_cm)
    assert (found["deletions"]["due"], found["deletions"]["not_indexed"]) == (3, 2)
    assert found["warnings"] == [
        "2 transcripts that Claude Code deletes within 7 days are not indexed as they are now: run `cm refresh`"
    ]
    assert "not all of them are in the index" in run_cm("status").stdout
    refresh()
    assert status(run_cm)["warnings"] == []


def test_a_transcript_that_could_not_be_read_is_not_safe(home, run_cm, make_unreadable):
    write(home.transcript(), 29)
    make_unreadable(home.transcript())
    assert run_cm("refresh").returncode == 3
    assert status(run_cm)["deletions"]["not_indexed"] == 1


def test_without_old_transcripts_there_is_nothing_to_tell(home, run_cm):
    write(home.transcript(), 2)
    refresh()
    assert status(run_cm)["deletions"]["due"] == 0
    assert "no transcript within 7 days" in run_cm("status").stdout


@pytest.mark.parametrize(
    ("files", "days"),
    [
        ({}, 30),
        ({"settings.json": '{"cleanupPeriodDays": 365}'}, 365),
        ({"settings.json": '{"cleanupPeriodDays": 365}', "settings.local.json": '{"cleanupPeriodDays": 9}'}, 9),
        ({"settings.json": '{"cleanupPeriodDays": 60}', "settings.local.json": '{"model": "opus"}'}, 60),
        ({"settings.json": '{"cleanupPeriodDays": 0}'}, 30),
        ({"settings.json": '{"cleanupPeriodDays": "60"}'}, 30),
        ({"settings.json": '{"cleanupPeriodDays": true}'}, 30),
        ({"settings.json": "{broken"}, 30),
        ({"settings.json": "[]"}, 30),
    ],
)
def test_claude_codes_settings_say_how_long_it_keeps_transcripts(tmp_path, files, days):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cleanup.period_days(str(tmp_path)) == days


def test_each_root_has_its_own_period(home, tmp_path, run_cm, monkeypatch):
    other = builders.Home(tmp_path / "other")
    settings(other.root, cleanupPeriodDays=99999)
    write(home.transcript(), 40)
    write(other.transcript(OTHER), 40)
    monkeypatch.setenv("CM_ROOTS", os.pathsep.join([str(home.root), str(other.root)]))
    refresh()
    found = status(run_cm)["deletions"]
    assert found["due"] == 1
    assert [root["due"] for root in found["roots"]] == [1, 0]
    assert "it keeps them 30 or 99999 days" in run_cm("status").stdout


# What was deleted before cm came


def test_the_prompt_history_tells_of_sessions_whose_transcripts_were_gone(home, run_cm):
    write(home.transcript(), 1)
    prompts = [
        prompt("still there", builders.SESSION, "2026-10-01T10:00:00Z"),
        prompt("gone", "gone-1", "2026-03-05T10:00:00.250Z"),
        prompt("gone, too", "gone-1", "2026-03-06T10:00:00Z"),
        prompt("gone as well", "gone-2", "2026-01-02T10:00:00Z"),
    ]
    (home.root / "history.jsonl").write_bytes(b"".join(prompts))
    refresh()
    assert status(run_cm)["gone_before_index"] == {
        "prompts": 3,
        "sessions": 2,
        "first_at": "2026-01-02T10:00:00.000Z",
        "last_at": "2026-03-06T10:00:00.000Z",
    }
    assert "3 prompts of 2 sessions, 2026-01-02 to 2026-03-06" in run_cm("status").stdout


def test_a_transcript_that_is_gone_but_indexed_was_not_gone_before(home, run_cm):
    write(home.transcript(), 1)
    (home.root / "history.jsonl").write_bytes(prompt("indexed", builders.SESSION))
    refresh()
    home.transcript().unlink()
    refresh()
    assert status(run_cm)["gone_before_index"]["prompts"] == 0
    assert "gone before" not in run_cm("status").stdout


def test_a_session_that_began_after_the_last_refresh_is_not_gone(home, run_cm):
    write(home.transcript(), 1)
    refresh()
    write(home.transcript("fresh"), 0)
    (home.root / "history.jsonl").write_bytes(prompt("just now", "fresh"))
    assert status(run_cm)["gone_before_index"]["sessions"] == 0


def test_prompts_without_a_session_count_if_they_are_older_than_everything_indexed(home, run_cm):
    builders.write(home.transcript(), [assistant(timestamp="2026-05-01T00:00:00.000Z")])
    prompts = [prompt("early", None, "2026-04-30T00:00:00Z"), prompt("late", None, "2026-05-02T00:00:00Z")]
    (home.root / "history.jsonl").write_bytes(b"".join(prompts))
    refresh()
    found = status(run_cm)["gone_before_index"]
    assert (found["prompts"], found["sessions"], found["last_at"]) == (1, 0, "2026-04-30T00:00:00.000Z")


def test_a_session_of_commands_alone_never_had_a_transcript(home, run_cm):
    write(home.transcript(), 1)
    (home.root / "history.jsonl").write_bytes(prompt("/login", "login") + prompt("/exit", "login"))
    refresh()
    assert status(run_cm)["gone_before_index"]["sessions"] == 0


def test_lines_that_are_no_prompts_are_passed_over(home, run_cm):
    write(home.transcript(), 1)
    odd = [b"\xff\n", b"{\n", b"[]\n", b'{"timestamp": "soon"}\n', b'{"timestamp": 1e30}\n']
    odd += [b'{"timestamp": 99999999999999999}\n']
    odd += [b'{"timestamp": 1772359200000, "sessionId": 7, "display": null}\n', b"\n", prompt("real", "gone")[:-1]]
    (home.root / "history.jsonl").write_bytes(b"".join(odd))
    refresh()
    found = status(run_cm)["gone_before_index"]
    assert (found["prompts"], found["sessions"]) == (2, 1)


# How old the index is


def age(db: Path, days: float) -> None:
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE refreshes SET started_at = started_at - ?", (int(days * DAY * 1000),))


@pytest.mark.parametrize(("days", "says"), [(0.9, None), (1.1, "1 day ago"), (3.5, "3 days ago")])
def test_an_index_not_refreshed_for_a_day_is_a_warning(home, run_cm, db, days, says):
    write(home.transcript(), 1)
    refresh()
    age(db, days)
    warnings = status(run_cm)["warnings"]
    assert [says in warning for warning in warnings] == ([True] if says else [])
    assert ("warning" in run_cm("status").stdout) == bool(says)


def test_the_last_refreshes_are_listed_newest_first(home, run_cm):
    write(home.transcript(), 1)
    for _ in range(7):
        refresh()
    found = status(run_cm)
    assert len(found["refreshes"]) == 5
    assert found["refreshes"][0] == found["last_refresh"]
    times = [run["started_at"] for run in found["refreshes"]]
    assert times == sorted(times, reverse=True)
    assert run_cm("status").stdout.count(" by refresh, ") == 5
