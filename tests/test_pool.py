"""The pool: the same index whatever reads the transcripts, and no worker outlives what it works for."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import builders
import pytest
from conftest import clean_environment

from indexer import CmError, pool, processes, refresh
from indexer.transcripts import Job
from indexer.writer import Writer

T = TypeVar("T")

FILES = 12


@pytest.fixture
def history(home: builders.Home) -> builders.Home:
    for number in range(FILES):
        session = f"5e551000-0000-4000-8000-{number:012}"
        records = [builders.user(f"Prompt {n}", sessionId=session) for n in range(40)]
        records += [builders.assistant(sessionId=session) for _ in range(40)]
        builders.write(home.transcript(session), [*records, b"{broken\n"])
    return home


def contents(db: Path) -> list[tuple[object, ...]]:
    """What was indexed, without the ids that follow the order of reading."""
    connection = sqlite3.connect(db)
    try:
        rows = connection.execute(
            "SELECT file, offset, uuid, type, at, model, text FROM messages ORDER BY 1, 2"
        ).fetchall()
        rows += connection.execute(
            "SELECT * FROM (SELECT response_key, session_id, cost_usd FROM usage) ORDER BY 1"
        ).fetchall()
        rows += connection.execute("SELECT offset, length, reason FROM skipped_lines ORDER BY 1, 2").fetchall()
    finally:
        connection.close()
    return rows


def test_processes_threads_and_neither_make_the_same_index(
    history: builders.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, workers, bulk in (("one", 1, 1 << 40), ("threads", 5, 1 << 40), ("processes", 2, 0)):
        monkeypatch.setattr(pool, "BULK", bulk)
        summary = refresh(db=str(tmp_path / f"{name}.db"), workers=workers)
        assert (summary.files_parsed, summary.files_failed) == (FILES, 0)
        found.append(contents(tmp_path / f"{name}.db"))
    assert found[0] == found[1] == found[2]


def test_a_worker_that_is_killed_loses_only_the_transcript_it_was_reading(
    history: builders.Home, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "BULK", 0)
    send, sent = processes._Worker.send, []

    def send_and_kill(worker: processes._Worker, jobs: list[Job]) -> None:
        send(worker, jobs)
        sent.append(jobs)
        if len(sent) == 1:
            worker._process.send_signal(signal.SIGKILL)

    monkeypatch.setattr(processes._Worker, "send", send_and_kill)
    summary = refresh(workers=2)
    assert (summary.files_parsed, summary.files_failed) == (FILES - 1, 1)
    assert "ended early" in next(iter(summary.failures.values()))
    monkeypatch.undo()
    summary = refresh(db=str(db), roots=[str(history.root)])
    assert (summary.files_parsed, summary.files_failed) == (1, 0)


def test_workers_know_modules_of_their_own_wherever_they_are_started(
    history: builders.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("indexer", "apsw", "pickle"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not the one that was meant')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)  # which may be relative
    monkeypatch.setattr(pool, "BULK", 0)
    assert refresh(workers=2).files_failed == 0


def test_workers_that_cannot_start_end_a_refresh(history: builders.Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "BULK", 0)
    monkeypatch.setattr(processes.shard, "BYTES", 1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CmError, match="--workers 1"):
        refresh(workers=2)


def test_workers_end_with_their_parent(history: builders.Home, tmp_path: Path) -> None:
    for number in range(6):
        path = history.transcript(f"5e551000-0000-4000-8000-1{number:011}")
        builders.write(path, [builders.user("x" * 3_000_000)] * 4)
    code = "from indexer import pool, refresh; pool.BULK = 0; refresh(workers=2)"
    parent = subprocess.Popen([sys.executable, "-c", code], env=clean_environment())
    try:
        children = wait_for(lambda: workers_of(parent.pid))
    finally:
        parent.kill()
        parent.wait()
    assert wait_for(lambda: not any(is_running(child) for child in children))
    # The lock died with it as well.
    assert refresh().files_failed == 0


def wait_for(condition: Callable[[], T], seconds: float = 20.0) -> T:
    """The first true value of the condition."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)
    return found


def workers_of(parent: int) -> list[int]:
    """Its processes, once both are at work."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    pids = [int(pid) for pid in found.stdout.split()]
    return pids if len(pids) == 2 else []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_writer_that_fails_leaves_no_reader_behind(history: builders.Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Writer, "add", fail)
    monkeypatch.setattr(Writer, "take", fail)
    for bulk in (0, 1 << 40):
        monkeypatch.setattr(pool, "BULK", bulk)
        with pytest.raises(CmError, match="disk is full"):
            refresh(workers=4)
    assert threading.active_count() == 1
