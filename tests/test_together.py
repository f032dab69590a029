"""Many at once: refreshes, readers, a watch and writers get in nobody's way, and the numbers come out right."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from builders import Home
from conftest import RunCm, clean_environment
from ledger import refresh
from sessions import FILES, appending, begin, indexed, naive, paths

from indexer import connect

DONE, LOCKED = 0, 75
# What may be said while others are at work; anything else is an error.
SAID = ("another refresh",)


def assert_quiet(stderr: str) -> None:
    for said in stderr.splitlines():
        assert said.startswith("cm: "), stderr
        assert any(words in said for words in SAID), stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [4, pytest.param(20, marks=pytest.mark.nightly)])
def test_eight_refreshes_four_readers_a_watch_and_two_writers(home: Home, run_cm: RunCm, seconds: int) -> None:
    chance = random.Random(seconds)
    begin(home, chance, responses=10)
    assert run_cm("refresh").returncode == DONE
    end = time.monotonic() + seconds

    def work(*command: str, codes: tuple[int, ...]) -> int:
        times = 0
        while time.monotonic() < end:
            done = run_cm(*command)
            assert done.returncode in codes, done.stderr
            assert_quiet(done.stderr)
            if "--json" in command:
                assert json.loads(done.stdout)
            times += 1
        return times

    commands = [("refresh", "-q")] * 8 + [("daily", "--json")] * 2
    commands += [("query", "SELECT count(*) AS n, sum(output_tokens) FROM usage", "--json")] * 2
    watch = subprocess.Popen(
        [sys.executable, "-m", "indexer", "watch", "--interval", "1"],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with ExitStack() as stack:
        stack.callback(watch.kill)
        for half in (paths(home)[::2], paths(home)[1::2]):
            stack.enter_context(appending(half, chance))
        with ThreadPoolExecutor(len(commands)) as pool:
            running = [
                pool.submit(work, *command, codes=(DONE, LOCKED) if command[0] == "refresh" else (DONE,))
                for command in commands
            ]
            assert all(future.result() for future in running)
        watch.send_signal(signal.SIGTERM)
        _, said = watch.communicate(timeout=60)
    assert watch.returncode == DONE
    assert "error" not in said.lower()
    assert "Traceback" not in said
    refresh()
    assert indexed() == naive(home)
    assert run_cm("check").returncode == DONE


@pytest.mark.parametrize("command", [("refresh", "--json"), ("daily", "--json")])
def test_six_first_runs_at_once(home: Home, run_cm: RunCm, db: Path, command: tuple[str, ...]) -> None:
    begin(home, random.Random(6))
    assert not db.exists()
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: run_cm(*command), range(6)))
    codes = [run.returncode for run in done]
    assert DONE in codes
    assert set(codes) <= ({DONE, LOCKED} if command[0] == "refresh" else {DONE})
    for run in done:
        assert "Traceback" not in run.stderr
    if command[0] == "daily":  # each waited for the first refresh: part of a total is a wrong total
        expected = naive(home)[1]
        assert [sum(day["output_tokens"] for day in json.loads(run.stdout)) for run in done] == [expected] * 6
    else:
        assert sum(json.loads(run.stdout)["files_parsed"] for run in done if run.stdout) == FILES
    refresh()
    assert indexed() == naive(home)


def test_a_program_that_reads_while_it_refreshes_keeps_its_index(home: Home, run_cm: RunCm, db: Path) -> None:
    begin(home, random.Random(8), responses=3)
    refresh()
    reader = connect()
    assert reader.execute("SELECT count(*) FROM records").fetchone()[0]
    refresh()
    # The last of another process's connections to be closed deletes the -wal, unless somebody here still reads it.
    assert run_cm("refresh", "-q").returncode == DONE
    assert Path(f"{db}-wal").exists()
    reader.close()
