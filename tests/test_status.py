"""Coverage: every line of every file is indexed, skipped for a reason, or pending."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from builders import Home, append, assistant, line, title, usage, user, write
from conftest import RunCm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger import health, refresh, rows

from indexer.lines import BLANK, BROKEN, NO_TYPE, NOT_AN_OBJECT, NUL_BYTES, TOO_DEEP

A, B = line(user("one"))[:-1], line(assistant())[:-1]
KILLED = A[: len(A) // 2]


def coverage(seen: int, indexed: int, pending: int = 0, **reasons: int) -> dict[str, Any]:
    skipped = {reason.replace("_", " "): count for reason, count in reasons.items()}
    counts = {"lines_seen": seen, "lines_indexed": indexed, "lines_pending": pending}
    return {**counts, "lines_skipped": sum(skipped.values()), "skipped_by_reason": skipped}


@pytest.mark.parametrize(
    ("story", "data", "reasons"),
    [
        ("blank", b"", {BLANK: 1}),
        ("a carriage return", b"\r", {BLANK: 1}),
        ("broken", KILLED, {BROKEN: 1}),
        ("NUL bytes", b"\0" * 700, {NUL_BYTES: 1}),
        ("an array", b"[1]", {NOT_AN_OBJECT: 1}),
        ("no type", b"{}", {NO_TYPE: 1}),
        ("nested too deeply", b"[" * 100_000, {TOO_DEEP: 1}),
        ("two records", A + B, {}),
        ("a record behind a broken one", KILLED + B, {}),
        ("words behind a record", A + b"oops", {}),
        ("NUL bytes behind a record", A + b"\0" * 100, {}),
        ("two that are no records", b"{}{}", {NO_TYPE: 1}),
        ("two that are no records, for two reasons", b"{} [1] oops", {NO_TYPE: 1}),
        ("a byte order mark", b"\xef\xbb\xbf" + A, {}),
        ("invalid UTF-8", A.replace(b"one", b"\xff"), {}),
    ],
)
def test_a_bad_line_is_counted_once(home: Home, story, data, reasons):
    path = write(home.transcript(), [user(), data + b"\n", user()])
    assert refresh().lines_skipped == sum(reasons.values())
    expected = coverage(3, 3 - sum(reasons.values())) | {"skipped_by_reason": reasons}
    assert health()["coverage"] == expected | {"lines_skipped": sum(reasons.values())}
    for row in rows(
        "SELECT f.path, s.offset, s.length, s.line FROM skipped_lines AS s JOIN files AS f ON f.id = s.file_id"
    ):
        assert row["path"] == str(path)
        part = path.read_bytes()[row["offset"] : row["offset"] + row["length"]]
        assert part in data
        assert row["line"] == 2


def test_a_last_line_is_seen_in_whatever_state_it_is(home: Home):
    path = write(home.transcript(), [user()])
    append(path, [A])
    refresh()
    assert health()["coverage"] == coverage(2, 2)
    write(path, [user(), KILLED])
    refresh()
    assert health()["coverage"] == coverage(2, 1, pending=1)
    write(path, [user(), b"[1]"])
    refresh()
    assert health()["coverage"] == coverage(2, 1, not_an_object=1)
    append(path, [b"\n"])
    refresh()
    assert health()["coverage"] == coverage(2, 1, not_an_object=1)


def test_coverage_is_that_of_the_files_as_they_are_now(home: Home):
    path = write(home.transcript(), [user(), b"oops\n", user()])
    gone = write(home.transcript("gone"), [user(), b"\n"])
    refresh()
    assert health()["coverage"] == coverage(5, 3, blank=1, broken_JSON=1)
    write(path, [user(), user(), user(), user()])
    gone.unlink()
    refresh()
    assert health()["coverage"] == coverage(4, 4)
    refresh(full=True)
    assert health()["coverage"] == coverage(4, 4)


def test_no_file_at_all_is_nothing_seen(home: Home):
    refresh()
    assert health()["coverage"] == coverage(0, 0)


LINES = [line(user()), line(assistant()), line(title()), A + B + b"\n", KILLED + B + b"\n", A + b"oops\n"]
LINES += [
    b"\n",
    b" \r\n",
    b"\0\0\n",
    b"[]\n",
    b"{}\n",
    b"{}{}\n",
    b"5 {}\n",
    b'{"type":"zeta"}\n',
    KILLED + b"\n",
    b"\xff\n",
]


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.lists(st.sampled_from(LINES) | st.binary(max_size=9), max_size=7).map(b"".join), min_size=1, max_size=3
    ),
    st.lists(st.sampled_from(LINES) | st.binary(max_size=9), max_size=3).map(b"".join),
)
def test_seen_is_indexed_and_skipped_and_pending_and_all_lines_there_are(files, more):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAUDE_CONFIG_DIR", f"{folder}/root")
        patch.setenv("CM_DB", f"{folder}/cm.db")
        paths = [Path(folder, "root", "projects", f"{number}.jsonl") for number in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            write(path, [data])
        refresh()
        append(paths[0], [more])
        refresh()
        cover = health()["coverage"]
        contents = [path.read_bytes() for path in paths]
    assert cover["lines_seen"] == sum(data.count(b"\n") + (data[-1:] not in (b"", b"\n")) for data in contents)
    assert cover["lines_seen"] == cover["lines_indexed"] + cover["lines_skipped"] + cover["lines_pending"]
    assert cover["lines_skipped"] == sum(cover["skipped_by_reason"].values())


# What else it says


def test_status_tells_the_health_of_the_index(home: Home, db: Path, run_cm: RunCm):
    undercounted = assistant(usage=usage(output=3), stop_reason=None)
    unpriced = assistant(model="claude-zeta-99", usage=usage(5, 6, cache_read=7))
    write(home.transcript(), [assistant(), undercounted, unpriced, b"{\n"])
    gone = write(home.transcript("gone"), [assistant(usage=usage(1, 2, 3, 4, 5))])
    refresh()
    gone.unlink()
    refresh()
    done = run_cm("status", "--json")
    found = json.loads(done.stdout)
    assert found["database"] == str(db)
    assert found["database_bytes"] >= db.stat().st_size
    assert found["roots"] == found["indexed_roots"] == [str(home.root)]
    assert found["files"] | {"present": 1, "gone": 1, "rewritten": 0, "failed": 0} == found["files"]
    assert found["files"]["bytes"] == home.transcript().stat().st_size
    assert (found["records"], found["responses"], found["undercounted_responses"]) == (4, 4, 1)
    assert [row["model"] for row in found["unpriced"]] == ["claude-zeta-99"]
    assert found["sources_gone"] == {"responses": 1, "tokens": 1 + 2 + 3 + 4 + 5}
    assert found["last_refresh"]["command"] == "refresh"
    assert found["schema_version"] >= 1
    text = run_cm("status").stdout
    for said in (str(home.root), "claude-zeta-99", "4 seen = 3 indexed + 1 skipped", "1 gone"):
        assert said in text


def test_status_reads_the_index_as_it_is_unless_asked_to_refresh(home: Home, run_cm: RunCm):
    write(home.transcript(), [user()])
    refresh()
    append(home.transcript(), [user()])
    assert json.loads(run_cm("status", "--json").stdout)["coverage"] == coverage(1, 1)
    assert json.loads(run_cm("status", "--json", "--refresh").stdout)["coverage"] == coverage(2, 2)


def test_status_before_the_first_refresh_has_completed_says_so(home: Home, db: Path, run_cm: RunCm):
    write(home.transcript(), [user()])
    refresh()
    connection = sqlite3.connect(db)
    connection.execute("INSERT INTO meta VALUES ('is_loading', '1')")
    connection.commit()
    connection.close()
    assert "not completed" in run_cm("status").stderr


def test_paths_with_control_characters_are_shown_escaped(home: Home, run_cm: RunCm, make_unreadable):
    make_unreadable(write(home.root / "projects" / "a\x1b[2Jb.jsonl", [user()]))
    assert run_cm("refresh").returncode == 3
    for done in (run_cm("status"), run_cm("status", "--json"), run_cm("refresh")):
        assert "\x1b" not in done.stdout + done.stderr
        assert "[2Jb.jsonl" in done.stdout + done.stderr
