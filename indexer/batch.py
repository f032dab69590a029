"""The rows that a piece of a transcript gives, and how their numbers are to be read."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The id of a record is the id of its transcript, and in so many bits its offset there.
OFFSET_BITS = 40
# Flags of a record: its time or session is another's, it stood behind a broken part of its line, its text is not kept.
AT_BORROWED, SESSION_BORROWED, RECOVERED, TEXT_DROPPED = 1, 2, 4, 8
# What makes a copy rank behind an original; in a rank it stands above the time.
SIDECHAIN_RANK, BACKGROUND_RANK, EMBEDDED_RANK = 4, 2, 1
RANK_SHIFT = 44
# Tools that change a file.
EDITS = ("Edit", "MultiEdit", "Write", "NotebookEdit")
# How the type of a subagent is known, best first.
FROM_META, FROM_RECORD, FROM_CALL = 0, 1, 2


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
        self.take_shared(tail)
        for name in ("records", "usage", "tool_uses", "tool_results", "passages", "skipped"):
            getattr(self, name).extend(getattr(tail, name))

    def take_shared(self, other: Batch) -> None:
        """Adds what rows of several batches refer to."""
        self.sessions |= other.sessions
        self.models |= other.models
        self.types |= other.types
        self.contexts |= other.contexts
        self.agents += other.agents
