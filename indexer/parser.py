"""Lines of a transcript to rows: pure, so that threads, processes and tests can call it alike.

Rows are tuples in the order of the columns that `store` inserts. Nothing a transcript holds makes this fail: what
cannot be used becomes a row of `skipped_lines`.
"""

from __future__ import annotations

import re

import msgspec

from . import lines, passages, usage
from .batch import (
    AT_BORROWED,
    BACKGROUND_RANK,
    EDITS,
    EMBEDDED_RANK,
    FROM_RECORD,
    OFFSET_BITS,
    RANK_SHIFT,
    RECOVERED,
    SESSION_BORROWED,
    SIDECHAIN_RANK,
    TEXT_DROPPED,
    Batch,
)
from .digest import digest, digest_text
from .record import (
    UNDECODABLE,
    Details,
    Embedded,
    Message,
    Progress,
    Record,
    ResultBlock,
    ServerToolUse,
    TextBlock,
    Thinking,
    ToolResult,
    ToolUse,
    decode,
    decode_edit,
    decode_lines,
    fit,
    to_json,
)
from .times import LATEST, milliseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from msgspec import Raw

# A line longer than this is a screenshot or a dump: its numbers are kept and its text is not.
LONG_LINE = 16 * 1024 * 1024
# So many are decoded before the first becomes rows. Of more a damaged one would make more be decoded twice.
LINES_AT_ONCE = 256

_TOOL_ID = re.compile(r"(?:srv)?toolu_[A-Za-z0-9_]{20,}")
_COMMAND = ("<command-name>", "<command-message>", "<local-command-", "<bash-input>", "<bash-stdout>", "<bash-stderr>")
_INTERRUPTED = "[Request interrupted by user"
# How Claude Code names the session before, when a plan is carried out or a conversation was compacted.
_BEFORE = "read the full transcript at: "
_SESSION_BEFORE = re.compile(_BEFORE + r"[^\n]*?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.jsonl")
# Where records that are not messages keep what a reader would want to see.
_TEXT = {
    "summary": "summary",
    "ai-title": "ai_title",
    "custom-title": "custom_title",
    "agent-name": "agent_name",
    "system": "content",
    "queue-operation": "content",
    "pr-link": "pr_url",
}
# Tools whose calls name what they are for.
_WITH_SUBJECT = ("Task", "Agent", "Skill", "SlashCommand")
_CONTEXT_TEXTS = 13


def _ends(data: bytes, start: int) -> tuple[list[int], bool]:
    """Where the next lines end, of which the last may lack its newline, and whether each is in braces."""
    ends: list[int] = []
    find, are_braced = data.find, True
    while start < len(data) and len(ends) < LINES_AT_ONCE:
        end = find(b"\n", start)
        if end < 0:
            end = len(data)
        if data[start] != 123 or data[end - 1] != 125:
            are_braced = False
        ends.append(end)
        start = end + 1
    return ends, are_braced


def _decoded(data: bytes, start: int, ends: list[int], are_braced: bool) -> Sequence[Record | None]:
    """The record of each line; None for a line that is not simply one record.

    To decode many lines at once takes a fifth less time. What does it does not mind where lines end, but if each is in
    braces, no record goes on behind its line: so many records as lines are one each.
    """
    try:
        found = decode_lines(memoryview(data)[start : ends[-1]]) if are_braced else []
        if len(found) == len(ends):
            return found
    except UNDECODABLE:
        pass
    starts = [start, *(end + 1 for end in ends[:-1])]
    return [_decoded_line(data[start:end]) for start, end in zip(starts, ends, strict=True)]


def _decoded_line(line: bytes) -> Record | None:
    try:
        return decode(line) if line.startswith(b"{") else None
    except UNDECODABLE:
        return None


