"""Random histories: however their bytes are cut into refreshes, the index says what a naive reading of them says.

The reading in this file shares nothing with the index's but the price of a token.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ledger import another_home, forget, rows

from indexer import connect, pool, prices, refresh, rollups, shard
from indexer.transcripts import Job

Record: TypeAlias = dict[str, Any]
Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[Any, ...]

MOMENT = 1_788_000_000  # of every file
SESSIONS = ("s-one", "s-two", "s-three")
API_IDS = ("msg_" + "A" * 20, "msg_01" + "b" * 22, "msg_bdrk_" + "c" * 15)
CALLED = {"toolu_" + "A" * 20: "WebSearch", "toolu_" + "B" * 20: "Task", "call_1": "WebSearch"}
CALLS = tuple(CALLED)
COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
RECORD_TYPES = ("assistant", "user", "progress", "ai-title", "summary", "system")
FAST, US, BATCH, IMPLAUSIBLE, FALLBACK = 1, 2, 4, 8, 16


# Histories

few = st.integers(0, 20)
count = st.one_of(
    few, few, few, st.sampled_from([150_000, 210_000, 10**9, 10**9 + 1, -3, "12", "1e2", "x", None, True, 2.5, [1]])
)
split = st.fixed_dictionaries({}, optional={f"ephemeral_{life}_input_tokens": count for life in ("5m", "1h")})
tokens: dict[str, Any] = {**dict.fromkeys(COUNTS, count), "cache_creation": st.one_of(split, split, st.none())}
iteration = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "advisor_message", "advisor_message", "fallback_message"])},
    optional={**tokens, "model": st.sampled_from(["claude-opus-4-6", "claude-sonnet-4-5", "claude-zeta-99"])},
)
usage = st.fixed_dictionaries(
    {},
    optional={
        **tokens,
        "iterations": st.one_of(st.lists(iteration, max_size=3), st.none()),
        "speed": st.sampled_from(["fast", "standard", None]),
        "inference_geo": st.sampled_from(["us", "global"]),
        "service_tier": st.sampled_from(["batch", "standard"]),
        "server_tool_use": st.fixed_dictionaries({"web_search_requests": count}),
    },
)
call = st.sampled_from(CALLS).map(
    lambda id: {"type": "tool_use", "id": id, "name": CALLED[id], "input": {"subagent_type": "Explore"}}
)
block = st.one_of(st.just({"type": "text", "text": "Done."}), call, call)
message = st.fixed_dictionaries(
    {"usage": st.one_of(usage, usage, usage, usage, st.none()), "content": st.lists(block, max_size=2)},
    optional={
        "id": st.sampled_from([*API_IDS, *API_IDS, "gen-1", "gen-2", None]),
        "model": st.sampled_from(
            ["claude-opus-4-6", "claude-opus-4-6", "claude-sonnet-4-5-20250929", "claude-zeta-99", "<synthetic>"]
        ),
        "stop_reason": st.sampled_from([None, "end_turn", "tool_use"]),
    },
)
time = st.one_of(
    st.sampled_from([f"2026-03-1{day}T{hour}:00:00.000Z" for day in (2, 3) for hour in ("01", "09")]),
    st.sampled_from(["2026-03-12T23:30:00.000-05:00", "yesterday", None, 5, ""]),
)
# What a record may have beside what makes it what it is; sessionId is its file's where it is not here.
envelope: dict[str, Any] = {
    "timestamp": time,
    "sessionId": st.sampled_from([*SESSIONS, None, 5, "absent", "absent"]),
    "cwd": st.sampled_from(["/w/zeta", "/w/app/.claude/worktrees/x", "C:\\w\\app\\.claude\\worktrees\\x\\y", None]),
    "isSidechain": st.booleans(),
    "sessionKind": st.sampled_from(["bg", "fg"]),
    "agentId": st.sampled_from(["a1", "acompact-2"]),
    "attributionAgent": st.sampled_from(["Reviewer", "Zed"]),
    "requestId": st.sampled_from(["r1", "r2"]),
    "uuid": st.sampled_from(["u1", "u2", "absent", "absent"]),
    "costUSD": st.sampled_from([0.25, 2, 0, "1"]),
}
answer = st.fixed_dictionaries({"type": st.just("assistant"), "message": message}, optional=envelope)
result = st.fixed_dictionaries(
    {
        "type": st.just("user"),
        "message": st.sampled_from(CALLS).map(
            lambda id: {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "ok"}]}
        ),
        "toolUseResult": st.fixed_dictionaries(
            {}, optional={"searchCount": count, "agentId": st.sampled_from(["a1", "a2"])}
        ),
    },
    optional=envelope,
)
prompt = st.fixed_dictionaries(
    {"type": st.just("user"), "message": st.just({"role": "user", "content": "Go."})}, optional=envelope
)
embedding = st.fixed_dictionaries(
    {
        "type": st.just("progress"),
        "data": st.fixed_dictionaries(
            {"type": st.just("agent_progress"), "message": st.one_of(answer, answer, result)},
            optional={"agentId": st.just("a1")},
        ),
    },
    optional=envelope,
)
title = st.just({"type": "ai-title", "aiTitle": "Build", "uuid": "absent"})
summary = st.just({"type": "summary", "summary": "Built.", "uuid": "absent", "sessionId": "absent"})
record = st.one_of(answer, answer, answer, answer, result, prompt, embedding, title, summary)
bad = st.sampled_from([b"", b"\0\0", b"[1]", b'{"no":"type"}', b'{"type":"user","torn', b"// comment"])
# A line is one record, one behind a torn one, two, one with CRLF, or nothing of use.
line = st.one_of(
    st.tuples(st.just("plain"), record),
    st.tuples(st.just("plain"), record),
    st.tuples(st.just("plain"), record),
    st.tuples(st.just("torn"), record),
    st.tuples(st.just("two"), record, record),
    st.tuples(st.just("crlf"), record),
    st.tuples(st.just("bad"), bad),
)
place = st.sampled_from(["-w-app", "-w-zeta"])
session = st.sampled_from(SESSIONS)
folder = st.sampled_from(
    ["{session}", "agent-a1", "{session}/subagents/agent-a1", "{session}/subagents/workflows/w/agent-a2"]
)
transcript = st.tuples(st.just("own"), place, session, folder, st.lists(line, min_size=1, max_size=6), st.booleans())
derived = st.one_of(
    st.tuples(st.just("fork"), st.integers(0, 3), place, session, st.booleans(), st.lists(line, max_size=2)),
    st.tuples(st.just("stale"), st.integers(0, 3), place, st.integers(1, 400)),
)
cut = st.tuples(st.integers(0, 5), st.floats(0, 1), st.booleans(), st.integers(1, 3))
history = st.tuples(
    st.lists(transcript, min_size=1, max_size=3), st.lists(derived, max_size=2), st.lists(cut, min_size=1, max_size=6)
)


def finished(drawn: Record, own_session: str, uuid: str) -> Record:
    """A drawn record with a session and an uuid, unless it is to have none."""
    # Behind a torn record only what begins like one is looked at.
    made = {"type": drawn["type"], "sessionId": own_session, "uuid": uuid, **drawn}
    return {name: value for name, value in made.items() if value != "absent"}


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def written(lines: Sequence[Any], own_session: str, prefix: str) -> Iterator[list[Any]]:
    """Lines as lists of bytes and records."""
    for number, (kind, *parts) in enumerate(lines):
        records = [
            part if isinstance(part, bytes) else finished(part, own_session, f"{prefix}{number}{nth}")
            for nth, part in enumerate(parts)
        ]
        torn = [b'{"type":"user","message":{"role":"user","content":"Never fini'] if kind == "torn" else []
        yield [*torn, *records, *([b"\r"] if kind == "crlf" else [])]


def joined(lines: Sequence[Sequence[Any]], newline: bool) -> bytes:
    data = b"".join(b"".join(p if isinstance(p, bytes) else compact(p) for p in parts) + b"\n" for parts in lines)
    return data if newline else data[:-1]


def files_of(drawn: Any) -> dict[str, bytes]:
    """Transcripts by path below `projects/`."""
    own, others, _ = drawn
    files: dict[str, bytes] = {}
    sources: list[tuple[str, list[list[Any]], bytes]] = []
    for n, (_, where, owner, name, lines, newline) in enumerate(own):
        parts = list(written(lines, owner, f"v{n}-"))
        path = f"{where}/{name.format(session=owner)}.jsonl"
        data = joined(parts, newline)
        if path not in files:
            files[path] = data
            sources.append((path, parts, data))
    for n, (kind, source, where, *rest) in enumerate(others):
        path, parts, data = sources[source % len(sources)]
        if kind == "stale":
            files.setdefault(f"{where}/copy/{path.partition('/')[2]}", data[: len(data) * rest[0] // 400])
        else:
            owner, is_background, added = rest
            marks = {"sessionKind": "bg"} if is_background else {}
            copied = [
                [part if isinstance(part, bytes) else {**part, "sessionId": owner, **marks} for part in line_parts]
                for line_parts in parts
            ]
            more = list(written(added, owner, f"f{n}-"))
            files.setdefault(f"{where}/{owner}-fork{n}.jsonl", joined(copied + more, True))
    return files


# The naive reading


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def moment(value: Any) -> int | None:
    if not is_text(value) or not re.match(r"\d{4}-\d\d-\d\dT", value):
        return None
    at = datetime.fromisoformat(value)
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def number(value: Any) -> tuple[int, bool]:
    """A count and whether it was implausible."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0, False
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        return 0, False
    return (0, True) if value > 10**9 else (int(value), False)


