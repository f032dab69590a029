"""`cm push`: a team's PostgreSQL has each machine's part of the truth, and its views the whole of it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from builders import Home, append, assistant, text, user, write
from conftest import CHECKOUT, RunCm, clean_environment
from hosts import (
    DAILY,
    STATS_ELSEWHERE,
    Machine,
    Rows,
    a_real_team,
    a_team,
    ask,
    index_of_all,
    index_of_merged,
    machines,
    plain,
    stats,
)
from servers import PASSWORD, Server, postgresql

from indexer import push, store
from indexer.errors import CmError
from indexer.facts import VERSION, Options

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

PUSHED = "SELECT table_name, day, fingerprint FROM cm.pushed_days ORDER BY 1, 2"
_numbers = itertools.count(1)
COUNTS = "SELECT (SELECT count(*) FROM cm.messages), (SELECT count(*) FROM cm.responses)"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgresql() as running:
        yield running


@pytest.fixture
def url(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database of this test's own."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    name = f"test_{next(_numbers)}"
    with closing(psycopg.connect(server.url("postgres"), autocommit=True)) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.url(name)


def send(machine: Machine, url: str, *options: bool) -> dict[str, Any]:
    connection = store.open_reader(str(machine.db))
    try:
        return push.push(connection, url, Options(*options))
    finally:
        connection.close()


def answer(url: str, query: str) -> Rows:
    with closing(psycopg.connect(url, autocommit=True, options="-c search_path=cm")) as connection:
        return plain(connection.execute(query).fetchall())


def of(machine: Machine) -> dict[str, str | None]:
    return {
        "CM_DB": str(machine.db),
        "CLAUDE_CONFIG_DIR": str(machine.home.root),
        "PGPASSWORD": PASSWORD,
        "CM_LOG": f"{machine.db}.log",
    }


def start(machine: Machine, url: str) -> subprocess.Popen[str]:
    """`cm push` as a process."""
    environment = clean_environment() | of(machine)
    command = [sys.executable, "-m", "indexer", "push", url, "--no-refresh"]
    return subprocess.Popen(
        command, env=environment, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (found,) = machines(tmp_path, ["anvil"])
    write(found.home.transcript(), [user("A secret\0plan"), assistant(text("Told"), timestamp="2026-09-01T00:00:00Z")])
    found.index()
    return found


def test_the_views_give_the_numbers_of_one_index_of_all_hosts(tmp_path: Path, url: str):
    team = a_team(tmp_path / "team")
    for machine in team:
        send(machine, url)
    everything = index_of_all(team, tmp_path / "all.db")
    assert answer(url, STATS_ELSEWHERE) == stats(everything)
    assert answer(url, DAILY) == ask(everything, DAILY)


def test_they_are_the_numbers_of_merged_indexes(tmp_path: Path, url: str):
    team = a_team(tmp_path / "team")
    for machine in team:
        send(machine, url)
    merged = index_of_merged(team, tmp_path / "merged.db")
    assert answer(url, STATS_ELSEWHERE) == stats(merged)
    assert answer(url, DAILY) == ask(merged, DAILY)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_real_transcripts_too(tmp_path: Path, url: str):
    team = a_real_team(tmp_path / "team")
    for machine in team:
        send(machine, url)
    merged = index_of_merged(team, tmp_path / "merged.db")
    assert answer(url, STATS_ELSEWHERE) == stats(merged)
    assert answer(url, DAILY) == ask(merged, DAILY)


def test_only_the_days_that_changed_are_sent(machine: Machine, url: str):
    assert send(machine, url)["rows_sent"]["messages"] == 2
    assert send(machine, url)["rows_sent"] == {}
    append(machine.home.transcript(), [assistant(timestamp="2026-11-01T00:00:00Z"), assistant()])
    machine.index()
    again = send(machine, url)["rows_sent"]
    assert (again["messages"], again["responses"]) == (3, 2)  # one prompt is of the second's day
    assert answer(url, "SELECT sum(responses) FROM usage") == [(3,)]


def test_what_is_no_more_here_goes_there_too(machine: Machine, url: str):
    send(machine, url)
    # Rewritten and moved in time: the same two records, others beside them.
    write(machine.home.transcript(), [user(timestamp="2026-08-01T00:00:00Z"), assistant()])
    machine.index()
    send(machine, url)
    here = ask(machine.db, "SELECT id >> 40, id & ((1 << 40) - 1) FROM records ORDER BY 1, 2")
    assert answer(url, "SELECT file_id, byte_offset FROM messages ORDER BY 1, 2") == here


def test_texts_go_there_only_when_asked_for_and_go_away_again(machine: Machine, url: str):
    texts = "SELECT text FROM messages WHERE text IS NOT NULL ORDER BY 1"
    send(machine, url)
    assert answer(url, texts) == []
    send(machine, url, True)
    assert answer(url, texts) == [("A secret\ufffdplan",), ("Told",)]
    send(machine, url)
    assert answer(url, texts) == []


def test_anonymised_paths_do_not_arrive(machine: Machine, url: str):
    send(machine, url, False, True)
    projects, files = answer(url, "SELECT project, project_name FROM usage"), answer(url, "SELECT * FROM files")
    assert projects and "/home" not in repr(projects)
    assert files and str(machine.home.root) not in repr(files)


def test_ten_hosts_push_together(tmp_path: Path, url: str):
    team = machines(tmp_path / "team", [f"host-{n}" for n in range(10)])
    shared = [assistant() for _ in range(5)]
    for n, machine in enumerate(team):
        own = [assistant(sessionId=f"5e551000-0000-4000-8000-00000000030{n}") for _ in range(20)]
        write(machine.home.transcript(), [*shared, *own])
        machine.index()
    pushing = [start(machine, url) for machine in team]
    said = [(process.communicate(timeout=100)[1], process.returncode) for process in pushing]
    assert said == [("", 0)] * 10
    assert answer(url, "SELECT sum(responses), count(*) FROM usage") == [(205, 205)]
    assert answer(url, "SELECT count(DISTINCT host) FROM records") == [(10,)]


def test_two_pushes_of_one_host_at_once(machine: Machine, url: str):
    append(machine.home.transcript(), [assistant() for _ in range(50)])
    machine.index()
    pushing = [start(machine, url) for _ in range(3)]
    assert [process.wait(timeout=100) for process in pushing] == [0, 0, 0]
    assert answer(url, COUNTS) == [(52, 51)]


@contextmanager
def held_up(machine: Machine, url: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A push that has sent half of its rows, and waits: the process, and the server's number of its connection."""
    with closing(psycopg.connect(url)) as other:
        other.execute("LOCK TABLE cm.responses IN ACCESS EXCLUSIVE MODE")
        process = start(machine, url)
        waiting = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cm push' AND wait_event_type = 'Lock'"
        end = time.monotonic() + 60
        while not (found := answer(url, waiting)):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        yield process, found[0][0]


