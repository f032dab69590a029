"""Backups: whole or not there, taken and put back while others use the index; and what is checked of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from builders import Home, append, assistant, text, user, write
from conftest import RunCm, clean_environment
from ledger import rows
from sqlite_utils import Database

from indexer import archive, config, refresh, schema, store
from indexer.backup import save
from indexer.errors import BadInput, IndexUnusable
from indexer.restore import restore

TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"


@pytest.fixture
def index(home: Home, db: Path) -> Path:
    """An index of two sessions, one of which is nowhere else any more."""
    for name in ("one", "two"):
        write(home.transcript(name), [user(sessionId=name), assistant(text(name), sessionId=name), b"{broken\n"])
    refresh()
    home.transcript("two").unlink()
    refresh()
    return db


def contents(path: Path | str) -> dict[str, list[Any]]:
    """Every row of every table."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        names = [name for (name,) in connection.execute(TABLES)]
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}


def one_line(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """What a command says that ends with a controlled error."""
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1), done.stderr
    return done.stderr


# Backup


def test_a_backup_is_the_index_in_one_private_file(index: Path, tmp_path: Path, run_cm: RunCm):
    done = run_cm("backup", tmp_path / "saved.db", "--json")
    assert json.loads(done.stdout) == {
        "database": str(index),
        "backup": str(tmp_path / "saved.db"),
        "bytes": (tmp_path / "saved.db").stat().st_size,
    }
    assert (tmp_path / "saved.db").stat().st_mode & 0o777 == 0o600
    assert contents(tmp_path / "saved.db") == contents(index)
    # As it is, also where nothing may be written beside it.
    with closing(sqlite3.connect(f"file:{tmp_path}/saved.db?mode=ro&immutable=1", uri=True)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert [path.name for path in tmp_path.glob("saved*")] == ["saved.db"]


def test_a_backup_taken_while_refreshes_are_at_work_is_one_state(home: Home, index: Path, tmp_path: Path):
    """Each refresh adds a session of 20 responses in one transaction: a backup has all of it or nothing."""
    stop = threading.Event()

    def work() -> None:
        for number in range(1000):
            if stop.is_set():
                return
            session = f"s-{number}"
            write(home.transcript(session), [assistant(sessionId=session) for _ in range(20)])
            refresh()

    writer = threading.Thread(target=work)
    writer.start()
    try:
        seen = set()
        for number in range(8):
            with closing(store.open_reader(str(index))) as connection:
                target = tmp_path / f"{number}.db"
                save(connection, str(target))
            with closing(sqlite3.connect(target)) as saved:
                (count,) = saved.execute("SELECT count(*) FROM responses").fetchone()
                assert count % 20 == 2
                assert saved.execute("PRAGMA foreign_key_check").fetchall() == []
                assert saved.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                seen.add(count)
    finally:
        stop.set()
        writer.join()
    assert len(seen) > 2


def test_an_earlier_backup_is_replaced_and_nothing_else_is(index: Path, tmp_path: Path, home: Home, run_cm: RunCm):
    target = tmp_path / "saved.db"
    assert run_cm("backup", target).returncode == 0
    append(home.transcript("one"), [assistant(sessionId="one")])
    refresh()
    assert run_cm("backup", target).returncode == 0
    assert contents(target) == contents(index)
    notes, other, empty = tmp_path / "notes", tmp_path / "other.db", tmp_path / "empty"
    notes.write_text("mine")
    empty.touch()
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE photos (x)")
    shutil.copy(index, tmp_path / "another-index.db")  # in WAL mode: somebody may have it open
    for path in (notes, other, empty, index, Path(f"{index}.lock"), tmp_path / "another-index.db"):
        before = path.read_bytes()
        assert "is no backup" in one_line(run_cm("backup", path))
        assert path.read_bytes() == before


@pytest.mark.parametrize("size", [40_000, 200_000])
def test_a_backup_for_which_there_is_no_room_leaves_the_earlier_one(
    index: Path, tmp_path: Path, run_cm: RunCm, size: int
):
    target = tmp_path / "saved.db"
    assert run_cm("backup", target).returncode == 0
    before = target.read_bytes()
    assert len(before) > size
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f {size // 1024}; exec "$0" -m indexer backup "$1"', sys.executable, target],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "nothing was saved" in one_line(done)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.glob("saved*")] == ["saved.db"]


def test_a_backup_that_is_killed_leaves_the_earlier_one(index: Path, tmp_path: Path, run_cm: RunCm):
    target = tmp_path / "saved.db"
    assert run_cm("backup", target).returncode == 0
    before = target.read_bytes()
    for delay in (0.1, 0.15, 0.2):
        process = subprocess.Popen([sys.executable, "-m", "indexer", "backup", target], env=clean_environment())
        time.sleep(delay)
        process.kill()
        process.wait()
        assert target.read_bytes() == before or contents(target) == contents(index)


def test_a_damaged_index_does_not_replace_a_good_backup(index: Path, tmp_path: Path, run_cm: RunCm):
    target = tmp_path / "saved.db"
    assert run_cm("backup", target).returncode == 0
    before = target.read_bytes()
    damage_a_page(index)
    assert "damaged" in one_line(run_cm("backup", target))
    assert target.read_bytes() == before


def test_an_index_of_an_older_cm_can_be_saved(index: Path, tmp_path: Path, run_cm: RunCm):
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("PRAGMA user_version = 0")
    assert run_cm("backup", tmp_path / "saved.db").returncode == 0
    assert contents(tmp_path / "saved.db") == contents(index)


# Restore


def test_what_was_saved_is_restored_and_what_was_there_is_kept(index: Path, home: Home, tmp_path: Path, run_cm: RunCm):
    assert run_cm("backup", tmp_path / "saved.db").returncode == 0
    saved = contents(index)
    append(home.transcript("one"), [assistant(sessionId="one")])
    refresh()
    later = contents(index)
    kept = Path(json.loads(run_cm("restore", tmp_path / "saved.db", "--json").stdout)["kept"])
    assert contents(index) == saved
    assert contents(kept) == later
    assert kept.stat().st_mode & 0o777 == 0o600
    # What has been written since is read, and nothing twice; and one can go back.
    assert refresh().records_added == 1
    restore(str(kept), str(index))
    assert contents(index) == later
    assert len(list(index.parent.glob("*before-restore*"))) == 2


def test_an_index_that_is_lost_is_restored(index: Path, tmp_path: Path, run_cm: RunCm):
    assert run_cm("backup", tmp_path / "saved.db").returncode == 0
    saved = contents(index)
    shutil.rmtree(index.parent)
    assert run_cm("restore", tmp_path / "saved.db").returncode == 0
    assert contents(index) == saved
    assert (index.parent.stat().st_mode & 0o777, index.stat().st_mode & 0o777) == (0o700, 0o600)


def damage_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8 * 4096 + 8)
        file.write(os.urandom(4000))


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_over(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 1000)


@pytest.mark.parametrize("damage", [damage_a_page, cut_in_half, write_over])
def test_a_damaged_index_is_told_and_replaced_by_a_backup(
    index: Path, tmp_path: Path, run_cm: RunCm, damage: Callable[[Path], None]
):
    assert run_cm("backup", tmp_path / "saved.db").returncode == 0
    saved = contents(index)
    damage(index)
    damaged = index.read_bytes()
    done = run_cm("check")
    assert done.returncode == 1
    assert "cm restore" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert run_cm("restore", tmp_path / "saved.db").returncode == 0
    assert contents(index) == saved
    (kept,) = index.parent.glob("*before-restore*[0-9]")
    assert kept.read_bytes() == damaged
    assert run_cm("check").returncode == 0


def test_what_is_no_backup_is_not_restored(index: Path, tmp_path: Path, run_cm: RunCm):
    notes, other, kept, half, newer = (
        tmp_path / name for name in ("notes", "other.db", "kept.db", "half.db", "newer.db")
    )
    notes.write_text("mine")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE photos (x)")
    archive.open_archive(str(kept), is_writer=True).close()
    for path in (half, newer):
        assert run_cm("backup", path).returncode == 0
    cut_in_half(half)
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = contents(index)
    for path in (notes, other, kept, half, newer, tmp_path / "nothing", index):
        assert str(path) in one_line(run_cm("restore", path))
        assert contents(index) == before
    assert not list(index.parent.glob("*before-restore*"))


def test_a_restore_waits_for_no_refresh_and_disturbs_none(index: Path, tmp_path: Path, run_cm: RunCm):
    assert run_cm("backup", tmp_path / "saved.db").returncode == 0
    before = contents(index)
    with store.Lock(str(index)):
        one_line(run_cm("restore", tmp_path / "saved.db"), 75)
    assert contents(index) == before


def test_readers_see_the_one_or_the_other_while_it_is_restored(index: Path, home: Home, tmp_path: Path):
    """Replacing the file instead would give readers pages of both, or errors."""
    small, large = tmp_path / "small.db", tmp_path / "large.db"
    for target in (small, large):
        with closing(store.open_reader(str(index))) as connection:
            save(connection, str(target))
        write(home.transcript("more"), [assistant(text("x" * 5000), sessionId="more") for _ in range(200)])
        refresh()
    expected = {len(contents(path)["records"]) for path in (small, large, index)}
    stop, seen, errors = threading.Event(), set(), []

    def read() -> None:
        try:
            with closing(store.open_reader(str(index))) as connection:
                while not stop.is_set():
                    seen.add(len(connection.execute("SELECT text FROM records").fetchall()))
        except Exception as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for source in (small, large) * 3:
        restore(str(source), str(index))
    stop.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert seen <= expected
    assert len(seen) > 1


def test_a_restore_that_is_killed_leaves_the_one_or_the_other(index: Path, home: Home, tmp_path: Path, run_cm: RunCm):
    assert run_cm("backup", tmp_path / "saved.db").returncode == 0
    append(home.transcript("one"), [assistant(sessionId="one")])
    refresh()
    both = (contents(tmp_path / "saved.db"), contents(index))
    for delay in (0.1, 0.15, 0.2):
        process = subprocess.Popen(
            [sys.executable, "-m", "indexer", "restore", tmp_path / "saved.db"],
            env=clean_environment(),
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert contents(index) in both


# Check


def test_a_whole_index_passes(index: Path, run_cm: RunCm):
    done = run_cm("check", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["problem_count"], done.stderr) == (0, 0, "")
    assert [item["check"] for item in found["checks"]][:4] == ["integrity", "foreign keys", "offsets", "coverage"]


@pytest.mark.parametrize(
    ("name", "sql", "says"),
    [
        ("foreign keys", "DELETE FROM contexts", "contexts"),
        ("offsets", "UPDATE files SET offset = offset - 2 WHERE gone_at IS NULL", "within a line"),
        ("offsets", "UPDATE files SET offset = size + 1, size = size", "it had"),
        ("offsets", "UPDATE records SET length = length + 100000", "reach behind"),
        ("coverage", "DELETE FROM skipped_lines", "of 3 lines 2 are indexed and 0 skipped"),
        ("coverage", "UPDATE files SET line_count = line_count + 1", "of 4 lines"),
    ],
)
def test_each_problem_is_told_with_its_fix(index: Path, run_cm: RunCm, name: str, sql: str, says: str):
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute(sql)
    done = run_cm("check", "--json")
    assert done.returncode == 1
    found = {item["check"]: item["problems"] for item in json.loads(done.stdout)["checks"]}
    assert any(says in problem["problem"] for problem in found[name])
    assert all("cm " in problem["fix"] for problem in found[name])


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE files SET offset = offset - 2 WHERE gone_at IS NULL",
        "DELETE FROM skipped_lines WHERE file_id IN (SELECT id FROM files WHERE gone_at IS NULL)",
        "UPDATE files SET line_count = line_count + 1 WHERE gone_at IS NULL",
    ],
)
def test_the_fix_for_a_transcript_mends_it(index: Path, run_cm: RunCm, sql: str):
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute(sql)
    assert run_cm("check").returncode == 1
    assert run_cm("refresh", "--full").returncode == 0
    assert run_cm("check").returncode == 0


