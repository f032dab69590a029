"""One record of a transcript as it is read: the fields that are used, each of its type or absent.

The types are what Claude Code writes, so that msgspec decodes only these fields and passes over the rest, which is
most of a transcript's bytes. What is written otherwise is read by `fit`, with the same result but for the time.
"""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Raw, Struct

Text = str | None
Count = int | None


class CacheCreation(Struct, gc=False):
    """Cache writes by lifetime."""

    ephemeral_5m_input_tokens: Count = None
    ephemeral_1h_input_tokens: Count = None


class ServerTools(Struct, gc=False):
    """What the API counted of its own tools."""

    web_search_requests: Count = None


class Iteration(Struct, gc=False):
    """One of several calls within a response."""

    type: Text = None
    model: Text = None
    input_tokens: Count = None
    output_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_creation_input_tokens: Count = None
    cache_creation: CacheCreation | None = None


class Usage(Struct, gc=False):
    """Token counts of a response."""

    input_tokens: Count = None
    cache_creation_input_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_creation: CacheCreation | None = None
    output_tokens: Count = None
    service_tier: Text = None
    inference_geo: Text = None
    server_tool_use: ServerTools | None = None
    iterations: list[Iteration] | None = None
    speed: Text = None


class TextBlock(Struct, gc=False, tag_field="type", tag="text"):
    """What a reader sees."""

    text: str = ""


class Thinking(Struct, gc=False, tag_field="type", tag="thinking"):
    """Newer versions leave the thinking empty and keep its signature."""

    thinking: Text = None
    signature: Text = None


class ToolUse(Struct, gc=False, tag_field="type", tag="tool_use"):
    """A call of a tool; its input is not decoded."""

    id: str = ""
    name: str = ""
    input: Raw = Raw()


class ServerToolUse(ToolUse, gc=False, tag_field="type", tag="server_tool_use"):
    """A call of one of the API's own tools."""


class ResultBlock(Struct, gc=False):
    """Part of a tool's result."""

    text: Text = None


class ToolResult(Struct, gc=False, tag_field="type", tag="tool_result"):
    """The result of a call, of which the text's size is used."""

    tool_use_id: str = ""
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None


class Image(Struct, gc=False, tag_field="type", tag="image"):
    """A pasted picture: megabytes, and never part of a response."""


class Document(Struct, gc=False, tag_field="type", tag="document"):
    """A pasted document."""


Block = TextBlock | Thinking | ToolUse | ServerToolUse | ToolResult | Image | Document


class Message(Struct, gc=False):
    """The API's message, or what the user said. Content blocks of other types stay dictionaries."""

    model: Text = None
    id: Text = None
    content: str | list[Block] | None = None
    stop_reason: Text = None
    usage: Usage | None = None


class Details(Struct, gc=False, rename="camel"):
    """What Claude Code notes of a tool's result."""

    agent_id: Text = None
    search_count: Count = None


class Embedded(Struct, gc=False, rename="camel"):
    """A subagent's record within a progress record of its parent."""

    type: Text = None
    message: Message | str | None = None
    timestamp: Text = None
    uuid: Text = None
    request_id: Text = None
    tool_use_result: Details | str | list[Raw] | None = None
    is_api_error_message: bool | None = None
    cost_usd: float | None = msgspec.field(default=None, name="costUSD")


class Progress(Struct, gc=False, rename="camel"):
    """What a progress record tells."""

    message: Embedded | str | None = None
    type: Text = None
    agent_id: Text = None


class Attachment(Struct, gc=False):
    """What Claude Code added to a conversation."""

    type: Text = None
    prompt: Text = None


class Origin(Struct, gc=False, rename="camel"):
    """Where a record was copied from."""

    session_id: Text = None


class Record(Struct, gc=False, rename="camel"):
    """One record, its fields in the order in which they are usually written."""

    type: str
    parent_uuid: Text = None
    is_sidechain: bool | None = None
    agent_id: Text = None
    message: Message | str | None = None
    attachment: Attachment | None = None
    request_id: Text = None
    subtype: Text = None
    content: str | list[Raw] | None = None
    uuid: Text = None
    timestamp: Text = None
    tool_use_result: Details | str | list[Raw] | None = None
    entrypoint: Text = None
    cwd: Text = None
    session_id: Text = None
    version: Text = None
    git_branch: Text = None
    session_kind: Text = None
    forked_from: Origin | None = None
    attribution_agent: Text = None
    attribution_skill: Text = None
    attribution_plugin: Text = None
    attribution_mcp_server: Text = None
    attribution_mcp_tool: Text = None
    is_meta: bool | None = None
    is_compact_summary: bool | None = None
    is_api_error_message: bool | None = None
    cost_usd: float | None = msgspec.field(default=None, name="costUSD")
    data: Progress | None = None
    operation: Text = None
    summary: Text = None
    leaf_uuid: Text = None
    ai_title: Text = None
    custom_title: Text = None
    agent_name: Text = None
    pr_url: Text = None


class Edit(Struct, gc=False):
    """The input of a tool that changes a file."""

    file_path: Text = None
    notebook_path: Text = None


_decoder = msgspec.json.Decoder(Record)
decode, decode_lines = _decoder.decode, _decoder.decode_lines
decode_edit = msgspec.json.Decoder(Edit).decode
decode_any = msgspec.json.decode
# What `decode` raises: not JSON, not of these types, not UTF-8, nested too deeply.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Numbers stay as they were written: some are strings.
_AS_WRITTEN = (Usage, Details)


def fit(value: dict[str, Any]) -> Record:
    """A record whose fields may be anything: what is not of its type is absent."""
    found: Record = _struct(Record, value)
    return found


def _struct(kind: Any, value: dict[str, Any]) -> Any:
    given = {}
    for name, written, hint in _fields(kind):
        if written in value:
            found = _value(hint, value[written])
            if found is not None:
                given[name] = found
    return kind(**given)


@cache
def _fields(kind: Any) -> list[tuple[str, str, Any]]:
    hints = get_type_hints(kind)
    return [(field.name, field.encode_name, hints[field.name]) for field in msgspec.structs.fields(kind)]


def _value(kind: Any, value: Any) -> Any:
    for option in get_args(kind) if get_origin(kind) is not list and get_args(kind) else (kind,):
        if get_origin(option) is list:
            if value.__class__ is list:
                fitted = (_value(get_args(option)[0], item) for item in value)
                return [item for item in fitted if item is not None]
        elif option is Raw:
            return Raw(to_json(value) or b"null")
        elif option.__class__ is type(Struct):
            if value.__class__ is dict and option in _AS_WRITTEN:
                return value
            if value.__class__ is dict and option.__struct_config__.tag in (None, value.get("type")):
                return _struct(option, value)
        elif value.__class__ is option or (option is float and value.__class__ is int):
            return value
    return value if kind is Block and value.__class__ is dict else None


def to_json(value: Any) -> bytes:
    """JSON of a value, or nothing: orjson reads 1024 levels and writes 254, and no integer beyond 64 bits."""
    import orjson

    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return b""
