"""The numbers of the web page: the same as the reports', in local days; and the page as one file."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from builders import PROJECT, Home, assistant, tool_result, tool_use, usage, user, write
from conftest import RunCm
from hosts import a_team, index_of_merged

from indexer import refresh, reports, store
from indexer.errors import BadInput
from indexer.web.dashboard import Wanted, numbers

TWIN = "/home/dev/old/app"
OTHER = "5e551002-0000-4000-8000-000000000000"
ALL = Wanted(since="all")
SUMS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens", "total_tokens", "responses")


def read(db: Path, wanted: Wanted = ALL):
    with closing(store.open_reader(str(db))) as connection:
        return numbers(connection, wanted)


def index(db: Path):
    refresh(db=str(db))
    return db


def at(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).isoformat(timespec="milliseconds")[:23] + "Z"


def million(kind: str, model: str = "claude-opus-4-5-20251101", **rest):
    return assistant(model=model, usage=usage(**{"input": 0, "output": 0, kind: 1_000_000}), **rest)


def total(rows, name: str):
    return sum(row[name] or 0 for row in rows)


# The same numbers as everywhere else


@pytest.mark.parametrize("wanted", [ALL, Wanted("2026-11-14", "2026-11-16"), Wanted("all", None, (), ("haiku",))])
def test_every_part_of_the_page_sums_to_the_same_and_to_the_report(demo_index, wanted, run_cm: RunCm):
    page = read(demo_index, wanted)
    options = ["--since", wanted.since] if wanted.since != "all" else []
    options += ["--until", wanted.until] if wanted.until else []
    options += [f"--model={model}" for model in wanted.models]
    daily = json.loads(run_cm("daily", "--db", demo_index, "--no-refresh", "--json", *options).stdout)
    assert daily
    for name in SUMS:
        assert page["totals"][name] == total(daily, name), name
        assert total(page["daily"], name) == total(daily, name), name
        assert total(page["models"], name) == total(daily, name), name
    for part in ("daily", "hours", "models", "projects", "agents"):
        assert total(page[part], "cost_usd") == pytest.approx(total(daily, "cost_usd"), abs=1e-6), part
        assert total(page[part], "responses") == total(daily, "responses"), part


def test_a_merged_index_has_hosts_as_one_more_choice(tmp_path: Path, run_cm: RunCm):
    merged = index_of_merged(a_team(tmp_path / "team"), tmp_path / "merged.db")
    everything, one = read(merged), read(merged, Wanted(since="all", hosts=("dev@birch",)))
    assert everything["choices"]["hosts"] == one["choices"]["hosts"] == ["dev@anvil", "dev@birch", "dev@cedar"]
    for name in SUMS:
        assert total(everything["hosts"], name) == everything["totals"][name], name
        assert [row[name] for row in one["hosts"]] == [one["totals"][name]], name
    (birch,) = json.loads(run_cm("hosts", "--db", merged, "--no-refresh", "--json", "--host", "birch").stdout)
    assert one["hosts"] == [{**birch, "name": "dev@birch"}]
    assert one["totals"]["output_tokens"] == total(one["daily"], "output_tokens") == birch["output_tokens"]


def test_an_index_of_one_machine_offers_no_hosts(demo_index):
    page = read(demo_index)
    assert (page["choices"]["hosts"], page["hosts"]) == ([], [])


def test_the_tools_of_the_page_are_those_of_the_report(demo_index):
    with closing(store.open_reader(str(demo_index))) as connection:
        _, rows = reports.rows(connection, reports.REPORTS["tools"])
    page = read(demo_index)
    assert page["tools"] == [{name: row[name] for name in page["tools"][0]} for row in rows[:12]]


def test_a_project_of_the_page_is_that_project_and_not_its_namesake(home: Home, db):
    write(home.transcript(), [million("input", timestamp=at(hours=1))])
    write(home.transcript(OTHER, TWIN), [million("output", cwd=TWIN, sessionId=OTHER, timestamp=at(hours=1))])
    page = read(index(db), Wanted(projects=(PROJECT,)))
    assert page["totals"]["input_tokens"] == 1_000_000
    assert page["totals"]["output_tokens"] == 0
    assert [row["project"] for row in page["choices"]["projects"]] == [PROJECT, TWIN], "what else there is stays known"


def test_projects_of_one_name_are_told_apart(home: Home, db):
    write(home.transcript(), [assistant()])
    write(home.transcript(OTHER, TWIN), [assistant(cwd=TWIN, sessionId=OTHER)])
    page = read(index(db))
    assert {row["project"]: row["label"] for row in page["projects"]} == {PROJECT: "dev/app", TWIN: "old/app"}


def test_a_model_of_the_page_is_that_model_and_none_whose_name_is_longer(home: Home, db):
    for model in ("claude-opus-4-5", "claude-opus-4-5-20251101"):
        write(home.transcript(model), [million("input", model, sessionId=model, timestamp=at(hours=1))])
    page = read(index(db), Wanted(models=("claude-opus-4-5",)))
    assert [row["model"] for row in page["models"]] == ["claude-opus-4-5"]


# Days, and what came before them


@pytest.mark.parametrize(("zone", "day", "hour"), [("UTC", "2026-10-05", 23), ("Asia/Tokyo", "2026-10-06", 8)])
def test_days_and_hours_are_those_of_the_zone(home: Home, db, zone, day, hour):
    write(home.transcript(), [assistant(timestamp="2026-10-05T23:30:00.000Z")])
    page = read(index(db), ALL._replace(timezone=zone))
    assert [row["day"] for row in page["daily"]] == [day]
    weekday = datetime.fromisoformat(day).weekday()
    assert [(row["weekday"], row["hour"]) for row in page["hours"]] == [(weekday, hour)]


def test_today_is_compared_with_yesterday_up_to_the_same_moment(home: Home, db, monkeypatch):
    # A zone in which it is now about noon, so that an hour ago is today and in an hour is not tomorrow.
    offset = 12 - datetime.now(UTC).hour
    monkeypatch.setenv("CM_TIMEZONE", f"Etc/GMT{-offset:+d}" if offset else "UTC")
    records = [
        million("input", timestamp=at(hours=1)),
        million("output", timestamp=at(days=1, hours=1)),
        million("output", timestamp=at(days=1, hours=-1)),
    ]
    write(home.transcript(), records)
    (today, week, month) = read(index(db))["periods"]
    assert (today["period"], today["cost_usd"]) == ("day", 5.0)
    assert today["before"]["so_far"]["cost_usd"] == 25.0
    assert today["before"]["whole"]["cost_usd"] == 50.0
    assert week["cost_usd"] >= 5.0
    assert month["cost_usd"] >= 5.0


def test_the_range_can_be_turned_round_only_by_mistake(home: Home, db):
    write(home.transcript(), [assistant()])
    with pytest.raises(BadInput, match="exchange the two"):
        read(index(db), Wanted("2026-10-05", "2026-10-01"))


@pytest.mark.parametrize(("ago", "is_past"), [((29, 200), False), ((31, 45, 200), True)])
def test_the_page_begins_with_the_last_days_that_anything_was_used_in(home: Home, db, ago, is_past):
    write(home.transcript(), [million("input", timestamp=at(days=days)) for days in ago])
    page = read(index(db), Wanted(timezone="UTC"))
    last = date.fromisoformat(page["today"]) - timedelta(ago[0] if is_past else 0)
    assert page["range"] == {
        "since": str(last - timedelta(29)), "until": str(last), "days": 30, "is_past": is_past,
    }  # fmt: skip
    assert page["totals"]["cost_usd"] == 5.0 * (len(ago) - 1)
    asked = read(index(db), Wanted("30d", timezone="UTC"))
    assert asked["range"]["until"] == page["today"]
    assert asked["totals"]["responses"] == (None if is_past else 1)


def test_the_running_block_is_that_of_all_projects(home: Home, db):
    write(home.transcript(), [million("input", timestamp=at(minutes=2))])
    page = read(index(db), Wanted(projects=("/home/dev/elsewhere",)))
    assert page["totals"]["responses"] is None
    assert page["block"]["cost_usd"] == 5.0


# Cost


def test_what_has_no_price_has_no_cost_and_says_how_much_that_is(home: Home, db):
    records = [million("input", "claude-zeta-99"), million("input")]
    write(home.transcript(), records)
    page = read(index(db))
    assert {row["model"]: row["cost_usd"] for row in page["models"]} == {
        "claude-zeta-99": None,
        "claude-opus-4-5-20251101": 5.0,
    }
    assert page["totals"]["cost_usd"] == 5.0
    assert page["totals"]["unpriced_tokens"] == 1_000_000
    assert [row["model"] for row in page["unpriced"]] == ["claude-zeta-99"]


@pytest.mark.parametrize(
    ("kind", "saved"), [("cache_read", 4.5), ("cache_write", -1.25), ("cache_write_1h", -5.0), ("input", 0.0)]
)
def test_the_cache_saves_what_reading_is_cheaper_and_costs_what_writing_is_dearer(home: Home, db, kind, saved):
    write(home.transcript(), [million(kind)])
    assert read(index(db))["totals"]["cache_saved_usd"] == saved


def test_an_index_of_nothing_is_empty_and_not_an_error(home: Home, db):
    write(home.transcript(), [user()])
    page = read(index(db))
    assert page["is_empty"]
    assert page["daily"] == page["sessions"] == page["tools"] == []


def test_tools_that_fail_say_so(home: Home, db):
    records = []
    for number, is_failed in enumerate([True, False, False, False]):
        use = tool_use("Bash", id=f"toolu_{number}")
        records += [assistant(use), tool_result(f"toolu_{number}", is_error=is_failed)]
    write(home.transcript(), records)
    (tool,) = read(index(db))["tools"]
    assert (tool["tool"], tool["calls"], tool["errors"], tool["error_rate"]) == ("Bash", 4, 1, 0.25)


# One file


def data_of(html: str):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(found)


def test_the_report_is_one_file_with_the_numbers_in_it(demo_index, tmp_path, run_cm: RunCm):
    file = tmp_path / "usage.html"
    done = run_cm("report", "--html", file, "--since", "all", "--db", demo_index, "--no-refresh")
    assert done.returncode == 0, done.stderr
    html = file.read_text()
    assert data_of(html)["totals"] == read(demo_index)["totals"]
    assert not re.search(r"""(?:src|href)=["']?(?!#|https://observablehq)""", html.partition("<script>")[0])
    assert "default-src &#39;none&#39;" in html


