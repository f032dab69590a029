"""The archive: what was kept comes back byte for byte, wherever the work was cut off."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import builders
import pytest
from builders import SESSION, assistant, tool_result, tool_use, user
from conftest import RunCm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer import archive, keeping, refresh, store
from indexer.chunks import decompress as unpack

DAY_NS = 86_400 * 10**9


@pytest.fixture(autouse=True)
def keep(environment: None) -> Path:
    return configure("keep = true")


def configure(text: str) -> Path:
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "cm" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    return path


def restored(db: Path, folder: Path, session: str = SESSION, with_earlier: bool = False) -> dict[str, bytes]:
    """What comes back of a session, by its path below the directory."""
    with closing(archive.Reader(archive.place(str(db)))) as reader:
        keeping.restore(reader, session, str(folder), with_earlier)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def conversation(home: builders.Home) -> Path:
    """A session with a subagent, a blank line, a broken one, and a torn tail."""
    call = tool_use("Read", file_path="/etc/hosts")
    lines = [
        user("Who is there?"),
        assistant(call),
        tool_result(call["id"], "localhost " * 50),
        b"\n",
        b'{"type": "us\n',
    ]
    path = builders.write(home.transcript(), [*lines, assistant()])
    builders.append(path, [b'{"type":"assistant","mess'])
    builders.write(home.subagent(), [user("Look.", isSidechain=True, agentId="a1")])
    home.subagent().with_name("agent-a1.meta.json").write_text('{"agentType": "Explore", "description": "Looks"}')
    return path


def test_a_deleted_session_comes_back_byte_for_byte_with_its_subagents(
    home: builders.Home, db: Path, run_cm: RunCm, tmp_path: Path
) -> None:
    path = conversation(home)
    projects = home.root / "projects"
    before = {str(file.relative_to(home.root)): file.read_bytes() for file in projects.rglob("*") if file.is_file()}
    long_ago = time.time_ns() - 40 * DAY_NS
    for file in projects.rglob("*.jsonl"):
        os.utime(file, ns=(long_ago, long_ago))
    assert run_cm("refresh").returncode == 0
    for file in projects.rglob("*"):
        if file.is_file():
            file.unlink()
    done = run_cm("keep", "restore", SESSION[:8], home.root)
    assert done.returncode == 0, done.stderr
    assert {
        str(file.relative_to(home.root)): file.read_bytes() for file in projects.rglob("*") if file.is_file()
    } == before
    assert time.time() - path.stat().st_mtime < 60
    assert path.stat().st_mode & 0o777 == 0o600
    assert f"claude --resume {SESSION}" in done.stderr
    # It is the same history as before.
    assert run_cm("verify").returncode == 0
    assert len(restored(db, tmp_path / "again")) == len(before)


def test_a_restored_session_does_not_overwrite_anything(home: builders.Home, run_cm: RunCm, tmp_path: Path) -> None:
    path = conversation(home)
    run_cm("refresh")
    path.write_bytes(b"mine\n")
    done = run_cm("keep", "restore", SESSION, home.root)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert path.read_bytes() == b"mine\n"


def test_the_archive_is_for_this_user_only(home: builders.Home, db: Path) -> None:
    conversation(home)
    refresh()
    assert Path(archive.place(str(db))).stat().st_mode & 0o777 == 0o600


def test_nothing_is_kept_until_it_is_configured_and_then_all_that_is_there(
    home: builders.Home, db: Path, tmp_path: Path
) -> None:
    path = conversation(home)
    configure("")
    refresh()
    assert not Path(archive.place(str(db))).exists()
    configure("keep = true")
    summary = refresh()
    assert (summary.bytes_read, summary.records_added) == (0, 0)
    assert restored(db, tmp_path / "out")[str(path.relative_to(home.root))] == path.read_bytes()


def test_a_refresh_says_what_went_into_the_archive(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    builders.write(home.transcript("first"), [user("x" * 2_000_000)])
    second = builders.write(home.transcript("second"), [user("y" * 500_000)])
    configure("")
    assert "kept" not in run_cm("refresh").stderr
    assert "kept" not in json.loads(run_cm("refresh", "--json").stdout)
    configure("keep = true")
    assert "2 transcripts, nothing new; 2.5 MB of 2 transcripts kept in 0.0 MB (" in run_cm("refresh").stderr
    assert "kept" not in run_cm("refresh").stderr
    before = second.stat().st_size
    builders.append(second, [user("z" * 1_000_000), user("More?")])
    kept = json.loads(run_cm("refresh", "--json").stdout)["kept"]
    with closing(sqlite3.connect(archive.place(str(db)))) as connection:
        (packed,) = connection.execute("SELECT length(data) FROM chunks WHERE start = ?", (before,)).fetchone()
    assert kept == {"transcripts": 1, "bytes": second.stat().st_size - before, "packed_bytes": packed}
    builders.append(second, [user("z" * 1_000_000)])
    assert run_cm("refresh").stderr.endswith(" s; 1.0 MB of 1 transcript kept in 0.0 MB\n")
    assert json.loads(run_cm("refresh", "--json").stdout)["kept"] == {"transcripts": 0, "bytes": 0, "packed_bytes": 0}


def test_what_came_while_it_was_off_is_caught_up(home: builders.Home, db: Path, tmp_path: Path) -> None:
    path = conversation(home)
    refresh()
    configure("")
    builders.append(path, [b'age"}\n', user("And then?")])
    refresh()
    configure("keep = true")
    builders.append(path, [assistant()])
    refresh()
    assert restored(db, tmp_path / "out")[str(path.relative_to(home.root))] == path.read_bytes()


def test_an_index_made_anew_goes_on_with_the_archive(home: builders.Home, db: Path, tmp_path: Path) -> None:
    path = conversation(home)
    refresh()
    for file in db.parent.glob("cm.db*"):
        file.unlink()
    builders.append(path, [b'age"}\n', user("And then?")])
    refresh()
    assert restored(db, tmp_path / "out", with_earlier=True)[str(path.relative_to(home.root))] == path.read_bytes()
    with closing(archive.Reader(archive.place(str(db)))) as reader:
        assert reader.connection.execute("SELECT count(*) FROM files WHERE replaced_at IS NOT NULL").fetchone() == (0,)


def test_a_rewritten_transcript_starts_a_generation_and_the_earlier_one_stays(
    home: builders.Home, db: Path, run_cm: RunCm, tmp_path: Path
) -> None:
    path = conversation(home)
    refresh()
    before = path.read_bytes()
    builders.write(path, [user("Another start.")])
    refresh()
    place = str(path.relative_to(home.root))
    assert restored(db, tmp_path / "now")[place] == path.read_bytes()
    files = restored(db, tmp_path / "all", with_earlier=True)
    assert (files[place], files[f"{place}.1"]) == (path.read_bytes(), before)


def test_a_line_changed_in_place_is_kept_as_it_is_now(home: builders.Home, db: Path, tmp_path: Path) -> None:
    path = builders.write(home.transcript(), [user("a" * 9000), user("bbbb"), user("c" * 9000)])
    refresh()
    path.write_bytes(path.read_bytes().replace(b"bbbb", b"dddd"))
    refresh()
    assert restored(db, tmp_path / "out")[str(path.relative_to(home.root))] == path.read_bytes()


def test_a_moved_transcript_is_kept_once(home: builders.Home, db: Path, tmp_path: Path) -> None:
    path = builders.write(home.transcript(), [user(), assistant()])
    refresh()
    moved = home.transcript(project="/home/dev/app/worktree")
    moved.parent.mkdir(parents=True)
    path.rename(moved)
    builders.append(moved, [user("There.")])
    refresh()
    assert restored(db, tmp_path / "out") == {str(moved.relative_to(home.root)): moved.read_bytes()}


def test_single_records_are_read_from_the_archive(home: builders.Home, db: Path) -> None:
    path = builders.write(home.transcript(), [user("Ünïcode"), assistant(), user("Third")])
    refresh()
    builders.append(path, [user("Fourth")])
    refresh()
    data = path.read_bytes()
    path.unlink()
    with closing(store.open_reader(str(db))) as index:
        reader = archive.open_reader(str(db), index)
        assert reader is not None
        with closing(reader):
            rows = index.execute("SELECT file_id, offset, length FROM records").fetchall()
            assert len(rows) == 4
            for file_id, offset, length in rows:
                assert reader.read(file_id, offset, length) == data[offset : offset + length]
            assert reader.read(rows[0][0], len(data), 10) is None
            assert reader.read(999, 0, 10) is None


def test_after_a_restore_no_other_transcript_s_bytes_are_read(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    refresh()
    assert run_cm("backup", db.parent / "backup.db").returncode == 0
    path = builders.write(home.transcript("b"), [user("Mine"), assistant(tool_use(command="mine"))])
    refresh()
    other = builders.write(home.transcript("c"), [user("Else"), assistant(tool_use(command="else"))])
    refresh()
    other.unlink()
    builders.write(home.transcript("a"), [user("More"), assistant()])
    assert run_cm("restore", db.parent / "backup.db").returncode == 0
    refresh()
    data = path.read_bytes()
    path.unlink()
    with closing(store.open_reader(str(db))) as index:
        reader = archive.open_reader(str(db), index)
        assert reader is not None
        sql = "SELECT file_id, offset, length FROM records WHERE file_id = (SELECT id FROM files WHERE path = ?)"
        with closing(reader):
            for file_id, offset, length in index.execute(sql, (str(path),)).fetchall():
                assert reader.read(file_id, offset, length) == data[offset : offset + length]


def test_a_quiet_session_is_packed_into_one_chunk(home: builders.Home, db: Path, run_cm: RunCm, tmp_path: Path) -> None:
    path = home.transcript()
    for number in range(6):
        builders.append(path, [user(f"Line {number} {'of text ' * 30}"), assistant()])
        refresh()
    builders.append(path, [b'{"torn'])
    two_days_ago = time.time_ns() - 2 * DAY_NS
    os.utime(path, ns=(two_days_ago, two_days_ago))
    refresh()
    assert chunks(db) == [True, False]
    done = run_cm("keep", "pack")
    assert done.returncode == 0, done.stderr
    builders.append(path, [b'"}\n', user("More")])
    refresh()
    assert chunks(db) == [True, True]
    assert restored(db, tmp_path / "out")[str(path.relative_to(home.root))] == path.read_bytes()


def chunks(db: Path) -> list[bool]:
    """The chunks of the only transcript: whether each holds whole lines. They are without gaps."""
    with closing(archive.Reader(archive.place(str(db)))) as reader:
        rows = reader.connection.execute("SELECT start, end, data FROM chunks ORDER BY start").fetchall()
    ends = [0, *(end for _, end, _ in rows)]
    assert [start for start, _, _ in rows] == ends[:-1]
    return [unpack(data).endswith(b"\n") for _, _, data in rows]


def test_pruned_records_are_gone_and_do_not_come_back(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    old = builders.write(home.transcript(), [user("An old and telling thing"), assistant()])
    new = builders.write(home.transcript("5e551000-0000-4000-8000-000000000002"), [user(sessionId="new")])
    long_ago = time.time_ns() - 100 * DAY_NS
    os.utime(old, ns=(long_ago, long_ago))
    refresh()
    dry = run_cm("keep", "prune", "--older-than", "90d", "--dry-run")
    assert "1 transcript, " in dry.stderr
    assert run_cm("keep", "prune", "--older-than", "90d", input="n\n").returncode != 0
    assert kept_sessions(db) == {SESSION, "new"}
    done = run_cm("keep", "prune", "--older-than", "90d", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    refresh()
    assert kept_sessions(db) == {"new"}
    assert run_cm("keep", "restore", SESSION, db.parent / "out").returncode == 1
    # A session that goes on is kept again, as a whole.
    builders.append(old, [user("And on.")])
    refresh()
    assert kept_sessions(db) == {SESSION, "new"}
    assert old.read_bytes() in restored(db, db.parent / "out").values()
    assert new.exists()


def kept_sessions(db: Path) -> set[str]:
    with closing(archive.Reader(archive.place(str(db)))) as reader:
        sql = "SELECT DISTINCT f.session FROM files AS f JOIN chunks AS c ON c.file_id = f.id"
        return {row[0] for row in reader.connection.execute(sql)}


def test_pruning_wants_to_know_what(home: builders.Home, run_cm: RunCm) -> None:
    conversation(home)
    refresh()
    assert run_cm("keep", "prune", "--yes").returncode == 1
    assert run_cm("keep", "prune", "--yes", "--older-than", "soon").returncode == 1
    assert run_cm("keep", "prune", "--yes", "--project", "nowhere").returncode == 1
    done = run_cm("keep", "prune", "--yes", "--project", "app")
    assert "2 transcripts" in done.stderr


def test_status_says_what_is_kept_and_what_is_only_counted(home: builders.Home, run_cm: RunCm) -> None:
    early = builders.write(home.transcript("e"), [user(sessionId="e"), assistant(sessionId="e")])
    configure("")
    refresh()
    early.unlink()
    configure("keep = true")
    late = builders.write(home.transcript(), [user(), assistant()])
    refresh()
    late.unlink()
    refresh()
    text = run_cm("status").stdout
    assert "1 transcript of 1 session" in text
    assert "1 of them were deleted since" in text
    assert "only counted: 1 deleted transcript of 1 session" in text


def test_an_index_without_an_archive_says_how_to_have_one(home: builders.Home, run_cm: RunCm) -> None:
    path = configure("")
    conversation(home)
    refresh()
    assert f"`keep = true` into {path}" in run_cm("keep").stderr
    assert run_cm("keep", "restore", SESSION, "out").returncode == 1


def test_an_archive_of_a_newer_cm_is_not_touched(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    conversation(home)
    refresh()
    with closing(sqlite3.connect(archive.place(str(db)))) as connection:
        connection.execute("PRAGMA user_version = 99")
    done = run_cm("refresh")
    assert done.returncode == 1
    assert "newer cm" in done.stderr


class Killed(BaseException):
    """What a kill is to the code it hits: nothing runs after it."""


STEPS = ("append", "torn", "finish", "rewrite", "shrink", "replace", "quiet", "delete index", "off", "on")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(("", "archive", "index"))), min_size=1, max_size=8))
def test_whatever_happens_the_archive_is_never_behind_the_index(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("history")
    home = builders.Home(folder)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(home.root))
    monkeypatch.setenv("CM_DB", str(folder / "cm.db"))
    monkeypatch.setattr("indexer.reader.CHUNK", 2000)
    monkeypatch.setattr("indexer.writer.COMMIT_BYTES", 3000)
    configure("keep = true")
    path = builders.write(home.transcript(), [user(), assistant()])
    is_on = is_caught_up = True
    for step, killed in steps:
        change(path, folder, step)
        is_on = {"off": False, "on": True}.get(step, is_on)
        configure("keep = true" if is_on else "")
        with pytest.MonkeyPatch.context() as patch:
            cut(patch, killed)
            with suppress(Killed):
                refresh()
                is_caught_up = is_on
        is_caught_up = is_caught_up and is_on
        if is_caught_up:
            assert_not_behind(folder / "cm.db")
    configure("keep = true")
    refresh()
    place = str(path.relative_to(home.root))
    assert restored(folder / "cm.db", folder / "out")[place] == path.read_bytes()
    assert_not_behind(folder / "cm.db")


def change(path: Path, folder: Path, step: str) -> None:
    data = path.read_bytes()
    if step == "append":
        builders.append(path, [user("x" * 900), assistant(), user("y" * 3000)])
    elif step == "torn":
        builders.append(path, [b'{"type":"user","uuid":"t'])
    elif step == "finish":
        builders.append(path, [b'"}\n'])
    elif step == "rewrite":
        path.write_bytes(data.replace(b"x", b"z") + b"\n")
    elif step == "shrink":
        path.write_bytes(data[: len(data) // 2])
    elif step == "replace":
        builders.write(path, [user("All new."), assistant()])
    elif step == "quiet":
        two_days_ago = time.time_ns() - 2 * DAY_NS
        os.utime(path, ns=(two_days_ago, two_days_ago))
    elif step == "delete index":
        for file in folder.glob("cm.db*"):
            file.unlink()


def cut(patch: pytest.MonkeyPatch, where: str) -> None:
    """A kill before the archive's first commit, or between it and the index's."""
    if where == "archive":
        patch.setattr(archive.Archive, "commit", _die)
    elif where == "index":
        real = archive.Archive.commit

        def commit(self: archive.Archive) -> None:
            real(self)
            raise Killed

        patch.setattr(archive.Archive, "commit", commit)


def _die(*_: object) -> None:
    raise Killed


def assert_not_behind(db: Path) -> None:
    """Whatever range of bytes the index claims to have read, the archive gives back."""
    if not db.exists():
        return
    with closing(sqlite3.connect(db)) as index:
        sql = "SELECT path, offset FROM files WHERE replaced_at IS NULL AND mtime_ns > 0"
        claimed = dict(index.execute(sql).fetchall())
    with closing(archive.Reader(archive.place(str(db)))) as reader:
        # After a kill the index may still be at the generation before.
        kept = dict(reader.connection.execute("SELECT path, max(offset) FROM files GROUP BY path").fetchall())
    for path, offset in claimed.items():
        assert kept.get(path, 0) >= offset


@pytest.fixture
def transcripts() -> Iterator[Path]:
    folder = os.environ.get("CM_TRANSCRIPTS")
    if not folder:
        pytest.skip("CM_TRANSCRIPTS names no folder of real transcripts")
    yield Path(folder)


@pytest.mark.slow
def test_real_transcripts_come_back_and_take_a_seventh(
    transcripts: Path, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [root for root in transcripts.iterdir() if (root / "projects").is_dir()]
    refresh([str(root) for root in roots])
    with closing(store.open_reader(str(db))) as index:
        found = keeping.status(index, str(db))
    assert found["archive_bytes"] < 0.15 * found["bytes"]
    with closing(archive.Reader(archive.place(str(db)))) as reader:
        for file_id, path in reader.connection.execute("SELECT id, path FROM files").fetchall():
            assert b"".join(reader.bytes_of(file_id)) == Path(path).read_bytes()
