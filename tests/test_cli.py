"""How `cm` behaves as a command: exit codes, what goes to stdout and what to stderr, and what it costs to start."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builders import Home, append, assistant, text, user, write
from conftest import CHECKOUT, RunCm, clean_environment

import indexer
from indexer.cli import COMMANDS

CM = [sys.executable, "-m", "indexer"]


@pytest.fixture
def a_history(home: Home) -> Path:
    return write(home.transcript(), [user(), assistant(), assistant()])


def on_a_terminal(*arguments: str, **env: str) -> tuple[int, str]:
    """Exit code and everything that a terminal shows."""
    master, slave = pty.openpty()
    environment = clean_environment({"TERM": "xterm", "COLUMNS": "120", **env})
    process = subprocess.Popen(
        [*CM, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=CHECKOUT
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # the process has closed its end
            break
        if not data:
            break
        shown += data
    os.close(master)
    return process.wait(), shown.decode()


# Help, versions, usage


def test_the_version_is_the_packages(run_cm: RunCm):
    done = run_cm("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"cm {indexer.__version__}\n", "")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_every_command_with_what_it_does(run_cm: RunCm, option):
    done = run_cm(option)
    assert (done.returncode, done.stderr) == (0, "")
    for name, (_, what) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert what.split()[0] in done.stdout


@pytest.mark.parametrize("command", ["refresh", "stats", "query", "queries", "status", "verify"])
def test_every_command_has_help(run_cm: RunCm, command):
    for option in ("-h", "--help"):
        done = run_cm(command, option)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Usage: cm {command}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["refresh", "--nothing"],
        ["query"],
        ["refresh", "--workers", "0"],
        ["refresh", "--workers", "x"],
    ],
)
def test_what_cannot_be_understood_ends_with_2(run_cm: RunCm, arguments):
    done = run_cm(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (["--db", "x y.db", "refresh"], "cm refresh --db 'x y.db'"),
        (["-j", "search", "foo"], "cm search -j foo"),
        (["-s", "7d", "session"], "cm session -s 7d"),
    ],
)
def test_options_before_a_command_are_told_where_they_belong(run_cm: RunCm, given, right):
    done = run_cm(*given)
    assert f"the command stands before its options: {right}\n" in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


def test_the_value_of_an_option_may_be_a_commands_name(a_history: Path, run_cm: RunCm, tmp_path: Path):
    assert run_cm("--db", "refresh", "--json", cwd=tmp_path).stdout.startswith("[")


# Data and talk


def test_refresh_talks_on_stderr_and_gives_data_only_when_asked(a_history, run_cm: RunCm):
    done = run_cm("refresh")
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 of 1 transcript" in done.stderr
    done = run_cm("refresh", "--json")
    assert json.loads(done.stdout)["files_seen"] == 1
    append(a_history, [assistant()])
    done = run_cm("refresh", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("form", [["refresh", "--json"], ["refresh", "-j"], ["stats", "--json"], ["status", "--json"]])
def test_json_is_all_there_is_on_stdout(a_history, run_cm: RunCm, form):
    run_cm("refresh")
    done = run_cm(*form)
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stderr == ""


def test_refresh_says_the_same_with_and_without_options_of_the_command_line(
    a_history, home: Home, db: Path, run_cm: RunCm
):
    quick = json.loads(run_cm("refresh", "--json").stdout)
    db.unlink()
    slow = json.loads(run_cm("refresh", "--json", "--root", home.root, "--db", db).stdout)
    assert list(slow) == list(quick)
    assert {**slow, "seconds": 0, "phases": 0} == {**quick, "seconds": 0, "phases": 0}


@pytest.mark.parametrize("command", [["refresh"], ["stats"], ["stats", "--json"]])
def test_without_any_history_it_names_where_it_looked(run_cm: RunCm, tmp_path, command):
    done = run_cm(*command)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert f"{tmp_path}/.claude/projects" in done.stderr
    assert f"{tmp_path}/xdg-config/claude/projects" in done.stderr
    assert "cm demo" in done.stderr


def test_an_empty_root_that_was_named_is_named(run_cm: RunCm, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run_cm("stats", "--root", tmp_path / "empty")
    assert (done.returncode, f"{tmp_path}/empty/projects" in done.stderr) == (1, True)
    done = run_cm("stats", "--root", tmp_path / "nowhere")
    assert (done.returncode, len(done.stderr.splitlines()), "nowhere" in done.stderr) == (1, 1, True)


def test_with_an_index_it_is_no_error_that_all_transcripts_are_gone(a_history, run_cm: RunCm):
    run_cm("refresh")
    a_history.unlink()
    assert run_cm("refresh").returncode == 0
    assert json.loads(run_cm("stats", "--json").stdout)["messages_count"] == 2


def test_a_report_says_when_the_index_holds_other_roots(a_history, tmp_path, run_cm: RunCm):
    second = tmp_path / "second"
    write(second / "projects" / "p" / "x.jsonl", [assistant(sessionId="x")])
    run_cm("refresh", "--root", second)
    done = run_cm("stats", "--json")
    assert json.loads(done.stdout)["messages_count"] == 3
    assert str(second) in done.stderr


# Pipes, terminals, signals


def test_a_reader_that_has_had_enough_is_no_error(home: Home, run_cm: RunCm):
    write(home.transcript(), [user("x" * 5000) for _ in range(200)])
    run_cm("refresh")
    for command in (["query", "SELECT text FROM messages"], ["query", "SELECT text FROM messages", "--format", "csv"]):
        process = subprocess.Popen(
            [*CM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
        )
        assert process.stdout
        assert process.stderr
        process.stdout.read(10)
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=30)) == (b"", 0)
        process.stderr.close()


def test_a_stdout_that_is_closed_from_the_start_is_no_traceback(a_history, run_cm: RunCm):
    command = f"{sys.executable} -m indexer stats >&-"
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=clean_environment(), capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_on_a_terminal_a_query_is_a_table(a_history, run_cm: RunCm):
    run_cm("refresh")
    code, shown = on_a_terminal("query", "SELECT 1 AS one")
    assert (code, shown.split()) == (0, ["one", "-----", "1"])


@pytest.mark.parametrize("command", [["stats"], ["status"], ["-h"], ["query", "SELECT 1"]])
def test_no_color_is_no_color(a_history, run_cm: RunCm, command):
    run_cm("refresh")
    code, shown = on_a_terminal(*command, NO_COLOR="1")
    assert (code, bool(shown.strip()), "\x1b[3" in shown) == (0, True, False)


def test_the_first_refresh_shows_a_bar_on_a_terminal_and_not_elsewhere(home: Home, run_cm: RunCm, db: Path):
    write(home.transcript(), [user("x" * 1_000_000) for _ in range(22)])
    code, shown = on_a_terminal("refresh")
    assert (code, "Reading transcripts" in shown, "100%" in shown) == (0, True, True)
    db.unlink()
    done = run_cm("refresh")
    assert (done.returncode, "Reading transcripts" in done.stderr) == (0, False)


def test_looking_for_secrets_shows_a_bar_on_a_terminal_and_not_elsewhere(home: Home, run_cm: RunCm, tmp_path: Path):
    write(home.transcript(), [user("words " * 200_000) for _ in range(20)])
    run_cm("refresh")
    (tmp_path / "config.toml").write_text("redact = true\n")
    code, shown = on_a_terminal("redact", "--dry-run", CM_CONFIG=str(tmp_path / "config.toml"))
    assert (code, "Looking for secrets" in shown, "100%" in shown) == (0, True, True)
    assert shown.endswith("cm: 0 texts and transcripts of 0 sessions would be masked\r\n")
    done = run_cm("redact", "--dry-run", env={"CM_CONFIG": str(tmp_path / "config.toml")})
    assert done.stderr == "cm: 0 texts and transcripts of 0 sessions would be masked\n"


def test_control_characters_of_a_project_do_not_reach_a_terminal(home: Home, run_cm: RunCm):
    write(home.transcript(), [assistant(text("a"), cwd="/p/\x1b[2Jx", model="m\x1b]0;y\x07")])
    for command in (["stats"], ["status"], ["stats", "--json"]):
        done = run_cm(*command)
        assert done.returncode == 0
        assert not set("\x1b\x07") & set(done.stdout + done.stderr)


def test_an_interrupt_ends_it_quietly(a_history, db: Path):
    db.parent.mkdir()
    with open(f"{db}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Without an index it waits for the refresh that holds the lock.
        process = subprocess.Popen(
            [*CM, "stats"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
        )
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, b"Traceback" in err) == (130, b"", False)


# Files


def test_index_and_folder_are_for_their_owner_only(a_history, db: Path, run_cm: RunCm):
    run_cm("refresh")
    assert stat.S_IMODE(db.stat().st_mode) == 0o600
    assert stat.S_IMODE(db.parent.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in db.parent.iterdir())


def test_a_folder_that_exists_keeps_its_mode(a_history, tmp_path, run_cm: RunCm):
    (tmp_path / "mine").mkdir(mode=0o755)
    assert run_cm("refresh", "--db", tmp_path / "mine" / "x.db").returncode == 0
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "mine" / "x.db").stat().st_mode) == 0o600


def test_without_a_setting_the_index_is_in_the_data_directory(a_history, tmp_path, run_cm: RunCm):
    assert run_cm("refresh", env={"CM_DB": None}).returncode == 0
    assert (tmp_path / "xdg-data" / "cm" / "cm.db").exists()
    assert run_cm("refresh", env={"CM_DB": None, "XDG_DATA_HOME": None}).returncode == 0
    assert (tmp_path / ".local" / "share" / "cm" / "cm.db").exists()
    assert run_cm("refresh", "--db", "~/named.db").returncode == 0
    assert (tmp_path / "named.db").exists()


@pytest.mark.parametrize("place", ["/proc/nothing/cm.db", "{tmp_path}", "{tmp_path}/file/cm.db"])
def test_an_index_that_cannot_be_made_is_told_in_one_line(a_history, tmp_path, run_cm: RunCm, place):
    (tmp_path / "file").write_text("")
    path = place.format(tmp_path=tmp_path)
    for command in ("refresh", "stats"):
        done = run_cm(command, "--db", path)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert path in done.stderr


def test_an_index_with_any_name_is_only_a_file(a_history, tmp_path, run_cm: RunCm):
    name = tmp_path / "what? #1 %20 ä.db"
    assert run_cm("refresh", "--db", name).returncode == 0
    assert json.loads(run_cm("query", "SELECT count(*) AS n FROM usage", "--db", name).stdout) == [{"n": 2}]
    assert name.exists()


# What a start costs


def test_a_command_imports_only_itself(run_cm: RunCm):
    code = "import sys, indexer.cli as c\nc.cli.get_command(None, 'query')\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), cwd=CHECKOUT, capture_output=True, check=True
    )
    found: set[Any] = set(done.stdout.decode().split())
    assert "indexer.commands.query" in found
    assert not found & {
        "indexer.commands.stats",
        "indexer.commands.verify",
        "indexer.naive",
        "sqlite_utils",
        "watchdog",
    }
