"""The line in Claude Code's status bar: what it shows, that it is quick, and that it never fails."""

from __future__ import annotations

import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import builders
import pytest
from builders import SESSION, assistant, usage
from conftest import clean_environment
from hypothesis import given
from hypothesis import strategies as st

from indexer import accounting, refresh, rollups, statusline, store

OTHER = "5e551000-0000-4000-8000-000000000002"
TOLD = {
    "hook_event_name": "Status",
    "session_id": SESSION,
    "transcript_path": "/home/dev/.claude/projects/-home-dev-app/x.jsonl",
    "cwd": "/home/dev/app/src",
    "model": {"id": "claude-opus-4-5-20251101", "display_name": "Opus 4.5"},
    "workspace": {"current_dir": "/home/dev/app/src", "project_dir": "/home/dev/app"},
    "version": "2.1.233",
    "cost": {"total_cost_usd": 0.25, "total_duration_ms": 45000},
    "context_window": {
        "context_window_size": 200000,
        "used_percentage": 42,
        "current_usage": {
            "input_tokens": 8500,
            "output_tokens": 1200,
            "cache_creation_input_tokens": 5000,
            "cache_read_input_tokens": 70500,
        },
    },
    "exceeds_200k_tokens": False,
}


@pytest.fixture(autouse=True)
def noon(monkeypatch):
    """A time zone in which it is noon or a little later, so that an hour ago was today whenever this runs."""
    hours = 12 - datetime.now(UTC).hour
    monkeypatch.setenv("CM_TIMEZONE", f"Etc/GMT{-hours:+d}" if hours else "UTC")


def at(**ago):
    return (datetime.now(UTC) - timedelta(**ago)).isoformat(timespec="milliseconds")[:23] + "Z"


def spent(tokens, session=SESSION, **fields):
    """A response of claude-opus-4-5, whose output costs $25 per million tokens."""
    return assistant(usage=usage(0, tokens), sessionId=session, **fields)


def index(home, *records, session=SESSION):
    builders.append(home.transcript(session), records)
    refresh()


def field(name, told=TOLD):
    return statusline.line(told, None, f"{{{name}}}")


def show(run_cm, told, *options, **keywords):
    """The line as Claude Code gets it."""
    text = told if isinstance(told, str) else json.dumps(told)
    done = run_cm("statusline", *options, input=text, **keywords)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")
    return done.stdout.removesuffix("\n")


# What it shows


def test_one_line_shows_model_session_today_block_and_context(home):
    index(
        home,
        spent(100_000, timestamp=at(hours=30)),
        spent(20_000, timestamp=at(minutes=61)),
        spent(40_000, OTHER, timestamp=at(minutes=1)),
    )
    line = statusline.line(TOLD)
    shape = r"Opus 4\.5 · \$3\.00 session · \$1\.50 today · \$1\.50 block, [23]h \d+m left · 42% context"
    assert re.fullmatch(shape, line), line


def test_today_begins_at_midnight_of_the_configured_zone(home, monkeypatch):
    index(home, spent(20_000, timestamp=at(minutes=90)))
    assert field("today_cost") == "$0.50"
    hours = datetime.now(UTC).hour
    just_after_midnight = f"Etc/GMT{hours:+d}" if hours <= 12 else f"Etc/GMT{hours - 24:+d}"
    monkeypatch.setenv("CM_TIMEZONE", just_after_midnight)
    assert field("today_cost") == "$0.00"


def test_no_block_is_shown_after_five_quiet_hours(home):
    index(home, spent(20_000, timestamp=at(hours=5, minutes=1)))
    assert field("block_cost") == field("block_left") == ""
    assert "block" not in statusline.line(TOLD)


def test_the_active_block_started_with_the_hour_of_its_first_response(home):
    first = datetime.now(UTC) - timedelta(minutes=70)
    index(home, spent(20_000, timestamp=at(minutes=70)), spent(20_000, timestamp=at(minutes=2)))
    start = first.replace(minute=0, second=0, microsecond=0)
    left = field("block_left")
    minutes = (start + timedelta(hours=5) - datetime.now(UTC)) // timedelta(minutes=1)
    assert left in {f"{n // 60}h {n % 60}m" for n in (minutes, minutes + 1)}
    assert field("burn_rate") == "$0.88/h"  # $1.00 in 68 minutes