def _records(line: bytes) -> list[Record]:
    record = _decoded_line(line)
    if record is not None:
        return [record]
    return [fit(piece.record) for piece in lines.pieces(line) if piece.record is not None]


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
        self._api_ids: dict[str, int] = {}  # of messages whose id alone makes the response
        self._calls: dict[str, int] = {}
        self._last_context: tuple[Any, ...] = ()
        self._last_context_id = 0
        self._data = b""  # the piece that is being read
        self._start = 0  # where it begins
        self._batch = Batch()

    def look_ahead(self, data: bytes) -> bool:
        """Finds the first session and the first valid timestamp; True once both are known.

        Records before them borrow them, so they must be known before the first record is read.
        """
        start = 0
        while start < len(data) and (self.session is None or self.first_at is None):
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            for record in _records(data[start:end]) if end > start else ():
                self.session = self.session or record.session_id or None
                if self.first_at is None:
                    self.first_at = milliseconds(record.timestamp)
            start = end + 1
        return self.session is not None and self.first_at is not None

    def feed(self, data: bytes, offset: int) -> Batch:
        """Rows of a piece of whole lines (the last may lack its newline) that begins at the offset."""
        self._batch = batch = Batch()
        self._data, self._start = data, offset
        # Ids seen before are known to this parser, but the new batch must carry its own dictionary rows.
        self._contexts, self._types, self._models, self._sessions = {}, {}, {}, {}
        self._api_ids, self._calls, self._last_context = {}, {}, ()
        read, start = self._record, 0
        while start < len(data):
            ends, are_braced = _ends(data, start)
            for record, end in zip(_decoded(data, start, ends, are_braced), ends, strict=True):
                self.line_count += 1
                if record is None:
                    self._pieces(data[start:end], offset + start)
                else:
                    read(record, offset + start, end - start, 0)
                    batch.indexed_lines += 1
                start = end + 1
        self._data = b""
        return batch

    def pass_over(self, offset: int, length: int) -> Batch:
        """The row of a line that is too long to be read."""
        self.line_count += 1
        batch = Batch()
        batch.skipped.append((self.base + offset, self.line_count, length, lines.TOO_LONG, 0))
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
                self._record(fit(piece.record), offset + piece.start, length, flags)
        self._batch.indexed_lines += is_used

    def _json(self, offset: int, length: int) -> bytes:
        """A record as it stands in the piece."""
        start = offset - self._start
        return self._data[start : start + length]

    def _record(self, record: Record, offset: int, length: int, flags: int) -> None:
        kind = record.type
        at = milliseconds(record.timestamp)
        if at is None:
            flags |= AT_BORROWED
            at = self.last_at if self.last_at is not None else self.first_at
            at = self.mtime_ms if at is None else at
        else:
            self.last_at = at
        session = record.session_id
        is_embedded = False
        if not session:
            flags |= SESSION_BORROWED
            session = self.session or self.name
            is_embedded = bool(flags & RECOVERED)
        if length > LONG_LINE:
            flags |= TEXT_DROPPED
        is_sidechain = 1 if is_embedded or record.is_sidechain else 0
        is_background = 1 if record.session_kind == "bg" else 0
        context: tuple[Any, ...] = (
            session,
            record.cwd,
            record.git_branch,
            record.version,
            record.entrypoint,
            record.agent_id or (kind == "progress" and record.data and record.data.agent_id) or None,
            record.attribution_agent,
            record.attribution_skill,
            record.attribution_plugin,
            record.attribution_mcp_server,
            record.attribution_mcp_tool,
            record.forked_from and record.forked_from.session_id,
            None,
            is_sidechain,
            is_background,
        )
        identity = self.base + offset
        rank = SIDECHAIN_RANK * is_sidechain + BACKGROUND_RANK * is_background + is_embedded
        owner_rank = (rank << RANK_SHIFT) + at
        model_id = response_id = message_id = request_id = stop_reason = block = text = None
        subtype: str | None = None
        message = record.message
        if kind == "assistant":
            if isinstance(message, Message):
                text, block, _ = self._content(identity, session, owner_rank, message, None)
                line = b"" if message.id or record.uuid else self._json(offset, length)
                model_id, response_id, subtype = self._assistant(record, message, identity, session, owner_rank, line)
                message_id, request_id = message.id or None, record.request_id or None
                stop_reason = message.stop_reason or None
        elif kind == "user":
            if isinstance(message, Message):
                text, block, is_result = self._content(identity, session, owner_rank, message, record.tool_use_result)
                subtype = "tool_result" if is_result else _user_subtype(record, text)
                if text and not is_result and _BEFORE in text:
                    before = _session_before(text)
                    if before != session:  # after a compaction it is the same
                        context = (*context[: _CONTEXT_TEXTS - 1], before, is_sidechain, is_background)
        elif kind == "progress":
            if record.data is not None:
                line = self._json(offset, length)
                subtype = self._progress(record.data, identity, session, at, is_background, line)
        else:
            subtype, text = _subtype(kind, record), _other_text(kind, record)
        if flags & TEXT_DROPPED:
            text = None
        elif self.kept and kind in ("assistant", "user"):
            self._batch.passages += passages.of_line(self._json(offset, length), identity, self.kept)
        uuid = record.uuid or None
        if context != self._last_context:  # to hash fifteen new strings takes longer
            self._last_context = context
            self._last_context_id = self._contexts.get(context) or self._context(context)
        self._batch.records.append(
            (
                identity,
                self.line_count,
                length,
                self._types.get((kind, subtype)) or self._type(kind, subtype),
                self._last_context_id,
                at,
                flags,
                uuid,
                record.parent_uuid or (kind == "summary" and record.leaf_uuid) or None,
                None if uuid else digest(self._json(offset, length).strip()),
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
        record: Record | Embedded,
        message: Message,
        identity: int,
        session: str,
        owner_rank: int,
        line: bytes,
    ) -> tuple[int | None, int | None, str | None]:
        """Stores what a record says of its usage: model, response, subtype."""
        model = message.model or ""
        model_id = self._models.get(model) or self._model(model)
        subtype = "api_error" if record.is_api_error_message else None
        said = message.usage
        if model == usage.SYNTHETIC:
            return model_id, None, subtype or "synthetic"
        if said is None:
            return model_id, None, subtype
        numbers, advised = usage.calls(said)
        key = message.id or ""
        response_id = self._api_ids.get(key)
        if response_id is None:
            key = usage.response_key(message.id, record.request_id, session, record.uuid, numbers, line)
            response_id = digest(key.encode("utf-8", "replace"))
            if key == message.id:
                self._api_ids[key] = response_id
        stop_reason = message.stop_reason or None
        recorded = None if record.cost_usd is None else _recorded_nano(record.cost_usd)
        self._batch.usage.append(
            (response_id, identity, key, 0, None, model_id, owner_rank, *numbers, stop_reason, recorded)
        )
        for part, (model, numbers) in enumerate(advised, 1):
            advisor_id = self._models.get(model) or self._model(model)
            part_id = digest_text(key, part)
            self._batch.usage.append(
                (part_id, identity, key, part, response_id, advisor_id, owner_rank, *numbers, None, None)
            )
        return model_id, response_id, subtype

    def _progress(
        self, data: Progress, identity: int, session: str, at: int, is_background: int, line: bytes
    ) -> str | None:
        """A subagent's message embedded in its parent's file counts as a sidechain record of the parent's session."""
        embedded = data.message
        if data.type != "agent_progress" or not isinstance(embedded, Embedded):
            return data.type or None
        message = embedded.message
        if isinstance(message, Message):
            own = milliseconds(embedded.timestamp)
            rank = SIDECHAIN_RANK + BACKGROUND_RANK * is_background + EMBEDDED_RANK
            owner_rank = (rank << RANK_SHIFT) + (at if own is None else own)
            self._content(identity, session, owner_rank, message, embedded.tool_use_result)
            if embedded.type == "assistant":
                own_line = b"" if message.id or embedded.uuid else _embedded_json(line)
                self._assistant(embedded, message, identity, session, owner_rank, own_line)
        return data.type or None

    def _content(
        self, identity: int, session: str, owner_rank: int, message: Message, result: Any
    ) -> tuple[str | None, int | None, bool]:
        """Visible text, digest of what is not text, and whether there are tool results, of a message's content."""
        content: Any = message.content
        if content.__class__ is not list:
            return content or None, None, False
        texts: list[str] = []
        block: int | None = None
        is_result = False
        for item in content:
            kind = item.__class__
            if kind is TextBlock:
                texts.append(item.text)
            elif kind is ToolUse or kind is ServerToolUse:
                block = self._tool_use(identity, session, owner_rank, item)
            elif kind is ToolResult:
                # toolUseResult is about one result, also on the rare line that holds several.
                self._tool_result(identity, session, item, None if is_result else result)
                is_result = True
            elif kind is Thinking:
                block = digest((item.signature or item.thinking or "")[-128:].encode("utf-8", "replace"))
            elif kind is dict:
                block = digest(to_json(item))
        return ("\n".join(texts) or None) if texts else None, block, is_result

    def _tool_use(self, identity: int, session: str, owner_rank: int, item: ToolUse) -> int:
        name, tool_use_id, subject = item.name, item.id, None
        call_id = self._calls.get(tool_use_id) or self._call(tool_use_id, session)
        if name in EDITS:
            subject = _edited(item.input)
        elif name in _WITH_SUBJECT:
            subject = _subject(item.input)
        self._batch.tool_uses.append((call_id, identity, tool_use_id, name, subject, owner_rank))
        return call_id

    def _tool_result(self, identity: int, session: str, item: ToolResult, result: Any) -> None:
        call_id = self._calls.get(item.tool_use_id) or self._call(item.tool_use_id, session)
        searches, agent = 0, None
        if result.__class__ is Details:
            searches, agent = usage.searches(result.search_count), result.agent_id or None
        elif result.__class__ is dict:
            searches, agent = usage.searches(result.get("searchCount")), _text(result.get("agentId"))
        self._batch.tool_results.append(
            (call_id, identity, 1 if item.is_error else 0, _result_bytes(item.content), searches, agent)
        )

    def _context(self, raw: tuple[Any, ...]) -> int:
        session_id = self._session(raw[0])
        row = (session_id, *(value or None for value in raw[1:_CONTEXT_TEXTS]), *raw[_CONTEXT_TEXTS:])
        found = self._contexts[raw] = digest_text(*row)
        self._batch.contexts[found] = (found, *row)
        agent, agent_type = row[5], row[6]
        if agent and agent_type:
            self._batch.agents.append((session_id, agent, agent_type, None, FROM_RECORD))
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
        found = self._types[kind, subtype] = digest_text(kind, subtype)
        self._batch.types[found] = (kind, subtype)
        return found

    def _call(self, tool_use_id: str, session: str) -> int:
        """Gateways number their tool calls within a session; the API's ids are unique."""
        if not _TOOL_ID.fullmatch(tool_use_id):
            return digest_text(session, tool_use_id)
        found = self._calls[tool_use_id] = digest(tool_use_id.encode())
        return found

    def _model(self, model: str) -> int:
        found = self._models[model] = digest_text(model)
        self._batch.models[found] = model
        return found


def _text(value: Any) -> str | None:
    return value if value.__class__ is str and value else None


def _subject(given: Raw) -> str | None:
    try:
        value = msgspec.json.decode(given)
    except UNDECODABLE:
        return None
    if value.__class__ is not dict:
        return None
    return _text(value.get("subagent_type")) or _text(value.get("skill")) or _text(value.get("command"))


def _edited(given: Raw) -> str | None:
    """The file that a tool changes: only its path is decoded, beside it stands what is written."""
    try:
        found = decode_edit(given)
    except UNDECODABLE:
        return None
    return found.file_path or found.notebook_path or None


def _result_bytes(content: str | list[ResultBlock] | None) -> int:
    if isinstance(content, list):
        return sum([_text_bytes(item.text) for item in content])
    return _text_bytes(content)


def _text_bytes(text: str | None) -> int:
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _embedded_json(line: bytes) -> bytes:
    """The embedded record of a line, as orjson writes it."""
    record = lines.pieces(line)[0].record
    return line if record is None else to_json(record["data"]["message"]) or line


def _recorded_nano(cost: float) -> int | None:
    return round(cost * 10**9) if 0 < cost < 10**6 else None


def _session_before(text: str) -> str | None:
    found = _SESSION_BEFORE.search(text)
    return found[1] if found else None


def _user_subtype(record: Record, text: str | None) -> str:
    """What a user record without results is: few are what a human typed."""
    if record.is_compact_summary:
        return "compact_summary"
    if record.is_meta:
        return "meta"
    if text and text.startswith(_INTERRUPTED):
        return "interruption"
    if text and text.lstrip().startswith(_COMMAND):
        return "command"
    return "prompt"


def _subtype(kind: str, record: Record) -> str | None:
    if kind == "system":
        return record.subtype or None
    if kind == "attachment":
        return (record.attachment and record.attachment.type) or None
    if kind == "queue-operation":
        return record.operation or None
    return None


def _other_text(kind: str, record: Record) -> str | None:
    """What a reader would want to see of a record that is not a message."""
    if kind == "attachment":
        return (record.attachment and record.attachment.prompt) or None
    field = _TEXT.get(kind)
    return _text(getattr(record, field)) if field else None
