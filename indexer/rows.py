"""Rows of what was read, into the tables of the index, or of a shard of it."""

from __future__ import annotations

import os

from . import prices
from .checkpoint import PARSER_VERSION, UNFINISHED
from .store import display_path, insert

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from .batch import Batch
    from .transcripts import Job

# Columns of the facts: tables that a load appends to, and whose rows are never changed.
FACTS = {
    "records": "id, line, length, type_id, context_id, at, flags, uuid, parent_uuid, digest, block, model_id,"
    " response_id, message_id, request_id, stop_reason, text",
    "record_usage": "response_id, record_id, key, part, advised_id, model_id, owner_rank, input_tokens, output_tokens,"
    " cache_write_tokens, cache_write_1h_tokens, cache_read_tokens, web_searches, flags, stop_reason, recorded_nano",
    "tool_uses": "call_id, record_id, tool_use_id, name, subject, owner_rank",
    "tool_results": "call_id, record_id, is_error, bytes, web_searches, agent",
    "skipped_lines": "id, line, length, reason, is_partial",
    "passages": "record_id, kind, tool, text",
}
# Of what many records share; ids are digests, so that whoever comes first is right.
SHARED = {
    "sessions": "id, session_id",
    "models": "id, name, canonical",
    "record_types": "id, type, subtype",
    "contexts": "id, session_id, cwd, branch, version, entrypoint, agent, agent_type, skill, plugin, mcp_server,"
    " mcp_tool, forked_from, continued_from, is_sidechain, is_background",
}
AGENT_COLUMNS = "session_id, agent, type, description, source"
BETTER_AGENT = (
    " ON CONFLICT DO UPDATE SET type = excluded.type, description = excluded.description, source = excluded.source"
    " WHERE (excluded.source, excluded.type) < (source, type)"
)

SESSION, MODEL, TYPE, CONTEXT = (insert(table, columns) for table, columns in SHARED.items())
_AGENT = insert("agents", AGENT_COLUMNS, "") + BETTER_AGENT
# One record may say the same twice, of a tool or a response: the last is what holds.
_CONFLICT = {"record_usage": "OR REPLACE", "tool_uses": "OR REPLACE", "tool_results": "OR REPLACE"}


def _insert_whole(table: str) -> str:
    """An INSERT of all columns, in their order, without their names.

    apsw finds a statement by the hash of its text, before each row: with the names that is a tenth of the row's time.
    """
    marks = ",".join("?" * len(FACTS[table].split(",")))
    return f"INSERT {_CONFLICT.get(table, '')} INTO {table} VALUES({marks})"


_RECORD, _USAGE = _insert_whole("records"), _insert_whole("record_usage")
_TOOL_USE, _TOOL_RESULT = _insert_whole("tool_uses"), _insert_whole("tool_results")
_SKIPPED, _PASSAGE = (insert(table, FACTS[table], "") for table in ("skipped_lines", "passages"))
_FILE = insert("files", "id, host_id, root, path, size, mtime_ns, checked_ns, parser_version, replaces, identity", "")


def add_file(connection: sqlite3.Connection, job: Job, size: int) -> None:
    """Stores a transcript that is about to be read; the size is below its real one until it has been."""
    places = display_path(job.found.root), display_path(job.found.path)
    identity = int.from_bytes(os.urandom(8)) >> 1 or 1
    row = (job.file_id, 1, *places, size, UNFINISHED, 0, PARSER_VERSION, job.replaces, identity)
    connection.execute(_FILE, row)


def _add_models(connection: sqlite3.Connection, models: Mapping[int, str]) -> None:
    # What a model is usually called stands in the file of prices, which takes longer to read than to look here first.
    for key, name in models.items():
        if connection.execute("SELECT 1 FROM models WHERE id = ?", (key,)).fetchone() is None:
            connection.execute(MODEL, (key, name, prices.canonical(name)))


def add(connection: sqlite3.Connection, batch: Batch) -> None:
    """Stores the rows of a batch."""
    add_shared(connection, batch)
    add_facts(connection, batch)


def add_shared(connection: sqlite3.Connection, batch: Batch) -> None:
    """Stores the rows that records refer to."""
    many = connection.executemany
    many(SESSION, batch.sessions.items())
    _add_models(connection, batch.models)
    many(TYPE, [(key, *names) for key, names in batch.types.items()])
    many(CONTEXT, batch.contexts.values())
    many(_AGENT, batch.agents)


def add_facts(connection: sqlite3.Connection, batch: Batch) -> None:
    """Stores the records, and what each says."""
    many = connection.executemany
    many(_RECORD, batch.records)
    many(_USAGE, batch.usage)
    many(_TOOL_USE, batch.tool_uses)
    many(_TOOL_RESULT, batch.tool_results)
    many(_SKIPPED, batch.skipped)
    many(_PASSAGE, batch.passages)