def test_a_session_costs_what_the_index_or_claude_code_knows_whichever_is_more(home):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    assert field("session_cost") == "$1.00"  # resumed: Claude Code counts from its start
    ahead = TOLD | {"cost": {"total_cost_usd": 1.75}}
    assert field("session_cost", ahead) == "$1.75"  # not refreshed since
    assert field("session_cost", TOLD | {"session_id": OTHER}) == "$0.25"
    assert field("session_cost", {"session_id": OTHER}) == ""


def test_subagents_count_for_their_session(home):
    builders.write(home.subagent(), [spent(40_000, isSidechain=True, agentId="a1", timestamp=at(minutes=5))])
    index(home, spent(40_000, timestamp=at(minutes=5)))
    assert field("session_cost") == "$2.00"


def test_a_model_without_a_price_is_not_shown_as_free(home):
    index(home, spent(40_000, model="claude-zeta-99", timestamp=at(minutes=5)))
    assert field("today_cost") == "unpriced"
    index(home, spent(40_000, timestamp=at(minutes=4)))
    assert field("today_cost") == field("session_cost") == "$1.00+"


@pytest.mark.parametrize(
    ("window", "share", "tokens"),
    [
        (TOLD["context_window"], "42%", "84k"),
        ({"context_window_size": 200000, "used_percentage": None, "current_usage": None}, "", ""),
        ({"context_window_size": 100000, "current_usage": {"input_tokens": 25000}}, "25%", "25k"),
        ({"context_window_size": 0, "current_usage": {"input_tokens": 25000}}, "", "25k"),
        ({"used_percentage": 7.6}, "8%", ""),
    ],
)
def test_the_context_is_what_claude_code_tells(window, share, tokens):
    told = TOLD | {"context_window": window}
    assert statusline.line(told, None, "{context}|{context_tokens}") == f"{share}|{tokens}"


def test_where_an_old_claude_code_tells_no_context_the_last_main_response_does(home):
    told = {name: value for name, value in TOLD.items() if name != "context_window"}
    index(
        home,
        assistant(usage=usage(1_000, cache_write=20_000, cache_read=30_000), timestamp=at(minutes=3)),
        assistant(usage=usage(9_000), isSidechain=True, timestamp=at(minutes=2)),
    )
    assert field("context", told) == "51k tokens"


def test_the_project_has_the_name_the_config_file_gives_it(tmp_path, monkeypatch):
    assert field("project") == "app"
    config = tmp_path / "config.toml"
    config.write_text('[projects]\n"/home/dev/app" = "The App"\n')
    monkeypatch.setenv("CM_CONFIG", str(config))
    assert field("project") == "The App"


def test_a_format_shows_its_fields_and_keeps_all_else(home):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    form = "\x1b[2m{model}\x1b[0m {} {{today_cost}} {"
    assert statusline.line(TOLD, None, form) == "\x1b[2mOpus 4.5\x1b[0m {} {$1.00} {"


def test_every_field_has_a_value_when_all_is_known(home):
    index(home, spent(40_000, timestamp=at(minutes=5)), spent(40_000, timestamp=at(minutes=3)))
    named = [name for name in statusline.FIELDS if name != "note"]
    values = statusline.line(TOLD, None, "|".join(f"{{{name}}}" for name in named)).split("|")
    assert all(values), dict(zip(named, values, strict=True))


def test_every_field_is_in_the_help(run_cm):
    told = run_cm("statusline", "--help").stdout
    assert [name for name in statusline.FIELDS if f"{{{name}}}" not in told] == []


def test_an_index_that_was_not_refreshed_says_how_old_it_is(home, db):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    assert field("note") == ""
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE refreshes SET started_at = started_at - 3 * 3600000")
    assert statusline.line(TOLD).endswith(" · index 3h 0m old")
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE refreshes SET started_at = started_at - 3 * 86400000")
    assert field("note") == "index 3d old"


# It refreshes only when it is asked to, and never waits for that


def test_it_reads_the_index_as_it_is(home, run_cm):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    builders.append(home.transcript(), [spent(40_000, timestamp=at(minutes=4))])
    assert field("today_cost") == "$1.00"
    time.sleep(0.3)
    assert field("today_cost") == "$1.00"


