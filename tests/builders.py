"""Builders of transcripts for tests: one call, one record, with ids and times that count up.

Any field can be overridden by name, and left out with `ABSENT`; `None` is written as null.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

Record: TypeAlias = dict[str, Any]

ABSENT: Final = object()
SESSION: Final = "5e551000-0000-4000-8000-000000000001"
PROJECT: Final = "/home/dev/app"
START: Final = datetime(2026, 10, 1, 9, tzinfo=UTC)
UUID, MESSAGE_ID = "00000000-0000-4000-8000-{:012}", "msg_01{:022}"
REQUEST_ID, TOOL_USE_ID = "req_011{:021}", "toolu_01{:022}"
OF_THE_MESSAGE: Final = ("id", "model", "role", "content", "stop_reason", "stop_sequence", "usage")

_numbers = itertools.count(1)


def restart() -> None:
    """Ids and times count up from the first ones again: a test's are the same whatever ran before it."""
    global _numbers
    _numbers = itertools.count(1)


def fresh(shape: str) -> str:
    """An id of that shape that no other record has."""
    return shape.format(next(_numbers))


def later() -> str:
    """A time one second or more after every time given before."""
    return (START + timedelta(seconds=next(_numbers))).isoformat(timespec="milliseconds")[:23] + "Z"


def usage(
    input: int = 10,
    output: int = 20,
    cache_write: int = 0,
    cache_write_1h: int = 0,
    cache_read: int = 0,
    **extra: Any,
) -> Record:
    """Token counts; `cache_write` is the part kept for five minutes, and the total is both parts."""
    split = {"ephemeral_5m_input_tokens": cache_write, "ephemeral_1h_input_tokens": cache_write_1h}
    counts = {"input_tokens": input, "output_tokens": output, "cache_read_input_tokens": cache_read}
    total = {"cache_creation_input_tokens": cache_write + cache_write_1h, "cache_creation": split}
    return _present({**counts, **total, "service_tier": "standard", **extra})


def text(words: str = "Done.") -> Record:
    return {"type": "text", "text": words}


def tool_use(name: str = "Bash", *, id: str | None = None, **arguments: Any) -> Record:
    return {"type": "tool_use", "id": id or fresh(TOOL_USE_ID), "name": name, "input": arguments}


def assistant(*blocks: Record, **overrides: Any) -> Record:
    """One line of a response; `id`, `model`, `usage` and such are the message's."""
    message: Record = {"model": "claude-opus-4-5-20251101", "id": fresh(MESSAGE_ID), "type": "message"}
    message |= {"role": "assistant", "content": list(blocks) or [text()], "stop_reason": "end_turn"}
    message |= {
        "usage": usage(),
        **{name: overrides.pop(name) for name in OF_THE_MESSAGE if name in overrides},
    }
    return chained("assistant", **{"message": _present(message), "requestId": fresh(REQUEST_ID), **overrides})


def user(content: Any = "Please fix the build.", **overrides: Any) -> Record:
    return chained("user", **{"message": {"role": "user", "content": content}, **overrides})


def tool_result(
    tool_use_id: str, content: Any = "ok", *, is_error: bool = False, result: Any = ABSENT, **overrides: Any
) -> Record:
    """The answer to a tool call; `result` is what Claude Code keeps of it, `toolUseResult`."""
    block = {"tool_use_id": tool_use_id, "type": "tool_result", "content": content, "is_error": is_error}
    return user([block], **{"toolUseResult": result, **overrides})


def agent_progress(embedded: Record | None = None, **overrides: Any) -> Record:
    """A subagent's record inside its parent's file, which has only these fields of it."""
    kept = ("type", "timestamp", "message", "requestId", "uuid")
    message = {name: value for name, value in (embedded or assistant()).items() if name in kept}
    data = {"type": "agent_progress", "message": message, "prompt": "Look.", "agentId": "a1"}
    return chained("progress", **{"data": data, **overrides})


def title(words: str = "Fix the build", session: str = SESSION) -> Record:
    return {"type": "ai-title", "aiTitle": words, "sessionId": session}


def chained(kind: str, **fields: Any) -> Record:
    """A record of any type with the fields that every record of a conversation has."""
    record: Record = {"parentUuid": None, "isSidechain": False, "type": kind, "uuid": fresh(UUID)}
    record |= {"timestamp": later(), "userType": "external", "cwd": PROJECT, "sessionId": SESSION}
    return _present({**record, "version": "2.1.233", "gitBranch": "main", **fields})


def _present(record: Record) -> Record:
    return {name: value for name, value in record.items() if value is not ABSENT}


def line(record: Record | bytes) -> bytes:
    """The record as its line; bytes are taken for lines already."""
    return record if isinstance(record, bytes) else orjson.dumps(record) + b"\n"


def write(path: Path, records: Iterable[Record | bytes], newline: bool = True) -> Path:
    """Write a transcript anew; without `newline` its last line stays open."""
    data = b"".join(map(line, records))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if newline else data.removesuffix(b"\n"))
    return path


def append(path: Path, records: Iterable[Record | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(map(line, records)))
    return path


class Home:
    """A Claude config directory in a test's own folder: where its transcripts stand."""

    def __init__(self, parent: Path) -> None:
        self.root = parent / ".claude"
        (self.root / "projects").mkdir(parents=True)

    def transcript(self, session: str = SESSION, project: str = PROJECT) -> Path:
        return self.root / "projects" / re.sub(r"[^a-zA-Z0-9]", "-", project) / f"{session}.jsonl"

    def subagent(self, session: str = SESSION, agent: str = "a1", project: str = PROJECT, workflow: str = "") -> Path:
        """The transcript of a subagent, below its session; of a workflow's one level deeper."""
        folder = self.transcript(session, project).with_suffix("") / "subagents"
        return (folder / "workflows" / workflow if workflow else folder) / f"agent-{agent}.jsonl"

    def flat_subagent(self, agent: str = "a1", project: str = PROJECT) -> Path:
        """Where older versions of Claude Code put it: beside the session."""
        return self.transcript(f"agent-{agent}", project)
