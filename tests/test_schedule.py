"""`cm schedule`: what it prints is what cron, systemd and launchd take, and it touches nothing but its own."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from builders import Home, assistant, user, write
from conftest import RunCm, clean_environment

from indexer import schedule
from indexer.errors import BadInput

CM = f"{shlex.quote(sys.executable)} -m indexer"
# An empty spool of its own, so that nobody's crontab is touched.
SPOOL = (
    "mount -t tmpfs tmpfs /var/spool/cron && mkdir -m 1730 /var/spool/cron/crontabs && mount -t tmpfs tmpfs /run && "
)
ODD = 'it\'s 100% "odd" $HOME'

InSpool = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def in_spool() -> InSpool:
    """Runs a shell script where the crontabs are its own."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("crontab") or not shutil.which("unshare"):
        pytest.skip("cron is not installed")
    if subprocess.run([*unshare, f"{SPOOL} true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*unshare, SPOOL + script], check=False, env=clean_environment(), capture_output=True, text=True
        )

    return run


@pytest.fixture
def odd_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """History and index at places whose names mean something to a shell, to cron and to systemd."""
    home = Home(tmp_path / ODD)
    write(home.transcript(), [user("hello")])
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(home.root))
    monkeypatch.setenv("CM_DB", str(tmp_path / ODD / "cm.db"))
    return tmp_path / ODD / "cm.db"


def count(db: Path) -> int:
    connection = sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM messages").fetchone()[0])
    finally:
        connection.close()


# cron


@pytest.mark.parametrize(
    ("every", "times"),
    [
        ("1m", "* * * * *"),
        ("5m", "*/5 * * * *"),
        ("300s", "*/5 * * * *"),
        ("1h", "0 * * * *"),
        ("6h", "0 */6 * * *"),
        ("1d", "0 0 * * *"),
    ],
)
def test_a_span_is_what_cron_makes_of_it(every: str, times: str):
    assert schedule.cron_line(schedule.job(every)).startswith(f"{times} ")


@pytest.mark.parametrize("every", ["7m", "90m", "5h", "30s", "2d"])
def test_a_span_that_cron_cannot_keep_is_refused_and_systemd_keeps_it(every: str, run_cm: RunCm):
    done = run_cm("schedule", "cron", "--every", every)
    assert (done.returncode, done.stdout) == (1, "")
    assert "evenly" in done.stderr
    assert run_cm("schedule", "systemd", "--every", every).returncode == 0


@pytest.mark.parametrize("every", ["", "5", "0m", "-5m", "5 m", "5w", "m"])
def test_what_is_no_span_is_refused(every: str):
    with pytest.raises(BadInput):
        schedule.seconds(every)


def test_the_line_works_with_the_empty_environment_of_cron(odd_places: Path, run_cm: RunCm):
    (line,) = run_cm("schedule", "cron").stdout.splitlines()
    command = line.split(" ", 5)[5].replace(r"\%", "%")
    environment = {"HOME": "/", "LOGNAME": "nobody", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, cwd="/", check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert count(odd_places) == 1


def test_relative_places_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "one, two")
    monkeypatch.setenv("CM_LOG", "cm.log")
    found = schedule.job("5m", "some.db", ["root"])
    assert found.command[-4:] == ["--db", str(tmp_path / "some.db"), "--root", str(tmp_path / "root")]
    assert found.environment["CLAUDE_CONFIG_DIR"] == f"{tmp_path}/one,{tmp_path}/two"
    assert found.environment["CM_LOG"] == f"{tmp_path}/cm.log"


def test_the_views_weeks_begin_with_the_day_they_began_with(home: Home, db: Path, monkeypatch: pytest.MonkeyPatch):
    write(home.transcript(), [assistant(timestamp="2026-10-07T10:00:00.000Z")])  # a Wednesday
    monkeypatch.setenv("CM_START_OF_WEEK", "tuesday")
    job = schedule.job("5m", str(db))
    environment = {"PATH": os.environ["PATH"], **job.environment, "CLAUDE_CONFIG_DIR": str(home.root)}
    subprocess.run(job.command, env=environment, cwd="/", check=True)
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("SELECT week FROM weekly_usage").fetchall() == [("2026-10-06",)]


def test_a_line_that_cron_would_cut_off_or_split_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CM_ROOTS", "/x" * 500)
    with pytest.raises(BadInput, match="too many for cron"):
        schedule.cron_line(schedule.job("5m"))
    monkeypatch.setenv("CM_ROOTS", "/a\n* * * * * echo mine")
    with pytest.raises(BadInput, match="control characters"):
        schedule.job("5m")


def test_cron_takes_the_line_and_gives_it_back(odd_places: Path, in_spool: InSpool):
    done = in_spool(f"{CM} schedule cron | tee /run/line | crontab - && crontab -l | cmp - /run/line")
    assert (done.returncode, done.stderr) == (0, "")


