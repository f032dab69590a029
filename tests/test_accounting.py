"""Accounting: how lines become responses, who owns them, and what they cost; each case by its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import (
    ABSENT,
    SESSION,
    Home,
    Record,
    agent_progress,
    append,
    assistant,
    line,
    text,
    title,
    tool_result,
    tool_use,
    user,
    write,
)
from builders import usage as counts
from ledger import forget, health, indexed, only, refresh, rows, stats, tokens, usage

from indexer import discovery
from indexer import refresh as refresh_only

OTHER = "5e552000-0000-4000-8000-000000000002"
OPUS_4_6 = "claude-opus-4-6"
ZERO = counts(0, 0)


def response(output: int, usage: Record | None = None, **overrides: Any) -> Record:
    """One line of a response with this output."""
    return assistant(usage=usage or counts(output=output), **overrides)


def no_ids(*blocks: Record, **overrides: Any) -> Record:
    return assistant(*blocks, **{"id": ABSENT, "requestId": ABSENT, **overrides})


def gateway(output: int = 20, **overrides: Any) -> Record:
    """A record of a gateway that numbers its answers itself and sends no request id."""
    return response(output, **{"id": "gen-1", "requestId": ABSENT, **overrides})


def fork(records: list[Record], session: str = OTHER, **overrides: Any) -> list[Record]:
    """Copies of records as a fork writes them: only the session is another."""
    return [{**record, "sessionId": session, **overrides} for record in records]


def one(home: Home, *records: Record | bytes) -> Record:
    """The only row of usage that these lines make."""
    write(home.transcript(), records)
    return only(indexed())


def cost(home: Home, *records: Record | bytes) -> float | None:
    """USD of these lines by the view, which `stats` says too."""
    write(home.transcript(), records)
    costs = [row["cost_usd"] for row in indexed()]
    total = stats().total_cost
    if None in costs:
        return None
    assert total == sum(costs)
    return total


# The cases that must come out right


def test_one_response_on_three_lines_output_1_1_300(home: Home) -> None:
    first = response(1, stop_reason=None)
    same = {"id": first["message"]["id"], "requestId": first["requestId"]}
    row = one(home, first, response(1, stop_reason=None, **same), response(300, **same))
    assert tokens([row]) == (10, 300, 0, 0)
    assert row["record_count"] == 3


def test_output_300_then_a_later_line_says_1(home: Home) -> None:
    first = response(300)
    assert one(home, first, response(1, id=first["message"]["id"]))["output_tokens"] == 300


def test_the_line_that_raises_1_to_300_arrives_in_a_later_refresh(home: Home) -> None:
    first = response(1)
    assert one(home, first)["output_tokens"] == 1
    append(home.transcript(), [response(300, id=first["message"]["id"])])
    assert only(indexed())["output_tokens"] == 300


def test_same_short_id_no_request_id_one_session_same_input_side_output_1_then_200(home: Home) -> None:
    assert one(home, gateway(1), gateway(200))["output_tokens"] == 200


def test_same_short_id_in_one_session_with_another_input_side_is_another_response(home: Home) -> None:
    write(home.transcript(), [gateway(5), gateway(usage=counts(11, 7)), gateway(usage=counts(10, 8, cache_read=1))])
    assert tokens(indexed()) == (31, 20, 0, 1)


def test_same_short_id_with_a_request_id_is_one_response_across_sessions(home: Home) -> None:
    first = gateway(5, requestId="req-1")
    write(home.transcript(), [first])
    write(home.transcript(OTHER), fork([first, gateway(9, requestId="req-2")]))
    assert [row["output_tokens"] for row in indexed()] == [5, 9]


def test_same_generated_id_gen_1_no_request_id_in_two_sessions_both_count(home: Home) -> None:
    write(home.transcript(), [gateway(5)])
    write(home.transcript(OTHER), [gateway(5, sessionId=OTHER)])
    assert [row["output_tokens"] for row in indexed()] == [5, 5]


def test_no_ids_at_all_two_uuids_both_count(home: Home) -> None:
    write(home.transcript(), [no_ids(), no_ids()])
    assert tokens(indexed()) == (20, 40, 0, 0)


def test_same_uuid_in_two_files_no_ids_counts_once(home: Home) -> None:
    record = no_ids()
    write(home.transcript(), [record])
    write(home.transcript(OTHER), fork([record]))
    assert tokens(indexed()) == (10, 20, 0, 0)


def test_no_ids_and_no_uuid_are_told_apart_by_their_bytes(home: Home) -> None:
    record, other = no_ids(uuid=ABSENT), no_ids(uuid=ABSENT)
    write(home.transcript(), [record, other])
    write(home.transcript(OTHER), [record], newline=False)
    write(home.transcript("5e553000"), [line(other)[:-1] + b" \r\n"])
    assert tokens(indexed()) == (20, 40, 0, 0)


def test_a_session_copied_into_another_by_fork_with_one_new_response(home: Home) -> None:
    said = [response(1), response(2)]
    write(home.transcript(OTHER), [*fork(said), response(4, sessionId=OTHER)])
    assert {row["session_id"] for row in indexed()} == {OTHER}
    write(home.transcript(), said)
    owners = {row["output_tokens"]: row["session_id"] for row in indexed()}
    assert owners == {1: SESSION, 2: SESSION, 4: OTHER}, "the smaller session id owns what is shared"
    assert stats().conversations_count == 2


def test_a_fork_with_a_smaller_session_id_but_a_bg_mark_owns_nothing_shared(home: Home) -> None:
    said = response(1, sessionId=OTHER)
    write(home.transcript(), fork([said], SESSION, sessionKind="bg"))
    write(home.transcript(OTHER), [said])
    row = only(indexed())
    assert (row["session_id"], row["record_count"]) == (OTHER, 2)


def test_msg_id_replayed_in_a_sidechain_under_another_request_id_counts_once(home: Home) -> None:
    said = response(1)
    replay = {**said, "isSidechain": True, "requestId": "req_replayed", "timestamp": "2026-09-01T00:00:00.000Z"}
    row = one(home, replay, said)
    assert (row["at"], row["agent"], row["record_count"]) == (said["timestamp"], None, 2)


def test_subagent_files_at_all_three_depths_count_under_the_parents_session(home: Home) -> None:
    side: dict[str, Any] = {"isSidechain": True}
    write(home.flat_subagent("a1"), [response(1, agentId="a1", **side)])
    write(home.subagent(agent="a2"), [response(2, agentId="a2", **side)])
    write(home.subagent(agent="a3", workflow="w1"), [response(4, agentId="a3", sessionId=ABSENT, **side)])
    write(home.subagent(agent="a4"), [response(8, agentId="a4", sessionId=ABSENT, **side)])
    found = indexed()
    assert tokens(found)[1] == 15
    assert {row["session_id"] for row in found} == {SESSION}
    assert {row["agent"] for row in found} == {"unknown"}


def test_synthetic_with_500_tokens_counts_0(home: Home) -> None:
    write(home.transcript(), [assistant(text("No response requested."), model="<synthetic>", usage=counts(0, 500))])
    assert indexed() == []
    assert only(rows("SELECT model, text FROM messages")) == {
        "model": "<synthetic>",
        "text": "No response requested.",
    }
    assert stats().model_breakdown == {}


def test_1_000_000_1h_cache_write_tokens_cost_10_dollars(home: Home) -> None:
    assert cost(home, assistant(usage=counts(0, 0, cache_write_1h=10**6))) == 10.0


def test_1_000_000_5m_cache_write_tokens_cost_6_dollars_25(home: Home) -> None:
    assert cost(home, assistant(usage=counts(0, 0, cache_write=10**6))) == 6.25


def test_sonnet_4_5_150k_input_150k_cache_read_100k_output_costs_3_dollars_24(home: Home) -> None:
    long = counts(150_000, 100_000, cache_read=150_000)
    assert cost(home, assistant(model="claude-sonnet-4-5-20250929", usage=long)) == 3.24
    only_model = stats().model_breakdown["claude-sonnet-4-5-20250929"]
    assert (only_model.input_cost, only_model.cache_read_cost, only_model.output_cost) == (0.9, 0.09, 2.25)


@pytest.mark.parametrize(("day", "usd"), [("2026-03-01", 3.0375), ("2026-04-01", 1.525)])
def test_opus_4_6_300k_input_1k_output(home: Home, day: str, usd: float) -> None:
    said = assistant(model=OPUS_4_6, usage=counts(300_000, 1000), timestamp=f"{day}T12:00:00.000Z")
    assert cost(home, said) == usd


def test_opus_4_6_speed_fast_1m_output_and_nothing_else_in_2026_02_costs_150_dollars(home: Home) -> None:
    fast = counts(0, 10**6, speed="fast")
    assert cost(home, assistant(model=OPUS_4_6, usage=fast, timestamp="2026-02-10T12:00:00.000Z")) == 150.0


def test_opus_4_6_inference_geo_us_1m_output_costs_27_dollars_50(home: Home) -> None:
    assert cost(home, assistant(model=OPUS_4_6, usage=counts(0, 10**6, inference_geo="us"))) == 27.5


def test_service_tier_batch_1m_output_costs_12_dollars_50(home: Home) -> None:
    assert cost(home, assistant(usage=counts(0, 10**6, service_tier="batch"))) == 12.5


def test_100_web_searches_cost_one_dollar_more(home: Home) -> None:
    call = tool_use("WebSearch")
    plain = cost(home, assistant(call, usage=counts(1000, 1000)))
    append(home.transcript(), [tool_result(call["id"], result={"searchCount": 100})])
    row = only(indexed())
    assert row["web_searches"] == 100
    assert row["cost_usd"] == plain + 1.0
    assert stats().model_breakdown[row["model"]].web_search_cost == 1.0


def test_advisor_iteration_of_1000_in_2000_out_of_opus_4_6_beside_10_in_100_out(home: Home) -> None:
    advised = counts(10, 100, iterations=[message(10, 100), advisor(1000, 2000)])
    write(home.transcript(), [assistant(usage=advised)])
    own, advice = indexed()
    assert tokens([own, advice]) == (1010, 2100, 0, 0)
    assert (advice["part"], advice["model"], tokens([advice])) == ("advisor", OPUS_4_6, (1000, 2000, 0, 0))
    assert (own["part"], tokens([own])) == ("response", (10, 100, 0, 0))
    assert advice["response_key"] == own["response_key"]
    assert stats().messages_count == 1


def test_claude_zeta_99_costs_null_and_is_listed_as_unpriced(home: Home) -> None:
    assert cost(home, assistant(model="claude-zeta-99", usage=counts(1, 2, 3, 4, 5)), response(7)) is None
    found = stats()
    assert found.unpriced_models == {"claude-zeta-99": 15}
    assert found.total_cost == found.model_breakdown["claude-opus-4-5-20251101"].total_cost > 0
    assert [row["model"] for row in health()["unpriced"]] == ["claude-zeta-99"]


def test_a_tool_input_that_holds_id_null_counts(home: Home) -> None:
    assert one(home, assistant(tool_use("Edit", **{"new": {"id": None}})))["output_tokens"] == 20


def spaced(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def alphabetical(record: Record) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(spaced, id="spaces after colons"),
        pytest.param(lambda record: b"\xef\xbb\xbf" + line(record), id="BOM"),
        pytest.param(lambda record: line(record)[:-1] + b"\r\n", id="CRLF"),
        pytest.param(lambda record: line(record).replace(b"Done.", rb"\udcb2"), id="a lone surrogate"),
        pytest.param(lambda record: line(record).replace(b"Done.", b"\xff\xfe"), id="invalid UTF-8 in a string"),
        pytest.param(alphabetical, id="keys in alphabetical order"),
        pytest.param(lambda record: line(record).replace(b"Done.", b"\0\0"), id="NUL bytes"),
        pytest.param(lambda record: b"  " + line(record), id="indented"),
    ],
)
def test_however_a_record_is_written_it_counts(home: Home, written: Any) -> None:
    row = one(home, written(assistant()))
    assert tokens([row]) == (10, 20, 0, 0)
    assert health()["coverage"]["lines_skipped"] == 0


def test_file_rewritten_4_to_2_lines_then_grown_then_deleted(home: Home) -> None:
    said = [response(output) for output in (1, 2, 4, 8)]
    path = write(home.transcript(), said)
    assert tokens(indexed())[1] == 15
    write(path, said[2:])
    assert tokens(indexed())[1] == 15
    append(path, [response(16)])
    assert tokens(indexed())[1] == 31
    path.unlink()
    assert sorted(row["output_tokens"] for row in indexed()) == [1, 2, 4, 8, 16]


# Which records carry usage


def message(input: int = 0, output: int = 0, **extra: Any) -> Record:
    return {"type": "message", **counts(input, output, **extra)}


def advisor(input: int = 0, output: int = 0, model: Any = OPUS_4_6, **extra: Any) -> Record:
    return {"type": "advisor_message", "model": model, **counts(input, output, **extra)}


@pytest.mark.parametrize("said", [ABSENT, None, [], "many", 5])
def test_an_answer_without_a_usage_object_is_only_a_message(home: Home, said: Any) -> None:
    write(home.transcript(), [assistant(usage=said)])
    assert indexed() == []
    assert only(rows("SELECT type, text FROM messages")) == {"type": "assistant", "text": "Done."}


def test_a_usage_object_in_another_record_counts_nothing(home: Home) -> None:
    write(home.transcript(), [user(usage=counts()), {**assistant(), "type": "system"}])
    assert indexed() == []


def test_a_subagents_answer_embedded_in_progress_counts_as_a_sidechain_of_the_outer_session(home: Home) -> None:
    said = response(7, sessionId=OTHER)
    row = one(home, agent_progress(said))
    assert (row["output_tokens"], row["session_id"], row["agent"]) == (7, SESSION, "unknown")
    assert row["at"] == said["timestamp"], "its own time, not the outer record's"


def test_an_embedded_answer_is_the_same_as_the_one_in_the_subagents_file_and_saves_it(home: Home) -> None:
    said = response(7, isSidechain=True, agentId="a1")
    path = write(home.subagent(), [{**said, "timestamp": "2026-10-02T00:00:00.000Z"}])
    write(home.transcript(), [agent_progress(said), agent_progress(response(9))])
    before = indexed()
    own, saved = sorted(before, key=lambda row: row["output_tokens"])
    assert (own["record_count"], saved["record_count"]) == (2, 1)
    assert own["at"] == "2026-10-02T00:00:00.000Z", "a record of its own owns before an embedded one"
    path.unlink()
    assert indexed() == before


@pytest.mark.parametrize(
    "data",
    [
        {"type": "agent_progress", "message": user()},
        {"type": "agent_progress", "message": assistant(usage=ABSENT)},
        {"type": "agent_progress", "message": assistant(model="<synthetic>")},
        {"type": "agent_progress", "message": "…"},
        {"type": "hook_progress", "message": assistant()},
        None,
    ],
)
def test_other_progress_carries_no_usage(home: Home, data: Any) -> None:
    write(home.transcript(), [agent_progress(data=data)])
    assert indexed() == []


def test_an_embedded_answer_without_a_time_has_the_outer_records(home: Home) -> None:
    outer = agent_progress(response(7, timestamp=ABSENT))
    assert one(home, outer)["at"] == outer["timestamp"]


def test_an_embedded_answer_without_ids_counts_once_however_deep_its_input_is(home: Home) -> None:
    deep: Any = "end"
    for _ in range(300):
        deep = [deep]
    plain = agent_progress(no_ids(uuid=ABSENT))
    write(home.transcript(), [spaced(agent_progress(no_ids(tool_use(input=deep), uuid=ABSENT))), plain])
    write(home.transcript(OTHER), fork([plain]))
    assert tokens(indexed()) == (20, 40, 0, 0)


def test_an_embedded_answer_with_a_number_of_thirty_digits_on_a_line_with_nul_bytes_counts(home: Home) -> None:
    written = line(agent_progress(assistant(tool_use(n="NUMBER")))).replace(b'"NUMBER"', b"9" * 30)
    assert one(home, b"\0" + written)["output_tokens"] == 20


# Which records are the same response


@pytest.mark.parametrize("id", ["msg_" + "a" * 20, "msg_bdrk_01AbCdEfGhIjKlMn", "msg_0123456789abcdef01234567"])
def test_an_id_that_the_api_made_is_enough_across_files_sessions_and_requests(home: Home, id: str) -> None:
    write(home.transcript(), [response(1, id=id)])
    write(home.transcript(OTHER), [response(5, id=id, sessionId=OTHER, requestId=ABSENT)])
    row = only(indexed())
    assert (row["response_key"], row["output_tokens"]) == (id, 5)


@pytest.mark.parametrize("id", ["msg_" + "a" * 19, "msg-" + "a" * 20, "xmsg_" + "a" * 20, "msg_" + "a" * 20 + "-"])
def test_an_id_that_the_api_did_not_make_is_not(home: Home, id: str) -> None:
    write(home.transcript(), [response(1, id=id)])
    write(home.transcript(OTHER), [response(5, id=id, sessionId=OTHER)])
    assert len(indexed()) == 2


@pytest.mark.parametrize("id", [None, 5, "", {}])
def test_an_id_that_is_no_text_is_none(home: Home, id: Any) -> None:
    write(home.transcript(), [response(1, id=id), response(5, id=id)])
    assert {row["response_key"][:5] for row in indexed()} == {"uuid:"}
    assert tokens(usage())[1] == 6


def test_a_request_id_that_is_no_text_is_none(home: Home) -> None:
    assert one(home, gateway(1, requestId=5), gateway(2, requestId=None))["output_tokens"] == 2


# What a response's numbers are


def test_each_field_is_the_maximum_over_the_records(home: Home) -> None:
    first = assistant(usage=counts(9, 1, 5, 0, 2))
    row = one(home, first, assistant(usage=counts(4, 8, 0, 4, 7), id=first["message"]["id"]))
    assert tokens([row]) == (9, 8, 5, 7)
    assert row["cache_creation_1h_tokens"] == 4


def test_input_output_and_cache_read_are_the_larger_of_the_top_level_and_the_sum_of_iterations(home: Home) -> None:
    own = [message(3, 4, cache_read=5), message(3, 4, cache_read=5)]
    assert tokens([one(home, assistant(usage=counts(10, 1, cache_read=1, iterations=own)))]) == (10, 8, 0, 10)


def test_a_zeroed_top_level_is_filled_from_its_iterations(home: Home) -> None:
    own = [message(3, 1651, cache_write=20, cache_write_1h=30, cache_read=40)]
    row = one(home, assistant(usage=counts(0, 0, iterations=own)))
    assert (tokens([row]), row["cache_creation_1h_tokens"]) == ((3, 1651, 50, 40), 30)


def split(total: Any = ABSENT, five: Any = ABSENT, hour: Any = ABSENT, **extra: Any) -> Record:
    """A usage object whose cache writes are written exactly so."""
    parts = {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour}
    creation = {name: value for name, value in parts.items() if value is not ABSENT}
    said = counts(0, 0, **extra) | {"cache_creation": creation, "cache_creation_input_tokens": total}
    return {name: value for name, value in said.items() if value is not ABSENT}


@pytest.mark.parametrize(
    ("said", "written", "hour"),
    [
        pytest.param(split(10, 4, 6), 10, 6, id="the split is the total"),
        pytest.param(split(10, 1, 2), 10, 2, id="what the split does not explain is of five minutes"),
        pytest.param(split(0, 4, 6), 10, 6, id="a zero total has its split"),
        pytest.param(split(ABSENT, 4), 4, 0, id="no total, no hour"),
        pytest.param(split(10), 10, 0, id="an empty split"),
        pytest.param(split(3, 4, 6), 10, 6, id="a total below its split"),
        pytest.param(split(5, 5, 0, iterations=[message(cache_write=3, cache_write_1h=9)]), 12, 9, id="iterations"),
        pytest.param(
            split(20, 1, 1, iterations=[message(cache_write_1h=3), message(cache_write_1h=4)]),
            20,
            7,
            id="the hour of two iterations",
        ),
        pytest.param(
            split(0, 0, 0, iterations=[{"type": "message"} | split(0, 2, 3)]), 5, 3, id="an iteration's split"
        ),
    ],
)
def test_cache_writes(home: Home, said: Record, written: int, hour: int) -> None:
    row = one(home, assistant(usage=said))
    assert (row["cache_creation_tokens"], row["cache_creation_1h_tokens"]) == (written, hour)
    assert row["cost_usd"] == pytest.approx(((written - hour) * 6.25 + hour * 10) / 10**6)


def test_cache_writes_that_nothing_explains_are_priced_as_five_minutes(home: Home) -> None:
    assert cost(home, assistant(usage=split(10**6, 0, 200_000))) == 0.8 * 6.25 + 2.0


def test_advisors_calls_match_by_their_ordinal_and_keep_the_maximum(home: Home) -> None:
    first = assistant(usage=counts(iterations=[advisor(5, 1), message(10, 20), advisor(7, 1, "claude-opus-4-8")]))
    again = assistant(usage=counts(iterations=[advisor(4, 9)]), id=first["message"]["id"])
    write(home.transcript(), [first, again])
    _, *advice = sorted(indexed(), key=lambda row: (row["part"] != "response", row["input_tokens"]))
    assert [(row["model"], *tokens([row])[:2]) for row in advice] == [(OPUS_4_6, 5, 9), ("claude-opus-4-8", 7, 1)]


def test_an_advisors_call_belongs_where_its_response_does(home: Home) -> None:
    said = assistant(usage=counts(), sessionId=OTHER, isSidechain=True)
    advised = counts(iterations=[advisor(5, 1)])
    late = assistant(usage=advised, id=said["message"]["id"], sessionId=OTHER, isSidechain=True)
    write(home.transcript(OTHER), [said, late])
    assert {row["at"] for row in indexed()} == {said["timestamp"]}
    earlier = {**said, "sessionId": SESSION, "isSidechain": False, "timestamp": "2026-11-01T00:00:00.000Z"}
    write(home.transcript(), [earlier])
    found = indexed()
    assert len(found) == 2
    assert {(row["session_id"], row["at"], row["agent"]) for row in found} == {
        (SESSION, "2026-11-01T00:00:00.000Z", None)
    }


def test_the_long_context_threshold_is_tested_for_each_call_alone(home: Home) -> None:
    two = counts(150_000, 0, iterations=[advisor(150_000, 0, "claude-sonnet-4-5")])
    assert cost(home, assistant(model="claude-sonnet-4-5", usage=two)) == 0.9


def test_a_fallback_is_kept_for_the_record_and_not_added(home: Home) -> None:
    failed = {"type": "fallback_message", "model": "claude-opus-4-8", **counts(5000, 6000)}
    row = one(home, assistant(usage=counts(10, 20, iterations=[failed, message(10, 20)])))
    assert tokens([row]) == (10, 20, 0, 0)
    assert only(rows("SELECT flags FROM responses"))["flags"] == 16


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        (ABSENT, 0), (None, 0), (-5, 0), ("-5", 0), ("12", 12), ("1e3", 1000), (" 7 ", 7), ("twelve", 0), ("", 0),
        (True, 0), (12.0, 12), (12.9, 12), ([12], 0), ({"n": 12}, 0), ("NaN", 0), ("-Infinity", 0), ("-1e30", 0),
        (10**9, 10**9),
    ],
)  # fmt: skip
def test_numbers_as_they_may_be_written(home: Home, said: Any, counted: int) -> None:
    names = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    odd = {name: said for name in names if said is not ABSENT}
    write(home.transcript(), [assistant(usage=odd), response(7), assistant(usage=counts(0, 0, iterations=[odd]))])
    write(home.transcript(OTHER), [assistant(usage=counts(0, 0, iterations=[{"type": "message", **odd}]))])
    plain, _, _, iterated = rows_by_time()
    assert tokens([plain]) == tokens([iterated]) == (counted,) * 4
    assert not plain["is_implausible"]


@pytest.mark.parametrize("huge", [10**9 + 1, 10**18, 1e300, "1000000001", "9" * 400, 10**40])
def test_a_count_above_a_billion_counts_0_and_is_flagged(home: Home, huge: Any) -> None:
    row = one(home, spaced(assistant(usage=counts(5, huge))))
    assert tokens([row]) == (5, 0, 0, 0)
    assert row["is_implausible"] == 1
    assert health()["implausible_responses"] == 1


def test_an_implausible_count_takes_no_other_with_it(home: Home) -> None:
    own = [message(3, 10**12), message(3, 4)]
    row = one(home, assistant(usage=split(50, 10**12, 6, iterations=own) | {"output_tokens": 3}))
    assert (tokens([row]), row["cache_creation_1h_tokens"]) == ((6, 4, 50, 0), 6)
    assert row["is_implausible"] == 1


def test_an_implausible_count_of_a_response_says_nothing_of_its_advisor_s_call(home: Home) -> None:
    write(home.transcript(), [assistant(usage=counts(10**12, 100, iterations=[advisor(5, 6)]))])
    assert [(row["part"], row["is_implausible"]) for row in indexed()] == [("response", 1), ("advisor", 0)]


def test_a_sum_above_a_billion_is_implausible_too(home: Home) -> None:
    row = one(home, assistant(usage=counts(0, 7, iterations=[message(10**9, 7), message(10**9, 0)])))
    assert (tokens([row]), row["is_implausible"]) == ((0, 7, 0, 0), 1)


@pytest.mark.parametrize("wrong", [None, 5, "many", {"type": "message"}, [None, 5, [], {"type": 5}]])
def test_a_bad_field_never_drops_a_record(home: Home, wrong: Any) -> None:
    said = counts(iterations=wrong) | {"cache_creation": wrong, "server_tool_use": wrong, "speed": wrong}
    assert tokens([one(home, assistant(usage=said))]) == (10, 20, 0, 0)


def test_fast_us_and_batch_hold_if_any_record_of_the_response_says_so(home: Home) -> None:
    first = assistant(usage=counts(speed="fast"), model=OPUS_4_6)
    same = {"id": first["message"]["id"], "model": OPUS_4_6}
    us, batch = counts(inference_geo="us"), counts(service_tier="batch", iterations=[advisor(0, 10**6)])
    write(home.transcript(), [first, assistant(usage=us, **same), assistant(usage=batch, **same)])
    found = indexed()
    assert [(row["is_fast"], row["is_us"], row["is_batch"]) for row in found] == [(1, 1, 1)] * 2
    assert found[1]["cost_usd"] == pytest.approx(25 * 1.1 * 0.5 * 6)


def test_the_final_stop_reason_is_any_that_is_not_null(home: Home) -> None:
    first = response(5, stop_reason="tool_use")
    row = one(home, first, response(5, stop_reason=None, id=first["message"]["id"]))
    assert (row["stop_reason"], row["is_undercounted"]) == ("tool_use", 0)


def test_the_model_is_the_owners(home: Home) -> None:
    late = assistant(model="claude-opus-4-8", timestamp="2026-10-05T00:00:00.000Z")
    assert one(home, late, assistant(model=OPUS_4_6, id=late["message"]["id"]))["model"] == OPUS_4_6


def test_thinking_tokens_are_part_of_output(home: Home) -> None:
    thinking = counts(10, 20, output_tokens_details={"thinking_tokens": 15})
    assert one(home, assistant(usage=thinking))["output_tokens"] == 20


# Web searches


def searched(call: Record, count: Any) -> Record:
    return tool_result(call["id"], result={"searchCount": count})


def test_the_larger_of_the_apis_count_and_the_results_counts(home: Home) -> None:
    call, other = tool_use("WebSearch"), tool_use("WebSearch")
    api = counts(server_tool_use={"web_search_requests": 4, "web_fetch_requests": 9})
    write(
        home.transcript(),
        [assistant(call, usage=api), searched(call, 3), assistant(other, usage=api), searched(other, 5)],
    )
    assert [row["web_searches"] for row in rows_by_time()] == [4, 5]


def rows_by_time() -> list[Record]:
    return sorted(indexed(), key=lambda row: str(row["at"]))


def test_searches_of_all_calls_of_a_response_are_added_each_call_once(home: Home) -> None:
    one_call, other = tool_use("WebSearch"), tool_use("WebSearch")
    first = assistant(one_call)
    again = assistant(other, id=first["message"]["id"])
    result = searched(one_call, 3)
    write(home.transcript(), [first, again, result, {**result, "uuid": "copy"}, searched(other, 4)])
    write(home.transcript(OTHER), fork([first, again, result]))
    assert only(indexed())["web_searches"] == 7
    assert {row["web_searches"] for row in rows("SELECT web_searches FROM tool_calls")} == {3, 4}


def test_results_that_come_later_or_stand_in_another_file_are_charged_to_the_response_that_called(home: Home) -> None:
    call, other = tool_use("WebSearch"), tool_use("WebSearch")
    write(home.transcript(OTHER), [searched(other, 8)])
    write(home.transcript(), [assistant(call), assistant(other)])
    assert [row["web_searches"] for row in rows_by_time()] == [0, 8]
    append(home.transcript(), [searched(call, 2)])
    assert [row["web_searches"] for row in rows_by_time()] == [2, 8]


def test_searches_of_an_embedded_answer_are_charged_to_it(home: Home) -> None:
    call = tool_use("WebSearch")
    result = searched(call, 6)
    embedded = agent_progress(result)
    embedded["data"]["message"]["toolUseResult"] = result["toolUseResult"]
    row = one(home, agent_progress(assistant(call)), embedded)
    assert row["web_searches"] == 6


def test_a_call_that_turns_out_to_be_a_forks_takes_its_searches_along(home: Home) -> None:
    call = tool_use("WebSearch")
    said, result = gateway(5, content=[call]), searched(call, 6)
    write(home.transcript(OTHER), fork([said, result]))
    assert [row["web_searches"] for row in indexed()] == [6]
    write(home.transcript(), [said, result])
    assert {row["session_id"]: row["web_searches"] for row in indexed()} == {SESSION: 6, OTHER: 0}


@pytest.mark.parametrize(("said", "counted"), [("3", 3), (None, 0), (-2, 0), ([], 0), (10**12, 0)])
def test_a_search_count_as_it_may_be_written(home: Home, said: Any, counted: int) -> None:
    call = tool_use("WebSearch")
    assert one(home, assistant(call), searched(call, said))["web_searches"] == counted


# Who owns a response


def owner_of(home: Home, *files: tuple[Path, Record]) -> Record:
    """The only row of usage of records in their files, the same whichever file is seen first."""
    for path, record in files:
        append(path, [record])
    both = only(indexed())
    for path, _ in files:
        path.rename(path.with_suffix(".aside"))
    forget()
    for path, _ in reversed(files):
        path.with_suffix(".aside").rename(path)
        refresh()
    name = ("session_id", "at", "agent", "model", "project")
    assert {key: only(usage())[key] for key in name} == {key: both[key] for key in name}
    return both


def marked(rank: str, session: str, at: str, id: str = "msg_" + "7" * 20) -> Record:
    """A copy of one response, with what decides who owns it."""
    record = response(5, id=id, uuid="same", sessionId=session, timestamp=f"2026-10-01T{at}.000Z")
    if rank.startswith("embedded"):
        return agent_progress(record, sessionId=session, sessionKind="bg" if rank.endswith("bg") else "fg")
    marks = {"bg": {"sessionKind": "bg"}, "sidechain": {"isSidechain": True}}
    return {**record, **marks.get(rank, {})}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(("main", OTHER, "10:00:00"), ("sidechain", SESSION, "09:00:00"), id="main before sidechain"),
        pytest.param(("main", OTHER, "10:00:00"), ("bg", SESSION, "09:00:00"), id="foreground before bg"),
        pytest.param(("bg", OTHER, "10:00:00"), ("sidechain", SESSION, "09:00:00"), id="bg before sidechain"),
        pytest.param(("sidechain", OTHER, "10:00:00"), ("embedded", SESSION, "09:00:00"), id="own before embedded"),
        pytest.param(
            ("embedded", OTHER, "10:00:00"),
            ("embedded in bg", SESSION, "09:00:00"),
            id="foreground before bg, embedded",
        ),
        pytest.param(("main", OTHER, "09:00:00"), ("main", SESSION, "10:00:00"), id="the earlier"),
        pytest.param(("main", SESSION, "09:00:00"), ("main", OTHER, "09:00:00"), id="the smaller session"),
    ],
)
def test_the_owner_is_the_earliest_original(home: Home, first: Any, second: Any) -> None:
    rank, session, at = first
    row = owner_of(
        home, (home.transcript(second[1]), marked(*second)), (home.transcript(session), marked(rank, session, at))
    )
    assert (row["session_id"], row["at"]) == (session, f"2026-10-01T{at}.000Z")


def agent_types() -> dict[str, str]:
    """Type of each subagent by its id."""
    sql = "SELECT DISTINCT c.agent, u.agent AS type FROM usage AS u JOIN messages AS c ON c.id = u.message_id"
    return {row["agent"]: row["type"] for row in rows(sql)}


def test_the_type_of_a_subagent_is_what_its_meta_file_says_else_its_records_else_the_call(home: Home) -> None:
    agents = ("a1", "a2", "a3", "acompact-4", "a5")
    for agent in agents:
        path = home.subagent(agent=agent)
        named = {"attributionAgent": "Named"} if agent in ("a1", "a2") else {}
        write(path, [assistant(agentId=agent, isSidechain=True, **named)])
    home.subagent(agent="a1").with_suffix(".meta.json").write_text('{"agentType": "Zealous", "description": "Look."}')
    calls = [tool_use("Task", subagent_type="Called") for _ in agents[:3]]
    results = [tool_result(call["id"], result={"agentId": agent}) for call, agent in zip(calls, agents, strict=False)]
    refresh()
    write(home.transcript(), [*map(assistant, calls), *results])
    refresh()
    expected = {"a1": "Zealous", "a2": "Named", "a3": "Called", "acompact-4": "compact", "a5": "unknown"}
    assert agent_types() == {None: None, **expected}


@pytest.mark.parametrize("kinds", [("Plan", "Explore"), ("Explore", "Plan")])
def test_of_two_types_that_a_subagent_is_called_the_same_one_holds_in_every_order(
    home: Home, kinds: tuple[str, str]
) -> None:
    for kind in kinds:
        call = tool_use("Task", subagent_type=kind)
        append(home.transcript(), [assistant(call), tool_result(call["id"], result={"agentId": "a1"})])
        append(home.subagent(agent="a2"), [assistant(agentId="a2", isSidechain=True, attributionAgent=kind)])
        append(home.subagent(agent="a1"), [assistant(agentId="a1", isSidechain=True)])
        refresh()
    assert agent_types() == {None: None, "a1": "Explore", "a2": "Explore"}


def test_a_call_tells_what_it_was_made_for(home: Home) -> None:
    calls = [
        tool_use("Task", subagent_type="Explore"), tool_use("Agent", subagent_type="Plan"),
        tool_use("Skill", skill="review"), tool_use("SlashCommand", command="/check"),
        tool_use("mcp__tracker__list", command="ls"), tool_use("Bash", command="ls"),
    ]  # fmt: skip
    write(home.transcript(), [assistant(*calls)])
    refresh()
    found = rows("SELECT name, mcp_server, skill, agent FROM tool_calls ORDER BY name")
    assert [tuple(row.values()) for row in found] == [
        ("Agent", None, None, "Plan"),
        ("Bash", None, None, None),
        ("Skill", None, "review", None),
        ("SlashCommand", None, "/check", None),
        ("Task", None, None, "Explore"),
        ("mcp__tracker__list", "tracker", None, None),
    ]


def test_a_fork_knows_the_types_of_its_subagents_too(home: Home) -> None:
    call = tool_use("Agent", subagent_type="Explore")
    records = [assistant(call), tool_result(call["id"], result={"agentId": "a1"})]
    write(home.transcript(), records)
    write(home.transcript(OTHER), fork(records))
    write(home.subagent(OTHER), [assistant(sessionId=OTHER, agentId="a1", isSidechain=True)])
    refresh()
    assert agent_types() == {None: None, "a1": "Explore"}


def test_of_equal_copies_the_smaller_path_then_the_smaller_offset_owns(home: Home) -> None:
    record = marked("main", SESSION, "09:00:00")
    models = [{**record, "message": {**record["message"], "model": f"claude-opus-4-{n}"}} for n in (5, 6, 7)]
    low, high = home.transcript(project="/a"), home.transcript(project="/b")
    append(high, [models[0]])
    append(low, [models[1], models[2]])
    assert only(indexed())["model"] == "claude-opus-4-6"


def test_a_response_stands_on_the_day_of_its_owner(home: Home) -> None:
    first = response(1, timestamp="2026-10-01T23:59:59.999Z")
    row = one(home, first, response(9, id=first["message"]["id"], timestamp="2026-10-02T00:00:01.000Z"))
    assert row["at"] == "2026-10-01T23:59:59.999Z"


def test_every_copy_stays_visible_as_a_message_and_tells_what_it_is_a_copy_of(home: Home) -> None:
    said = [user(), assistant(text("One.")), user("More.")]
    again = {**said[1], "uuid": "logged-again"}
    part = assistant(text("Two."), id=said[1]["message"]["id"])
    write(home.transcript(), [*said, again, part])
    write(home.transcript(OTHER), fork(said))
    refresh()
    found = rows("SELECT id, uuid, session_id, text, duplicate_of FROM messages ORDER BY session_id, offset")
    originals = {row["uuid"]: row["id"] for row in found if row["session_id"] == SESSION}
    assert [row["duplicate_of"] for row in found] == [
        *(None, None, None, originals[said[1]["uuid"]], None),
        *(originals[record["uuid"]] for record in said),
    ]


def test_parts_that_are_neither_text_nor_calls_are_not_taken_for_copies(home: Home) -> None:
    first = assistant({"type": "redacted_thinking", "data": "one"})
    same = {"id": first["message"]["id"]}
    other, copy = {"type": "redacted_thinking", "data": "two"}, {"type": "redacted_thinking", "data": "one"}
    write(home.transcript(), [first, assistant(other, **same), assistant(copy, **same)])
    refresh()
    found = rows("SELECT id, duplicate_of FROM messages ORDER BY offset")
    assert [row["duplicate_of"] for row in found] == [None, None, found[0]["id"]]


# Times and sessions that are missing

MALFORMED = [
    ABSENT, None, 5, "", "yesterday", "2026-10-01", "2026-13-45T00:00:00Z", {"at": 1}, "9999-12-31T23:59:59Z",
]  # fmt: skip


def at_each_line(home: Home, *records: Record | bytes) -> list[Record]:
    """Rows of messages, the same whether the lines come at once or bit by bit."""
    path, said = home.transcript(), b"".join(map(line, records))
    sql = "SELECT at, session_id, file, offset FROM messages ORDER BY offset"
    moment = 1_790_000_000
    path.parent.mkdir(parents=True, exist_ok=True)
    for end in (n + 1 for n, byte in enumerate(said) if byte == 10):
        for cut in (end - 3, end - 2, end - 1, end):
            path.write_bytes(said[:cut])
            os.utime(path, (moment, moment))
            refresh_only()
    bit_by_bit, counted = rows(sql), derived()
    forget()
    refresh()
    assert rows(sql) == bit_by_bit
    assert derived() == counted
    return bit_by_bit


def test_a_bad_time_is_the_last_valid_one_before_it(home: Home) -> None:
    first, second = response(1), response(2)
    bad = [[response(4, timestamp=bad) for bad in MALFORMED] for _ in range(2)]
    found = at_each_line(home, first, *bad[0], second, *bad[1])
    assert [row["at"] for row in found] == [first["timestamp"]] * 10 + [second["timestamp"]] * 10
    assert [row["flags"] & 1 for row in rows("SELECT flags FROM records ORDER BY id")] == [0, *[1] * 9] * 2


def test_without_one_before_it_the_first_valid_time_after_it(home: Home) -> None:
    late = response(4)
    found = at_each_line(home, title(), *(response(1, timestamp=bad) for bad in MALFORMED), late, response(8))
    assert [row["at"] for row in found[:-1]] == [late["timestamp"]] * 11


def test_without_any_the_files_own_time(home: Home) -> None:
    found = at_each_line(home, response(1, timestamp=ABSENT), response(2, timestamp="never"))
    assert {row["at"] for row in found} == {"2026-09-21T14:13:20.000Z"}


def test_the_first_millisecond_of_1970_is_a_time(home: Home) -> None:
    found = at_each_line(home, user(timestamp="1970-01-01T00:00:00.000Z"), response(1, timestamp=ABSENT), response(2))
    assert found[1]["at"] == "1970-01-01T00:00:00.000Z"


def test_without_a_session_the_files_first(home: Home) -> None:
    bad = [gateway(1, sessionId=bad) for bad in (ABSENT, None, 5, "", {"id": "x"}, ["x"])]
    found = at_each_line(home, *bad, gateway(2, sessionId=OTHER), gateway(4, sessionId=SESSION), *bad)
    assert [row["session_id"] for row in found] == [*[OTHER] * 7, SESSION, *[OTHER] * 6]


def test_without_any_session_the_files_name(home: Home) -> None:
    found = at_each_line(home, gateway(1, sessionId=ABSENT), {"type": "summary", "summary": "Built."})
    assert {row["session_id"] for row in found} == {SESSION}
    assert rows("SELECT session_id FROM sessions") == [{"session_id": SESSION}]


def test_a_name_that_stood_in_for_a_session_is_no_session_once_the_real_one_is_known(home: Home) -> None:
    path = write(home.transcript(OTHER), [gateway(1, sessionId=ABSENT)])
    assert only(indexed())["session_id"] == OTHER
    append(path, [gateway(2, sessionId=SESSION)])
    assert only(indexed())["session_id"] == SESSION
    assert rows("SELECT session_id, record_count FROM sessions") == [{"session_id": SESSION, "record_count": 2}]


def test_a_name_that_a_line_without_its_newline_borrowed_is_no_session_either(home: Home) -> None:
    summary, said = line({"type": "summary", "summary": "Built."}), line(gateway(1))
    found = at_each_line(home, summary[:-1] + said, title())
    assert [row["session_id"] for row in found] == [SESSION] * 3
    path = write(home.transcript(OTHER), [summary], newline=False)
    refresh()
    write(path, [summary[:-1] + said])
    refresh()
    assert [row["session_id"] for row in rows("SELECT session_id FROM sessions")] == [SESSION]


def test_carriage_returns_that_come_later_make_no_other_record(home: Home) -> None:
    crlf = [line({"type": "summary", "summary": words})[:-1] + b"\r\n" for words in ("One.", "Two.", "Two.")]
    assert len(at_each_line(home, *crlf)) == 3


def test_a_folder_named_subagents_above_the_transcripts_is_no_session(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Home(tmp_path / "alice" / "subagents")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(other.root))
    write(other.transcript(), [gateway(sessionId=ABSENT)])
    assert only(indexed())["session_id"] == SESSION


# Records inside broken lines


def torn(record: Record) -> bytes:
    """The beginning of a line that a kill cut off."""
    return line(record)[:-40]


def test_a_record_behind_a_torn_one_counts(home: Home) -> None:
    assert one(home, torn(assistant()) + line(response(7)))["output_tokens"] == 7


def test_two_whole_records_on_a_line_both_count(home: Home) -> None:
    write(home.transcript(), [line(response(1))[:-1] + line(response(2))])
    found = indexed()
    assert tokens(found)[1] == 3
    assert len({row["message_id"] for row in found}) == 2


def test_a_recovered_record_without_a_session_is_an_embedded_one_of_the_files_session(home: Home) -> None:
    inner = response(7, sessionId=ABSENT)
    original = {**inner, "sessionId": OTHER, "isSidechain": True, "timestamp": "2026-11-01T00:00:00.000Z"}
    write(home.transcript(), [user(), torn(user()) + line(inner)])
    row = only(indexed())
    assert (row["session_id"], row["agent"]) == (SESSION, "unknown")
    write(home.transcript(OTHER), [original])
    assert only(indexed())["session_id"] == OTHER, "a record of its own owns before an embedded one"


def test_what_is_no_record_type_inside_a_broken_line_is_no_record(home: Home) -> None:
    inner = {"type": "assistant_block", "message": {"usage": counts()}}
    write(home.transcript(), [b'{"parentUuid":null,"message":{"content":[' + line(inner), user()])
    assert indexed() == []
    assert health()["coverage"]["skipped_by_reason"] == {"broken JSON": 1}


# What is lost stays known


@pytest.mark.parametrize(
    ("output", "stop", "is_undercounted"), [(10, None, 1), (0, None, 1), (11, None, 0), (10, "end_turn", 0)]
)
def test_ten_tokens_or_fewer_without_a_stop_reason_are_an_undercount(
    home: Home, output: int, stop: str | None, is_undercounted: int
) -> None:
    assert one(home, response(output, stop_reason=stop))["is_undercounted"] == is_undercounted
    assert health()["undercounted_responses"] == is_undercounted


def test_an_undercount_is_judged_on_the_response_not_on_its_lines(home: Home) -> None:
    first = response(1, stop_reason=None)
    path = write(home.transcript(), [first, response(1, stop_reason=None, id=first["message"]["id"])])
    assert only(indexed())["is_undercounted"] == 1
    append(path, [response(11, stop_reason=None, id=first["message"]["id"])])
    assert only(indexed())["is_undercounted"] == 0


def test_every_line_that_could_not_be_used_is_counted_by_reason_and_found_by_offset(home: Home) -> None:
    lines = [b"\n", b"{broken\n", b"[1]\n", b'{"no":"type"}\n', b"\0\0\n", b"// comment\n"]
    write(home.transcript(), [line(user()), *lines, line(user())])
    refresh()
    covered = health()["coverage"]
    assert (covered["lines_seen"], covered["lines_indexed"], covered["lines_skipped"]) == (8, 2, 6)
    assert covered["skipped_by_reason"] == {
        "broken JSON": 2, "NUL bytes": 1, "blank": 1, "no type": 1, "not an object": 1,
    }  # fmt: skip
    data = home.transcript().read_bytes()
    found = rows("SELECT offset, length FROM skipped_lines ORDER BY offset")
    assert [data[row["offset"] : row["offset"] + row["length"]] + b"\n" for row in found] == lines


# Cost that was recorded


@pytest.mark.parametrize(
    ("said", "stored"), [(0.25, 0.25), (2, 2.0), (0, None), (-1, None), ("0.25", None), (True, None), (10**6, None)]
)
def test_a_recorded_cost_is_stored_beside_the_computed_one(home: Home, said: Any, stored: float | None) -> None:
    row = one(home, assistant(usage=counts(0, 10**6), costUSD=said))
    assert (row["recorded_cost_usd"], row["cost_usd"]) == (stored, 25.0)


# Nothing depends on the order of files


def story(home: Home) -> None:
    """Two folders of copies, forks, searches, agents and sessions without a directory, all at the same times."""
    call = tool_use("WebSearch")
    task = tool_use("Task", subagent_type="Explore")
    at: dict[str, Any] = {"timestamp": "2026-10-01T09:00:00.000Z"}
    shared = [
        user("First.", cwd=ABSENT, **at), gateway(5, content=[call], **at), searched(call, 3) | at,
        assistant(task, **at), tool_result(task["id"], result={"agentId": "a1"}, **at),
        response(3, usage=counts(3, 4, iterations=[advisor(5, 6)]), **at), title("Same") | at,
    ]  # fmt: skip
    for place, session in (("/b", SESSION), ("/a", SESSION), ("/c", OTHER)):
        write(home.transcript(session, place), fork([*shared, title(f"Seen in {place}") | at], session))
        side = response(9, isSidechain=True, agentId="a1", id="msg_" + "9" * 20, cwd=ABSENT, **at)
        write(home.subagent(session, project=place), fork([side], session))
        for nowhere, version in (("nowhere", "2.1.233"), ("nowhere-2", place)):
            nameless = {"type": "summary", "summary": place, **at, "sessionId": nowhere}
            said = response(1, sessionId=nowhere, cwd=ABSENT, version=version, **at)
            write(home.transcript(nowhere, place), [nameless, said])


DERIVED = {
    "usage": "SELECT * FROM usage ORDER BY response_key, part, model, input_tokens",
    "owners": "SELECT r.key, r.part, f.path, w.offset FROM responses AS r JOIN records AS w ON w.id = r.owner_id"
    " JOIN files AS f ON f.id = w.file_id ORDER BY 1, 2",
    "calls": "SELECT t.tool_use_id, t.name, t.agent, t.agent_id, t.web_searches, t.started_at, t.ended_at, r.key,"
    " s.session_id, f.path FROM tool_calls AS t JOIN sessions AS s ON s.id = t.session_id"
    " LEFT JOIN responses AS r ON r.id = t.response_id JOIN files AS f ON f.id = t.record_id >> 40 ORDER BY 1, 9",
    "sessions": "SELECT s.session_id, p.path, s.first_at, s.last_at, s.record_count, s.prompt_count, s.title"
    " FROM sessions AS s JOIN projects AS p ON p.id = s.project_id ORDER BY 1",
    "agents": "SELECT s.session_id, a.agent, a.type, a.source FROM agents AS a JOIN sessions AS s"
    " ON s.id = a.session_id ORDER BY 1, 2",
    "messages": "SELECT m.file, m.offset, m.session_id, m.at, d.file AS original, d.offset AS original_offset"
    " FROM messages AS m LEFT JOIN messages AS d ON d.id = m.duplicate_of ORDER BY 1, 2",
}


def derived() -> dict[str, list[Record]]:
    """All that is derived, without the ids of records, which begin with that of their file."""
    found = {name: rows(sql) for name, sql in DERIVED.items()}
    for row in found["usage"]:
        del row["message_id"]
    return found


def in_order(is_reversed: bool) -> Callable[[discovery.Discovery], discovery.Discovery]:
    finish = discovery.Discovery.finish

    def ordered(found: discovery.Discovery) -> discovery.Discovery:
        finish(found).files.sort(key=lambda file: file.path, reverse=is_reversed)
        return found

    return ordered


@pytest.mark.parametrize("one_by_one", [False, True])
def test_nothing_depends_on_the_order_in_which_files_are_found(
    home: Home, monkeypatch: pytest.MonkeyPatch, one_by_one: bool
) -> None:
    story(home)
    results = []
    for is_reversed in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(discovery.Discovery, "finish", in_order(is_reversed))
            places = sorted((str(path) for path in home.root.rglob("*.jsonl")), reverse=is_reversed)
            for place in places if one_by_one else ():
                refresh_only(paths=[place])
            refresh(workers=1)
        results.append(derived())
        forget()
    assert results[0] == results[1]
