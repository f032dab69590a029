"""`cm explain --against`: what ccusage 20.0.24 printed for these transcripts, and why it is not what the index says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import (
    ABSENT,
    SESSION,
    Home,
    Record,
    agent_progress,
    assistant,
    line,
    text,
    tool_use,
    usage,
    user,
    write,
)
from conftest import RunCm
from ledger import only, refresh

from indexer import comparison, config, store, zones
from indexer.errors import BadInput

OTHER = "5e552000-0000-4000-8000-000000000002"
API_ID, GENERATED = "msg_01" + "a" * 22, "gen-1"
MORNING, NEXT_DAY = "2026-10-01T10:00:00.000Z", "2026-10-02T10:00:00.000Z"
DAY = "2026-10-01"
# Input, output, cache write, cache read, USD, as ccusage printed them.
Printed = tuple[int, int, int, int, float]
NOTHING: Printed = (0, 0, 0, 0, 0)


def report(path: Path, kind: str, printed: dict[str, Printed], **extra: Any) -> Path:
    """A report as `ccusage daily --json` or `ccusage session --json` writes it."""
    names = ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens", "totalCost")
    found = [{"period": key, **dict(zip(names, sums, strict=True)), **extra} for key, sums in printed.items()]
    path.write_text(json.dumps({kind: found, "totals": {}}))
    return path


def compare(file: Path, target: str | None = None, zone: str = "UTC") -> dict[str, Any]:
    connection = store.open_reader(config.database())
    try:
        zones.use(connection, zone)
        return comparison.compare(connection, str(file), target)
    finally:
        connection.close()


def reasons(found: dict[str, Any]) -> list[str]:
    """The reasons of every difference, after all of it was explained to the token and the millionth of a dollar."""
    for item in found["differences"]:
        for column in comparison.COLUMNS:
            explained = sum(reason[column] for reason in item["reasons"])
            assert explained == pytest.approx(item["difference"][column], abs=1e-6)
            assert item["unexplained"][column] == pytest.approx(0, abs=1e-6)
    return [reason["reason"] for item in found["differences"] for reason in item["reasons"]]


def one(request: str | object = "req_1", output: int = 300, **overrides: Any) -> Record:
    given = {"id": API_ID, "requestId": request, "usage": usage(10, output), "timestamp": MORNING}
    return assistant(**{**given, **overrides})


def spaced(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def nulled(record: Record, name: str) -> Record:
    return {**record, name: None}


def iterated(*calls: Record, **top: int) -> Record:
    return usage(**top, iterations=list(calls))


def model(name: str, numbers: Record, at: str = MORNING) -> Record:
    return assistant(model=name, usage=numbers, timestamp=at)


SEARCHED = usage(0, 1_000_000, server_tool_use={"web_search_requests": 100})
ADVISED = iterated({"type": "advisor_message", "model": "claude-opus-4-6", "input_tokens": 1000, "output_tokens": 2000})

# Lines of one transcript, what `ccusage daily` printed for its day, and the reason.
LINES = {
    "a space after the colon": ([spaced(one())], NOTHING, "not counted there: it has a space"),
    "a byte order mark": ([b"\xef\xbb\xbf" + line(one())], NOTHING, "the line is not one valid JSON object"),
    "two records on a line": (
        [line(one()).rstrip() + line(one(id="msg_01" + "b" * 22))],
        NOTHING,
        "the line is not one valid JSON object",
    ),
    "a null field": ([nulled(one(), "cwd")], NOTHING, "a field named cwd is null somewhere on the line"),
    "a null in the input of a tool": (
        [assistant({**tool_use(), "input": {"id": None}}, timestamp=MORNING, usage=usage(10, 300))],
        NOTHING,
        "a field named id is null somewhere on the line",
    ),
    "a version that is no number": ([one(version="dev")], NOTHING, "its version is 'dev'"),
    "tokens in quotes": ([one(usage={**usage(10), "output_tokens": "300"})], NOTHING, "its output_tokens is '300'"),
    "tokens left out": ([one(usage={"input_tokens": 10})], NOTHING, "its output_tokens is missing"),
    "a synthetic record": (
        [one(model="<synthetic>"), one("req_2", id="msg_01" + "b" * 22)],
        (20, 600, 0, 0, 0.00755),
        "counted there: <synthetic> records",
    ),
    "no requestId and two times": (
        [one(ABSENT), one(ABSENT, timestamp="2026-10-01T10:00:01.000Z")],
        (20, 600, 0, 0, 0.0151),
        "more than once: its copies have no requestId",
    ),
    "two requestIds": ([one(), one("req_2")], (20, 600, 0, 0, 0.0151), "its copies have other requestIds"),
    "a split that says less": (
        [one(output=100, usage={**usage(10, 100, cache_write=50), "cache_creation_input_tokens": 500})],
        (10, 100, 50, 0, 0.0028625),
        "its cache tokens are counted there by one record, and its split into 5m and 1h alone",
    ),
    "numbers in an iteration only": (
        [one(usage=iterated({"type": "message", "input_tokens": 10, "output_tokens": 100}, input=0, output=0))],
        NOTHING,
        "nothing is taken from the others, or from iterations",
    ),
    "a recorded cost": ([one(output=100, costUSD=1.23)], (10, 100, 0, 0, 1.23), "its recorded costUSD is taken there"),
    "web searches": ([model("claude-opus-4-6", SEARCHED)], (0, 1_000_000, 0, 0, 25), "web searches are free"),
    "inference in the US": (
        [model("claude-opus-4-6", usage(0, 1_000_000, inference_geo="us"))],
        (0, 1_000_000, 0, 0, 25),
        "inference in the US costs no more",
    ),
    "a batch": (
        [model("claude-opus-4-6", usage(0, 1_000_000, service_tier="batch"))],
        (0, 1_000_000, 0, 0, 25),
        "a batch costs no less",
    ),
    "a long context of two kinds": (
        [model("claude-sonnet-4-5", usage(150_000, 100_000, cache_read=150_000))],
        (150_000, 100_000, 0, 150_000, 1.995),
        "long contexts by the newest price",
    ),
    "a long context that cost more once": (
        [model("claude-opus-4-6", usage(300_000, 1_000), "2026-03-01T10:00:00.000Z")],
        (300_000, 1_000, 0, 0, 1.525),
        "long contexts by the newest price",
    ),
    "fast mode that has ended": (
        [model("claude-opus-4-7", usage(0, 100_000, speed="fast"))],
        (0, 100_000, 0, 0, 15),
        "fast mode costs more at all times",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_difference_of_a_day_is_explained_by(home: Home, tmp_path: Path, name: str) -> None:
    lines, printed, reason = LINES[name]
    write(home.transcript(), lines)
    refresh()
    day = "2026-03-01" if name == "a long context that cost more once" else DAY
    found = compare(report(tmp_path / "ccusage.json", "daily", {day: printed} if any(printed) else {}))
    assert reason in only(reasons(found))
    assert only(found["differences"])["key"] == day


@pytest.mark.parametrize(
    ("lines", "printed"),
    [
        ([one(output=1), one(output=300)], (10, 300, 0, 0, 0.00755)),
        ([one(), one("req_2", isSidechain=True)], (10, 300, 0, 0, 0.00755)),
        ([one(output=100, usage=ADVISED | usage(10, 100))], (1010, 2100, 0, 0, 0.05755)),
        (
            [model("claude-opus-4-5", usage(0, 0, cache_write=100_000, cache_write_1h=100_000))],
            (0, 0, 200_000, 0, 1.625),
        ),
        ([model("claude-opus-4-6", usage(0, 100_000, speed="fast"))], (0, 100_000, 0, 0, 15)),
        ([agent_progress(one(isSidechain=True))], (10, 300, 0, 0, 0.00755)),
    ],
)
def test_where_both_say_the_same_nothing_is_listed(
    home: Home, tmp_path: Path, lines: list[Record], printed: Printed
) -> None:
    write(home.transcript(), lines)
    refresh()
    found = compare(report(tmp_path / "ccusage.json", "daily", {DAY: printed}))
    assert (found["differences"], found["same"]) == ([], 1)


def test_sessions_go_by_the_path_of_a_file_there(home: Home, tmp_path: Path) -> None:
    write(home.subagent(workflow="wf_1"), [one(isSidechain=True, agentId="a1")])
    refresh()
    found = compare(report(tmp_path / "ccusage.json", "session", {"wf_1": (10, 300, 0, 0, 0.00755)}))
    away, there = reasons(found)
    assert away == "counted there for another session (it goes by the file's path): wf_1"
    assert there == f"counted there for this session, here for another: its owner is in {SESSION}"


def test_sessions_lack_what_is_embedded_there(home: Home, tmp_path: Path) -> None:
    write(home.transcript(), [user(), agent_progress(one(isSidechain=True))])
    refresh()
    found = compare(report(tmp_path / "ccusage.json", "session", {}))
    assert "it stands embedded in its parent's transcript" in only(reasons(found))


def test_a_fork_without_requestids_counts_again_in_its_session_there(home: Home, tmp_path: Path) -> None:
    shared = one(ABSENT)
    path = write(home.transcript(), [shared])
    write(home.transcript(OTHER), [{**shared, "sessionId": OTHER}])
    refresh()
    printed = dict.fromkeys((SESSION, OTHER), (10, 300, 0, 0, 0.00755))
    found = compare(report(tmp_path / "ccusage.json", "session", printed))
    assert "counted there once more for this session" in only(reasons(found))
    item = only(found["differences"])
    assert (item["key"], item["difference"]["output_tokens"], found["same"]) == (OTHER, 300, 1)
    culprit = only(only(item["reasons"])["responses"])
    assert (culprit["response_key"], culprit["file"], culprit["line"]) == (API_ID, str(path), 1)


def test_a_copy_on_another_day_is_counted_on_the_first_ones_day_there(home: Home, tmp_path: Path) -> None:
    write(home.transcript("aaa"), [one(sessionId="aaa", timestamp=NEXT_DAY)])
    write(home.transcript("bbb"), [one(sessionId="bbb")])
    refresh()
    found = compare(report(tmp_path / "ccusage.json", "daily", {"2026-10-02": (10, 300, 0, 0, 0.00755)}))
    assert reasons(found) == [
        "counted there for another day: 2026-10-02",
        "counted there for this day, here for another: its owner is in 2026-10-01",
    ]


def test_of_newer_versions_the_newer_rule_explains_more(home: Home, tmp_path: Path) -> None:
    """Since September 2026 it takes Anthropic's ids for one call at all times, within a session."""
    write(home.transcript(), [one(ABSENT), one(ABSENT, timestamp="2026-10-01T10:00:01.000Z")])
    write(home.transcript(OTHER), [one(ABSENT, sessionId=OTHER)])
    refresh()
    found = compare(report(tmp_path / "ccusage.json", "daily", {DAY: (20, 600, 0, 0, 0.0151)}))
    assert "more than once" in only(reasons(found))