def test_installing_shows_what_changed_and_changes_nothing_the_second_time(in_spool: InSpool):
    done = in_spool(
        f"""
        printf '# mine\\n@daily true # 100\\\\%%\\n' | crontab - && crontab -l >/run/mine
        {CM} schedule cron --install; echo == $?
        crontab -l >/run/first; grep -vn 'cm schedule$' /run/first; echo ==
        {CM} schedule cron --install; echo == $?
        crontab -l | cmp - /run/first && {CM} schedule cron --status; echo == $?
        {CM} schedule cron --install --every 10m; echo == $?
        {CM} schedule cron --remove; echo == $?
        crontab -l | cmp - /run/mine; echo == $?
        {CM} schedule cron --remove; echo == $?
        {CM} schedule cron --status; echo == $?
        """
    )
    first, kept, second, status, changed, removed, same, again, nothing, end = re.split(r"== ?\d*\n", done.stdout)
    assert re.findall(r"^[-+](?![-+]).*$", first, re.MULTILINE) == [f"+{status.strip()}"]
    assert kept == "1:# mine\n2:@daily true # 100\\%\n"
    assert second == same == again == nothing == end == ""
    assert re.fullmatch(r"\*/5 \* \* \* \* .* refresh --quiet # cm schedule\n", status)
    assert f"-{status}+*/10 * * * * " in changed
    assert re.findall(r"^[-+](?![-+])", removed, re.MULTILINE) == ["-"]
    assert re.findall(r"== (\d+)", done.stdout) == ["0", "0", "0", "0", "0", "0", "0", "1"]
    assert done.stderr.splitlines() == [
        "cm: it is installed already",
        "cm: there is nothing to remove",
        "cm: nothing is installed for cron; install it with `cm schedule cron --install`",
    ]


def test_a_crontab_in_another_encoding_comes_out_as_it_went_in(in_spool: InSpool):
    done = in_spool(
        f"""
        printf '# caf\\351 \\n#* * * * * cm refresh # cm schedule\\n' | crontab - && crontab -l >/run/mine
        {CM} schedule cron --install >/dev/null && crontab -l | head -2 | cmp - /run/mine &&
        {CM} schedule cron --remove >/dev/null && crontab -l | cmp - /run/mine
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_real_cron_runs_the_line(odd_places: Path):
    if not shutil.which("cron") or os.getuid() != 0:
        pytest.skip("cron is not installed, or this is not root")
    script = f"{SPOOL} {CM} schedule cron --every 1m --install >/run/shown && exec cron -f"
    cron = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script], env=clean_environment()
    )
    try:
        end = time.monotonic() + 75
        while not odd_places.exists() and time.monotonic() < end:
            time.sleep(0.5)
        time.sleep(3)
        assert count(odd_places) == 1
    finally:
        cron.kill()
        cron.wait()


# systemd


def units(text: str) -> dict[str, str]:
    """The files of what `cm schedule systemd` prints, by the names in its comments."""
    parts = re.split(r"^# (/.*)\n", text, flags=re.MULTILINE)[1:]
    return {os.path.basename(name): unit for name, unit in zip(parts[::2], parts[1::2], strict=True)}


def test_systemd_takes_the_units(odd_places: Path, tmp_path: Path, run_cm: RunCm):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    found = units(run_cm("schedule", "systemd", "--every", "90s").stdout)
    assert found.keys() == {"cm-refresh.service", "cm-refresh.timer"}
    for name, text in found.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *(str(tmp_path / name) for name in found)],
        check=False,
        capture_output=True,
        text=True,
        env=clean_environment({"XDG_RUNTIME_DIR": str(tmp_path)}),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f'"CM_DB={tmp_path}/it\'s 100%% \\"odd\\" $HOME/cm.db"' in found["cm-refresh.service"]


def test_without_a_systemd_that_answers_nothing_is_written(home: Home, tmp_path: Path, run_cm: RunCm):
    done = run_cm("schedule", "systemd", "--install", env={"XDG_RUNTIME_DIR": None, "DBUS_SESSION_BUS_ADDRESS": None})
    assert done.returncode == 1
    assert "systemctl" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("cm-refresh.*"))


def test_a_unit_that_is_not_ours_is_left_alone(home: Home, run_cm: RunCm):
    mine = Path(os.environ["XDG_CONFIG_HOME"]) / "systemd" / "user" / "cm-refresh.timer"
    mine.parent.mkdir(parents=True)
    mine.write_text("[Timer]\nOnCalendar=daily\n")
    for action in ("--install", "--remove"):
        done = run_cm("schedule", "systemd", action)
        assert done.returncode == 1
        assert "was not made by cm" in done.stderr
    assert mine.read_text() == "[Timer]\nOnCalendar=daily\n"


# launchd


def test_launchd_gets_a_property_list(odd_places: Path, run_cm: RunCm):
    agent = plistlib.loads(run_cm("schedule", "launchd", "--every", "2h").stdout.encode())
    assert agent["StartInterval"] == 7_200
    assert agent["EnvironmentVariables"]["CM_DB"] == str(odd_places)
    done = subprocess.run(agent["ProgramArguments"], env=agent["EnvironmentVariables"], check=False, cwd="/")
    assert done.returncode == 0
    assert count(odd_places) == 1