class Sums:
    """The counts of one call: input, output, cache write, its hour, cache read, searches."""

    def __init__(self, said: Record) -> None:
        self.is_odd = False
        self.input, self.output = self.get(said, "input_tokens"), self.get(said, "output_tokens")
        self.read = self.get(said, "cache_read_input_tokens")
        parts = said.get("cache_creation") or {}
        self.hour = self.get(parts, "ephemeral_1h_input_tokens")
        self.write = max(
            self.get(said, "cache_creation_input_tokens"),
            self.get(parts, "ephemeral_5m_input_tokens") + self.hour,
        )
        self.searches = self.get(said.get("server_tool_use") or {}, "web_search_requests")

    def get(self, said: Record, name: str) -> int:
        found, is_odd = number(said.get(name))
        self.is_odd |= is_odd
        return found

    def counts(self) -> list[int]:
        found = [self.input, self.output, self.write, self.hour, self.read, self.searches]
        self.is_odd |= max(found) > 10**9
        found = [0 if value > 10**9 else value for value in found]
        return [*found[:3], min(found[3], found[2]), *found[4:]]


def calls_of(said: Record) -> list[tuple[str | None, list[int], int]]:
    """The response's own call (model None) and its advisor's, each with counts and flags."""
    own = Sums(said)
    iterations = said.get("iterations") or []
    parts = [Sums(item) for item in iterations if item["type"] == "message"]
    for name in ("input", "output", "write", "hour", "read"):
        setattr(own, name, max(getattr(own, name), sum(getattr(part, name) for part in parts)))
    marks = FAST * (said.get("speed") == "fast") | US * (said.get("inference_geo") == "us")
    marks |= BATCH * (said.get("service_tier") == "batch")
    own_counts = own.counts()
    flags = marks | FALLBACK * any(item["type"] == "fallback_message" for item in iterations)
    flags |= IMPLAUSIBLE * (own.is_odd or any(part.is_odd for part in parts))
    found: list[tuple[str | None, list[int], int]] = [(None, own_counts, flags)]
    for item in iterations:
        if item["type"] == "advisor_message":
            advice = Sums(item)
            counts = advice.counts()
            found.append((item.get("model", ""), [*counts[:5], 0], marks | IMPLAUSIBLE * advice.is_odd))
    return found


