"""Lines of a transcript to rows: pure, so that threads, processes and tests can call it alike.

Rows are tuples in the order of the columns that `store` inserts. Nothing a transcript holds makes this fail: what
cannot be used becomes a row of `skipped_lines`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import orjson

from . import lines, passages, usage
from .digest import digest, digest_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OFFSET_BITS = 40
AT_BORROWED, SESSION_BORROWED, RECOVERED, TEXT_DROPPED = 1, 2, 4, 8
SIDECHAIN_RANK, BACKGROUND_RANK, EMBEDDED_RANK = 4, 2, 1
RANK_SHIFT = 44
LATEST = 1 << RANK_SHIFT
# A line longer than this is a screenshot or a dump: its numbers are kept and its text is not.
LONG_LINE = 16 * 1024 * 1024

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_TOOL_ID = re.compile(r"(?:srv)?toolu_[A-Za-z0-9_]{20,}")
_COMMAND = ("<command-name>", "<command-message>", "<local-command-", "<bash-input>", "<bash-stdout>", "<bash-stderr>")
_INTERRUPTED = "[Request interrupted by user"
# Where records that are not messages keep what a reader would want to see.
_TEXT = {
    "summary": "summary",
    "ai-title": "aiTitle",
    "custom-title": "customTitle",
    "agent-name": "agentName",
    "system": "content",
    "queue-operation": "content",
    "pr-link": "prUrl",
}
_CONTEXT_TEXTS = 11
# What users paste: megabytes, and never part of a response.
_BULKY = ("image", "document")
# How the type of a subagent is known, best first.
FROM_META, FROM_RECORD, FROM_CALL = 0, 1, 2


def milliseconds(value: Any) -> int | None:
    """Milliseconds since 1970 UTC of an ISO 8601 time, None for anything else; without a zone it is taken as UTC."""
    if value.__class__ is not str:
        return None
    try:
        at = datetime.fromisoformat(value)
        found = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        return None
    # "2026" and "20260101" are ISO dates too, but no time that anything was said at. A rank has no room for the year
    # 2600.
    return found if 0 <= found < LATEST and "T" in value else None


class Batch:
    """Rows of a piece of a transcript, by table, and how many of its lines gave any."""

    __slots__ = (
        "agents",
        "contexts",
        "indexed_lines",
        "models",
        "passages",
        "records",
        "sessions",
        "skipped",
        "tool_results",
        "tool_uses",
        "types",
        "usage",
    )

    def __init__(self) -> None:
        self.sessions: dict[int, str] = {}
        self.models: dict[int, str] = {}
        self.types: dict[int, tuple[str, str | None]] = {}
        self.contexts: dict[int, tuple[Any, ...]] = {}
        self.agents: list[tuple[int, str, str, str | None, int]] = []
        self.records: list[tuple[Any, ...]] = []
        self.usage: list[tuple[Any, ...]] = []
        self.tool_uses: list[tuple[Any, ...]] = []
        self.tool_results: list[tuple[Any, ...]] = []
        self.passages: list[tuple[int, int, str | None, str]] = []
        self.skipped: list[tuple[int, int, int, str, int]] = []
        self.indexed_lines = 0

    def take(self, tail: Batch) -> None:
        """Adds the rows of a final line without its newline, which is not counted among the lines."""
        for name in ("sessions", "models", "types", "contexts"):
            getattr(self, name).update(getattr(tail, name))
        for name in ("agents", "records", "usage", "tool_uses", "tool_results", "passages", "skipped"):
            getattr(self, name).extend(getattr(tail, name))


class Parser:
    """Reads the pieces of one transcript in order.

    Args:
        file_id: row of the transcript in `files`.
        name: session of records where the transcript names none.
        mtime_ms: time of records where it has none.
        session, first_at: first session and first valid timestamp in the transcript, as `look_ahead` finds them.
        last_at, line_count: state where the checkpoint stands.
        kept: kinds of passages to keep for the search.
    """

    def __init__(
        self,
        file_id: int,
        name: str,
        mtime_ms: int,
        session: str | None = None,
        first_at: int | None = None,
        last_at: int | None = None,
        line_count: int = 0,
        kept: frozenset[int] = frozenset(),
    ) -> None:
        self.base = file_id << OFFSET_BITS
        self.name = name
        self.mtime_ms = min(max(mtime_ms, 0), LATEST - 1)
        self.session = session
        self.first_at = first_at
        self.last_at = last_at
        self.line_count = line_count
        self.kept = kept
        self._contexts: dict[tuple[Any, ...], int] = {}
        self._types: dict[tuple[str, str | None], int] = {}
        self._models: dict[str, int] = {}
        self._sessions: dict[str, int] = {}
        self._responses: dict[str, int] = {}
        self._batch = Batch()

    def look_ahead(self, data: bytes) -> bool:
        """Finds the first session and the first valid timestamp; True once both are known.

        Records before them borrow them, so they must be known before the first record is read.
        """
        for line in data.split(b"\n"):
            if self.session is not None and self.first_at is not None:
                return True
            for piece in lines.pieces(line) if line else ():
                if piece.record is not None:
                    self.session = self.session or _text(piece.record.get("sessionId"))
                    if self.first_at is None:
                        self.first_at = milliseconds(piece.record.get("timestamp"))
        return self.session is not None and self.first_at is not None

    def feed(self, data: bytes, offset: int) -> Batch:
        """Rows of a piece of whole lines (the last may lack its newline) that begins at the offset."""
        self._batch = batch = Batch()
        # Ids seen before are known to this parser, but the new batch must carry its own dictionary rows.
        self._contexts, self._types, self._models, self._sessions, self._responses = {}, {}, {}, {}, {}
        loads, decode_error, record = orjson.loads, orjson.JSONDecodeError, self._record
        text = data.split(b"\n")
        if not text[-1]:
            text.pop()
        for line in text:
            self.line_count += 1
            try:
                value = loads(line)
            except decode_error:
                self._pieces(line, offset)
            else:
                if value.__class__ is dict and value.get("type").__class__ is str and line[0] == 123:
                    record(value, offset, len(line), line, 0)
                    batch.indexed_lines += 1
                else:
                    self._pieces(line, offset)
            offset += len(line) + 1
        return batch

    def _pieces(self, line: bytes, offset: int) -> None:
        """A line that is not simply one record."""
        found = lines.pieces(line)
        is_used = is_counted = any(piece.record is not None for piece in found)
        for piece in found:
            length = piece.end - piece.start
            if piece.record is None:
                at = self.base + offset + piece.start
                self._batch.skipped.append((at, self.line_count, length, piece.reason, int(is_counted)))
                is_counted = True
            else:
                flags = RECOVERED if piece.is_recovered else 0
                self._record(piece.record, offset + piece.start, length, line[piece.start : piece.end], flags)
        self._batch.indexed_lines += is_used

    def _record(self, record: dict[str, Any], offset: int, length: int, line: bytes, flags: int) -> None:
        get = record.get
        kind: str = record["type"]
        at = milliseconds(get("timestamp"))
        if at is None:
            flags |= AT_BORROWED
            at = self.last_at if self.last_at is not None else self.first_at
            at = self.mtime_ms if at is None else at
        else:
            self.last_at = at
        session = get("sessionId")
        is_embedded = False
        if session.__class__ is not str or not session:
            flags |= SESSION_BORROWED
            session = self.session or self.name
            is_embedded = bool(flags & RECOVERED)
        if length > LONG_LINE:
            flags |= TEXT_DROPPED
        is_sidechain = 1 if is_embedded or get("isSidechain") is True else 0
        is_background = 1 if get("sessionKind") == "bg" else 0
        context = (
            session,
            get("cwd"),
            get("gitBranch"),
            get("version"),
            get("entrypoint"),
            get("agentId") or (kind == "progress" and _progress_agent(record)) or None,
            get("attributionAgent"),
            get("attributionSkill"),
            get("attributionPlugin"),
            get("attributionMcpServer"),
            get("attributionMcpTool"),
            is_sidechain,
            is_background,
        )
        try:
            context_id = self._contexts[context]
        except (KeyError, TypeError):
            context_id = self._context(context)
        identity = self.base + offset
        uuid = _text(get("uuid"))
        rank = SIDECHAIN_RANK * is_sidechain + BACKGROUND_RANK * is_background + is_embedded
        owner_rank = (rank << RANK_SHIFT) + at
        model_id = response_id = message_id = request_id = stop_reason = block = text = None
        subtype: str | None = None
        if kind in ("assistant", "user"):
            message = get("message")
            if message.__class__ is dict:
                text, block, results = self._content(
                    identity, session, owner_rank, message.get("content"), get("toolUseResult")
                )
                if kind == "user":
                    subtype = _user_subtype(record, text, results)
                else:
                    model_id, response_id, message_id, request_id, stop_reason, subtype = self._assistant(
                        record, message, identity, session, owner_rank, line
                    )
        elif kind == "progress":
            subtype = self._progress(get("data"), identity, session, at, is_background, line)
        else:
            subtype = _subtype(kind, record)
            text = _other_text(kind, record)
        if flags & TEXT_DROPPED:
            text = None
        elif self.kept and kind in ("assistant", "user"):
            self._batch.passages += passages.of(record, identity, self.kept)
        self._batch.records.append(
            (
                identity,
                self.line_count,
                length,
                self._type(kind, subtype),
                context_id,
                at,
                flags,
                uuid,
                _text(get("parentUuid")),
                None if uuid else digest(line.strip()),
                block,
                model_id,
                response_id,
                message_id,
                request_id,
                stop_reason,
                text,
            )
        )

    def _assistant(
        self,
        record: dict[str, Any],
        message: dict[str, Any],
        identity: int,
        session: str,
        owner_rank: int,
        line: bytes,
    ) -> tuple[int | None, int | None, str | None, str | None, str | None, str | None]:
        """Stores what a record says of its usage: model, response, message, request, stop reason, subtype."""
        model = _text(message.get("model")) or ""
        model_id = self._models.get(model) or self._model(model)
        message_id, request_id = _text(message.get("id")), _text(record.get("requestId"))
        stop_reason = _text(message.get("stop_reason"))
        subtype = "api_error" if record.get("isApiErrorMessage") is True else None
        said = message.get("usage")
        if model == usage.SYNTHETIC:
            return model_id, None, message_id, request_id, stop_reason, subtype or "synthetic"
        if said.__class__ is not dict:
            return model_id, None, message_id, request_id, stop_reason, subtype
        counts = usage.numbers(said)
        key = usage.response_key(message_id, request_id, session, _text(record.get("uuid")), counts, line)
        response_id = self._responses.get(key) or self._response(key)
        self._batch.usage.append(
            (response_id, identity, key, 0, None, model_id, owner_rank, *counts, stop_reason, _recorded_nano(record))
        )
        if "iterations" in said:
            for part, (model, numbers) in enumerate(usage.advisor_calls(said, counts.flags), 1):
                advisor_id = self._models.get(model) or self._model(model)
                part_id = digest_text(key, part)
                self._batch.usage.append(
                    (part_id, identity, key, part, response_id, advisor_id, owner_rank, *numbers, None, None)
                )
        return model_id, response_id, message_id, request_id, stop_reason, subtype

    def _progress(self, data: Any, identity: int, session: str, at: int, is_background: int, line: bytes) -> str | None:
        """A subagent's message embedded in its parent's file counts as a sidechain record of the parent's session."""
        if data.__class__ is not dict:
            return None
        embedded = data.get("message")
        if data.get("type") == "agent_progress" and embedded.__class__ is dict:
            message = embedded.get("message")
            if message.__class__ is dict:
                own = milliseconds(embedded.get("timestamp"))
                rank = SIDECHAIN_RANK + BACKGROUND_RANK * is_background + EMBEDDED_RANK
                owner_rank = (rank << RANK_SHIFT) + (at if own is None else own)
                self._content(identity, session, owner_rank, message.get("content"), embedded.get("toolUseResult"))
                if embedded.get("type") == "assistant":
                    own_line = _json(embedded, line)
                    self._assistant(embedded, message, identity, session, owner_rank, own_line)
        return _text(data.get("type"))

    def _content(
        self, identity: int, session: str, owner_rank: int, content: Any, result: Any
    ) -> tuple[str | None, int | None, list[dict[str, Any]]]:
        """Visible text, digest of what is not text, and tool results of a message's content."""
        if content.__class__ is str:
            return content or None, None, []
        texts: list[str] = []
        block: int | None = None
        results: list[dict[str, Any]] = []
        for item in content if content.__class__ is list else ():
            if item.__class__ is not dict:
                continue
            kind = item.get("type")
            if kind == "text":
                texts.append(_text(item.get("text")) or "")
            elif kind in ("tool_use", "server_tool_use"):
                block = self._tool_use(identity, session, owner_rank, item)
            elif kind == "tool_result":
                # toolUseResult is about one result, also on the rare line that holds several.
                self._tool_result(identity, session, item, None if results else result)
                results.append(item)
            elif kind == "thinking":
                # Newer versions leave the thinking empty and keep its signature.
                block = digest_text((_text(item.get("signature")) or _text(item.get("thinking")) or "")[-128:])
            elif kind not in _BULKY:
                block = digest(_json(item, b""))
        return "\n".join(texts) or None, block, results

    def _tool_use(self, identity: int, session: str, owner_rank: int, item: dict[str, Any]) -> int:
        tool_use_id, name = _text(item.get("id")) or "", _text(item.get("name")) or ""
        call_id = _call_id(tool_use_id, session)
        given = item.get("input")
        subject = None
        if given.__class__ is dict and name in ("Task", "Agent", "Skill", "SlashCommand"):
            subject = _text(given.get("subagent_type")) or _text(given.get("skill")) or _text(given.get("command"))
        self._batch.tool_uses.append((call_id, identity, tool_use_id, name, subject, owner_rank))
        return call_id

    def _tool_result(self, identity: int, session: str, item: dict[str, Any], result: Any) -> None:
        details = result if result.__class__ is dict else {}
        self._batch.tool_results.append(
            (
                _call_id(_text(item.get("tool_use_id")) or "", session),
                identity,
                1 if item.get("is_error") is True else 0,
                _result_bytes(item.get("content")),
                usage.searches(details),
                _text(details.get("agentId")),
            )
        )

    def _context(self, raw: tuple[Any, ...]) -> int:
        texts = tuple(_text(value) for value in raw[:_CONTEXT_TEXTS])
        session_id = self._session(texts[0] or "")
        row = (session_id, *texts[1:], *raw[_CONTEXT_TEXTS:])
        found = digest_text(*row)
        self._batch.contexts[found] = (found, *row)
        agent, agent_type = texts[5], texts[6]
        if agent and agent_type:
            self._batch.agents.append((session_id, agent, agent_type, None, FROM_RECORD))
        # Written as 5 or as {}, a field is no text; such a record comes here each time.
        if texts == raw[:_CONTEXT_TEXTS]:
            self._contexts[raw] = found
        return found

    def session_id(self, batch: Batch) -> int:
        """Id of the transcript's session, which the batch then carries."""
        session = self.session or self.name
        found = digest_text(session)
        batch.sessions[found] = session
        return found

    def _session(self, session: str) -> int:
        found = self._sessions.get(session)
        if found is None:
            found = self._sessions[session] = digest_text(session)
            self._batch.sessions[found] = session
        return found

    def _type(self, kind: str, subtype: str | None) -> int:
        found = self._types.get((kind, subtype))
        if found is None:
            found = self._types[kind, subtype] = digest_text(kind, subtype)
            self._batch.types[found] = (kind, subtype)
        return found

    def _response(self, key: str) -> int:
        found = self._responses[key] = digest(key.encode("utf-8", "replace"))
        return found

    def _model(self, model: str) -> int:
        found = self._models[model] = digest_text(model)
        self._batch.models[found] = model
        return found


