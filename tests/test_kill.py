"""Killed anywhere: the index stays whole, nothing of it is lost, and the next refresh makes the numbers right."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from builders import Home
from conftest import clean_environment
from ledger import refresh
from sessions import appending, begin, indexed, naive, paths

from indexer import store

CM = [sys.executable, "-m", "indexer", "refresh", "--quiet"]
# As for a load of 32 MB and more, which would take too long here.
IN_PROCESSES = [sys.executable, "-c", "from indexer import pool, refresh; pool.BULK = 0; refresh(workers=2)"]


def assert_whole(db: Path) -> None:
    """What holds of an index at every moment, also when nobody has finished anything."""
    if not db.exists():
        return
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'files'").fetchone():
            return
        for path, offset, size in connection.execute("SELECT path, offset, size FROM files"):
            data = Path(path).read_bytes()[:offset]
            assert len(data) == offset
            assert not data or data.endswith(b"\n"), f"{path}: {offset} of {size}"


def workers_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie that only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def how_long(command: list[str]) -> float:
    start = time.monotonic()
    subprocess.run(command, env=clean_environment(), check=True)
    return time.monotonic() - start


def lose(db: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{db}{suffix}").unlink(missing_ok=True)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it looks for workers in /proc")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kills", [15, pytest.param(100, marks=pytest.mark.nightly)])
def test_a_refresh_that_is_killed_at_any_moment_loses_nothing(home: Home, db: Path, kills: int) -> None:
    chance = random.Random(kills)
    begin(home, chance)
    times = {}
    for name, command in (("refresh", CM), ("processes", IN_PROCESSES)):
        times[name] = how_long(command)
        lose(db)
    killed = with_workers = 0
    for number in count():
        if killed == kills:
            break
        name, command = ("processes", IN_PROCESSES) if number % 2 else ("refresh", CM)
        if number % 3 == 0:
            lose(db)  # a first load, else the next of a series
        with appending(paths(home), chance):
            process = subprocess.Popen(command, env=clean_environment(), stderr=subprocess.DEVNULL)
            time.sleep(moment := chance.uniform(0, times[name]))
            workers = workers_of(process.pid)
            process.kill()
            if process.wait() == -9:
                killed += 1
            else:  # the machine was busy when it was timed: it ends sooner than that
                times[name] = moment
            with_workers += bool(workers)
        assert_whole(db)
        end = time.monotonic() + 20
        while any(map(is_running, workers)):
            assert time.monotonic() < end, "a worker outlived its refresh"
            time.sleep(0.01)
        if db.parent.exists():
            with store.Lock(str(db)):
                pass
        refresh()
        assert indexed() == naive(home)
        assert_whole(db)
        # Nothing of the killed one's is left beside it.
        assert {path.name.removeprefix("cm.db") for path in db.parent.iterdir()} <= {"", "-wal", "-shm", ".lock"}
    assert with_workers > 0  # else that was not tried