def test_asked_to_it_refreshes_in_the_background(home, run_cm, db):
    builders.append(home.transcript(), [spent(40_000, timestamp=at(minutes=5))])
    assert "no index yet" in show(run_cm, TOLD, "--refresh")
    deadline = time.monotonic() + 30
    while field("today_cost") != "$1.00":
        assert time.monotonic() < deadline, "no refresh was started"
        time.sleep(0.1)


def test_it_does_not_start_a_refresh_after_every_message(home, run_cm, db):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    builders.append(home.transcript(), [spent(40_000, timestamp=at(minutes=4))])
    before = Path(f"{db}.lock").stat().st_mtime_ns
    show(run_cm, TOLD, "--refresh")
    time.sleep(0.5)
    assert Path(f"{db}.lock").stat().st_mtime_ns == before


# Whatever goes wrong, it prints a line and exits with 0


@pytest.mark.parametrize(
    "told",
    [
        "",
        "not JSON",
        "[]",
        "null",
        "[" * 100_000,
        '{"session_id": 5, "model": [], "cost": {"total_cost_usd": "much"}, "context_window": 3, "cwd": {}}',
        '{"cost": {"total_cost_usd": NaN}, "context_window": {"used_percentage": Infinity}}',
        '{"cost": {"total_cost_usd": 1e999}, "context_window": {"used_percentage": -1, "current_usage": []}}',
        '{"model": {"display_name": "\\ud83d"}}',
        '{"model": {"display_name": null, "id": null}, "workspace": null}',
    ],
)
def test_anything_on_stdin_gives_a_line(home, run_cm, told):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    assert "$1.00 today" in show(run_cm, told)


def test_bytes_that_are_no_text_give_a_line(run_cm, tmp_path):
    (tmp_path / "told").write_bytes(b"\xff\xfe\x00{")
    with (tmp_path / "told").open("rb") as told:
        done = run_cm("statusline", stdin=told)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no index yet: cm refresh\n", "")


def test_without_an_index_it_shows_what_claude_code_tells_and_what_to_do(run_cm, db):
    assert show(run_cm, TOLD) == "Opus 4.5 · $0.25 session · 42% context · no index yet: cm refresh"
    assert not db.exists()


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + bytes(4096), b"not an index" * 1000])
def test_a_file_that_is_no_index_is_told(run_cm, db, content):
    db.parent.mkdir()
    db.write_bytes(content)
    assert show(run_cm, TOLD).endswith(" · index not usable: cm status")


def test_an_index_of_another_version_is_told(home, run_cm, db):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    for version in (0, 99):
        with sqlite3.connect(db) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
        assert show(run_cm, TOLD).endswith(" · index not usable: cm status")


def test_an_index_that_somebody_locks_does_not_hold_it_up(home, run_cm, db):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    holder = sqlite3.connect(db, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    assert show(run_cm, TOLD).endswith(" · index not usable: cm status")
    assert time.monotonic() - started < 5
    holder.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--formt", "x"], "cm: option --formt not recognized"),
        (["--format"], "cm: option --format requires argument"),
        (["--format", "{today}"], "cm: --format: no field {today}; there are model, "),
        (["--db"], "cm: option --db requires argument"),
    ],
)
def test_a_wrong_option_is_told_in_the_line(run_cm, options, says):
    assert show(run_cm, TOLD, *options).startswith(says)


def test_a_mistake_in_the_config_file_is_told_in_the_line(run_cm, tmp_path):
    (tmp_path / "config.toml").write_text("worker = 2\n")
    line = show(run_cm, TOLD, env={"CM_CONFIG": str(tmp_path / "config.toml")})
    assert line.startswith(f"cm: {tmp_path}/config.toml:1: unknown key 'worker'; ")