def test_the_report_goes_to_a_pipe_too(demo_index, run_cm: RunCm):
    done = run_cm("report", "--html", "-", "--db", demo_index, "--no-refresh")
    assert done.stdout.startswith("<!doctype html>")


def test_what_should_not_leave_the_house_does_not(home: Home, db, tmp_path, run_cm: RunCm):
    told = "Rotate the key of the Miller account"
    write(home.transcript(), [user(told, timestamp=at(hours=1)), million("input", timestamp=at(minutes=59))])
    write(home.transcript(OTHER, TWIN), [million("output", cwd=TWIN, sessionId=OTHER, timestamp=at(hours=1))])
    index(db)
    open_file, closed_file = tmp_path / "open.html", tmp_path / "closed.html"
    run_cm("report", "--html", open_file, "--no-refresh")
    run_cm("report", "--html", closed_file, "--no-refresh", "--no-text", "--no-paths", "--project", PROJECT)
    assert told in open_file.read_text()
    assert TWIN in open_file.read_text()
    html = closed_file.read_text()
    for secret in (told, "Miller", "/home/dev", "old/app", "dev/app", str(tmp_path)):
        assert secret not in html, secret
    data = data_of(html)
    assert {row["project"] for row in data["choices"]["projects"]} == {"app", "app (2)"}
    assert data["totals"]["input_tokens"] == 1_000_000


def test_text_that_looks_like_markup_stays_text_in_the_report(home: Home, db, tmp_path, run_cm: RunCm):
    told = "</script><script>alert(1)</script><!--"
    write(home.transcript(), [user(told, timestamp=at(hours=1)), million("input", timestamp=at(minutes=59))])
    index(db)
    html = run_cm("report", "--html", "-", "--no-refresh").stdout
    assert told not in html
    assert data_of(html)["sessions"][0]["title"] == told


def test_a_report_that_cannot_be_written_says_where(demo_index, tmp_path, run_cm: RunCm):
    done = run_cm("report", "--html", tmp_path / "none" / "usage.html", "--db", demo_index, "--no-refresh")
    assert done.returncode == 1
    assert "usage.html: No such file or directory" in done.stderr.splitlines()[-1]


def test_reading_the_page_writes_nothing(demo_index):
    before = demo_index.read_bytes()
    read(demo_index)
    with closing(sqlite3.connect(demo_index)) as connection:
        assert not connection.execute("SELECT name FROM sqlite_schema WHERE name = 'hours'").fetchall()
    assert demo_index.read_bytes() == before
