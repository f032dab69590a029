"""Blocks of five hours: where they begin and end, gaps between them, and what the open one will have used."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pytest
from builders import Home, assistant, usage, write
from conftest import RunCm
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import refresh, reports, store

Row: TypeAlias = dict[str, Any]

START = datetime(2026, 10, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def blocks_of(times: list[datetime], hours: int = 5) -> list[Row]:
    with TemporaryDirectory() as folder:
        home, db = Home(Path(folder)), str(Path(folder) / "cm.db")
        write(home.transcript(), [assistant(timestamp=stamp(at), usage=usage(1, 10)) for at in times])
        refresh([str(home.root)], db)
        connection = store.open_reader(db)
        _, rows = reports.rows(connection, reports.REPORTS["blocks"], reports.Query(block_hours=hours))
        connection.close()
    return rows


def expected(times: list[datetime], length: timedelta) -> list[tuple[str, str, bool, int]]:
    """Start, end, whether it is a gap, responses: one response after the other, as ccusage does it."""
    found: list[tuple[str, str, bool, int]] = []
    start, block = None, list[datetime]()
    for at in [*sorted(times), None]:
        if start is not None and (at is None or at - start > length or at - block[-1] > length):
            found.append((stamp(start), stamp(start + length), False, len(block)))
            if at is not None and at - block[-1] > length:
                found.append((stamp(block[-1] + length), stamp(at), True, 0))
            start, block = None, []
        if at is not None:
            start = start or at.replace(minute=0, second=0, microsecond=0)
            block.append(at)
    return sorted(found)


minutes = st.one_of(st.integers(0, 3_000), st.sampled_from([0, 59, 60, 299, 300, 301, 359, 360, 600, 601]))


@settings(max_examples=30)
@given(st.lists(minutes, min_size=1, max_size=20), st.sampled_from([1, 5, 24]))
def test_blocks_begin_and_end_where_ccusage_lets_them(offsets: list[int], hours: int) -> None:
    times = [START + timedelta(minutes=n) for n in offsets]
    found = [(row["block"], row["end_at"], row["is_gap"], row["responses"]) for row in blocks_of(times, hours)]
    assert found == expected(times, hours * HOUR)


def test_a_block_is_five_hours_from_the_full_hour_of_its_first_response() -> None:
    (block,) = blocks_of([START + timedelta(hours=9, minutes=59), START + timedelta(hours=14)])
    assert (block["block"], block["end_at"]) == ("2026-10-01T09:00:00.000Z", "2026-10-01T14:00:00.000Z")
    assert (block["first_at"], block["last_at"]) == ("2026-10-01T09:59:00.000Z", "2026-10-01T14:00:00.000Z")
    assert block["responses"] == 2


def test_a_gap_lasts_from_five_hours_after_the_last_response_to_the_next_block() -> None:
    _, gap, _ = blocks_of([START, START + timedelta(hours=20, minutes=7)])
    assert (gap["block"], gap["end_at"], gap["is_gap"]) == (
        "2026-10-01T05:00:00.000Z",
        "2026-10-01T20:07:00.000Z",
        True,
    )
    assert len(blocks_of([START, START + HOUR, START + 6 * HOUR])) == 2, "nothing lies between"
    assert (gap["total_tokens"], gap["cost_usd"], gap["models"], gap["last_at"]) == (0, None, [], None)


def test_an_empty_index_has_no_blocks(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [])
    assert json.loads(run_cm("blocks", "--json").stdout) == []


# The open block


@pytest.fixture
def open_block(home: Home) -> datetime:
    """A block a day ago, and one that began in this hour or the last, with 300 tokens within 10 minutes."""
    now = datetime.now(UTC)
    first = now - timedelta(minutes=12)
    lines = [assistant(timestamp=stamp(now - timedelta(days=1)), usage=usage(0, 1_000))]
    lines += [assistant(timestamp=stamp(at), usage=usage(0, 150)) for at in (first, first + timedelta(minutes=10))]
    write(home.transcript(), lines)
    return first.replace(minute=0, second=0, microsecond=0)


def test_the_open_block_has_a_burn_rate_and_what_it_will_have_used(open_block: datetime, run_cm: RunCm) -> None:
    (block,) = json.loads(run_cm("blocks", "--active", "--json").stdout)
    left = (open_block + 5 * HOUR - datetime.now(UTC)) / timedelta(minutes=1)
    assert block["is_active"]
    assert block["tokens_per_minute"] == 30
    assert block["cost_usd_per_hour"] == pytest.approx(300 * 25 / 1e6 * 6)
    assert abs(block["minutes_left"] - left) < 2
    assert block["projected_total_tokens"] == 300 + 30 * block["minutes_left"]
    assert block["projected_cost_usd"] == pytest.approx(block["projected_total_tokens"] * 25 / 1e6)


def test_a_block_that_is_over_has_no_projection(open_block: datetime, run_cm: RunCm) -> None:
    over = json.loads(run_cm("blocks", "--json").stdout)[0]
    assert not over["is_active"]
    assert [over[name] for name in ("minutes_left", "projected_total_tokens", "projected_cost_usd")] == [None] * 3


def test_where_no_block_is_open_it_says_so_and_not_that_nothing_was_ever_used(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant(timestamp=stamp(datetime.now(UTC) - timedelta(days=9)))])
    assert "no block is open now" in run_cm("blocks", "--active").stderr
    assert "nothing was used in that time; the last response was at 20" in run_cm("blocks", "--recent").stderr


def test_only_recent_blocks_are_those_of_three_days(home: Home, run_cm: RunCm) -> None:
    now = datetime.now(UTC)
    write(home.transcript(), [assistant(timestamp=stamp(now - timedelta(days=n))) for n in (1, 2, 4, 9)])
    rows = json.loads(run_cm("blocks", "--recent", "--json").stdout)
    assert len([row for row in rows if not row["is_gap"]]) == 2


def test_a_token_limit_is_held_against_what_a_block_used_and_will_use(open_block: datetime, run_cm: RunCm) -> None:
    over, _, active = json.loads(run_cm("blocks", "-t", "max", "--json").stdout)
    assert over["token_limit"] == active["token_limit"] == 1_000
    assert (over["limit_percent"], over["is_over_limit"]) == (100, False)
    assert (active["limit_percent"], active["is_over_limit"]) == (30, active["projected_total_tokens"] > 1_000)
    (alone,) = json.loads(run_cm("blocks", "--active", "-t", "max", "--json").stdout)
    assert alone["token_limit"] == 1_000
    (given_one,) = json.loads(run_cm("blocks", "-a", "-t", "500", "--json").stdout)
    assert given_one["limit_percent"] == 60


def test_a_token_limit_that_is_none_is_a_usage_error(run_cm: RunCm) -> None:
    for limit in ("0", "-5", "many", "1e3"):
        assert run_cm("blocks", "-t", limit).returncode == 2


# Parts of blocks


def test_a_filter_leaves_the_windows_where_they_are(home: Home, run_cm: RunCm) -> None:
    write(
        home.transcript(), [assistant(timestamp=stamp(START + 4 * HOUR)), assistant(timestamp=stamp(START + 20 * HOUR))]
    )
    other = [{**assistant(timestamp=stamp(START + 6 * HOUR), usage=usage(1, 7)), "sessionId": "other", "cwd": "/b"}]
    write(home.transcript("other", "/b"), other)
    (block,) = json.loads(run_cm("blocks", "--project", "/b", "--json").stdout)
    assert (block["block"], block["output_tokens"]) == ("2026-10-01T04:00:00.000Z", 7)


def test_a_block_is_broken_down_by_model(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant(usage=usage(1, 5)), assistant(model="claude-opus-4-6", usage=usage(1, 9))])
    (block,) = json.loads(run_cm("blocks", "--breakdown", "--json").stdout)
    assert {part["model"]: part["output_tokens"] for part in block["breakdown"]} == {
        "claude-opus-4-5-20251101": 5,
        "claude-opus-4-6": 9,
    }


def test_a_range_is_of_the_local_days_on_which_blocks_begin(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant(timestamp=stamp(START + hours * HOUR)) for hours in (23, 27)])
    rows = json.loads(run_cm("blocks", "--json", "-z", "UTC", "--until", "2026-10-01").stdout)
    assert [(row["block"], row["responses"]) for row in rows] == [("2026-10-01T23:00:00.000Z", 2)]
    assert json.loads(run_cm("blocks", "--json", "-z", "Asia/Tokyo", "--until", "2026-10-01").stdout) == []