def test_a_file_of_the_index_that_others_can_read_is_told_and_mended(index: Path, run_cm: RunCm):
    for suffix in ("", ".lock"):
        Path(f"{index}{suffix}").chmod(0o644)
    done = run_cm("check")
    assert done.returncode == 1
    assert all(f"chmod 600 {index}{suffix}`" in done.stdout for suffix in ("", ".lock"))
    done = run_cm("refresh")
    assert (done.returncode, "could be read by other users" in done.stderr) == (0, True)
    assert run_cm("check").returncode == 0
    assert "other users" not in run_cm("refresh").stderr


# Migrations: each from the state before it, with a row in every table


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Lets the code be of an earlier version: with the first so many migrations."""
    everything = schema.load_migrations()._migrations

    def be(version: int) -> None:
        found = schema.load_migrations()
        found._migrations = everything[:version]
        monkeypatch.setattr(schema, "load_migrations", lambda: found)
        monkeypatch.setattr(schema, "VERSION", version)

    yield be
    monkeypatch.undo()


def fill(connection: sqlite3.Connection) -> None:
    """Puts a row into every table that has none; what a row refers to need not be there."""
    database = Database(connection, execute_plugins=False)
    for table in database.tables:
        if table.name.startswith(("_", "sqlite_")) or table.count or table.virtual_table_using:
            continue
        kinds = {"INTEGER": 1, "REAL": 1.5, "TEXT": "text", "BLOB": b"blob", "ANY": 1}
        given = connection.execute(f"SELECT name, type FROM pragma_table_info('{table.name}')").fetchall()
        columns = ", ".join(name for name, _ in given)
        values = [kinds[kind] for _, kind in given]
        connection.execute(f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join('?' * len(given))})", values)


@pytest.mark.parametrize("version", range(1, schema.VERSION + 1))
def test_every_migration_keeps_the_rows_of_the_state_before_it(
    tmp_path: Path, version: int, versions: Callable[[int], None]
):
    path = tmp_path / "cm.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if version > 1:
            versions(version - 1)
            schema._apply_migrations(connection)
            fill(connection)
        before = counts(connection)
        versions(version)
        schema._apply_migrations(connection)
        after = counts(connection)
        assert schema.version(connection) == version
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        lost = {name for name, count in before.items() if after.get(name, 0) < count}
        assert not lost & FACTS
        fill(connection)


# Nothing can be made again that is lost from these: what a transcript said may be nowhere else.
FACTS = set(
    "files records record_usage tool_uses tool_results skipped_lines contexts sessions agents hosts models record_types"
    " refreshes".split()
)


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    names = [name for (name,) in connection.execute(TABLES) if not name.startswith(("_", "sqlite_"))]
    return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}


@pytest.fixture
def one_migration_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version of cm, which has a migration more; it destroys what it can."""
    found = schema.load_migrations()

    @found()
    def forget_texts(db: Database) -> None:
        db.execute("UPDATE records SET text = NULL")

    monkeypatch.setattr(schema, "load_migrations", lambda: found)
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)