def _text(value: Any) -> str | None:
    return value if value.__class__ is str and value else None


def _call_id(tool_use_id: str, session: str) -> int:
    """Gateways number their tool calls within a session; the API's ids are unique."""
    if _TOOL_ID.fullmatch(tool_use_id):
        return digest(tool_use_id.encode())
    return digest_text(session, tool_use_id)


def _result_bytes(content: Any) -> int:
    if content.__class__ is str:
        return len(content) if content.isascii() else len(content.encode("utf-8", "replace"))
    if content.__class__ is list:
        texts = (item.get("text") for item in content if item.__class__ is dict)
        return sum(_result_bytes(text) for text in texts if text.__class__ is str)
    return 0


def _progress_agent(record: dict[str, Any]) -> Any:
    data = record.get("data")
    return data.get("agentId") if data.__class__ is dict else None


def _json(value: dict[str, Any], default: bytes) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # orjson reads 1024 levels and writes 254, and no integer beyond 64 bits
        return default


def _recorded_nano(record: dict[str, Any]) -> int | None:
    cost = record.get("costUSD")
    if isinstance(cost, (int, float)) and not isinstance(cost, bool) and 0 < cost < 10**6:
        return round(cost * 10**9)
    return None


def _user_subtype(record: dict[str, Any], text: str | None, results: list[dict[str, Any]]) -> str:
    """What a user record is: most are tool results, few are what a human typed."""
    if results:
        return "tool_result"
    if record.get("isCompactSummary") is True:
        return "compact_summary"
    if record.get("isMeta") is True:
        return "meta"
    if text and text.startswith(_INTERRUPTED):
        return "interruption"
    if text and text.lstrip().startswith(_COMMAND):
        return "command"
    return "prompt"


def _subtype(kind: str, record: dict[str, Any]) -> str | None:
    if kind == "system":
        return _text(record.get("subtype"))
    if kind == "attachment":
        attachment = record.get("attachment")
        return _text(attachment.get("type")) if attachment.__class__ is dict else None
    if kind == "queue-operation":
        return _text(record.get("operation"))
    return None


def _other_text(kind: str, record: dict[str, Any]) -> str | None:
    if kind == "attachment":
        attachment = record.get("attachment")
        return _text(attachment.get("prompt")) if attachment.__class__ is dict else None
    field = _TEXT.get(kind)
    return _text(record.get(field)) if field else None
