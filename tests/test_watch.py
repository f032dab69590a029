"""`cm watch`: what happens to transcripts reaches the index by itself, whatever goes wrong meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import Home, append, assistant, tool_use, user, write
from conftest import RunCm, clean_environment, respect_permissions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import indexer
from indexer import refresh, store
from indexer.discovery import inode
from indexer.follow import Change
from indexer.sweep import Picture

NO_SWEEP = 3_600
PATIENCE = 20.0


class Watching:
    """A `cm watch` that is running, and what it said."""

    def __init__(self, folder: Path, *arguments: object, prefix: tuple[str, ...] = (), **env: str) -> None:
        self.said = folder / "stderr"
        command = [*prefix, sys.executable, "-m", "indexer", "watch", "--once-ready", *map(str, arguments)]
        with self.said.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                env=clean_environment(env),
                stdout=subprocess.PIPE,
                stderr=stderr,
                preexec_fn=respect_permissions,  # noqa: PLW1509
            )
        assert self.process.stdout is not None
        self.is_ready = self.process.stdout.readline() == b"ready\n"

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def stderr(self) -> str:
        return self.said.read_text()


StartWatch = Callable[..., Watching]


@pytest.fixture
def start_watch(tmp_path: Path) -> Iterator[StartWatch]:
    started: list[Watching] = []

    def start(*arguments: object, interval: float = NO_SWEEP, **options: Any) -> Watching:
        folder = tmp_path / f"watch-{len(started)}"
        folder.mkdir()
        started.append(Watching(folder, "--interval", interval, *arguments, **options))
        assert started[-1].is_ready, started[-1].stderr()
        return started[-1]

    yield start
    for watching in started:
        watching.process.kill()
        watching.process.wait()


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def ask(db: Path, sql: str, *parameters: object) -> list[Any]:
    connection = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


def texts(db: Path) -> list[str]:
    return [row[0] for row in ask(db, "SELECT text FROM messages ORDER BY at, id")]


# Events


def test_a_line_that_is_appended_is_in_the_index_before_any_sweep(home: Home, db: Path, start_watch: StartWatch):
    write(home.transcript(), [user("before")])
    start_watch()
    append(home.transcript(), [user("after")])
    assert wait_for(lambda: texts(db) == ["before", "after"])


def test_the_first_session_of_a_new_project_is_noticed(home: Home, db: Path, start_watch: StartWatch):
    start_watch()
    write(home.transcript(project="/new/project"), [user("hello")])
    write(home.subagent(project="/new/project", workflow="w1"), [user("deep inside")])
    assert wait_for(lambda: texts(db) == ["hello", "deep inside"])


def test_what_is_moved_is_counted_once_and_what_is_deleted_stays(home: Home, db: Path, start_watch: StartWatch):
    first = write(home.transcript("one"), [user("kept"), assistant()])
    second = write(home.transcript("two"), [user("moved"), assistant()])
    start_watch()
    first.unlink()
    second.rename(second.with_name("three.jsonl"))
    states = "SELECT path, gone_at IS NOT NULL FROM files ORDER BY path"
    expected = [(str(first), 1), (str(second.with_name("three.jsonl")), 0)]
    assert wait_for(lambda: ask(db, states) == expected), ask(db, states)
    assert len(texts(db)) == 4


def test_a_project_folder_that_is_moved_into_place_brings_all_its_sessions(
    home: Home, db: Path, tmp_path: Path, start_watch: StartWatch
):
    write(tmp_path / "elsewhere" / "a.jsonl", [user("one")])
    write(tmp_path / "elsewhere" / "b" / "c.jsonl", [user("two")])
    start_watch()
    (tmp_path / "elsewhere").rename(home.root / "projects" / "-moved")
    assert wait_for(lambda: texts(db) == ["one", "two"])
    shutil.move(home.root / "projects" / "-moved", tmp_path / "elsewhere")
    assert wait_for(lambda: ask(db, "SELECT count(*) FROM files WHERE gone_at IS NOT NULL") == [(2,)])


def test_events_reach_through_linked_projects_and_linked_folders(
    home: Home, db: Path, tmp_path: Path, start_watch: StartWatch
):
    (home.root / "projects").rmdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "other").mkdir()
    (home.root / "projects").symlink_to(tmp_path / "disk")
    (home.root / "projects" / "-linked").symlink_to(tmp_path / "other")
    start_watch()
    write(tmp_path / "disk" / "-app" / "a.jsonl", [user("one")])
    write(tmp_path / "other" / "b.jsonl", [user("two")])
    assert wait_for(lambda: texts(db) == ["one", "two"])
    names = {row[0] for row in ask(db, "SELECT path FROM files")}
    assert names == {
        str(home.root / "projects" / "-app" / "a.jsonl"),
        str(home.root / "projects" / "-linked" / "b.jsonl"),
    }


def test_a_link_to_a_known_transcript_is_no_second_transcript(home: Home, db: Path, start_watch: StartWatch):
    path = write(home.transcript(), [user("once")])
    start_watch()
    path.with_name("link.jsonl").symlink_to(path)
    append(path, [user("twice")])
    assert wait_for(lambda: "twice" in texts(db))
    assert texts(db) == ["once", "twice"]
    assert ask(db, "SELECT path FROM files") == [(str(path),)]


# Sweeps


def test_a_root_that_appears_later_is_indexed_and_then_followed_by_events(
    tmp_path: Path, db: Path, start_watch: StartWatch
):
    watching = start_watch(interval=0.3)
    assert "for transcripts to appear" in watching.stderr()
    home = Home(tmp_path)
    write(home.transcript(), [user("first")])
    assert wait_for(lambda: texts(db) == ["first"])
    append(home.transcript(), [user("second")])
    assert wait_for(lambda: texts(db) == ["first", "second"])


def test_a_root_that_is_taken_away_is_not_a_root_whose_transcripts_are_gone(
    home: Home, db: Path, tmp_path: Path, start_watch: StartWatch
):
    write(home.transcript(), [user("there")])
    start_watch(interval=0.2)
    home.root.rename(tmp_path / "unmounted")
    time.sleep(1)
    assert ask(db, "SELECT count(*) FROM files WHERE gone_at IS NOT NULL") == [(0,)]
    (tmp_path / "unmounted").rename(home.root)
    append(home.transcript(), [user("again")])
    assert wait_for(lambda: texts(db) == ["there", "again"])


def paths_of(found: set[str]) -> set[str]:
    return {os.path.basename(path) for path in found}


def test_a_look_tells_what_is_new_changed_and_gone_and_nothing_else(home: Home):
    roots = [str(home.root)]
    old = time.time() - 60
    for name in ("a", "b", "c"):
        os.utime(write(home.transcript(name), [user()]), (old, old))
    os.utime(home.transcript("a").parent, (old, old))
    picture = Picture()
    assert paths_of(picture.look(roots)) == {"a.jsonl", "b.jsonl", "c.jsonl"}
    assert picture.look(roots) == set()

    append(home.transcript("a"), [user()])
    assert paths_of(picture.look(roots)) == {"a.jsonl"}
    assert paths_of(picture.look(roots)) == {"a.jsonl"}, "what changed within two seconds may change again unnoticed"

    os.utime(home.transcript("a"), (old, old))
    picture.look(roots)
    home.transcript("b").unlink()
    write(home.transcript("d"), [user()])
    assert paths_of(picture.look(roots)) == {"b.jsonl", "d.jsonl"}


def test_a_new_file_in_an_empty_folder_is_noticed_by_a_look(home: Home):
    folder = home.root / "projects" / "-empty" / "deeper"
    folder.mkdir(parents=True)
    old = time.time() - 60
    for path in (folder, folder.parent, folder.parent.parent):
        os.utime(path, (old, old))
    picture = Picture()
    assert picture.look([str(home.root)]) == set()
    write(folder / "s.jsonl", [user()])
    assert paths_of(picture.look([str(home.root)])) == {"s.jsonl"}


def test_what_cannot_be_looked_at_is_not_gone(home: Home, tmp_path: Path):
    other = Home(tmp_path / "second")
    write(home.transcript(), [user()])
    write(other.transcript(), [user()])
    picture = Picture()
    picture.look([str(home.root), str(other.root)])
    assert picture.look([str(home.root)]) <= {str(home.transcript())}


# One at a time


def test_a_second_watch_says_who_is_at_work_and_exits_75(home: Home, start_watch: StartWatch, run_cm: RunCm):
    watching = start_watch()
    second = run_cm("watch")
    assert second.returncode == 75
    assert str(watching.process.pid) in second.stderr
    assert second.stderr.count("\n") == 1


def test_refresh_and_reports_work_beside_a_watch(home: Home, db: Path, start_watch: StartWatch, run_cm: RunCm):
    write(home.transcript(), [user("one")])
    start_watch()
    assert run_cm("refresh", "--quiet").returncode == 0
    assert '"messages_count": 0' in run_cm("stats", "--json").stdout


def test_a_watch_waits_for_a_refresh_that_holds_the_lock(home: Home, db: Path, start_watch: StartWatch):
    write(home.transcript(), [user("one")])
    watching = start_watch()
    with store.Lock(str(db), wait=True):
        append(home.transcript(), [user("two")])
        time.sleep(0.6)
        assert texts(db) == ["one"]
    assert wait_for(lambda: texts(db) == ["one", "two"])
    assert "another refresh" not in watching.stderr()


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_watch_that_is_told_to_end_does_so_with_0(home: Home, db: Path, start_watch: StartWatch, number: int):
    write(home.transcript(), [user("one")])
    watching = start_watch()
    append(home.transcript(), [user("two")])
    assert watching.end(number) == 0
    assert ask(db, "PRAGMA integrity_check") == [("ok",)]
    assert "Traceback" not in watching.stderr()


@given(stop_after=st.integers(0, 6), known=st.booleans())
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_refresh_that_is_stopped_anywhere_keeps_what_it_read_and_goes_on_from_there(
    home: Home, tmp_path_factory: pytest.TempPathFactory, stop_after: int, known: bool
):
    folder = tmp_path_factory.mktemp("stopped")
    db, whole = str(folder / "cm.db"), str(folder / "whole.db")
    root = Home(folder)
    if known:
        write(root.transcript("0"), [user(sessionId="0")])
        refresh([str(root.root)], db)
    for number in range(5):
        records = [user(sessionId=f"{number}"), assistant(tool_use(), sessionId=f"{number}")]
        append(root.transcript(f"{number}"), records)
    asked = iter(range(100))
    summary = refresh([str(root.root)], db, workers=1, is_stopped=lambda: next(asked) >= stop_after)
    assert summary.files_parsed == min(stop_after + 1, 5)
    refresh([str(root.root)], db)
    refresh([str(root.root)], whole)
    for table in ("responses", "tool_calls", "sessions"):
        sql = f"SELECT count(*), sum(id & 1048575) FROM {table}"
        assert ask(Path(db), sql) == ask(Path(whole), sql), table
    assert ask(Path(db), "SELECT count(*) FROM meta WHERE key = 'is_loading'") == [(0,)]


def test_what_a_stopped_refresh_had_read_is_finished_by_one_that_finds_nothing_new(home: Home, db: Path):
    old, lines = time.time() - 60, [user("a"), user("b")]
    os.utime(write(home.transcript(), lines), (old, old))
    refresh()
    os.utime(write(home.transcript(), [user("before"), *lines]), (old, old))
    refresh(workers=1, is_stopped=lambda: True)
    assert ask(db, "SELECT count(*) FROM records") == [(5,)]
    refresh()
    assert texts(db) == ["a", "b", "before"]
    assert ask(db, "SELECT count(*) FROM files") == [(1,)]


def test_hangup_reads_the_configuration_again(home: Home, db: Path, tmp_path: Path, start_watch: StartWatch):
    write(home.transcript(), [user("old root")])
    second = Home(tmp_path / "second")
    write(second.transcript(), [user("new root")])
    config = tmp_path / "config.toml"
    config.write_text(f'roots = ["{home.root}"]\n')
    watching = start_watch(CLAUDE_CONFIG_DIR="", CM_CONFIG=str(config))
    assert texts(db) == ["old root"]
    config.write_text(f'roots = ["{home.root}", "{second.root}"]\n')
    watching.process.send_signal(signal.SIGHUP)
    assert wait_for(lambda: texts(db) == ["old root", "new root"])
    append(second.transcript(), [user("followed")])
    assert wait_for(lambda: texts(db) == ["old root", "new root", "followed"])


def test_a_mistake_in_the_configuration_is_told_once_and_does_not_end_the_watch(
    home: Home, db: Path, tmp_path: Path, start_watch: StartWatch
):
    write(home.transcript(), [user("one")])
    config = tmp_path / "config.toml"
    config.write_text(f'roots = ["{home.root}"]\n')
    watching = start_watch(CLAUDE_CONFIG_DIR="", CM_CONFIG=str(config))
    config.write_text("roots = 5\n")
    watching.process.send_signal(signal.SIGHUP)
    append(home.transcript(), [user("two")])
    assert wait_for(lambda: f"{config}:1" in watching.stderr())
    config.write_text(f'roots = ["{home.root}"]\n')
    assert wait_for(lambda: texts(db) == ["one", "two"])
    assert watching.stderr().count(f"{config}:1") == 1
    assert watching.end() == 0


def test_a_terminal_that_is_closed_ends_its_watch(home: Home, db: Path):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer", "watch"],
        env=clean_environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )
    os.close(theirs)
    shown = b""
    while b"watching" not in shown:
        shown += os.read(ours, 1_000)
    os.close(ours)
    assert process.wait(PATIENCE) == 0


# Without events


def test_without_room_in_the_table_of_inotify_it_says_so_and_looks_instead(
    home: Home, db: Path, start_watch: StartWatch
):
    limited = (
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        'echo 3 >/proc/sys/user/max_inotify_watches && exec "$0" "$@"',
    )
    tried = subprocess.run([*limited, "true"], check=False) if shutil.which("unshare") else None
    if tried is None or tried.returncode:
        pytest.skip("no user namespaces here")
    for number in range(6):
        write(home.transcript(project=f"/p{number}"), [user(f"{number}")])
    watching = start_watch(prefix=limited)
    assert "no file system events: only 3 of 7 directories can be watched" in watching.stderr()
    append(home.transcript(project="/p5"), [user("seen")])
    assert wait_for(lambda: "seen" in texts(db))
    assert watching.end() == 0


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home/dev rw,relatime - nfs4 server:/home rw
31 30 8:2 / /home/dev/local rw - xfs /dev/sda2 rw
32 22 0:41 / /mnt/c rw,noatime - 9p C:\\134 rw
33 22 0:42 / /mnt/with\\040space rw - fuse.sshfs host:/ rw
34 22 8:3 / /mnt/usb rw - ext4 /dev/sdb1 rw
35 22 0:43 / /mnt/usb rw master:2 - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/root/.claude/projects", None),
        ("/home/dev/.claude/projects", "nfs4"),
        ("/home/dev", "nfs4"),
        ("/home/developer/.claude", None),
        ("/home/dev/local/.claude", None),
        ("/mnt/c/Users/dev/.claude/projects", "9p"),
        ("/mnt/with space/projects", "fuse.sshfs"),
        ("/mnt/usb/projects", "cifs"),
    ],
)
def test_the_file_system_a_folder_is_on_decides_whether_there_are_events(path: str, kind: str | None, tmp_path: Path):
    from indexer.events import remote_file_system

    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert remote_file_system(path, str(table)) == kind


# What goes wrong


def test_a_file_that_cannot_be_read_is_told_once_and_read_when_it_can_be(
    home: Home, db: Path, start_watch: StartWatch, make_unreadable: Callable[[Path], None]
):
    path = write(home.transcript(), [user("secret")])
    make_unreadable(path)
    watching = start_watch(interval=0.2)
    time.sleep(1.5)
    assert watching.stderr().count(str(path)) == 1
    assert Path(os.environ["CM_LOG"]).read_text().count(str(path)) == 1
    path.chmod(0o600)
    assert wait_for(lambda: texts(db) == ["secret"])


def test_a_watch_outlives_an_index_that_is_taken_away(home: Home, db: Path, start_watch: StartWatch):
    write(home.transcript(), [user("one")])
    start_watch(interval=0.3)
    for name in (db, Path(f"{db}-wal"), Path(f"{db}-shm")):
        name.unlink(missing_ok=True)
    append(home.transcript(), [user("two")])

    def is_made_anew() -> bool:
        try:
            return "two" in texts(db)
        except sqlite3.OperationalError:
            return False

    assert wait_for(is_made_anew)


def test_what_was_missed_at_its_old_place_is_recognised_at_its_new_one(home: Home, db: Path):
    path = write(home.transcript("old"), [user("moved")])
    refresh()
    path.rename(home.transcript("new"))
    refresh(paths=[str(path)])
    assert ask(db, "SELECT gone_at IS NOT NULL FROM files") == [(1,)]
    refresh(paths=[str(home.transcript("new"))])
    assert ask(db, "SELECT path, gone_at FROM files") == [(str(home.transcript("new")), None)]


def test_an_inode_of_64_bits_can_be_stored():
    largest = os.stat_result((0, 2**64 - 1, *[0] * 8))
    assert inode(largest) == 2**63 - 1


# The log of runs


def test_idle_sweeps_leave_no_trace_and_a_minute_of_writing_is_one_run(home: Home, db: Path, start_watch: StartWatch):
    write(home.transcript(), [user("one")])
    start_watch(interval=0.1)
    time.sleep(2.5)
    for words in ("two", "three", "four"):
        append(home.transcript(), [user(words)])
        assert wait_for(lambda words=words: words in texts(db))
    runs = ask(db, "SELECT command, records_added FROM refreshes")
    assert runs == [("watch", 4)]


def test_the_log_of_runs_does_not_grow_for_ever(home: Home, db: Path):
    refresh()
    connection = sqlite3.connect(db)
    row = connection.execute("SELECT * FROM refreshes").fetchone()
    rows = [(number, *row[1:]) for number in range(2, 10_200)]
    connection.executemany(f"INSERT INTO refreshes VALUES ({', '.join('?' * len(row))})", rows)
    connection.commit()
    connection.close()
    refresh()
    assert ask(db, "SELECT min(id), max(id), count(*) FROM refreshes") == [(201, 10_200, 10_000)]


# For programs


def follow(
    home: Home, actions: Callable[[list[Change]], None], is_enough: Callable[[list[Change]], bool]
) -> list[Change]:
    """The changes that `indexer.watch` gives while another thread acts, until they are enough or never will be."""
    found: list[Change] = []
    starter = write(home.transcript("starter"), [])
    has_begun, has_ended = threading.Event(), threading.Event()

    def act() -> None:
        while not has_begun.wait(0.05):
            append(starter, [user("is anybody there?")])
        actions(found)
        wait_for(lambda: is_enough(found))
        while not has_ended.wait(0.05):
            append(starter, [user("that is all")])

    def on_change(change: Change) -> bool:
        if change.path != str(starter):
            found.append(change)
        has_begun.set()
        return "that is all" not in [message["text"] for message in change.messages]

    threading.Thread(target=act, daemon=True).start()
    indexer.watch(on_change, interval=NO_SWEEP)
    has_ended.set()
    return found


def said(changes: list[Change]) -> list[str]:
    return [message["text"] for change in changes for message in change.messages]


def test_a_program_is_called_with_what_is_new(home: Home):
    write(home.transcript(), [user("before")])

    def act(_: list[Change]) -> None:
        append(home.transcript(), [user("now"), assistant()])

    (change,) = follow(home, act, bool)
    assert change.path == str(home.transcript())
    assert not change.is_gone
    assert said([change]) == ["now", "Done."]
    assert change.messages[1]["model"] == "claude-opus-4-5-20251101"


def test_a_program_is_told_what_another_process_has_indexed(home: Home, db: Path):
    write(home.transcript(), [user("before")])

    def act(_: list[Change]) -> None:
        append(home.transcript(), [user("now")])
        refresh(wait=True)  # before the batch is due

    assert said(follow(home, act, bool)) == ["now"]


def test_a_line_is_given_once_also_when_it_was_first_seen_without_its_end(home: Home):
    def act(found: list[Change]) -> None:
        write(home.transcript(), [user("one"), user("two")], newline=False)
        assert wait_for(lambda: found)
        append(home.transcript(), [b"\n", user("three")])

    assert said(follow(home, act, lambda found: len(found) == 2)) == ["one", "two", "three"]


def test_a_program_is_told_that_a_transcript_is_gone(home: Home):
    path = write(home.transcript(), [user("before")])
    (change,) = follow(home, lambda _: path.unlink(), bool)
    assert change == (str(path), True, [])


def test_the_function_stays_a_function_after_its_module_was_imported(home: Home):
    import indexer.watch as _  # noqa: F401

    assert callable(indexer.watch)


# Signals in bulk


@pytest.mark.slow
def test_a_first_load_that_is_interrupted_from_the_keyboard_ends_with_0_and_is_finished_later(
    home: Home, db: Path, tmp_path: Path, run_cm: RunCm
):
    for number in range(40):
        write(home.transcript(f"s{number}"), [user("x" * 1_000, sessionId=f"s{number}") for _ in range(2_000)])
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer", "watch"],
        env=clean_environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert wait_for(lambda: db.exists() and ask(db, "SELECT 1 FROM sqlite_master WHERE name = 'meta'"))
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert b"Traceback" not in stderr
    assert run_cm("refresh", "--quiet").returncode == 0
    assert ask(db, "SELECT count(*) FROM records") == [(80_000,)]
    assert ask(db, "SELECT count(*) FROM files WHERE error IS NOT NULL") == [(0,)]