@pytest.fixture
def pushed(machine: Machine, url: str) -> Machine:
    """A machine that has pushed, and then has more to push."""
    send(machine, url)
    append(machine.home.transcript(), [assistant() for _ in range(20)])
    machine.index()
    return machine


def test_killed_half_way_it_has_changed_nothing(pushed: Machine, url: str):
    before = answer(url, COUNTS), answer(url, PUSHED)
    with held_up(pushed, url) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (answer(url, COUNTS), answer(url, PUSHED)) == before
    send(pushed, url)
    assert answer(url, COUNTS) == [(22, 21)]


def test_a_cut_connection_has_changed_nothing_and_is_one_line(pushed: Machine, url: str):
    before = answer(url, COUNTS), answer(url, PUSHED)
    with held_up(pushed, url) as (process, connection):
        answer(url, f"SELECT pg_terminate_backend({connection})")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert "nothing was changed" in err and PASSWORD not in err
    assert (answer(url, COUNTS), answer(url, PUSHED)) == before


def test_a_restored_database_and_another_one_are_brought_up_to_date(pushed: Machine, url: str, server: Server):
    before = url.rpartition("/")[2]
    with closing(psycopg.connect(server.url("postgres"), autocommit=True)) as connection:
        connection.execute(f"CREATE DATABASE {before}_restored TEMPLATE {before}")
        connection.execute(f"CREATE DATABASE {before}_empty")
    for there in (url, f"{url}_restored", f"{url}_empty"):
        send(pushed, there)
        assert answer(there, COUNTS) == [(22, 21)]
        assert send(pushed, there)["rows_sent"] == {}


