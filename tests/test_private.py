"""For this user alone: what cm makes, whatever the umask; what it shows, and what it never takes or keeps."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from builders import Home, assistant, text, title, tool_use, user, write
from conftest import RunCm, clean_environment

from indexer import refresh
from indexer.cli import COMMANDS

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\x07\x08"


def made(folder: Path, before: set[Path]) -> Iterator[tuple[Path, int, bool]]:
    """What is there now and was not before, with its permissions."""
    for path in folder.rglob("*"):
        if path not in before:
            status = path.lstat()
            yield path, status.st_mode & 0o777, stat.S_ISDIR(status.st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o277])
def test_whatever_a_command_makes_is_for_its_user_alone(home: Home, tmp_path: Path, umask: int):
    """Also folders on the way, the log, the lock, backups, and what is made up."""
    write(home.transcript(), [user(), assistant(), b"{broken\n"])
    backups = tmp_path / "backups"
    backups.mkdir()
    before = set(tmp_path.rglob("*"))
    env = dict.fromkeys(("CM_DB", "CM_LOG")) | {"XDG_DATA_HOME": str(tmp_path / "new" / "data")}
    commands: list[list[object]] = [
        ["refresh", "--verbose"],
        ["backup", backups / "cm.db"],
        ["restore", backups / "cm.db"],
        ["prices", "set", "claude-zeta-99", "--input", "1", "--output", "5"],
        ["demo", tmp_path / "made" / "up"],
    ]
    for arguments in commands if umask == 0 else commands[:2]:
        done = subprocess.run(
            [sys.executable, "-m", "indexer", *map(str, arguments)],
            env=clean_environment(env),
            preexec_fn=lambda: os.umask(umask),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    found = list(made(tmp_path, before))
    names = {path.name for path, _, _ in found}
    assert {"cm.db", "cm.db.lock", "cm.log"} <= names
    assert [(path, oct(mode)) for path, mode, is_folder in found if mode != (0o700 if is_folder else 0o600)] == []


def test_a_program_that_uses_the_package_gets_private_files_too(home: Home, tmp_path: Path):
    write(home.transcript(), [user()])
    before = os.umask(0)
    try:
        refresh(db=str(tmp_path / "made" / "cm.db"))
    finally:
        os.umask(before)
    for path in (tmp_path / "made").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700


def test_folders_that_exist_keep_their_modes(home: Home, db: Path, run_cm: RunCm):
    write(home.transcript(), [user()])
    places = [db.parent, Path(os.environ["CM_LOG"]).parent]
    for place in places:
        place.mkdir()
        place.chmod(0o755)
    assert run_cm("refresh", "--verbose").returncode == 0
    assert [place.stat().st_mode & 0o777 for place in places] == [0o755, 0o755]


def test_what_others_could_read_is_mended_and_said_once(home: Home, db: Path, run_cm: RunCm):
    write(home.transcript(), [user()])
    log = Path(os.environ["CM_LOG"])
    assert run_cm("refresh", "--verbose").returncode == 0
    files = [db, Path(f"{db}.lock"), log]
    for path in files:
        path.chmod(0o666)
    for suffix in ("-wal", "-shm"):
        Path(f"{db}{suffix}").touch()
        Path(f"{db}{suffix}").chmod(0o644)
    done = run_cm("refresh", "--verbose")
    assert (done.returncode, done.stderr.count("other users")) == (0, 1)
    for path in [*files, *db.parent.iterdir()]:
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert "other users" not in run_cm("refresh", "--verbose").stderr


def test_another_user_can_read_neither_index_nor_log_nor_lock(home: Home, tmp_path: Path, run_cm: RunCm):
    """In folders that everybody may enter, which is how homes often are."""
    if os.getuid():
        pytest.skip("only root can be another user")
    write(home.transcript(), [user()])
    for place in ("index", "log"):
        (tmp_path / place).mkdir(mode=0o755)
    assert run_cm("refresh", "--verbose").returncode == 0
    folder = tmp_path
    while folder != folder.parent and folder.stat().st_uid == os.getuid() and folder != Path("/tmp"):
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    files = [path for place in ("index", "log") for path in (tmp_path / place).iterdir()]
    assert len(files) >= 3
    for path in files:
        done = subprocess.run(
            ["cat", path], user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, "Permission denied" in done.stderr) == (1, "", True)


def test_no_escape_sequence_of_a_transcript_reaches_the_terminal(home: Home, run_cm: RunCm):
    session = f"s{EVIL}"
    call = tool_use(f"Tool{EVIL}")
    said = {"sessionId": session, "cwd": f"/p/{EVIL}", "gitBranch": EVIL, "version": EVIL}
    records = [
        user(EVIL, **said),
        assistant(text(EVIL), call, model=f"claude{EVIL}", **said, attributionSkill=EVIL, attributionAgent=EVIL),
        title(EVIL, session),
        b'{"broken' + EVIL.encode() + b"\n",
    ]
    write(home.transcript("odd"), records)
    assert run_cm("refresh").returncode == 0
    (day,) = {str(record["timestamp"])[:10] for record in records[:2] if isinstance(record, dict)}
    query = "SELECT * FROM messages"
    for arguments in (
        *([name] for name in ("sessions", "projects", "agents", "tools", "stats", "status")),
        ["daily", "--breakdown", "--instances"],
        ["explain", day],
        ["query", query, "--format", "table"],
        ["query", query, "--format", "json"],
    ):
        done = run_cm(*arguments, env={"FORCE_COLOR": None, "NO_COLOR": "1"}, input="{}")
        assert (done.returncode, bool(done.stdout)) == (0, True), (arguments, done.stderr)
        for shown in (done.stdout, done.stderr):
            assert not set(shown) & set("\x1b\x07\x08\x9b"), arguments


def test_no_secret_is_taken_as_an_argument():
    """Arguments stand in every process list and in the shell's history; a file or the environment does not."""
    words = {"token", "password", "passwd", "secret", "key", "credential", "credentials"}
    for name, (module, _) in COMMANDS.items():
        command = getattr(importlib.import_module(f"indexer.commands.{module}"), name)
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.is_flag:
                assert not words & {option.rpartition("-")[2] for option in parameter.opts}, (
                    f"cm {name} {parameter.opts}"
                )


def test_what_was_said_and_the_environment_never_reach_the_log(home: Home, run_cm: RunCm):
    write(home.transcript(), [user("sk-ant-from-the-transcript"), b'{"broken": "sk-ant-broken\n'])
    secrets = {"ANTHROPIC_API_KEY": "sk-ant-key", "CM_SERVE_TOKEN": "tk-from-env", "CM_LOG_LEVEL": "DEBUG"}
    for arguments in (["refresh", "--verbose"], ["daily", "--verbose"], ["query", "SELECT 'sk-ant-query'"]):
        run_cm(*arguments, env=secrets)
    log = Path(os.environ["CM_LOG"]).read_text()
    assert log
    assert not any(secret in log for secret in ("sk-ant", "tk-from-env"))