def test_an_index_is_saved_before_it_is_migrated_and_can_go_back(index: Path, one_migration_more: None):
    before = contents(index)
    summary = refresh()
    version = schema.VERSION - 1
    saved = Path(f"{index}.schema-{version}")
    assert any(str(saved) in warning for warning in summary.warnings)
    assert saved.stat().st_mode & 0o777 == 0o600
    assert contents(saved) == before
    assert rows("SELECT count(text) AS texts FROM messages") == [{"texts": 0}]
    restore(str(saved), str(index))
    assert contents(index) == before
    with pytest.raises(IndexUnusable, match="older cm"):
        store.open_reader(str(index))
    assert any(str(saved) in warning for warning in refresh().warnings)


def test_an_older_cm_can_go_back_from_what_a_newer_one_made(index: Path, tmp_path: Path, run_cm: RunCm):
    assert run_cm("backup", tmp_path / "saved.db").returncode == 0
    before = contents(index)
    with closing(sqlite3.connect(index)) as connection:
        connection.executescript(f"PRAGMA user_version = {schema.VERSION + 1}; DELETE FROM records")
    assert "newer cm" in one_line(run_cm("refresh"))
    assert run_cm("restore", tmp_path / "saved.db").returncode == 0
    assert contents(index) == before


def test_an_index_that_cannot_be_saved_is_not_migrated(index: Path, one_migration_more: None):
    before = contents(index)
    saved = Path(f"{index}.schema-{schema.VERSION - 1}")
    saved.write_text("mine")
    with pytest.raises(BadInput, match="nothing was saved"):
        refresh()
    assert contents(index) == before


def test_a_migration_that_fails_changes_nothing(index: Path, monkeypatch: pytest.MonkeyPatch):
    found = schema.load_migrations()

    @found()
    def fail(db: Database) -> None:
        db.execute("DELETE FROM records")
        db.execute("SELECT nothing")

    monkeypatch.setattr(schema, "load_migrations", lambda: found)
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    before = contents(index)
    with pytest.raises(IndexUnusable):
        refresh()
    assert contents(index) == before


def test_a_new_index_needs_no_saving(home: Home, db: Path):
    refresh()
    assert not list(db.parent.glob("*schema*"))
    assert not re.search("schema", " ".join(refresh().warnings))
    assert config.database() == str(db)