def pieces(data: bytes) -> Iterator[tuple[int, Record, bool]]:
    """Records of a line with their offset in it, and whether they stand behind a broken part."""
    text, position, is_broken = data.replace(b"\0", b" ").decode("utf-8", "replace"), 0, False
    decoder = json.JSONDecoder()
    while position < len(text):
        if text[position] in " \t\r":
            position += 1
            continue
        try:
            value, end = decoder.raw_decode(text, position)
        except ValueError:
            is_broken = True
            position = text.find('{"', position + 1)
            if position < 0:
                return
            continue
        is_typed = isinstance(value, dict) and isinstance(value.get("type"), str)
        if is_typed and (not is_broken or value["type"] in RECORD_TYPES):
            yield len(text[:position].encode()), value, is_broken
        position = end


def usable(data: bytes) -> bytes:
    """What may be used of a last line without its newline: the values it begins with, if the first is a record."""
    decoder, text, position = json.JSONDecoder(), data.decode("utf-8", "ignore"), 0
    values = []
    try:
        while text[position:].strip():
            position += len(text[position:]) - len(text[position:].lstrip())
            value, position = decoder.raw_decode(text, position)
            values.append(value)
    except ValueError:
        if not values or not isinstance(values[0], dict) or not isinstance(values[0].get("type"), str):
            return b""
    return text[:position].encode()


