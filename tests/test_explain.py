"""`cm explain`: where every response stands, which of its records are copies, and the sum the reports show."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from builders import (
    ABSENT,
    MESSAGE_ID,
    SESSION,
    TOOL_USE_ID,
    Home,
    Record,
    agent_progress,
    assistant,
    fresh,
    text,
    tool_result,
    tool_use,
    usage,
    user,
    write,
)
from conftest import RunCm
from ledger import TOKENS, only, refresh, rows

from indexer import config, explain, store, zones
from indexer.errors import BadInput

OTHER = "5e552000-0000-4000-8000-000000000002"
OPUS_4_6 = "claude-opus-4-6"
DAY = "2026-10-01"


def explained(target: str, zone: str = "UTC") -> dict[str, Any]:
    connection = store.open_reader(config.database())
    try:
        zones.use(connection, zone)
        return explain.explain(connection, explain.find(connection, target))
    finally:
        connection.close()


def response(target: str = SESSION) -> dict[str, Any]:
    """The only response of a session."""
    return only(explained(target)["responses"])


def roles(found: dict[str, Any]) -> list[tuple[int, str]]:
    return [(record["line"], record["role"]) for record in found["records"]]


def history(home: Home) -> None:
    """Everything that makes a number: growth, copies, a subagent, an advisor, searches, factors, no price, no end."""
    search, shared = tool_use("WebSearch", query="x"), assistant(usage=usage(5, 700, cache_write=40, cache_read=90))
    growing = {"id": fresh(MESSAGE_ID), "requestId": "req_1", "timestamp": f"{DAY}T10:00:00.000Z"}
    advised = usage(10, 100, iterations=[{"type": "advisor_message", "model": OPUS_4_6, "input_tokens": 1000}])
    agent = {"isSidechain": True, "agentId": "a1", "attributionAgent": "Explore"}
    inner = assistant(usage=usage(7, 8), **agent)
    main = [
        user(),
        assistant(text("a"), usage=usage(10, 1), **growing),
        assistant(text("b"), usage=usage(10, 300, cache_write=500, cache_write_1h=200), **growing),
        shared,
        assistant(search, usage=usage(1, 2)),
        tool_result(search["id"], result={"searchCount": 3}),
        assistant(usage=advised, model="claude-opus-5"),
        assistant(usage=usage(250_000, 10), model="claude-sonnet-4-5"),
        assistant(usage=usage(10, 90, speed="fast", service_tier="batch", inference_geo="us"), model=OPUS_4_6),
        assistant(usage=usage(10, 90), model="claude-zeta-99"),
        assistant(usage=usage(10, 3), stop_reason=None),
        assistant(usage=usage(500, 500), model="<synthetic>"),
        agent_progress(inner),
    ]
    write(home.transcript(), main)
    write(home.transcript(OTHER), [{**shared, "sessionId": OTHER}, assistant(sessionId=OTHER)])
    write(home.subagent(), [inner])
    refresh()


def test_the_sum_of_a_session_and_of_a_day_is_what_the_reports_show(home: Home) -> None:
    history(home)
    sums = (
        "sum(cost_usd) AS cost_usd, sum(web_searches) AS searches, sum(part = 'response') AS responses, "
        + ", ".join(f"sum({kind}) AS {kind}" for kind in TOKENS)
    )
    for target, condition in ((SESSION, f"session_id = '{SESSION}'"), (DAY, f"at LIKE '{DAY}%'")):
        total, report = explained(target)["sum"], only(rows(f"SELECT {sums} FROM usage WHERE {condition}"))
        assert [total[kind] for kind in TOKENS] == [report[kind] for kind in TOKENS]
        assert (total["responses"], total["web_searches"]) == (report["responses"], report["searches"])
        assert sum(total["cost_nano"].values()) == round(report["cost_usd"] * 1e9)
        assert total["cost_usd"] == pytest.approx(report["cost_usd"], abs=1e-12)


def test_the_sum_is_that_of_what_is_listed(home: Home) -> None:
    history(home)
    found = explained(SESSION)
    listed = [call for one in found["responses"] for call in (one, *one["advisor_calls"])]
    for kind in TOKENS:
        assert sum(call[kind] for call in listed) == found["sum"][kind]
    for kind, nano in found["sum"]["cost_nano"].items():
        assert sum(call["cost_nano"][kind] or 0 for call in listed) == nano


def test_each_record_of_a_response_is_told_and_which_gave_its_output(home: Home) -> None:
    name = {"id": fresh(MESSAGE_ID), "requestId": "req_1"}
    path = write(
        home.transcript(),
        [
            user(),
            assistant(text("a"), usage=usage(10, 1), **name),
            assistant(tool_use(), usage=usage(10, 300), **name),
            assistant(text("c"), usage=usage(10, 2), **name),
        ],
    )
    refresh()
    found = response()
    assert (found["file"], found["line"]) == (str(path), 2)
    part = "another part of the response"
    assert roles(found) == [(2, "owner"), (3, part), (4, part)]
    assert found["output_tokens"] == 300
    assert found["maxima"] == {"output_tokens": {"file": str(path), "line": 3, "smallest": 1}}


def test_a_fork_copies_records_with_their_uuid(home: Home) -> None:
    shared = assistant(session=SESSION)
    original = write(home.transcript(), [user(), shared])
    copy = write(home.transcript(OTHER), [{**shared, "sessionId": OTHER}])
    refresh()
    found = response()
    assert (found["file"], found["line"]) == (str(original), 2)
    duplicate = found["records"][1]
    assert (duplicate["file"], duplicate["line"], duplicate["role"]) == (str(copy), 1, "duplicate: same uuid")
    assert duplicate["duplicate_of"] == {"file": str(original), "line": 2}


def test_a_record_logged_again_under_another_uuid_is_a_copy_by_its_content(home: Home) -> None:
    name, block = {"id": fresh(MESSAGE_ID), "requestId": "req_1"}, tool_use()
    write(home.transcript(), [assistant(text("a"), **name), assistant(block, **name), user(), assistant(block, **name)])
    refresh()
    found = response()
    assert roles(found)[2] == (4, "duplicate: same message id and content block")
    assert found["records"][2]["duplicate_of"]["line"] == 2


def test_a_subagents_record_embedded_in_its_parent_is_told_as_such(home: Home) -> None:
    inner = assistant(isSidechain=True, agentId="a1")
    write(home.transcript(), [user(), agent_progress(inner)])
    path = write(home.subagent(), [inner])
    refresh()
    found = response()
    assert found["file"] == str(path)
    assert [role for _, role in roles(found)] == ["owner", "copy embedded in the parent's transcript"]


def test_the_price_row_its_period_and_source_are_told(home: Home) -> None:
    write(home.transcript(), [assistant(model="claude-opus-4-5-20251101", usage=usage(10, 20, cache_write_1h=100))])
    refresh()
    price = response()["price"]
    assert (price["model"], price["from"], price["until"]) == ("claude-opus-4-5", None, None)
    assert price["source"].startswith("genai-prices")
    assert [price[kind] for kind in ("input", "output", "cache_write_1h")] == [5, 25, 10]
    assert response()["cost_nano"] == {
        "input": 50_000,
        "output": 500_000,
        "cache_write": 1_000_000,
        "cache_read": 0,
        "web_search": 0,
    }


@pytest.mark.parametrize(
    ("model", "day", "numbers", "factors", "output_rate"),
    [
        ("claude-sonnet-4-5", DAY, usage(200_001, 1), {"long_context_above": 200_000}, 22.5),
        ("claude-sonnet-4-5", DAY, usage(200_000, 1), {}, 15),
        (OPUS_4_6, "2026-02-01", usage(1, 1, speed="fast"), {"fast": 6}, 150),
        ("claude-opus-4-7", "2026-07-23", usage(1, 1, speed="fast"), {"fast": 6}, 150),
        ("claude-opus-4-7", "2026-07-24", usage(1, 1, speed="fast"), {"fast": 1}, 25),
        (OPUS_4_6, DAY, usage(1, 1, inference_geo="us"), {"us": 1.1}, 27.5),
        (OPUS_4_6, DAY, usage(1, 1, service_tier="batch"), {"batch": 0.5}, 12.5),
        (OPUS_4_6, DAY, usage(1, 1, service_tier="batch", inference_geo="us"), {"us": 1.1, "batch": 0.5}, 13.75),
    ],
)
def test_what_multiplies_the_price_is_told(
    home: Home, model: str, day: str, numbers: Record, factors: dict[str, float], output_rate: float
) -> None:
    write(home.transcript(), [assistant(model=model, usage=numbers, timestamp=f"{day}T12:00:00.000Z")])
    refresh()
    found = response()
    assert found["factors"] == factors
    assert found["price"]["output"] == output_rate


def test_fast_mode_after_its_end_is_flagged_in_the_text(home: Home, run_cm: RunCm) -> None:
    write(
        home.transcript(),
        [assistant(model="claude-opus-4-7", usage=usage(1, 1, speed="fast"), timestamp="2026-08-01T12:00:00.000Z")],
    )
    said = run_cm("explain", SESSION).stdout
    assert "fast mode ×1: its records say fast, but the model had no fast mode at that time" in said


def test_an_advisors_calls_stand_beneath_their_response(home: Home) -> None:
    call = {"type": "advisor_message", "model": OPUS_4_6, "input_tokens": 1000, "output_tokens": 2000}
    write(home.transcript(), [assistant(model="claude-opus-5", usage=usage(10, 100, iterations=[call]))])
    refresh()
    found = explained(SESSION)
    advised = only(only(found["responses"])["advisor_calls"])
    assert (advised["model"], advised["output_tokens"], advised["price"]["model"]) == (OPUS_4_6, 2000, OPUS_4_6)
    assert (found["sum"]["responses"], found["sum"]["advisor_calls"], found["sum"]["output_tokens"]) == (1, 1, 2100)


def test_searches_are_told_with_the_calls_that_made_them(home: Home) -> None:
    search = tool_use("WebSearch", query="x", id=fresh(TOOL_USE_ID))
    path = write(home.transcript(), [assistant(search), tool_result(search["id"], result={"searchCount": 4})])
    refresh()
    found = response()
    assert found["searches"] == [{"file": str(path), "line": 1, "web_searches": 4}]
    assert found["cost_nano"]["web_search"] == 40_000_000


def test_what_has_no_price_is_told_and_left_out_of_the_sum(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant(usage=usage(1, 100)), assistant(usage=usage(2, 7), model="claude-zeta-99")])
    refresh()
    total = explained(SESSION)["sum"]
    assert total["cost_usd"] == 0.002505
    unpriced = only(total["unpriced"])
    assert (unpriced["model"], unpriced["responses"], unpriced["output_tokens"]) == ("claude-zeta-99", 1, 7)
    said = run_cm("explain", SESSION).stdout
    assert "price      none: nobody has priced this model at that time" in said
    assert "unpriced   claude-zeta-99: 1 response, 2 input, 7 output, 0 cache write, 0 cache read tokens" in said


def test_a_response_whose_end_was_never_written_is_flagged(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant(usage=usage(10, 3), stop_reason=None), assistant(usage=usage(10, 30))])
    refresh()
    found = explained(SESSION)
    assert [one["is_undercounted"] for one in found["responses"]] == [True, False]
    assert found["sum"]["undercounted_responses"] == 1
    assert run_cm("explain", SESSION).stdout.count("undercounted: its final output was never written") == 1


def test_a_response_is_explained_after_its_transcript_is_gone(home: Home, run_cm: RunCm) -> None:
    path = write(home.transcript(), [assistant()])
    write(home.transcript(OTHER), [assistant(sessionId=OTHER)])
    refresh()
    path.unlink()
    said = run_cm("explain", SESSION).stdout
    assert f"{path}:1" in said
    assert "owner (its source is gone)" in said


# What is asked for.


def test_the_beginning_of_a_session_is_enough_where_it_is_the_only_one(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant()])
    write(home.transcript(OTHER), [assistant(sessionId=OTHER)])
    refresh()
    assert explained("5e551")["name"] == SESSION
    told = run_cm("explain", "5e55")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"cm: 2 sessions begin with 5e55, such as {SESSION}, {OTHER}; give more of the id\n"


def test_a_session_whose_id_another_begins_with_can_be_named(home: Home) -> None:
    write(home.transcript("abc"), [assistant(sessionId="abc")])
    write(home.transcript("abcd"), [assistant(sessionId="abcd")])
    refresh()
    assert explained("abc")["name"] == "abc"


def test_a_response_is_named_by_its_key(home: Home) -> None:
    key = fresh(MESSAGE_ID)
    write(home.transcript(), [assistant(id=key), assistant()])
    write(home.transcript(OTHER), [assistant(id="gen-1", requestId=ABSENT, sessionId=OTHER)])
    refresh()
    assert only(explained(key)["responses"])["response_key"] == key
    generated = only(rows("SELECT response_key FROM usage WHERE session_id = ?", OTHER))["response_key"]
    assert explained(generated)["kind"] == "response"


@pytest.mark.parametrize("target", ["nothing", "2026-02-30", "%", ""])
def test_what_is_none_of_these_is_told_in_one_line(home: Home, target: str) -> None:
    write(home.transcript(), [assistant()])
    write(home.transcript(OTHER), [assistant(sessionId=OTHER)])
    refresh()
    with pytest.raises(BadInput) as caught:
        explained(target)
    assert "\n" not in str(caught.value)


def test_without_a_day_session_or_response_nothing_is_guessed(run_cm: RunCm) -> None:
    told = run_cm("explain")
    assert told.returncode == 2
    assert "name a day, a session or a response" in told.stderr


def test_a_day_without_responses_is_empty(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant()])
    found = json.loads(run_cm("explain", "20251231", "--json").stdout)
    assert (found["name"], found["responses"], found["sum"]["cost_usd"]) == ("2025-12-31", [], None)


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("UTC", "2026-10-24"),
        ("Europe/Berlin", "2026-10-25"),
        ("America/Los_Angeles", "2026-10-24"),
        ("Asia/Kathmandu", "2026-10-25"),
    ],
)
def test_a_day_is_that_of_the_zone(home: Home, zone: str, day: str) -> None:
    write(home.transcript(), [assistant(timestamp="2026-10-24T22:30:00.000Z")])
    refresh()
    for asked in ("2026-10-24", "2026-10-25"):
        assert len(explained(asked, zone)["responses"]) == (asked == day)


def test_today_and_yesterday_are_days_of_the_zone(home: Home, run_cm: RunCm) -> None:
    now = datetime.now(UTC)
    times = [now, now - timedelta(days=1)]
    write(home.transcript(), [assistant(timestamp=f"{at:%Y-%m-%dT%H:%M:%S.000Z}") for at in times])
    found = [
        json.loads(run_cm("explain", word, "--json", "--timezone", "UTC").stdout) for word in ("today", "yesterday")
    ]
    if datetime.now(UTC).date() == now.date():
        assert [(one["name"], len(one["responses"])) for one in found] == [(f"{at:%Y-%m-%d}", 1) for at in times]


# How it is shown.


def test_the_text_has_owner_and_sum_and_fits_a_hundred_columns(home: Home, run_cm: RunCm) -> None:
    history(home)
    shown = run_cm("explain", DAY, "--timezone", "UTC", "--no-refresh")
    assert shown.returncode == 0
    found = explained(DAY)
    for one in found["responses"]:
        assert f"{one['file']}:{one['line']}\n" in shown.stdout
    nano = sum(found["sum"]["cost_nano"].values())
    assert f"{nano:,}  ${nano / 1e9:,.9f} at the API's prices" in shown.stdout
    wide = [line for line in shown.stdout.splitlines() if len(line) > 100 and str(home.root) not in line]
    assert wide == []


def test_control_characters_of_a_transcript_are_shown_escaped(home: Home, run_cm: RunCm) -> None:
    evil = "claude\x1b]0;owned\x07"
    write(home.transcript(), [assistant(id="gen\x1b[2J", model=evil, cwd="/home/\x1b[31mdev\u202e")])
    shown = run_cm("explain", SESSION).stdout
    assert "\\x1b]0;owned\\x07" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)


@pytest.mark.skipif("CM_TRANSCRIPTS" not in os.environ, reason="CM_TRANSCRIPTS names no real transcripts")
def test_the_days_of_real_transcripts_add_up_to_what_the_reports_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for root in sorted(path.parent for path in Path(os.environ["CM_TRANSCRIPTS"]).glob("*/projects")):
        monkeypatch.setenv("CM_DB", str(Path(config.database()).with_name(f"{root.name}.db")))
        refresh(roots=[str(root)])
        days = rows("SELECT substr(at, 1, 10) AS day, round(sum(cost_usd) * 1e9) AS nano FROM usage GROUP BY day")
        assert days
        for day in days:
            assert sum(explained(day["day"])["sum"]["cost_nano"].values()) == (day["nano"] or 0)
