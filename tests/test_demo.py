"""`cm demo`: a history for people who have none, which never touches what is theirs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import builders
import pytest
from conftest import clean_environment

from indexer import connect


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run(place, *arguments):
    """Runs `cm demo` for somebody who has a history below the place."""
    home = {"HOME": str(place), "TMPDIR": str(place / "tmp")}
    unset = dict.fromkeys(
        ("CM_DB", "CM_LOG", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR")
    )
    return subprocess.run(
        [sys.executable, "-m", "indexer", "demo", *arguments],
        env=clean_environment(home | unset),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home with a history in it, an empty directory for the demo, and one for temporary files."""
    place = tmp_path_factory.mktemp("place")
    builders.write(builders.Home(place).transcript(), [builders.assistant()])
    (place / "tmp").mkdir()
    (place / "demo").mkdir()
    return place


@pytest.fixture(scope="module")
def shown(place):
    """What the demo in the empty directory said, how long it took, and the user's files before."""
    before, started = files(place), time.monotonic()
    return run(place, str(place / "demo")), time.monotonic() - started, before


def test_it_shows_the_reports_on_months_of_work_in_seconds(place, shown):
    done, seconds, _ = shown
    assert done.returncode == 0, done.stderr
    assert seconds < 60
    parts = done.stdout.split("\n$ cm ")[1:]
    assert [part.partition("\n")[0] for part in parts] == ["monthly", "projects", "models", "agents", "tools"]
    assert all(len(part.splitlines()) > 5 for part in parts)
    assert f"cm daily --root {place}/demo --db {place}/demo/cm.db" in done.stderr


def test_what_it_made_up_can_be_asked_like_any_history(place, shown):
    connection = connect(str(place / "demo" / "cm.db"))
    first, last, sessions, models = connection.execute(
        "SELECT min(at), max(at), count(DISTINCT session_id), count(DISTINCT model) FROM usage"
    ).fetchone()
    projects = connection.execute("SELECT count(*) FROM projects").fetchone()[0]
    connection.close()
    newest = datetime.fromisoformat(last)
    assert newest - datetime.fromisoformat(first) > timedelta(days=90)
    assert timedelta(0) <= datetime.now(UTC) - newest < timedelta(days=4)
    assert sessions > 100 and models >= 3 and projects >= 5


def test_nothing_is_read_or_written_outside_its_directory(place, shown):
    done, _, before = shown
    assert {name for name in files(place) if not name.startswith("demo/")} == before
    assert builders.PROJECT not in done.stdout and "the index also holds" not in done.stderr


def test_a_second_time_it_shows_what_it_made_the_first(place, shown):
    before = files(place / "demo" / "projects")
    made = json.loads(run(place, "--json", str(place / "demo")).stdout)
    assert made == {"directory": f"{place}/demo", "database": f"{place}/demo/cm.db", "written": None}
    assert files(place / "demo" / "projects") == before


def test_half_a_history_is_not_taken_for_a_whole_one(place, shown):
    mark = place / "demo" / ".cm-demo"
    mark.rename(place / "mark")  # as if it had been interrupted
    assert run(place, str(place / "demo")).returncode == 1
    (place / "mark").rename(mark)


def test_without_a_directory_it_takes_a_temporary_one_and_says_where(place):
    made = json.loads(run(place, "--json").stdout)
    assert Path(made["directory"]).parent == place / "tmp"
    assert made["written"]["files"] == len(list(Path(made["directory"], "projects").rglob("*.jsonl"))) > 100


@pytest.mark.parametrize("name", ["notes.txt", "projects/-home-dev-app/session.jsonl", ".hidden"])
def test_a_directory_that_holds_anything_is_left_alone(run_cm, tmp_path, name):
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = run_cm("demo", tmp_path / "mine")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cm: {tmp_path}/mine is not empty: ")
    assert files(tmp_path / "mine") == {name}
    assert mine.read_text() == "mine"


def test_a_file_in_its_place_is_refused(run_cm, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert run_cm("demo", tmp_path / "file").returncode == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_somebody_without_history_is_told_of_it(home, run_cm):
    done = run_cm("stats")
    assert done.returncode == 1
    assert "`cm demo`" in done.stderr
    assert str(home.root) in done.stderr