class Reading:
    """All records of a set of transcripts, and what they add up to."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.copies: dict[Key, list[Row]] = defaultdict(list)
        self.uses: dict[Key, list[Row]] = defaultdict(list)
        self.results: dict[Key, list[Row]] = defaultdict(list)
        self.sessions: dict[str, list[Row]] = defaultdict(list)
        self.named: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        for path in paths:
            self.read(str(path), path.read_bytes(), path.stat().st_mtime_ns // 10**6)

    def read(self, path: str, data: bytes, mtime: int) -> None:
        found: list[tuple[int, Record, bool]] = []
        offset = 0
        for raw in data.split(b"\n"):
            used = raw if offset + len(raw) < len(data) else usable(raw)
            found += [(offset + start, record, is_broken) for start, record, is_broken in pieces(used)]
            offset += len(raw) + 1
        first_session = next((r["sessionId"] for _, r, _ in found if is_text(r.get("sessionId"))), None)
        times = [moment(r.get("timestamp")) for _, r, _ in found]
        at = next((time for time in times if time is not None), mtime)
        name = Path(path).stem if "/subagents/" not in path else path.partition("/subagents/")[0].rpartition("/")[2]
        self.look_beside(path, first_session or name)
        for (offset, record, is_broken), time in zip(found, times, strict=True):
            at = at if time is None else time
            is_own = is_text(record.get("sessionId"))
            row = {"path": path, "offset": offset, "at": at, "record": record, "is_embedded": is_broken and not is_own}
            self.take({**row, "session": record["sessionId"] if is_own else first_session or name})

    def look_beside(self, path: str, session: str) -> None:
        """Takes in what Claude Code wrote of a subagent beside its transcript."""
        meta = Path(path).with_suffix(".meta.json")
        if meta.exists() and "agentType" in (said := json.loads(meta.read_bytes())):
            self.named[session, meta.name.removesuffix(".meta.json").removeprefix("agent-")].append(
                (0, said["agentType"])
            )

    def take(self, row: Row) -> None:
        record = row["record"]
        row["side"] = row["is_embedded"] or record.get("isSidechain") is True
        row["bg"] = record.get("sessionKind") == "bg"
        row["agent"] = record.get("agentId") or (record.get("data") or {}).get("agentId")
        row["cwd"] = record.get("cwd")
        self.sessions[row["session"]].append(row)
        if row["agent"] and record.get("attributionAgent"):
            self.named[row["session"], row["agent"]].append((1, record["attributionAgent"]))
        if record["type"] == "progress":
            inner = record["data"].get("message")
            if record["data"]["type"] != "agent_progress" or not isinstance(inner, dict):
                return
            own = moment(inner.get("timestamp"))
            at = row["at"] if own is None else own
            self.speak({**row, "record": inner, "side": True, "is_embedded": True, "at": at}, inner)
        else:
            self.speak(row, record)

    def speak(self, row: Row, record: Record) -> None:
        """Takes in what a record says of a response, of calls and of results."""
        if record["type"] not in ("assistant", "user"):
            return
        said = record.get("message") or {}
        row["rank"] = tuple(row[name] for name in ("side", "bg", "is_embedded", "at", "session", "path", "offset"))
        row["key"] = None
        if record["type"] == "assistant" and isinstance(said.get("usage"), dict) and said.get("model") != "<synthetic>":
            row["calls"] = calls_of(said["usage"])
            row["key"] = self.key(row, record, said)
            self.copies[row["key"]].append(row)
        result = record.get("toolUseResult")
        for item in said["content"] if isinstance(said.get("content"), list) else ():
            id = item.get("id") or item.get("tool_use_id") or ""
            # Only the API's ids are unique beyond a session.
            call = (id,) if re.fullmatch(r"(srv)?toolu_[A-Za-z0-9_]{20,}", id) else (id, row["session"])
            if item["type"] in ("tool_use", "server_tool_use"):
                self.uses[call].append({**row, "item": item})
            elif item["type"] == "tool_result":
                self.results[call].append(result if isinstance(result, dict) else {})
                result = None

    def key(self, row: Row, record: Record, said: Record) -> Key:
        id, request = said.get("id"), record.get("requestId")
        if id and re.fullmatch(r"msg_[A-Za-z0-9_]{20,}", id):
            return (id,)
        if id and request:
            return (id, request)
        if id:
            counts = row["calls"][0][1]
            return (row["session"], id, counts[0], counts[2], counts[4])
        if record.get("uuid"):
            return ("uuid", record["uuid"])
        return ("bytes", hashlib.sha256(compact(record)).hexdigest())

    def project(self, session: str) -> str:
        """The first directory of the session, main before subagents, as the project it is in."""
        order = ("side", "at", "path", "offset")
        first = min(self.sessions[session], key=lambda row: (not is_text(row["cwd"]), *(row[name] for name in order)))
        cwd = first["cwd"]
        if not is_text(cwd):
            return str(first["path"]).rpartition("/projects/")[2].split("/")[0]
        return re.split(r"[/\\]\.claude[/\\]worktrees[/\\]", cwd)[0]

    def agent(self, row: Row) -> str | None:
        if not row["side"]:
            return None
        known = self.named.get((row["session"], row["agent"]))
        if known:
            return min(known)[1]
        return "compact" if (row["agent"] or "").startswith("acompact") else "unknown"

    def tool_calls(self) -> list[Row]:
        found = []
        for call, uses in self.uses.items():
            results = self.results.get(call, [])
            owner = min(uses, key=lambda row: row["rank"])
            for use in uses:
                kind = use["item"]["input"].get("subagent_type")
                for agent in [r["agentId"] for r in results if is_text(r.get("agentId"))]:
                    if use["item"]["name"] in ("Task", "Agent") and kind:
                        self.named[use["session"], agent].append((2, kind))
            found.append(
                {
                    "tool_use_id": call[0], "name": owner["item"]["name"], "session_id": owner["session"],
                    "path": owner["path"], "offset": owner["offset"], "started_at": owner["at"],
                    "web_searches": max((number(r.get("searchCount"))[0] for r in results), default=0),
                    "key": owner["key"],
                }
            )  # fmt: skip
        return found

    def responses(self) -> tuple[list[Row], list[Row]]:
        calls = self.tool_calls()
        found, owners = [], {}
        for key, copies in self.copies.items():
            owner = owners[key] = min(copies, key=lambda row: row["rank"])
            marks = 0
            for copy in copies:
                marks |= copy["calls"][0][2] & (FAST | US | BATCH)
            searched = sum(call["web_searches"] for call in calls if call["key"] == key)
            for part in range(max(len(copy["calls"]) for copy in copies)):
                having = sorted((copy for copy in copies if len(copy["calls"]) > part), key=lambda row: row["rank"])
                found.append(self.response(owner, having, part, marks, searched))
        for call in calls:
            owner = owners.get(call.pop("key"))
            call["response"] = owner and (owner["path"], owner["offset"])
        return found, calls

    def response(self, owner: Row, copies: list[Row], part: int, marks: int, searched: int) -> Row:
        counts = [max(copy["calls"][part][1][field] for copy in copies) for field in range(6)]
        flags = marks
        for copy in copies:
            flags |= copy["calls"][part][2]
        stops = [copy["record"]["message"].get("stop_reason") for copy in copies if part == 0]
        costs = [recorded(copy["record"].get("costUSD")) for copy in copies if part == 0]
        model = copies[0]["calls"][part][0]
        model = copies[0]["record"]["message"].get("model", "") if model is None else model
        searches = max(counts[5], searched) if part == 0 else 0
        stop = max(filter(None, stops), default=None)
        return {
            "path": owner["path"], "offset": owner["offset"], "part": part, "session_id": owner["session"],
            "project": self.project(owner["session"]), "agent": self.agent(owner), "model": model, "at": owner["at"],
            "input": counts[0], "output": counts[1], "write": counts[2], "hour": counts[3], "read": counts[4],
            "searches": searches, "flags": flags, "stop_reason": stop, "record_count": len(copies),
            "is_undercounted": int(part == 0 and counts[1] <= 10 and stop is None),
            "recorded_nano": max(filter(None, costs), default=None),
            "cost": cost(model, owner["at"], [*counts[:5], searches], flags),
        }  # fmt: skip


def recorded(usd: Any) -> int | None:
    return round(usd * 10**9) if isinstance(usd, (int, float)) and usd > 0 else None


PRICES = prices.load()
RATES = {rate.id: rate for rate in prices.rates(PRICES)}


def cost(model: str, at: int, counts: list[int], flags: int) -> tuple[int, ...] | None:
    price = prices.price_at(PRICES, model, at)
    if price is None:
        return None
    input, output, write, hour, read, searches = counts
    rate = prices.rate_id(price, input + write + read, bool(flags & FAST), bool(flags & US), bool(flags & BATCH))
    return tuple(prices.cost(RATES[rate], input, output, write - hour, hour, read, searches))


# What the index says

RESPONSES = """
SELECT
  f.path, w.offset, r.part, u.session_id, u.project, u.agent, m.name AS model, r.at, r.input_tokens AS input,
  r.output_tokens AS output, r.cache_write_tokens AS write, r.cache_write_1h_tokens AS hour,
  r.cache_read_tokens AS read, r.web_searches AS searches, r.flags, r.stop_reason, r.record_count,
  r.is_undercounted, r.recorded_nano,
  c.input AS i, c.output AS o, c.cache_write AS w, c.cache_read AS c, c.web_search AS s
