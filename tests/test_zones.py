"""Local days, weeks, months and hours: what Python's zoneinfo says for every response, in any zone."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from builders import Home, agent_progress, append, assistant, usage, write
from conftest import RunCm
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import config, refresh, reports, rollups, store, zones
from indexer.errors import BadInput
from indexer.settings import DAYS

FROM, TO = datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
# Daylight saving in both hemispheres, offsets at :30 and :45, clocks that change by half an hour, and none that do.
ZONES = ("America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Chatham")
# When a rule tears a day: Lord Howe by half an hour, Beirut and Cairo at midnight.
TORN = ("Asia/Beirut", "Africa/Cairo", "Africa/Casablanca", "Europe/Berlin")


def stamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")[:23] + "Z"


def moments() -> Iterator[datetime]:
    """Every few hours of two years, and every quarter of an hour around each change of the zones."""
    yield from (FROM + timedelta(hours=7, minutes=13) * step for step in range(2_426))
    for zone in (*ZONES, *TORN):
        for change, _ in zones.offsets(zone, int(FROM.timestamp() * 1000), int(TO.timestamp() * 1000))[1:]:
            at = datetime.fromtimestamp(change / 1000, UTC)
            yield from (at + timedelta(minutes=15) * step - timedelta(milliseconds=1) for step in range(-8, 9))
            yield from (at + timedelta(minutes=15) * step for step in range(-8, 9))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a response at each of these moments; it has as many output tokens as came before it."""
    folder = tmp_path_factory.mktemp("zones")
    home = Home(folder)
    times = sorted({at for at in moments() if FROM <= at < TO})
    write(home.transcript(), [assistant(timestamp=stamp(at), usage=usage(output=n)) for n, at in enumerate(times)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM_LOG", str(folder / "log"))
        patch.setenv("HOME", str(folder))
        refresh([str(home.root)], str(folder / "cm.db"))
    return folder / "cm.db"


@pytest.fixture
def connection(index: Path) -> Iterator[sqlite3.Connection]:
    opened = store.open_reader(str(index))
    yield opened
    opened.close()


def responses(connection: sqlite3.Connection, zone: str) -> list[tuple[datetime, int]]:
    """Each response's local time by zoneinfo, and its output."""
    rows = connection.execute("SELECT at, output_tokens FROM usage").fetchall()
    return [(datetime.fromisoformat(at).astimezone(ZoneInfo(zone)), output) for at, output in rows]


def summed(connection: sqlite3.Connection, name: str, **query: Any) -> dict[str, int]:
    report = reports.REPORTS[name]
    _, rows = reports.rows(connection, report, reports.Query(**query))
    assert len({row[report.key] for row in rows}) == len(rows)
    return {row[report.key]: row["output_tokens"] for row in rows}


def by(rows: list[tuple[datetime, int]], key: Callable[[datetime], str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for at, output in rows:
        found[key(at)] += output
    return dict(found)


def week_of(start: int) -> Callable[[datetime], str]:
    return lambda at: str(at.date() - timedelta((at.weekday() - start) % 7))


def hour(at: datetime) -> str:
    """The full hour on the clock, and the offset that holds at the time itself: a change may come at half past."""
    return f"{at:%Y-%m-%dT%H:00}{at.isoformat()[-6:]}"


@pytest.mark.parametrize("zone", [*ZONES, *TORN, "UTC"])
def test_every_response_of_two_years_is_at_the_local_time_zoneinfo_says(
    connection: sqlite3.Connection, zone: str
) -> None:
    zones.use(connection, zone)
    found = connection.execute("SELECT at, local_at - at FROM local_usage").fetchall()
    assert len(found) > 3_000
    for at, offset in found:
        passed = datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).utcoffset()
        assert passed is not None
        assert offset == passed / timedelta(milliseconds=1)


@pytest.mark.parametrize("zone", [*ZONES, *TORN])
def test_days_weeks_months_and_hours_are_the_zones(connection: sqlite3.Connection, zone: str) -> None:
    rows = responses(connection, zone)
    zones.use(connection, zone)
    assert summed(connection, "daily") == by(rows, lambda at: str(at.date()))
    assert summed(connection, "monthly") == by(rows, lambda at: at.strftime("%Y-%m"))
    assert summed(connection, "weekly") == by(rows, week_of(0))
    assert summed(connection, "hourly") == by(rows, hour)


@pytest.mark.parametrize("day", range(7), ids=DAYS)
def test_a_week_begins_on_the_day_asked_for(connection: sqlite3.Connection, day: int) -> None:
    rows = responses(connection, "Pacific/Chatham")
    zones.use(connection, "Pacific/Chatham")
    weeks = summed(connection, "weekly", start_of_week=day)
    assert weeks == by(rows, week_of(day))
    assert {date.fromisoformat(week).weekday() for week in weeks} == {day}


def test_the_hour_in_which_clocks_are_put_back_comes_twice(connection: sqlite3.Connection) -> None:
    zones.use(connection, "Europe/Berlin")
    hours = list(summed(connection, "hourly"))
    place = hours.index("2025-10-26T02:00+02:00")
    assert hours[place + 1] == "2025-10-26T02:00+01:00"


@settings(max_examples=300)
@given(st.sampled_from(sorted(available_timezones())), st.integers(0, zones.END // 1000))
def test_the_offset_at_any_second_since_1970_is_what_zoneinfo_says(zone: str, second: int) -> None:
    start = max(0, second - 90 * 86_400) * 1000
    offset = [offset for at, offset in zones.offsets(zone, start, second * 1000) if at <= second * 1000][-1]
    passed = datetime.fromtimestamp(second, ZoneInfo(zone)).utcoffset()
    assert passed is not None
    assert offset == passed / timedelta(milliseconds=1)


def test_a_change_is_found_to_the_second() -> None:
    (_, first), (change, second) = zones.offsets("Europe/Berlin", 1_774_656_000_000, 1_775_000_000_000)
    assert (first, second) == (3_600_000, 7_200_000)
    assert datetime.fromtimestamp(change / 1000, UTC) == datetime(2026, 3, 29, 1, tzinfo=UTC)


# The index's own zone


def days(path: Path) -> list[str]:
    with sqlite3.connect(path) as opened:
        return [row[0] for row in opened.execute("SELECT day FROM daily_usage ORDER BY day")]


@pytest.fixture
def evening(home: Home) -> Home:
    """One response: late on the 1st of October in London, early on the 2nd in Tokyo, still the 1st in Honolulu."""
    write(home.transcript(), [assistant(timestamp="2026-10-01T22:30:00.000Z")])
    return home


def test_the_views_follow_the_configured_zone_at_the_next_refresh(
    evening: Home, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CM_TIMEZONE", "Asia/Tokyo")
    refresh()
    assert days(db) == ["2026-10-02"]
    monkeypatch.setenv("CM_TIMEZONE", "Pacific/Honolulu")
    refresh()
    assert days(db) == ["2026-10-01"]


def test_the_views_weeks_follow_the_configured_day(evening: Home, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM_TIMEZONE", "UTC")
    for day, week in (("monday", "2026-09-28"), ("sunday", "2026-09-27"), ("thursday", "2026-10-01")):
        monkeypatch.setenv("CM_START_OF_WEEK", day)
        refresh()
        with sqlite3.connect(db) as opened:
            assert opened.execute("SELECT week FROM weekly_usage").fetchall() == [(week,)]


def test_a_zone_that_is_in_place_already_is_not_written_again(evening: Home, db: Path) -> None:
    refresh()
    with sqlite3.connect(db) as opened:
        zones.update(opened)
        assert opened.total_changes == 0


def test_another_zone_for_one_report_leaves_the_index_alone(evening: Home, db: Path, run_cm: RunCm) -> None:
    utc = {"CM_TIMEZONE": "UTC"}
    assert '"2026-10-02"' in run_cm("daily", "--json", "-z", "Asia/Tokyo", env=utc).stdout
    assert days(db) == ["2026-10-01"]
    assert '"2026-10-01"' in run_cm("daily", "--json", env=utc).stdout


def test_a_report_is_in_the_zone_of_now_even_where_nothing_is_refreshed(evening: Home, run_cm: RunCm) -> None:
    run_cm("refresh", env={"CM_TIMEZONE": "UTC"})
    found = run_cm("daily", "--json", "--no-refresh", env={"CM_TIMEZONE": "Asia/Tokyo"})
    assert '"2026-10-02"' in found.stdout


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (["search", "done", "--since", "20261002"], "2026-10-02 07:30"),
        (["show", "last"], "2026-10-02 07:30"),
        (["explain", "20261002"], "claude-opus-4-5"),
    ],
)
def test_what_was_said_and_why_it_counts_are_of_the_zone_that_is_asked_for(
    evening: Home, run_cm: RunCm, asked: list[str], answer: str
) -> None:
    utc, tokyo = {"CM_TIMEZONE": "UTC"}, {"CM_TIMEZONE": "Asia/Tokyo"}
    assert answer not in run_cm(*asked, env=utc).stdout
    assert answer in run_cm(*asked, "-z", "Asia/Tokyo", env=utc).stdout
    assert answer in run_cm(*asked, "--no-refresh", env=tokyo).stdout


@pytest.mark.parametrize(
    ("rule", "day"),
    [
        ("Asia/Tokyo", "2026-10-02"),
        (":Asia/Tokyo", "2026-10-02"),
        ("JST-9", "2026-10-02"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-10-02"),
        ("CET-1", "2026-10-01"),
        ("", "2026-10-01"),
    ],
)
def test_without_a_setting_the_systems_zone_counts_however_it_is_written(
    evening: Home, db: Path, run_cm: RunCm, rule: str, day: str
) -> None:
    assert f'"{day}"' in run_cm("daily", "--json", env={"TZ": rule}).stdout
    assert days(db) == [day]


def test_a_zone_there_is_not_is_an_error_in_one_line(evening: Home, run_cm: RunCm) -> None:
    for options, env in ((["-z", "Mars/Olympus"], {}), ([], {"CM_TIMEZONE": "Mars/Olympus"})):
        found = run_cm("daily", "--json", *options, env=env)
        assert (found.returncode, found.stdout) == (1, "")
        assert "Mars/Olympus" in found.stderr
        assert found.stderr.count("\n") == 1


def test_a_setting_that_is_wrong_is_told_before_anything_is_changed(
    evening: Home, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CM_TIMEZONE", "UTC")
    refresh()
    monkeypatch.setenv("CM_TIMEZONE", "Mars/Olympus")
    with pytest.raises(BadInput, match="Mars/Olympus"):
        refresh()
    assert days(db) == ["2026-10-01"]


def test_the_name_of_the_systems_zone_is_what_its_link_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert zones.name("Asia/Tokyo") == "Asia/Tokyo"
    for rule, name in (
        (":Europe/Berlin", "Europe/Berlin"),
        ("/usr/share/zoneinfo/Asia/Tokyo", "Asia/Tokyo"),
        ("", "UTC"),
    ):
        monkeypatch.setenv("TZ", rule)
        assert zones.name(config.timezone()) == name
    monkeypatch.delenv("TZ")
    assert not os.path.isabs(zones.name(None))


def test_an_index_of_another_version_is_an_error_in_one_line(evening: Home, db: Path, run_cm: RunCm) -> None:
    refresh()
    with sqlite3.connect(db) as opened:
        for view in (*zones.LOCAL_VIEWS, "local_days"):
            opened.execute(f"DROP VIEW {view}")
    for options in ([], ["-z", "Asia/Tokyo"]):
        found = run_cm("daily", "--no-refresh", "--json", *options)
        assert (found.returncode, found.stdout) == (1, "")
        assert found.stderr.count("\n") == 1 and "cm refresh" in found.stderr


@pytest.mark.parametrize(
    ("at", "day"), [("2026-01-02T04:31:00.000Z", "2026-01-01"), ("2031-07-02T04:31:00.000Z", "2031-07-02")]
)
def test_a_response_before_or_after_all_records_is_of_its_local_day(
    home: Home, run_cm: RunCm, at: str, day: str
) -> None:
    embedded = assistant(timestamp=at)
    write(home.transcript(), [agent_progress(embedded, timestamp="2026-01-04T12:00:00.000Z")])
    asked, configured = (
        run_cm("daily", "--json", *option, env=env).stdout
        for option, env in ((("-z", "America/New_York"), {}), ((), {"CM_TIMEZONE": "America/New_York"}))
    )
    assert f'"{day}"' in asked
    assert asked == configured


def test_a_time_that_a_clock_without_a_battery_gave_leaves_the_others_in_their_zone(
    evening: Home, run_cm: RunCm
) -> None:
    append(evening.transcript(), [assistant(timestamp="1970-01-01T00:00:00.000Z")])
    assert '"2026-10-02"' in run_cm("daily", "--json", "-z", "Asia/Tokyo").stdout


@given(st.sampled_from(sorted(available_timezones())), st.dates(date(2012, 1, 2), date(2035, 12, 31)))
def test_a_day_begins_with_the_first_moment_that_has_its_date(zone: str, day: date) -> None:
    days = (day - date(1970, 1, 1)).days
    around = (days - 30) * rollups.DAY, (days + 30) * rollups.DAY
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE zone_offsets (from_at INTEGER PRIMARY KEY, offset_ms INTEGER NOT NULL)")
    connection.executemany("INSERT INTO zone_offsets VALUES (?, ?)", zones.offsets(zone, *around))
    begins = datetime.fromtimestamp(zones.start_of_day(connection, days) / 1000, ZoneInfo(zone))
    before = datetime.fromtimestamp(begins.timestamp() - 1, ZoneInfo(zone))
    connection.close()
    assert (begins.date(), before.date()) == (day, day - timedelta(1))
