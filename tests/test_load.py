"""The first load of an index with worker processes: what is seen of it while it is made, and when it was killed."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from builders import Home, assistant, tool_result, tool_use, write
from conftest import RunCm, clean_environment
from ledger import refresh, rows
from sessions import begin, indexed, naive

from indexer import pool, store
from indexer.refresh import refresh as run_refresh

# As for a load of 32 MB and more; a shard for each transcript.
LOAD = "from indexer import pool, refresh, shard; pool.BULK = 0; shard.BYTES = 1; refresh(workers=2)"

# What is killed while it writes pages of its rollback journal's transaction to the file.
KILLED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = TRUNCATE")
connection.execute("PRAGMA cache_size = 5")
connection.execute("BEGIN")
connection.execute("UPDATE records SET flags = flags + 1")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def sessions(home: Home) -> None:
    begin(home, random.Random(7), responses=150)


def load() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", LOAD], env=clean_environment(), stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.0005)


def is_written(db: Path) -> bool:
    """Whether a shard is being taken over: pages are changed, which a kill would leave to be put back."""
    try:
        return any(db.parent.glob("*.shard-*")) and Path(f"{db}-journal").stat().st_size > 0
    except OSError:
        return False


def test_a_loaded_index_has_a_wal_and_nothing_left_beside_it(home: Home, db: Path):
    with load() as process:
        assert process.wait() == 0
    assert indexed() == naive(home)
    with closing(store.connect(str(db))) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert {path.name for path in db.parent.iterdir()} <= {"cm.db", "cm.db-wal", "cm.db-shm", "cm.db.lock"}


@pytest.mark.parametrize("since", ["before", "meanwhile"])
def test_a_first_load_and_who_reads_wait_for_each_other(home: Home, db: Path, since: str):
    if since == "before":
        store.make_private(str(db))
        store.open_writer(str(db)).close()
    with load() as process:
        wait_for(lambda: since == "before" or is_written(db))
        with closing(store.connect_to_read(str(db))) as reader:
            reader.execute("BEGIN")
            (seen,) = reader.execute("SELECT count(*) FROM files").fetchone()
            time.sleep(0.5)
            assert reader.execute("SELECT count(*) FROM files").fetchone() == (seen,)
        assert process.wait() == 0
    assert indexed() == naive(home)


def test_what_a_killed_load_leaves_is_said_to_who_reads_it_and_put_right_by_the_next(
    home: Home, db: Path, run_cm: RunCm
):
    refresh()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(db)], check=False)
    assert killed.returncode == -signal.SIGKILL
    found = run_cm("query", "SELECT count(*) FROM files")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == f"cm: {db}: its first refresh was killed; run `cm refresh`, which goes on from there\n"
    refresh()
    assert indexed() == naive(home)


def test_a_load_that_was_stopped_is_ended_by_the_next(home: Home, db: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "BULK", 0)
    monkeypatch.setattr("indexer.shard.BYTES", 1)
    run_refresh(workers=2, is_stopped=lambda: True)
    with closing(sqlite3.connect(db)) as connection:
        (begun,) = connection.execute("SELECT count(*) FROM files").fetchone()
        assert connection.execute("SELECT count(*) FROM meta WHERE key = 'is_loading'").fetchone() == (1,)
    assert 0 < begun < 6
    refresh(workers=2)
    assert indexed() == naive(home)


def test_responses_that_stand_in_several_shards_are_counted_once_in_every_report(
    home: Home, run_cm: RunCm, monkeypatch: pytest.MonkeyPatch
):
    original = home.transcript("original")
    lines = [assistant(sessionId="original") for _ in range(5)]
    write(original, lines)
    for number in range(3):
        write(home.transcript(f"fork-{number}"), lines)
    monkeypatch.setattr(pool, "BULK", 0)
    monkeypatch.setattr("indexer.shard.BYTES", 1)
    summary = refresh(workers=2)
    assert summary.responses_added == naive(home)[-1] + 5
    assert run_cm("check").returncode == 0


def test_a_model_that_processes_bring_to_an_index_has_its_price(home: Home, monkeypatch: pytest.MonkeyPatch):
    refresh()
    monkeypatch.setattr(pool, "BULK", 0)
    for name in ("new-1", "new-2"):
        write(home.transcript(name), [assistant(model="claude-haiku-4-5-20251001", sessionId=name)])
    refresh(workers=2)
    (found,) = rows("SELECT count(*) AS n, min(cost_usd) AS least FROM usage WHERE model LIKE '%haiku%'")
    assert found["n"] == 2
    assert found["least"] > 0


@pytest.mark.parametrize("is_first", [True, False])
def test_searches_of_a_call_whose_copies_are_responses_of_their_own_are_charged_once(
    home: Home, monkeypatch: pytest.MonkeyPatch, is_first: bool
):
    if not is_first:
        refresh()
    monkeypatch.setattr(pool, "BULK", 0)
    monkeypatch.setattr("indexer.shard.BYTES", 1)
    # A gateway's ids: in each fork the answer is another response, and the call is one.
    call = tool_use("WebSearch")
    lines = [assistant(call, id="gen-1", requestId=None), tool_result(call["id"], result={"searchCount": 3})]
    for name in ("fork-1", "fork-2", "original"):
        write(home.transcript(name), [{**record, "sessionId": name} for record in lines])
    refresh(workers=2)
    assert rows("SELECT sum(web_searches) AS searches FROM responses") == [{"searches": 3}]