FROM responses AS r
JOIN (SELECT DISTINCT message_id, session_id, project, agent FROM usage) AS u ON u.message_id = r.owner_id
JOIN models AS m ON m.id = r.model_id
JOIN records AS w ON w.id = r.owner_id
JOIN files AS f ON f.id = w.file_id
LEFT JOIN response_costs AS c ON c.id = r.id
ORDER BY f.path, w.offset, r.part
"""
CALLS_SQL = """
SELECT
  t.tool_use_id, t.name, s.session_id, f.path, w.offset, t.started_at, t.web_searches,
  g.path AS response_path, o.offset AS response_offset
FROM tool_calls AS t
JOIN sessions AS s ON s.id = t.session_id
JOIN records AS w ON w.id = t.record_id
JOIN files AS f ON f.id = w.file_id
LEFT JOIN responses AS r ON r.id = t.response_id
LEFT JOIN records AS o ON o.id = r.owner_id
LEFT JOIN files AS g ON g.id = o.file_id
ORDER BY t.tool_use_id, s.session_id
"""
SESSIONS_SQL = """
SELECT s.session_id, p.path AS project, s.first_at, s.last_at, s.record_count, s.title
FROM sessions AS s JOIN projects AS p ON p.id = s.project_id
ORDER BY s.session_id
"""
# Nothing that is stored depends on the cuts either.
STORED = {
    "records": "SELECT f.path, r.offset, r.line, r.length, r.at, r.flags, r.uuid, r.digest, r.block, r.response_id,"
    " c.cwd, c.agent, s.session_id FROM records AS r JOIN files AS f ON f.id = r.file_id"
    " JOIN contexts AS c ON c.id = r.context_id JOIN sessions AS s ON s.id = c.session_id ORDER BY 1, 2",
    "messages": "SELECT m.file, m.offset, d.file AS original, d.offset AS original_offset FROM messages AS m"
    " LEFT JOIN messages AS d ON d.id = m.duplicate_of ORDER BY 1, 2",
    "skipped": "SELECT f.path, k.offset, k.reason, k.is_partial FROM skipped_lines AS k"
    " JOIN files AS f ON f.id = k.file_id ORDER BY 1, 2",
    "files": "SELECT path, size, line_count, indexed_lines, tail, first_at FROM files ORDER BY path",
    "relations": "SELECT * FROM relations ORDER BY session_id, rank",
    "shared": "SELECT session_id, shared_responses, shared_with FROM session_usage ORDER BY 1",
    "keys": "SELECT key, part, owner_rank FROM record_usage AS u JOIN records AS r ON r.id = u.record_id"
    " JOIN files AS f ON f.id = r.file_id ORDER BY f.path, r.offset, part",
}


def said_by_index() -> tuple[list[Row], list[Row], list[Row]]:
    responses = rows(RESPONSES)
    for row in responses:
        nanos = tuple(row.pop(name) for name in "iowcs")
        row["cost"] = None if nanos[0] is None else nanos
    calls = rows(CALLS_SQL)
    for row in calls:
        place = row.pop("response_path"), row.pop("response_offset")
        row["response"] = None if place[0] is None else place
    return responses, calls, rows(SESSIONS_SQL)


def said_by_reading(root: Path) -> tuple[list[Row], list[Row], list[Row]]:
    reading = Reading(root.rglob("projects/**/*.jsonl"))
    responses, calls = reading.responses()
    sessions = [
        {
            "session_id": session, "project": reading.project(session),
            "first_at": min(row["at"] for row in found), "last_at": max(row["at"] for row in found),
            "record_count": len(found),
        }
        for session, found in reading.sessions.items()
    ]  # fmt: skip
    order = ("path", "offset", "part")
    return (
        sorted(responses, key=lambda row: tuple(row[name] for name in order)),
        sorted(calls, key=lambda row: (row["tool_use_id"], row["session_id"])),
        sorted(sessions, key=lambda row: row["session_id"]),
    )


def grow(root: Path, files: dict[str, bytes], cuts: Sequence[tuple[int, float, bool, int]]) -> None:
    """Lets the files grow cut by cut, with a refresh after each, and then to their ends."""
    paths = sorted(files)
    lengths = dict.fromkeys(paths, -1)
    for which, share, is_alone, workers in cuts:
        path = paths[which % len(paths)]
        length = int(share * len(files[path]))
        if length > lengths[path]:
            lengths[path] = length
            put(root, path, files[path][:length])
            index(workers, [str(root / "projects" / path)] if is_alone else ())
    for path in paths:
        put(root, path, files[path])
    index(cuts[0][3])


def index(workers: int, paths: Sequence[str] = ()) -> None:
    """Refreshes, with two workers in shards of a transcript each, as processes make them of many."""
    if workers != 2:
        refresh(paths=paths, workers=workers)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "run", in_shards)
        refresh(paths=paths)


def in_shards(jobs: Sequence[Job], connection: sqlite3.Connection, _: int | None) -> Iterator[shard.Shard]:
    blueprint = shard.Blueprint(connection)
    for job in jobs:
        yield from shard.build(blueprint, [job], lambda _: None)


def put(root: Path, path: str, data: bytes) -> None:
    target = root / "projects" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    os.utime(target, (MOMENT, MOMENT))


def holds(drawn: Any) -> None:
    files = files_of(drawn)
    with another_home() as home:
        grow(home.root, files, drawn[2])
        bit_by_bit = said_by_index()
        stored = {name: rows(sql) for name, sql in STORED.items()}
        with closing(connect()) as connection:
            assert rollups.wrong(connection) == {}
        forget()
        refresh(workers=1)
        at_once = said_by_index()
        for name, sql in STORED.items():
            assert stored[name] == rows(sql), name
        naive = said_by_reading(home.root)
    for one, other in zip(bit_by_bit, at_once, strict=True):
        assert one == other
    agree(at_once, naive)


def agree(index: tuple[list[Row], ...], naive: tuple[list[Row], ...]) -> None:
    for row in index[2]:
        del row["title"]
    for one, other in zip(index, naive, strict=True):
        assert one == other


# A summary and a title on one line, cut within the title: until that is whole, the file's name is the session.
A_SESSION_THAT_ONLY_STOOD_IN = (
    [
        (
            *("own", "-w-app", "s-one", "agent-a1"),
            [
                (
                    "two",
                    {"type": "summary", "summary": "Built.", "uuid": "absent", "sessionId": "absent"},
                    {"type": "ai-title", "aiTitle": "Build", "uuid": "absent"},
                )
            ],
            False,
        )
    ],
    [],
    [(0, 0.0, False, 2), (0, 0.5, False, 1)],
)


@settings(max_examples=120, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
@given(history)
@example(A_SESSION_THAT_ONLY_STOOD_IN)
def test_the_index_does_not_depend_on_cuts_and_orders_and_says_what_a_naive_reading_says(drawn: Any) -> None:
    holds(drawn)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@settings(max_examples=10_000, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
@given(history)
@example(A_SESSION_THAT_ONLY_STOOD_IN)
def test_the_index_does_not_depend_on_cuts_and_orders_for_long(drawn: Any) -> None:
    holds(drawn)


@pytest.mark.slow
def test_of_real_transcripts_too_the_index_says_what_a_naive_reading_says() -> None:
    folder = os.environ.get("CM_TRANSCRIPTS")
    if not folder:
        pytest.skip("CM_TRANSCRIPTS names no folder of real transcripts")
    with another_home():
        for root in sorted(path.parent for path in Path(folder).glob("*/projects")):
            forget()
            refresh([str(root)])
            agree(said_by_index(), said_by_reading(root))