def test_what_came_from_outside_cannot_act_on_the_terminal(run_cm):
    line = show(run_cm, {"model": {"display_name": "a\x1b]0;b\x07\nc"}}, "--format", "{model}")
    assert line == r"a\x1b]0;b\x07\nc"


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_a_locale_without_its_characters_does_not_stop_it(run_cm, locale):
    env = {"LC_ALL": locale, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert " · " in show(run_cm, TOLD, env=env)


# It is quick


def test_every_number_is_found_by_an_index(home, db):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    connection = sqlite3.connect(db)
    queries = ("COST_OF_SESSION", "COST_SINCE", "BLOCK_START", "CONTEXT", "LAST_REFRESH")
    for name in queries:
        sql = getattr(statusline, name)
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", (1,) * sql.count("?"))]
        # `b` is the block before, one row.
        scans = [step for step in steps if ("SCAN" in step and step != "SCAN b") or "AUTOMATIC" in step]
        assert not scans, f"{name}: {steps}"
    connection.close()


def test_it_starts_without_the_libraries_that_take_long(home, run_cm):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    env = {"PYTHONVERBOSE": "1", "CM_TIMEZONE": None}
    done = run_cm("statusline", input=json.dumps(TOLD), env=env)
    assert "import 'indexer.statusline'" in done.stderr
    for library in ("click", "orjson", "sqlite_utils", "tomllib", "zoneinfo", "subprocess", "concurrent_log_handler"):
        assert f"import '{library}'" not in done.stderr


MANY = """
WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
INSERT INTO {table} SELECT {columns} FROM n, (SELECT * FROM {table} LIMIT 1) AS r
"""


def test_it_takes_less_than_100_ms_on_an_index_of_10_000_transcripts(home, run_cm, db):
    index(home, spent(40_000, timestamp=at(minutes=5)))
    now = int(time.time() * 1000)
    _multiply(db, "files", 10_000, {"id": "n.n + 10", "path": "r.path || n.n", "identity": "n.n + 10"})
    # A session of thousands, and others that respond every three minutes for two hundred days.
    _multiply(db, "responses", 2_000, {"id": "n.n + 200000", "at": f"{now} - n.n * 20000"})
    _multiply(db, "responses", 100_000, {"id": "n.n + 10", "at": f"{now} - n.n * 180000", "session_id": "n.n % 20"})
    with closing(store.open_writer(str(db))) as connection:
        accounting.price_days(connection, "SELECT DISTINCT model_id, at / 86400000 AS day FROM responses")
        rollups.sum_all(connection)
    # The machine may be busy: the best counts, against what Python itself takes, 14 ms where nothing else runs.
    line, python = [], []
    for _ in range(10):
        done, seconds = _timed("-m", "indexer", "statusline")
        line.append(seconds)
        python.append(_timed("-c", "pass")[1])
        if min(line) < 7 * min(python):
            break
    assert "$2,001.00 session" in done.stdout.decode()
    assert min(line) < 7 * min(python)


def _timed(*arguments):
    """A run of Python, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        input=json.dumps(TOLD).encode(),
        env=clean_environment(),
        capture_output=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _multiply(db, table, rows, changed):
    with sqlite3.connect(db) as connection:
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        columns = ", ".join(changed.get(name, f"r.{name}") for name in names)
        listed = f"{table} ({', '.join(names)})"
        connection.execute(MANY.format(rows=rows, table=table, columns=columns).replace(table, listed, 1))


# Blocks and days


@given(st.lists(st.integers(0, 4_000), min_size=1, max_size=60))
def test_the_last_block_starts_where_walking_through_all_responses_finds_it(minutes):
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE responses (at INTEGER)")
    connection.executemany("INSERT INTO responses VALUES (?)", [(n * 60_000,) for n in minutes])
    assert connection.execute(statusline.BLOCK_START).fetchone() == (_last_block(sorted(minutes)) * 60_000,)
    connection.close()


def _last_block(minutes):
    """As ccusage finds blocks: a new one after five hours, or after a pause of five hours."""
    start = before = None
    for minute in minutes:
        if start is None or minute - start > 300 or minute - before > 300:
            start = minute // 60 * 60
        before = minute
    return start


ZONES = ("UTC", "America/New_York", "America/Santiago", "Asia/Kathmandu", "Africa/Cairo", "Australia/Lord_Howe")


@given(st.sampled_from(ZONES), st.integers(1_700_000_000, 1_900_000_000))
def test_a_day_begins_with_the_first_moment_that_has_its_date(zone, now):
    here = ZoneInfo(zone)
    os.environ["CM_TIMEZONE"] = zone
    midnight = statusline._midnight(now * 1000) / 1000
    today = datetime.fromtimestamp(now, here).date()
    assert datetime.fromtimestamp(midnight, here).date() == today
    assert datetime.fromtimestamp(midnight - 1, here).date() == today - timedelta(days=1)
    assert midnight <= now
