"""The log: one for all processes, private, complete, and silent where nothing happened."""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import Home, append, assistant, user, write
from conftest import RunCm, clean_environment

from indexer import log, refresh

WRITER = """
import sys
from indexer import log
log.MAX_BYTES, log.KEPT_FILES = 20_000, 1_000
for number in range(500):
    log.logger().info("%s wrote line %d", sys.argv[1], number)
"""


@pytest.fixture
def file() -> Path:
    return Path(os.environ["CM_LOG"])


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def modes(folder: Path) -> set[str]:
    return {oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()}


def slow(*seconds: float) -> int:
    """Of refreshes, those that are worth a line for their time alone; none but on a busy machine."""
    return sum(took > 1 for took in seconds)


def test_four_processes_lose_no_line_while_the_log_is_rotated(file: Path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, f"w{n}"], env=clean_environment()) for n in range(4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    rotated = list(file.parent.glob("cm.log.*.gz"))
    assert len(rotated) > 2
    text = file.read_text() + "".join(gzip.decompress(path.read_bytes()).decode() for path in rotated)
    found = sorted(re.findall(r"(w\d) wrote line (\d+)", text))
    assert found == sorted((f"w{writer}", str(number)) for writer in range(4) for number in range(500))


def test_the_log_is_nobody_elses(file: Path):
    subprocess.run([sys.executable, "-c", WRITER, "w"], env=clean_environment(), umask=0, check=True)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert any(path.suffix == ".gz" for path in file.parent.iterdir())
    assert modes(file.parent) == {"0o600"}


def test_a_log_folder_that_exists_keeps_its_mode(file: Path, home: Home, run_cm: RunCm):
    file.parent.mkdir(mode=0o755)
    run_cm("refresh", env={"CM_LOG_LEVEL": "DEBUG"})
    assert len(lines(file)) == 1
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755


def test_an_ordinary_refresh_is_worth_no_line(file: Path, home: Home, run_cm: RunCm):
    write(home.transcript(), [user(), assistant()])
    took = [json.loads(run_cm("refresh", "--json").stdout)["seconds"] for _ in range(2)]
    assert run_cm("stats", "--no-refresh").returncode == 0
    assert len(lines(file)) == slow(*took)


def test_a_slow_refresh_is_one_line_with_phases_and_cost(
    file: Path, home: Home, db: Path, monkeypatch: pytest.MonkeyPatch
):
    write(home.transcript(), [user(), assistant()])
    monkeypatch.setattr(log, "SLOW_SECONDS", 0.0)
    log.log_refresh(refresh(), str(db))
    (line,) = lines(file)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} INFO \[\d+\] ", line)
    assert "parsed 1 files" in line
    assert "2 records, 1 responses added, 0 lines skipped" in line
    assert "$0.00 in all" in line


def test_a_file_that_fails_is_logged_once_until_it_fails_anew(
    file: Path, home: Home, run_cm: RunCm, make_unreadable: Callable[[Path], None]
):
    path = write(home.transcript(), [user()])
    make_unreadable(path)
    told = [run_cm("refresh").returncode for _ in range(3)]
    assert told == [3, 3, 3]
    assert sum(str(path) in line for line in lines(file)) == 1

    path.chmod(0o600)
    assert run_cm("refresh").returncode == 0
    append(path, [user()])
    path.chmod(0)
    assert run_cm("refresh").returncode == 3
    assert sum(str(path) in line for line in lines(file)) == 2


def test_a_known_file_that_becomes_unreadable_is_remembered_as_failed(
    file: Path, home: Home, run_cm: RunCm, make_unreadable: Callable[[Path], None]
):
    path = write(home.transcript(), [user()])
    run_cm("refresh")
    append(path, [user()])
    make_unreadable(path)
    assert [run_cm("refresh").returncode for _ in range(2)] == [3, 3]
    assert sum(str(path) in line for line in lines(file)) == 1
    assert json.loads(run_cm("status", "--json").stdout)["failures"] == {str(path): "Permission denied"}


def test_a_folder_that_cannot_be_read_is_logged_once_and_stands_in_the_status(
    file: Path, home: Home, run_cm: RunCm, make_unreadable: Callable[[Path], None]
):
    folder = write(home.transcript(), [user()]).parent
    write(home.transcript(project="/other"), [user()])
    make_unreadable(folder)
    assert [run_cm("refresh").returncode for _ in range(3)] == [3, 3, 3]
    assert sum(str(folder) in line for line in lines(file)) == 1
    assert json.loads(run_cm("status", "--json").stdout)["failures"] == {str(folder): "Permission denied"}
    folder.chmod(0o700)
    assert run_cm("refresh").returncode == 0
    assert json.loads(run_cm("status", "--json").stdout)["failures"] == {}


def test_a_path_cannot_forge_a_line(file: Path, home: Home, run_cm: RunCm, make_unreadable: Callable[[Path], None]):
    path = write(home.transcript("a\n2026-01-01T00:00:00+0000 INFO [1] all is well\x1b[2J"), [user()])
    make_unreadable(path)
    run_cm("refresh")
    assert [line for line in lines(file) if "all is well" in line]
    assert not [line for line in lines(file) if line.startswith("2026-01-01")]
    assert "\x1b" not in file.read_text()


def test_verbose_shows_on_stderr_what_is_done_and_leaves_stdout_alone(file: Path, home: Home, run_cm: RunCm):
    write(home.transcript(), [user(), assistant()])
    done = run_cm("refresh", "--json", "--verbose")
    summary = json.loads(done.stdout)
    assert summary["records_added"] == 2
    assert "cm: found 1 files" in done.stderr
    assert len(lines(file)) == slow(summary["seconds"])


@pytest.mark.parametrize(("level", "count"), [("DEBUG", 1), ("debug", 1), ("INFO", 0), ("ERROR", 0), ("", 0)])
def test_the_level_decides_what_is_worth_a_line(file: Path, home: Home, run_cm: RunCm, level: str, count: int):
    write(home.transcript(), [user()])
    done = run_cm("refresh", "--quiet", "--json", env={"CM_LOG_LEVEL": level})
    assert done.stderr == ""
    told = slow(json.loads(done.stdout)["seconds"]) if level in ("INFO", "") else 0
    assert len(lines(file)) == count + told


def test_a_level_that_is_none_is_said_and_the_usual_one_taken(
    file: Path, home: Home, run_cm: RunCm, make_unreadable: Callable[[Path], None]
):
    path = write(home.transcript(), [user()])
    make_unreadable(path)
    done = run_cm("refresh", env={"CM_LOG_LEVEL": "LOUD"})
    assert done.returncode == 3
    assert "CM_LOG_LEVEL=LOUD is no level" in done.stderr
    assert any(str(path) in line for line in lines(file))


def test_without_a_place_for_the_log_the_work_is_done_all_the_same(home: Home, tmp_path: Path, run_cm: RunCm):
    (tmp_path / "no-folder").write_text("")
    write(home.transcript(), [user()])
    done = run_cm("refresh", env={"CM_LOG": str(tmp_path / "no-folder" / "cm.log"), "CM_LOG_LEVEL": "DEBUG"})
    assert done.returncode == 0
    assert done.stderr.count("nothing is logged") == 1
    assert "Traceback" not in done.stderr
