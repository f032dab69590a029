"""What of a transcript's rows must not be stored: the text of all sessions, or what was forgotten."""

from __future__ import annotations

import re

from .batch import EDITS, TEXT_DROPPED
from .digest import digest_text
from .session_facts import told

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Container

    from .batch import Batch
    from .transcripts import Part


_DIGEST = re.compile("[0-9a-f]{16}")


class Tombstones:
    """Sessions that were forgotten: their text does not come back, nor, of some, anything else."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT id, session_id, is_all FROM forgotten").fetchall()
        self._text = {row[0] for row in rows}
        self._all = {row[0] for row in rows if row[2]}
        self._names = {row[1] for row in rows if row[2]}

    def apply(self, part: Part) -> None:
        """Takes out of a part what must not be stored."""
        if not self._text:
            return
        batch = part.batch
        if self._all:
            _drop(batch, self._all)
            if part.state[0] in self._names:
                part.state, part.is_forgotten = (None, *part.state[1:]), True
        contexts = {row[0] for row in batch.contexts.values() if row[1] in self._text}
        drop_text(batch, {row[0] for row in batch.records if row[4] in contexts}, self._text)


class _Everything:
    """Contains whatever it is asked for."""

    def __contains__(self, _: object) -> bool:
        return True


EVERYTHING = _Everything()


def drop_text(batch: Batch, records: Container[int] = EVERYTHING, sessions: Container[int] = EVERYTHING) -> None:
    """Leaves out what was said: prompts, answers, titles, descriptions, and what slash commands were given."""
    batch.records = [
        (*row[:6], row[6] | TEXT_DROPPED, *row[7:10], told(row[3], row[-1]) or row[10], *row[11:-1], None)
        if row[-1] is not None and row[0] in records
        else row
        for row in batch.records
    ]
    batch.passages = [row for row in batch.passages if row[0] not in records]
    batch.agents = [(*row[:3], None, row[4]) if row[0] in sessions else row for row in batch.agents]
    batch.tool_uses = [
        (*row[:4], kept_subject(row[3], row[4]), row[5]) if row[4] is not None and row[1] in records else row
        for row in batch.tool_uses
    ]


def kept_subject(tool: str, subject: str) -> str:
    """A subagent type, a skill, or a slash command without what it was given; a file without its name.

    Of what is kept already, the same.
    """
    if tool in EDITS:
        return subject if _DIGEST.fullmatch(subject) else f"{digest_text(subject):016x}"
    return next(iter(subject.split(None, 1)), "")


def _drop(batch: Batch, sessions: set[int]) -> None:
    """Leaves out all of some sessions."""
    contexts = {key for key, row in batch.contexts.items() if row[1] in sessions}
    dropped = {row[0] for row in batch.records if row[4] in contexts}
    batch.contexts = {key: row for key, row in batch.contexts.items() if key not in contexts}
    batch.sessions = {key: name for key, name in batch.sessions.items() if key not in sessions}
    batch.agents = [row for row in batch.agents if row[0] not in sessions]
    batch.records = [row for row in batch.records if row[0] not in dropped]
    batch.usage = [row for row in batch.usage if row[1] not in dropped]
    batch.tool_uses = [row for row in batch.tool_uses if row[1] not in dropped]
    batch.tool_results = [row for row in batch.tool_results if row[1] not in dropped]
    batch.passages = [row for row in batch.passages if row[0] not in dropped]
