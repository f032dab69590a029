"""Files that are not what they should be, and disks that are full: one line, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from builders import Home, append, assistant, line, user, write
from conftest import RunCm, clean_environment, respect_permissions
from ledger import refresh, rows

from indexer import store
from indexer.errors import IndexUnusable
from indexer.refresh import refresh as run_refresh
from indexer.summary import Summary

DONE, FAILED, SOME_UNREADABLE = 0, 1, 3


@pytest.fixture
def history(home: Home) -> Home:
    for name in ("one", "two", "three"):
        write(home.transcript(name), [user(sessionId=name), assistant(sessionId=name)])
    return home


@pytest.fixture
def index(history: Home, db: Path) -> Path:
    """An index that one response more is to come into."""
    refresh()
    append(history.transcript("one"), [assistant(sessionId="one")])
    return db


def responses() -> int:
    return int(rows("SELECT count(*) AS n FROM usage")[0]["n"])


def told(done: subprocess.CompletedProcess[str], code: int = FAILED) -> str:
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert done.stderr.startswith("cm: ")
    return done.stderr


def limited(limit: int, *arguments: str, what: int = resource.RLIMIT_FSIZE) -> subprocess.CompletedProcess[str]:
    """`cm` as a process that may write no larger file, or have no more memory."""

    def limit_it() -> None:
        respect_permissions()
        resource.setrlimit(what, (limit, limit))

    command = [sys.executable, "-m", "indexer", *arguments]
    # A module that Python could compile only in part would break every process after it.
    env = clean_environment({"PYTHONDONTWRITEBYTECODE": "1"})
    return subprocess.run(command, env=env, preexec_fn=limit_it, capture_output=True, text=True, check=False)


# The disk


@pytest.mark.parametrize("limit", [1_000, 100_000, 250_000])
def test_a_first_refresh_without_room_says_so_and_is_made_up_for(history: Home, run_cm: RunCm, limit: int):
    assert "make room" in told(limited(limit, "refresh"))
    refresh()
    assert responses() == 3
    assert run_cm("check").returncode == DONE


@pytest.mark.parametrize("limit", [60_000, 500_000, 1_000_000])
def test_a_refresh_that_runs_out_of_room_loses_nothing(index: Path, history: Home, run_cm: RunCm, limit: int):
    write(history.transcript("big"), [user("x" * 3000, sessionId="big") for _ in range(500)])
    assert "make room" in told(limited(limit, "refresh"))
    # A report answers from what there is.
    done = limited(limit, "daily", "--json")
    assert (done.returncode, json.loads(done.stdout)[0]["responses"]) == (DONE, 3)
    assert "not refreshed" in told(done, DONE)
    assert run_cm("check").returncode == DONE
    assert refresh().records_added == 501
    assert responses() == 4


def test_a_full_file_system_says_so_and_loses_nothing(index: Path, history: Home, tmp_path: Path, run_cm: RunCm):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        shutil.copy(index, small / "cm.db")
        write(history.transcript("big"), [user("x" * 3000, sessionId="big") for _ in range(500)])
        assert "make room" in told(run_cm("refresh", "--db", small / "cm.db"))
        assert run_cm("check", "--db", small / "cm.db").returncode == DONE
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert run_cm("refresh", "--db", small / "cm.db").returncode == DONE
        assert json.loads(run_cm("stats", "--json", "--db", small / "cm.db").stdout)["messages_count"] == 4
    finally:
        subprocess.run(["umount", str(small)], check=True)


# The index's own files


@pytest.mark.parametrize("where", ["cm.db", "."])
def test_an_index_that_cannot_be_written_is_read_all_the_same(
    index: Path, run_cm: RunCm, where: str, request: pytest.FixtureRequest
):
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("SELECT count(*) FROM files")  # the last to close it takes its WAL away
    place = index.parent / where
    mode = place.stat().st_mode
    request.addfinalizer(lambda: place.chmod(mode))
    place.chmod(0o400 if place.is_file() else 0o500)
    if not run_cm("refresh").returncode:
        pytest.skip("this user can write what is read-only")
    assert "writable" in told(run_cm("refresh"))
    for command in (["query", "SELECT count(*) AS responses FROM usage"], ["daily", "--json"]):
        assert json.loads(run_cm(*command).stdout)[0]["responses"] == 3
    assert run_cm("check").returncode == DONE
    place.chmod(mode)
    assert refresh().responses_added == 1


def a_folder(path: Path) -> None:
    path.mkdir()


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def closed(path: Path) -> None:
    path.touch()
    path.chmod(0)


@pytest.mark.parametrize("name", ["cm.db", "cm.db.lock"])
@pytest.mark.parametrize("make", [a_folder, a_fifo, closed])
def test_what_is_no_file_in_the_place_of_one_is_told(
    index: Path, run_cm: RunCm, name: str, make: Callable[[Path], None]
):
    place = index.parent / name
    place.rename(index.parent / "aside")
    make(place)
    done = run_cm("refresh", timeout=60)
    if not done.returncode:
        pytest.skip("this user can read what has no permissions")
    assert str(place) in told(done)
    place.rmdir() if place.is_dir() else place.unlink()
    (index.parent / "aside").rename(place)
    assert refresh().responses_added == 1


@pytest.mark.parametrize(("share", "command"), [(0.02, "refresh"), (0.5, "daily"), (0.95, "check")])
def test_an_index_that_was_cut_is_told_and_left_as_it_is(index: Path, run_cm: RunCm, share: float, command: str):
    os.truncate(index, int(index.stat().st_size * share))
    before = index.read_bytes()
    assert "cm restore" in told(run_cm(command))
    assert index.read_bytes() == before


def test_an_index_that_another_program_locks_is_told_to_be_locked(index: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    with closing(sqlite3.connect(index, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(IndexUnusable, match="another program holds it locked; end what that does"):
            run_refresh(db=str(index))
    assert run_refresh(db=str(index)).files_seen > 0


def test_a_lock_file_of_a_process_that_died_locks_nothing(index: Path, run_cm: RunCm):
    gone = subprocess.Popen(["true"])
    gone.wait()
    Path(f"{index}.lock").write_text(str(gone.pid))
    assert run_cm("refresh").returncode == DONE
    assert responses() == 4


# Transcripts that change under the reader's hands; the largest is read first, and `progress` called after it


def change_while_reading(home: Home, change: Callable[[], object]) -> Summary:
    write(home.transcript("large"), [user("x" * 9000, sessionId="large")])
    changes = iter([change])
    return run_refresh(workers=1, progress=lambda *_: next(changes, lambda: None)())


def be_removed(path: Path) -> None:
    path.unlink()


def be_truncated(path: Path) -> None:
    os.truncate(path, 100)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("change", [be_removed, be_truncated, become_a_folder, become_a_fifo, become_a_loop])
def test_a_transcript_that_changes_after_it_was_found_costs_no_other(
    history: Home, change: Callable[[Path], None], run_cm: RunCm
):
    path = history.transcript("two")
    summary = change_while_reading(history, lambda: change(path))
    assert (summary.files_failed, list(summary.failures)) == (1, [str(path)])
    assert responses() == 2
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    write(path, [assistant(sessionId="two")])
    assert refresh().files_failed == 0
    assert responses() == 3
    assert run_cm("check").returncode == DONE


def test_a_transcript_that_is_rewritten_after_it_was_found_to_have_grown_is_not_read_on(index: Path, history: Home):
    paths = [history.transcript(name) for name in ("one", "two")]
    for path in paths:
        append(path, [assistant(sessionId=path.stem)])
    changes = iter([lambda: [write(path, [assistant(sessionId=path.stem) for _ in range(9)]) for path in paths]])
    summary = run_refresh(workers=1, progress=lambda *_: next(changes, lambda: None)())
    assert list(summary.failures.values()) == ["it was rewritten while others were read"]
    assert refresh().files_failed == 0  # and the index is what the transcripts say


def test_a_folder_that_a_file_replaces_keeps_what_it_held(index: Path, history: Home, run_cm: RunCm):
    folder = history.transcript("one").parent
    shutil.rmtree(folder)
    folder.write_text("no folder any more")
    assert run_cm("refresh").returncode == DONE
    assert responses() == 3
    shutil.rmtree(history.root / "projects")
    (history.root / "projects").write_text("nor this")
    assert run_cm("refresh").returncode == DONE
    assert responses() == 3


def test_devices_fifos_and_loops_named_as_transcripts_are_left_alone(history: Home, run_cm: RunCm):
    folder = history.transcript("one").parent
    os.mkfifo(folder / "fifo.jsonl")
    for name, target in {"zero": "/dev/zero", "loop": "loop.jsonl", "to-fifo": "fifo.jsonl", "up": ".."}.items():
        (folder / f"{name}.jsonl").symlink_to(target)
    done = run_cm("refresh", "--json", timeout=60)
    assert (done.returncode, json.loads(done.stdout)["files_seen"]) == (DONE, 3)


def test_fifos_in_the_place_of_what_is_read_beside_transcripts_hold_nobody_up(history: Home, run_cm: RunCm):
    write(history.subagent(), [assistant(isSidechain=True)])
    for path in (history.subagent().with_suffix(".meta.json"), *map(history.root.joinpath, BESIDE)):
        os.mkfifo(path)
    for command in ("refresh", "status"):
        assert run_cm(command, timeout=60).returncode == DONE
    assert responses() == 4


BESIDE = ("settings.json", "settings.local.json", "history.jsonl")


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_thousands_of_empty_files(history: Home, run_cm: RunCm, count: int):
    folder = history.transcript("one").parent
    for number in range(count):
        (folder / f"{number}.jsonl").touch()
    first, second = (json.loads(run_cm("refresh", "--json").stdout) for _ in range(2))
    assert (first["files_parsed"], first["records_added"]) == (count + 3, 6)
    assert (second["files_parsed"], second["bytes_read"]) == (0, 0)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (b"new\nline", b"not \xff utf-8"),
        (b"not \xff utf-8", b"\x1b]0;title\x07"),
        (b"\x1b[2Jescape", b"new\nline"),
    ],
)
def test_any_path_is_indexed_and_none_reaches_the_terminal(history: Home, run_cm: RunCm, folder: bytes, name: bytes):
    place = os.path.join(os.fsencode(history.root / "projects"), folder)
    os.mkdir(place)
    with open(os.path.join(place, name + b".jsonl"), "wb") as file:
        file.write(line(assistant(sessionId="odd")))
    with open(os.path.join(place, name + b"-closed.jsonl"), "wb") as file:
        file.write(line(assistant(sessionId="closed")))
        os.fchmod(file.fileno(), 0)
    done = run_cm("refresh")
    assert done.returncode in (DONE, SOME_UNREADABLE)  # root without capabilities to drop reads it
    for shown in (done, run_cm("status"), run_cm("query", "SELECT path FROM files", "--format", "table")):
        assert "\x1b" not in shown.stdout + shown.stderr
        assert "\x07" not in shown.stdout + shown.stderr
    assert responses() == 5 - bool(done.returncode)
    assert run_cm("check").returncode == DONE