# The tables there


def test_tables_of_an_older_cm_are_brought_up_to_date(machine: Machine, url: str):
    send(machine, url)
    views = answer(url, "SELECT * FROM usage")
    older = (
        "DROP VIEW cm.usage CASCADE",
        "ALTER TABLE cm.messages DROP COLUMN version",
        "ALTER TABLE cm.messages ADD COLUMN dropped_since bigint",
        "CREATE VIEW cm.adviser_models AS SELECT dropped_since FROM cm.messages",
        "DROP TABLE cm.models CASCADE",
        f"UPDATE cm.schema_version SET version = {VERSION - 1}",
        "UPDATE cm.pushed_days SET fingerprint = 'of another version'",
    )
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        for statement in older:
            connection.execute(statement)
    send(machine, url)
    assert answer(url, "SELECT DISTINCT version FROM messages") == [("2.1.233",)]
    assert answer(url, "SELECT * FROM usage") == views
    columns = "SELECT 1 FROM information_schema.columns WHERE column_name = 'dropped_since'"
    assert answer(url, columns) == []


def test_tables_of_a_newer_cm_are_refused(machine: Machine, url: str):
    send(machine, url)
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("UPDATE cm.schema_version SET version = 99")
    append(machine.home.transcript(), [assistant()])
    machine.index()
    with pytest.raises(CmError, match="newer cm"):
        send(machine, url)
    assert answer(url, COUNTS) == [(2, 1)]


# The command


def test_the_command_says_what_it_sent(home: Home, url: str, run_cm: RunCm):
    write(home.transcript(), [user(), assistant()])
    done = run_cm("push", url, "--json", env={"PGPASSWORD": PASSWORD})
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["rows_sent"]["messages"] == 2
    again = run_cm("push", url, env={"PGPASSWORD": PASSWORD})
    assert "nothing changed" in again.stdout


@pytest.mark.parametrize("place", ["postgresql://cm:hunter2@127.0.0.1/team", "postgres://127.0.0.1/x?password=hunter2"])
def test_a_password_in_the_url_is_refused_and_never_told(home: Home, run_cm: RunCm, tmp_path: Path, place: str):
    write(home.transcript(), [assistant()])
    done = run_cm("push", place)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "PGPASSWORD" in done.stderr
    said = done.stderr + "".join(path.read_text() for path in (tmp_path / "log").glob("*") if path.is_file())
    assert "hunter2" not in said


@pytest.mark.parametrize("place", ["nowhere", "mysql://a/b", "postgresql://[/x", "postgresql://127.0.0.1:1/team"])
def test_what_is_no_database_is_one_line(home: Home, run_cm: RunCm, place: str):
    write(home.transcript(), [assistant()])
    done = run_cm("push", place)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_the_password_is_taken_from_a_passfile_and_a_service_file(
    server: Server, url: str, machine: Machine, run_cm: RunCm
):
    folder = machine.db.parent
    (folder / "pass").write_text("*:*:*:*:" + PASSWORD.replace("\\", "\\\\"))
    (folder / "pass").chmod(0o600)
    database = url.rpartition("/")[2]
    (folder / "services").write_text(f"[team]\nhost=127.0.0.1\nport={server.port}\nuser=cm\ndbname={database}\n")
    given = of(machine) | {
        "PGPASSWORD": None, "PGPASSFILE": str(folder / "pass"), "PGSERVICEFILE": str(folder / "services")
    }  # fmt: skip
    done = run_cm("push", "postgresql:///?service=team", "--no-refresh", env=given)
    assert (done.returncode, done.stderr) == (0, "")
    assert answer(url, COUNTS) == [(2, 1)]


def test_without_psycopg_it_says_what_to_install(home: Home, tmp_path: Path, run_cm: RunCm):
    write(home.transcript(), [assistant()])
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "psycopg.py").write_text("raise ImportError")
    env = {"PYTHONPATH": f"{tmp_path / 'lib'}{os.pathsep}{CHECKOUT}"}
    done = run_cm("push", "postgresql://127.0.0.1/team", env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "-m pip install 'psycopg[binary]'" in done.stderr and done.stderr.count("\n") == 1
