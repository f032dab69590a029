"""What can be searched: the text of messages and, kept from the first search on, what tools were given.

A passage is a message's text, which stands in `records`, or what the index otherwise leaves in the transcript: the
input of a tool; where asked for, its result, and thinking.
"""

from __future__ import annotations

from . import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # Record, kind, tool, text.
    Passage = tuple[int, int, str | None, str]

MESSAGE, INPUT, RESULT, THINKING = range(4)
# What may be kept beside tool inputs, as settings and options name it.
OPTIONAL = {"tool-results": RESULT, "thinking": THINKING}
# A file that was read whole is found by its beginning, too.
MOST = 100_000


def of_line(line: bytes, record_id: int, kinds: frozenset[int]) -> list[Passage]:
    """Passages of the record that stands there."""
    records = [piece.record for piece in lines.pieces(line) if piece.record is not None]
    return of(records[0], record_id, kinds) if records else []


def of(record: dict[str, Any], record_id: int, kinds: frozenset[int]) -> list[Passage]:
    """Passages of a record beside its text."""
    message = record.get("message")
    content = message.get("content") if message.__class__ is dict else None
    found: list[Passage] = []
    for item in content if content.__class__ is list else ():
        if item.__class__ is not dict:
            continue
        kind = item.get("type")
        if kind in ("tool_use", "server_tool_use") and INPUT in kinds:
            name = item.get("name")
            found.append((record_id, INPUT, name if isinstance(name, str) else None, _texts(item.get("input"))))
        elif kind == "tool_result" and RESULT in kinds:
            found.append((record_id, RESULT, None, _texts(item.get("content"))))
        elif kind == "thinking" and THINKING in kinds:
            found.append((record_id, THINKING, None, _texts(item.get("thinking"))))
    return [passage for passage in found if passage[3]]


def _texts(value: Any) -> str:
    """All texts within a value, one a line; no keys, and not what stands for an image."""
    found: list[str] = []
    todo = [value]
    while todo:
        item = todo.pop()
        if item.__class__ is str:
            found.append(item)
        elif item.__class__ is list:
            todo.extend(reversed(item))
        elif item.__class__ is dict and "tool_use_id" not in item and item.get("type") not in ("image", "document"):
            todo.extend(reversed([part for key, part in item.items() if key != "type"]))
    return "\n".join(found)[:MOST]