def test_what_only_the_index_still_has_is_told(home: Home, tmp_path: Path) -> None:
    path = write(home.transcript(), [one()])
    write(home.transcript(OTHER), [user(sessionId=OTHER)])
    refresh()
    path.unlink()
    refresh()
    found = compare(report(tmp_path / "ccusage.json", "daily", {}))
    assert "only the index has it" in only(reasons(found))


def test_a_model_that_has_no_price_there_is_told(home: Home, tmp_path: Path) -> None:
    write(home.transcript(), [model("claude-opus-5-5", usage(0, 1_000_000))])
    refresh()
    breakdown = [{"modelName": "claude-opus-5-5", "cost": 0.0}]
    file = report(tmp_path / "ccusage.json", "daily", {DAY: (0, 1_000_000, 0, 0, 0)}, modelBreakdowns=breakdown)
    assert reasons(compare(file)) == ["claude-opus-5-5 has no price there"]


def test_a_model_that_only_has_a_price_there_is_told(home: Home, tmp_path: Path) -> None:
    write(home.transcript(), [model("glm-4.6", usage(0, 1_000_000))])
    refresh()
    breakdown = [{"modelName": "glm-4.6", "cost": 2.2}]
    file = report(tmp_path / "ccusage.json", "daily", {DAY: (0, 1_000_000, 0, 0, 2.2)}, modelBreakdowns=breakdown)
    assert only(reasons(compare(file))).startswith("glm-4.6 has a price there, and none here")


