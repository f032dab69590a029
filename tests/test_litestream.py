"""The recipe for a backup, run: Litestream replicates while refreshes go on, and what it restores is the index."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import Home, append, assistant, text, user, write
from conftest import RunCm, clean_environment

# Where pip puts it is beside the interpreter.
LITESTREAM = shutil.which("litestream", path=f"{Path(sys.executable).parent}") or shutil.which("litestream")

pytestmark = pytest.mark.skipif(LITESTREAM is None, reason="litestream is not installed")


def litestream(*arguments: object) -> None:
    command = [str(LITESTREAM), *map(str, arguments)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def replicating(db: Path, replica: Path) -> Iterator[None]:
    command = [str(LITESTREAM), "replicate", str(db), replica.as_uri()]
    log = db.with_suffix(".log").open("wb")
    process = subprocess.Popen(command, env=clean_environment(), stdout=log, stderr=log)
    try:
        until = time.monotonic() + 30
        while not list(replica.rglob("*.ltx")):
            assert process.poll() is None and time.monotonic() < until, db.with_suffix(".log").read_text()
            time.sleep(0.05)
        yield
        assert process.poll() is None, db.with_suffix(".log").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        log.close()


def content(db: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables of ours."""
    connection = sqlite3.connect(db)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'"
    )
    found = {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for (name,) in names.fetchall()}
    connection.close()
    return found


def test_what_is_restored_is_the_index_while_refreshes_go_on(home: Home, db: Path, tmp_path: Path, run_cm: RunCm):
    replica = tmp_path / "replica"
    path = write(home.transcript(), [user(), assistant()])
    assert run_cm("refresh").returncode == 0
    with replicating(db, replica):
        for number in range(4):
            # Beyond what SQLite keeps in its log: it is moved into the database while Litestream reads on.
            append(path, [assistant(text(f"{number} " + "x" * 3_000)) for _ in range(600)])
            done = run_cm("refresh", "--quiet")
            assert (done.returncode, done.stderr) == (0, "")
        midway = tmp_path / "midway.db"
        litestream("restore", "-o", midway, replica.as_uri())
        assert content(midway)["records"]
        append(path, [user("The last one.")])
        assert run_cm("refresh", "--quiet").returncode == 0
    litestream("replicate", "-once", db, replica.as_uri())
    restored = tmp_path / "restored.db"
    litestream("restore", "-o", restored, replica.as_uri())
    assert content(restored) == content(db)
    said = [run_cm("stats", "--json", "--no-refresh", "--db", file).stdout for file in (db, restored)]
    assert said[0] == said[1] != ""
    # And it goes on from there, in its place.
    append(path, [assistant()])
    done = run_cm("refresh", "--json", "--db", restored)
    assert '"files_parsed": 1' in done.stdout
    assert '"records_added": 1,' in done.stdout
