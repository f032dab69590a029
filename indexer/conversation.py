"""A conversation as it went: turns with their prompts, answers, thinking, tool calls, subagents, tokens and cost.

The index has what was said and what it cost. What tools were given and gave back, and thinking, stand in the
transcript: its records are read where the index says they are, and only if they still are those records. Else they
come from the archive, where there is one; what nobody has any more is said to be missing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import closing

from . import fulltext, sessions
from .batch import TEXT_DROPPED
from .passages import INPUT
from .sources import Source
from .store import fetch_dicts, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from .sessions import Target
    from .sources import Archive

    Row = dict[str, Any]
    Step = dict[str, Any]

# Copies of a record within the session (a transcript that moved, an earlier generation) stand once: the longest, a
# tool may have pruned the others; of these, one that can still be read.
_RECORDS = """
SELECT
  r.id, r.uuid, r.digest, r.at, r.length, r.flags, r.parent_uuid, r.block, r.response_id, r.text, t.type, t.subtype,
  m.name AS model, c.is_sidechain, c.agent, f.gone_at IS NOT NULL OR f.replaced_at IS NOT NULL AS is_source_gone
FROM contexts AS c
CROSS JOIN records AS r ON r.context_id = c.id
JOIN record_types AS t ON t.id = r.type_id
JOIN files AS f ON f.id = r.id >> 40
LEFT JOIN models AS m ON m.id = r.model_id
WHERE c.session_id = ? {types}
ORDER BY r.length DESC, is_source_gone, r.id
"""
_SAID = "AND t.type IN ('assistant', 'user', 'system', 'attachment', 'progress')"
_TOOL_USES = """
SELECT u.record_id, u.call_id, u.tool_use_id, u.name, u.subject
FROM contexts AS c
CROSS JOIN records AS r ON r.context_id = c.id
CROSS JOIN tool_uses AS u ON u.record_id = r.id
WHERE c.session_id = ?
"""
_TOOL_RESULTS = """
SELECT x.record_id, x.call_id, x.is_error, x.bytes, x.agent
FROM contexts AS c
CROSS JOIN records AS r ON r.context_id = c.id
CROSS JOIN tool_results AS x ON x.record_id = r.id
WHERE c.session_id = ?
"""
_WORDS = f"SELECT text FROM passages WHERE record_id = ? AND kind = {INPUT}"
_USED_BY = """
SELECT u.record_id, u.response_id
FROM contexts AS c
CROSS JOIN records AS r ON r.context_id = c.id
CROSS JOIN record_usage AS u ON u.record_id = r.id
WHERE c.session_id = ?
"""
_COMMAND = re.compile(r"<command-name>\s*/?(.*?)\s*</command-name>", re.DOTALL)
_COMMAND_ARGUMENTS = re.compile(r"<command-args>(.*?)</command-args>", re.DOTALL)
_TAG = re.compile(r"</?(?:local-command-\w+|bash-\w+|command-\w+)>")
# What says best what a tool was called for, most telling first.
_SUBJECTS = (
    "file_path", "notebook_path", "command", "pattern", "url", "query", "description", "skill", "path", "prompt",
)  # fmt: skip
# Records beside messages that a reader wants to see.
_NOTES = {
    ("user", "compact_summary"), ("user", "interruption"), ("assistant", "api_error"), ("system", "compact_boundary"),
    ("system", "api_error"), ("system", "away_summary"), ("system", "informational"),
}  # fmt: skip


# The conversation


def read(
    connection: sqlite3.Connection,
    target: Target,
    archive: Archive | None = None,
    turns: range | None = None,
) -> Row:
    """A conversation as JSON has it.

    Args:
        target: as `sessions.find` gives it; with a record, only the turn in which that stands.
        archive: gives the bytes of records whose transcript is gone.
        turns: which turns to read, by their places from 0; None is all. Reading one needs its transcript, so a page
            that shows ten turns reads ten.

    Returns:
        What `sessions.about` says of the session, with `turn_count` for its `turns`; `turns`, a list; and `missing`:
        `[{file, records, reason}]`, where records would be that the answer lacks.

        A turn has `number` (from 1), `at`, `prompt` (a step, None before the first), `steps`, the same sums of all
        that it led to, subagents included, and `shared_responses`: how many of these another session owns.

        A step has `kind`, `id` (of its message), `at` and `text`, by kind:
        `prompt` (also one queued meanwhile; `images`: how many), `answer` (`model`), `thinking`, `note` (`about`:
        what it tells of) and `tool`: `name, input` (an object), `subject` (the input's most telling part), `text`
        (the result), `is_error, result_bytes, ended_at, agents`. `agent` is a subagent that no call is known of;
        these and `agents` have `agent` (its id), `type, description, steps` and the sums. Times are UTC ISO 8601.
        `is_missing`: what it held is gone with its transcript, or forgotten; its text is None then. Of an input that is
        gone, the words that were kept for searching may be left, as a text. An empty thinking was never
        written by Claude Code.
    """
    with snapshot(connection), closing(_source(connection, target, archive)) as source:
        return _Reading(connection, target, source).conversation(turns)


def raw(connection: sqlite3.Connection, target: Target, archive: Archive | None = None) -> Iterator[bytes | None]:
    """The records themselves, in the order of the conversation, copies once; None for each that is gone."""
    with snapshot(connection), closing(_source(connection, target, archive)) as source:
        rows = _once(fetch_dicts(connection, _RECORDS.format(types=""), (target.id,)))
        for row in rows:
            if target.record_id in (None, row["id"]):
                yield source.data(row)


def _source(connection: sqlite3.Connection, target: Target, archive: Archive | None) -> Source:
    row = connection.execute("SELECT 1 FROM forgotten WHERE id = ?", (target.id,)).fetchone()
    return Source(connection, archive, is_forgotten=row is not None)


def _once(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order of the conversation, the first of each that is a copy of another."""
    found: dict[Any, Row] = {}
    said: set[Any] = set()
    for row in rows:
        key = row["uuid"] or row["id"]
        # A teleported session repeats answers under new uuids.
        answer = (row["response_id"], row["block"], row["text"]) if row["response_id"] is not None else None
        if key in found or answer in said:
            continue
        found[key] = row
        if answer is not None:
            said.add(answer)
    return sorted(found.values(), key=lambda row: (row["at"], row["id"]))


class _Agent:
    """A subagent's records, and the turn they belong to."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.rows: list[Row] = []
        self.turn = 0
        self.is_placed = False  # below the call that started it


class _Reading:
    """A session taken apart: what belongs to which turn and which subagent, and what that cost."""

    def __init__(self, connection: sqlite3.Connection, target: Target, source: Source) -> None:
        self._connection = connection
        self._target = target
        self._source = source
        of_session = (target.id,)
        self._uses = _by_record(fetch_dicts(connection, _TOOL_USES, of_session))
        self._results = _by_record(fetch_dicts(connection, _TOOL_RESULTS, of_session))
        self._spent = {row["id"]: row for row in fetch_dicts(connection, sessions.SPENT, of_session)}
        self._responses: dict[int, list[int]] = {}
        for record_id, response_id in connection.execute(_USED_BY, of_session):
            self._responses.setdefault(record_id, []).append(response_id)
        self._call_ids = {use["tool_use_id"]: use["call_id"] for uses in self._uses.values() for use in uses}
        self._types = {
            agent: (type, description)
            for agent, type, description in connection.execute(
                "SELECT agent, type, description FROM agents WHERE session_id = ?", of_session
            )
        }
        self._has_passages = fulltext.kept(connection) is not None
        self._calls: dict[int, Step] = {}
        self._turns: list[list[Row]] = []
        self._agents: dict[str, _Agent] = {}
        self._sort(_once(fetch_dicts(connection, _RECORDS.format(types=_SAID), of_session)))

    # What belongs where

    def _sort(self, rows: list[Row]) -> None:
        """Rows into turns of the main conversation, and into subagents."""
        parents = {row["uuid"]: row["parent_uuid"] for row in rows if row["is_sidechain"]}
        for row in rows:
            if row["is_sidechain"] or row["subtype"] == "agent_progress":
                name = row["agent"] or _root(row["uuid"], parents)
                self._agents.setdefault(name, _Agent(row["agent"])).rows.append(row)
            elif _begins_turn(row) or (not self._turns and _is_said(row)):
                self._turns.append([row])
            elif self._turns:
                self._turns[-1].append(row)
        starts = [turn[0]["at"] for turn in self._turns]
        places = {row["id"]: number for number, turn in enumerate(self._turns) for row in turn}
        callers = self._callers()
        for name, agent in self._agents.items():
            agent.turn = self._turn_of(name, callers, places, starts)
        if not self._turns and self._agents:
            self._turns.append([])

    def _callers(self) -> dict[str, int]:
        """The record that called each subagent whose result names it."""
        records = {use["call_id"]: record_id for record_id, uses in self._uses.items() for use in uses}
        results = [result for results in self._results.values() for result in results]
        return {
            result["agent"]: records[result["call_id"]]
            for result in results
            if result["agent"] and result["call_id"] in records
        }

    def _turn_of(self, name: str, callers: dict[str, int], places: dict[int, int], starts: list[int]) -> int:
        """The turn that a subagent worked for: that of its call, also if another subagent called; else by time."""
        owners = {row["id"]: other for other, agent in self._agents.items() for row in agent.rows}
        seen: set[str] = set()
        current: str | None = name
        while current is not None and current in callers and current not in seen:
            seen.add(current)
            caller = callers[current]
            if caller in places:
                return places[caller]
            current = owners.get(caller)
        return max(bisect_right(starts, self._agents[name].rows[0]["at"]) - 1, 0)

    # The answer

    def conversation(self, turns: range | None) -> Row:
        if self._target.record_id is not None:
            number = self._turn_with(self._target.record_id)
            turns = range(number, number + 1)
        wanted = range(len(self._turns)) if turns is None else turns
        told = [self._turn(number) for number in wanted if number < len(self._turns)]
        missing = [
            {"file": path, "records": count, "reason": reason} for (path, reason), count in self._source.missing.items()
        ]
        return {
            **sessions.about(self._connection, self._target.id),
            "turn_count": len(self._turns),
            "turns": told,
            "missing": sorted(missing, key=lambda item: str(item["file"])),
        }

    def _turn_with(self, record_id: int) -> int:
        agents = [(agent.turn, agent.rows) for agent in self._agents.values()]
        for number, rows in [*enumerate(self._turns), *agents]:
            if any(row["id"] == record_id for row in rows):
                return number
        return self._turn_near(record_id)

    def _turn_near(self, record_id: int) -> int:
        """The turn of a record that is none of a conversation, or a copy: by its time."""
        (at,) = self._connection.execute("SELECT at FROM records WHERE id = ?", (record_id,)).fetchone()
        return max(bisect_right([turn[0]["at"] for turn in self._turns if turn], at) - 1, 0)

    def _turn(self, number: int) -> Row:
        rows = self._turns[number]
        agents = [agent for agent in self._agents.values() if agent.turn == number]
        prompt = self._prompt(rows[0]) if rows and _begins_turn(rows[0]) else None
        steps = self._steps(rows[1:] if prompt else rows, agents)
        for agent in agents:
            if not agent.is_placed:
                steps.append({"kind": "agent", **self._agent(agent, agents)})
        steps.sort(key=lambda step: str(step["at"]))
        responses = self._of(rows).union(*(self._of(agent.rows) for agent in agents))
        shared = sum(self._spent[id]["session_id"] != self._target.id for id in responses)
        at = rows[0]["at"] if rows else agents[0].rows[0]["at"]
        return {
            "number": number + 1,
            "at": sessions.iso(at),
            "prompt": prompt,
            "steps": steps,
            **sessions.sums([self._spent[id] for id in responses]),
            "shared_responses": shared,
        }

    def _of(self, rows: Sequence[Row]) -> set[int]:
        """Responses that rows are part of."""
        return {id for row in rows for id in self._responses.get(row["id"], ()) if id in self._spent}

    def _agent(self, agent: _Agent, agents: Sequence[_Agent]) -> Row:
        agent.is_placed = True
        type, description = self._types.get(agent.name, (None, None)) if agent.name else (None, None)
        if type is None and (agent.name or "").startswith("acompact"):
            type = "compact"
        rows = self._own(agent.rows)
        return {
            "id": rows[0]["id"],
            "at": sessions.iso(rows[0]["at"]),
            "agent": agent.name,
            "type": type,
            "description": description,
            "steps": self._steps(rows, agents),
            **sessions.sums([self._spent[id] for id in self._of(agent.rows)]),
        }

    def _own(self, rows: list[Row]) -> list[Row]:
        """Without what is embedded in the parent's transcript and stands in the subagent's own, too."""
        own = [row for row in rows if row["subtype"] != "agent_progress"]
        if not own:
            return rows
        known = self._of(own)
        return [row for row in rows if row["subtype"] != "agent_progress" or self._of([row]) - known]

    # Steps

    def _steps(self, rows: Iterable[Row], agents: Sequence[_Agent]) -> list[Step]:
        steps: list[Step] = []
        for row in rows:
            for step in self._told(row):
                steps.append(step)
                if step["kind"] == "tool":
                    self._place_by_prompt(step, agents)
            self._take_results(row, steps, agents)
        return steps

    def _told(self, row: Row) -> list[Step]:
        """What a record adds to the conversation."""
        kind, subtype = row["type"], row["subtype"]
        if (kind, subtype) in _NOTES:
            return [_step("note", row, row["text"], about=subtype)] if row["text"] else []
        if kind == "assistant":
            return self._answer(row)
        if kind == "user" and subtype in ("prompt", "command"):
            return [self._prompt(row)]
        if kind == "attachment" and subtype == "queued_command" and row["text"]:
            return [_step("prompt", row, row["text"], images=0)]
        if subtype == "agent_progress":
            record = self._source.record(row)
            return self._embedded(row, record) if record is not None else []
        return []

    def _embedded(self, row: Row, record: Row) -> list[Step]:
        """A subagent's record within its parent's."""
        inner = record.get("data", {}).get("message", {})
        content = _content(inner)
        if inner.get("type") == "assistant":
            return [step for item in content for step in self._block(row, item)]
        self._take_contents(row, content, None)
        texts = [item["text"] for item in content if item.get("type") == "text" and isinstance(item.get("text"), str)]
        return [_step("prompt", row, "\n".join(texts), images=0)] if texts else []

    def _prompt(self, row: Row) -> Step:
        record = self._source.record(row, is_needed=False)
        images = sum(item.get("type") in ("image", "document") for item in _content(record or {}))
        said = row["text"]
        if said is None and record is not None:  # the index keeps no text
            said = result_text(record.get("message", {}).get("content"))
        text = command_text(said or "") if row["subtype"] == "command" else said
        return _step("prompt", row, text, images=images)

    def _answer(self, row: Row) -> list[Step]:
        is_whole = row["block"] is None and row["id"] not in self._uses
        if is_whole and not row["flags"] & TEXT_DROPPED:
            return [_step("answer", row, row["text"], model=row["model"])] if row["text"] else []
        record = self._source.record(row)
        if record is not None:
            return [step for item in _content(record) for step in self._block(row, item)]
        steps = [_step("answer", row, row["text"], model=row["model"])] if row["text"] or is_whole else []
        uses = self._uses.get(row["id"], ())
        words = self._words(row) if len(uses) == 1 else None
        steps += [self._tool(row, use, words) for use in uses]
        return steps or [_step("thinking", row, None)]

    def _words(self, row: Row) -> str | None:
        """What was kept of the input of a record's only tool call, to be searched."""
        found = self._connection.execute(_WORDS, (row["id"],)).fetchall() if self._has_passages else []
        return str(found[0][0]) if len(found) == 1 else None

    def _block(self, row: Row, item: Row) -> list[Step]:
        kind, text = item.get("type"), item.get("text")
        if kind == "text":
            return [_step("answer", row, text, model=row["model"])] if isinstance(text, str) and text else []
        if kind == "thinking":
            thinking = item.get("thinking")
            return [_step("thinking", row, thinking if isinstance(thinking, str) else "")]
        if kind in ("tool_use", "server_tool_use"):
            uses = [use for use in self._uses.get(row["id"], ()) if use["tool_use_id"] == item.get("id")]
            return [self._tool(row, use, item.get("input")) for use in uses[:1]]
        return []

    def _tool(self, row: Row, use: Row, given: Any) -> Step:
        step = _step("tool", row, None, name=use["name"], input=given, subject=subject(given) or use["subject"])
        step |= {"is_error": None, "result_bytes": None, "ended_at": None, "agents": []}
        step["is_missing"] = given is None
        self._calls[use["call_id"]] = step
        return step

    # What tools gave back

    def _take_results(self, row: Row, steps: list[Step], agents: Sequence[_Agent]) -> None:
        results = self._results.get(row["id"], ())
        if not results or row["subtype"] == "agent_progress":
            return
        record = self._source.record(row)
        self._take_contents(row, _content(record or {}), steps)
        for result in results:
            step = self._calls.get(result["call_id"])
            if step is not None:
                step |= {"is_error": bool(result["is_error"]), "result_bytes": result["bytes"]}
                step["ended_at"] = step["ended_at"] or sessions.iso(row["at"])
                step["is_missing"] |= record is None
                agent = self._agents.get(result["agent"] or "")
                if agent is not None and agent in agents and not agent.is_placed:
                    step["agents"].append(self._agent(agent, agents))

    def _take_contents(self, row: Row, content: Iterable[Row], steps: list[Step] | None) -> None:
        for item in content:
            step = self._calls.get(self._call_ids.get(item.get("tool_use_id"), 0))
            if item.get("type") == "tool_result" and step is not None:
                step["text"] = result_text(item.get("content"))
                step["ended_at"] = sessions.iso(row["at"])

    def _place_by_prompt(self, step: Step, agents: Sequence[_Agent]) -> None:
        """Places a subagent whose result names nobody, or is not written yet: by what it was told."""
        given = step["input"]
        if step["name"] not in ("Task", "Agent") or not isinstance(given, dict):
            return
        for agent in agents:
            if not agent.is_placed and agent.rows[0]["text"] and agent.rows[0]["text"] == given.get("prompt"):
                step["agents"].append(self._agent(agent, agents))
                return


def _by_record(rows: Iterable[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["record_id"], []).append(row)
    return found


def _root(uuid: str | None, parents: dict[str | None, str | None]) -> str:
    """Where a chain of records began; chains with cycles exist."""
    seen = set()
    while uuid not in seen and parents.get(uuid) in parents and parents.get(uuid) is not None:
        seen.add(uuid)
        uuid = parents[uuid]
    return f"chain {uuid}"


def _begins_turn(row: Row) -> bool:
    if row["type"] != "user":
        return False
    is_typed = row["subtype"] == "command" and "<command-name>" in (row["text"] or "")
    return is_typed or row["subtype"] == "prompt"


def _is_said(row: Row) -> bool:
    return bool(row["type"] == "assistant" or row["subtype"] == "compact_summary")


def _step(kind: str, row: Row, text: str | None, **rest: Any) -> Step:
    return {
        "kind": kind,
        "id": row["id"],
        "at": sessions.iso(row["at"]),
        "text": text,
        **rest,
        "is_missing": text is None,
    }


def _content(record: Row) -> list[Row]:
    """Blocks of a record's message."""
    message = record.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []


def result_text(content: Any) -> str:
    """What a tool gave back, as text."""
    if isinstance(content, str):
        return content
    parts = []
    for item in content if isinstance(content, list) else ():
        if isinstance(item, dict):
            text = item.get("text")
            parts.append(text if isinstance(text, str) else f"[{item.get('type', 'nothing')}]")
    return "\n".join(parts)


def subject(given: Any) -> str | None:
    """The most telling part of a tool's input."""
    if isinstance(given, str):
        return given.strip().partition("\n")[0]
    if not isinstance(given, dict):
        return None
    named = [given[name] for name in _SUBJECTS if isinstance(given.get(name), str) and given[name]]
    return named[0] if named else next((value for value in given.values() if isinstance(value, str) and value), None)


def command_text(text: str) -> str:
    """What was typed of a slash command, or what it said."""
    name = _COMMAND.search(text)
    if name is None:
        return _TAG.sub("", text).strip()
    arguments = _COMMAND_ARGUMENTS.search(text)
    return f"/{name[1]} {arguments[1] if arguments else ''}".strip()