def test_what_nothing_explains_is_unexplained_and_says_how_much(home: Home, tmp_path: Path, run_cm: RunCm) -> None:
    write(home.transcript(), [one()])
    refresh()
    file = report(tmp_path / "ccusage.json", "daily", {DAY: (17, 300, 0, 0, 0.5)})
    item = only(compare(file)["differences"])
    assert item["reasons"] == []
    assert (item["unexplained"]["input_tokens"], item["unexplained"]["cost_usd"]) == (7, 0.49245)
    shown = run_cm("explain", "--against", file, "--timezone", "UTC").stdout
    assert [line.split()[1:] for line in shown.splitlines() if "unexplained" in line] == [
        ["+7", "+0", "+0", "+0", "+0.492450"]
    ]


def test_days_of_another_time_zone_are_told(home: Home, tmp_path: Path) -> None:
    times = {f"2026-10-0{day}T02:00:00.000Z": (10 * day, 300) for day in (1, 2, 5)}
    records = [one(f"req_{at}", id=f"msg_{at}", timestamp=at, usage=usage(*counts)) for at, counts in times.items()]
    write(home.transcript(), records)
    refresh()
    ours = {item["key"]: item["index"] for item in compare(report(tmp_path / "empty.json", "daily", {}))["differences"]}
    previous = {"2026-10-01": "2026-09-30", "2026-10-02": "2026-10-01", "2026-10-05": "2026-10-04"}
    theirs = {previous[day]: tuple(sums[column] for column in comparison.COLUMNS) for day, sums in ours.items()}
    file = report(tmp_path / "ccusage.json", "daily", theirs)
    assert "--timezone" in only(compare(file)["warnings"])
    assert compare(file, zone="America/New_York") == {"report": "daily", "warnings": [], "same": 3, "differences": []}
    assert compare(report(tmp_path / "less.json", "daily", {"2026-09-30": (1, 1, 0, 0, 0)}))["warnings"] == []


def test_the_text_shows_both_and_names_the_responses(home: Home, tmp_path: Path, run_cm: RunCm) -> None:
    write(home.transcript(), [one(), one("req_2"), spaced(one("req_3", id="msg_01" + "b" * 22))])
    refresh()
    file = report(tmp_path / "ccusage.json", "daily", {DAY: (20, 600, 0, 0, 0.0151)})
    found = compare(file)
    assert found["differences"] == []  # what is there twice hides what is not there at all
    file = report(tmp_path / "ccusage.json", "daily", {DAY: (10, 300, 0, 0, 0.00755)})
    shown = run_cm("explain", "--against", file, "--timezone", "UTC").stdout
    assert f"{API_ID} at {SESSION}.jsonl:1" in shown
    assert "1 day differs, 0 are the same" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_a_day_can_be_taken_out(home: Home, tmp_path: Path) -> None:
    write(home.transcript(), [one(), model("claude-opus-4-5", usage(10, 20), NEXT_DAY)])
    refresh()
    file = report(tmp_path / "ccusage.json", "daily", {})
    assert [item["key"] for item in compare(file)["differences"]] == [DAY, "2026-10-02"]
    assert [item["key"] for item in compare(file, "20261002")["differences"]] == ["2026-10-02"]
    same = report(tmp_path / "same.json", "daily", {DAY: (10, 300, 0, 0, 0.00755)})
    assert (compare(same)["same"], compare(same, "20261001")["same"], compare(same, "20261002")["same"]) == (1, 1, 0)
    with pytest.raises(BadInput, match=f"is by day, and {SESSION} is not one"):
        compare(file, SESSION)


def test_the_zone_of_the_days_must_be_the_same(home: Home, tmp_path: Path) -> None:
    write(home.transcript(), [one(timestamp="2026-10-01T23:00:00.000Z")])
    refresh()
    file = report(tmp_path / "ccusage.json", "daily", {"2026-10-02": (10, 300, 0, 0, 0.00755)})
    assert compare(file, zone="Europe/Berlin")["differences"] == []
    assert len(compare(file)["differences"]) == 2


@pytest.mark.parametrize("shape", ["sessions", "session"])
def test_reports_of_claude_alone_have_other_names(home: Home, tmp_path: Path, shape: str) -> None:
    write(home.transcript(), [one()])
    refresh()
    row = {"inputTokens": 10, "outputTokens": 300, "cacheCreationTokens": 0, "cacheReadTokens": 0, "totalCost": 0.00755}
    file = tmp_path / "ccusage.json"
    file.write_text(json.dumps({shape: [{"sessionId": SESSION, **row}]}))
    assert (compare(file)["differences"], compare(file)["same"]) == ([], 1)


def test_a_session_of_two_projects_is_added_up(home: Home, tmp_path: Path) -> None:
    write(home.transcript(), [one()])
    write(home.transcript(project="/home/dev/other"), [one("req_2", id="msg_01" + "b" * 22)])
    refresh()
    row = {"inputTokens": 10, "outputTokens": 300, "cacheCreationTokens": 0, "cacheReadTokens": 0, "totalCost": 0.00755}
    file = tmp_path / "ccusage.json"
    file.write_text(json.dumps({"session": [{"period": SESSION, **row}] * 2}))
    assert compare(file)["differences"] == []


def test_other_agents_in_the_file_are_mentioned(home: Home, tmp_path: Path) -> None:
    write(home.transcript(), [one()])
    refresh()
    file = report(
        tmp_path / "c.json", "daily", {DAY: (10, 300, 0, 0, 0.00755)}, metadata={"agents": ["claude", "codex"]}
    )
    assert compare(file)["warnings"] == ["it also counts codex: `ccusage claude` is for Claude Code alone"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"daily": [{}]}', '{"daily": {}}', '{"daily": [1]}', '{"blocks": []}']
)
def test_a_file_that_is_no_such_report_is_told_in_one_line(
    home: Home, tmp_path: Path, run_cm: RunCm, content: str
) -> None:
    write(home.transcript(), [assistant(text("hello"))])
    file = tmp_path / "ccusage.json"
    file.write_text(content)
    told = run_cm("explain", "--against", file)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"cm: {file} is not the output of `ccusage daily --json` or `ccusage session --json`\n"


def test_a_file_that_is_not_there_is_told(home: Home, tmp_path: Path, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant()])
    told = run_cm("explain", "--against", tmp_path / "none.json")
    assert told.returncode == 1
    assert told.stderr.startswith(f"cm: {tmp_path / 'none.json'}: No such file or directory; ")
