"""Finding what was said: a query as people type it, and the passages that have it, the best first."""

from __future__ import annotations

import json
import re
from collections import namedtuple
from itertools import islice

from . import passages, sessions
from .errors import BadInput
from .store import fetch_dicts
from .times import LATEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from typing import Any, NamedTuple

    Row = dict[str, Any]

    class Query(NamedTuple):
        """What is looked for. Times are milliseconds UTC, ids those of the tables; None is no limit."""

        match: str
        phrases: Sequence[str]
        since: int | None = None
        until: int | None = None
        sessions: Sequence[int] | None = None
        role: str | None = None
        tool: str | None = None

else:
    Query = namedtuple("Query", "match phrases since until sessions role tool", defaults=(None, None, None, None, None))

# What says something, as the view `searchable` names it.
ROLES = ("prompt", "answer", "tool", "result", "thinking", "task", "note")
# So many of the newest that match are ranked. bm25 counts every message that has a word, at 50 ns each; of a word that
# is nearly everywhere it says nothing, so with one of those the newest come first.
_RANKED = 1_000
_COMMON = 200_000
_SHORT = 4
_START, _END = "\x02", "\x03"
_SNIPPET_WORDS = 32
# Words and "phrases", each with a * where it is a beginning.
_TERM = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')
# More sessions than this are looked up one by one in what was found.
_NAMED_SESSIONS = 200
_MONTHS = 36


def typed(arguments: Sequence[str]) -> str:
    """What somebody typed in a shell: an argument with spaces is a phrase, because the shell took its quotes."""
    return " ".join(f'"{_unstarred(argument)}' if _is_phrase(argument) else argument for argument in arguments)


def parse(text: str) -> tuple[str, list[str]]:
    """A query for FTS5 of what was typed, and its phrases.

    All words must occur, in any order; OR between words separates alternatives. "…" is a phrase. A * ends the
    beginning of a word. What is no letter or digit separates words: nothing that is typed is a syntax error.

    Raises:
        BadInput: there is no word in it.
    """
    alternatives: list[list[str]] = [[]]
    for quoted, star, word in _TERM.findall(text):
        if word == "OR" and alternatives[-1]:
            alternatives.append([])
        elif found := _phrase(quoted or word, bool(star) or word.endswith("*")):
            alternatives[-1].append(found)
    alternatives = [words for words in alternatives if words]
    if not alternatives:
        raise BadInput(f"{text or 'nothing'}: there is no word in it to look for")
    match = " OR ".join(f"({' AND '.join(words)})" for words in alternatives)
    return match, [word for words in alternatives for word in words]


def _is_phrase(argument: str) -> bool:
    return '"' not in argument and " " in argument.strip()


def _unstarred(argument: str) -> str:
    """The rest of a phrase in quotes, with its star behind them."""
    stripped = argument.strip()
    return f'{stripped[:-1]}"*' if stripped.endswith("*") else f'{stripped}"'


def _phrase(text: str, is_beginning: bool) -> str | None:
    if not re.search(r"[^\W_]", text):
        return None
    return '"{}"{}'.format(text.replace('"', " ").replace("\0", " "), " *" if is_beginning else "")


def find(connection: sqlite3.Connection, query: Query, limit: int) -> list[Row]:
    """Passages that match, the best first and of copies one, as `cm search --json` prints them.

    The caller has seen to it that there is a full-text index.
    """
    about = _about(connection, query)
    match = f"text : ({query.match})" + (f" AND about : ({about})" if about else "")
    values = {**query._asdict(), "match": match, "ranked": _RANKED}
    score = _SCORE if _is_telling(connection, query.phrases) else "0"
    rows = fetch_dicts(connection, _CANDIDATES.format(score=score, conditions=_conditions(query)), values)
    rows.sort(key=lambda row: (row["score"], -row["at"], row["is_source_gone"], row["is_background"], row["id"]))
    best = list(islice(_once(connection, rows), limit))
    ids = [row["id"] for row in best] or [0]
    values |= {"ids": json.dumps(ids), "first": min(ids), "last": max(ids)}
    snippets = dict(connection.execute(_SNIPPETS, values).fetchall())
    how = sessions.resumes(connection, {row["session_id"] for row in best})
    return [
        {**_hit(connection, row, snippets[row["id"]]), **how.get(row["session_id"], sessions.NO_RESUME)} for row in best
    ]


def by_session(found: Sequence[Row]) -> list[list[Row]]:
    """What `find` found, the session of the best first."""
    sessions: dict[str, list[Row]] = {}
    for row in found:
        sessions.setdefault(row["session_id"], []).append(row)
    return list(sessions.values())


# bm25 is the less, the better. What was said counts twice as much as what was only passed to a tool.
_SCORE = f"bm25(search, 1.0, 0.0) * (1 + (p.kind = {passages.MESSAGE}))"

# The newest come first from the full-text index: its rows are in the order of time.
_CANDIDATES = """
SELECT
  search.rowid AS id, {score} AS score, p.kind, p.tool, r.id AS record_id, r.uuid, r.response_id, r.at,
  c.session_id, c.is_background, c.is_sidechain, c.agent,
  f.gone_at IS NOT NULL OR f.replaced_at IS NOT NULL AS is_source_gone
FROM search
CROSS JOIN passages AS p ON p.id = search.rowid
CROSS JOIN records AS r ON r.id = p.record_id
CROSS JOIN contexts AS c ON c.id = r.context_id
CROSS JOIN files AS f ON f.id = r.id >> 40
WHERE search MATCH :match {conditions}
ORDER BY search.rowid DESC
LIMIT :ranked
"""
# In one go: FTS5 would put the words together anew for each row that is asked for by its id.
_SNIPPETS = f"""
SELECT rowid, snippet(search, 0, '{_START}', '{_END}', '…', {_SNIPPET_WORDS})
FROM search
WHERE search MATCH :match AND rowid BETWEEN :first AND :last AND +rowid IN (SELECT value FROM json_each(:ids))
"""
_SESSION = """
SELECT s.session_id, s.title, p.path AS project
FROM sessions AS s LEFT JOIN projects AS p ON p.id = s.project_id
WHERE s.id = ?
"""


def _is_telling(connection: sqlite3.Connection, phrases: Sequence[str]) -> bool:
    """Whether bm25 says something, at a reasonable price: of a few letters it counts all that begins with them."""
    words = []
    for phrase in phrases:
        parts = [f'"{word}"' for word in re.findall(r"[^\W_]+", phrase)]
        if phrase.endswith("*"):
            if len(parts[-1]) - 2 <= _SHORT:
                return False
            parts[-1] += " *"
        words += parts
    sql = f"SELECT 1 FROM search WHERE search MATCH ? LIMIT 1 OFFSET {_COMMON}"
    return not any(connection.execute(sql, (f"text : {word}",)).fetchone() for word in words)


def _about(connection: sqlite3.Connection, query: Query) -> str:
    """The filters as words of `about`, which FTS5 skips through: what they leave out is never looked at."""
    groups = []
    if query.sessions is not None and len(query.sessions) <= _NAMED_SESSIONS:
        groups.append([f"s{session}" for session in query.sessions] or ["none"])
    if query.since is not None and (months := _months(query.since, query.until)):
        groups.append(months)
    if query.role is not None:
        groups.append([f"k{query.role}"])
    if query.tool is not None:
        groups.append([f"t {query.tool}", "kresult"])
    return " AND ".join(f"({' OR '.join(map(_quoted, words))})" for words in groups)


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace('"', " "))


def _months(since: int, until: int | None) -> list[str]:
    """Months that a span touches; none if they are too many to be of use."""
    from datetime import UTC, datetime

    first = datetime.fromtimestamp(max(since, 0) / 1000, UTC)
    last = datetime.now(UTC) if until is None else datetime.fromtimestamp(min(max(until, 0), LATEST) / 1000, UTC)
    span = range(first.year * 12 + first.month - 1, last.year * 12 + last.month + (until is None))
    return [f"m{month // 12:04}{month % 12 + 1:02}" for month in span] if len(span) <= _MONTHS else []


def _conditions(query: Query) -> str:
    """The filters, exactly."""
    found = []
    if query.since is not None:
        found.append("r.at >= :since")
    if query.until is not None:
        found.append("r.at < :until")
    if query.sessions is not None:
        found.append(f"c.session_id IN ({', '.join(map(str, query.sessions))})")
    if query.tool is not None:
        calls = "SELECT 1 FROM tool_results AS x JOIN tool_uses AS u ON u.call_id = x.call_id"
        found.append(f"(p.tool = :tool OR EXISTS ({calls} WHERE x.record_id = r.id AND u.name = :tool))")
    return "".join(f" AND {condition}" for condition in found)


def _once(connection: sqlite3.Connection, rows: Sequence[Row]) -> Iterator[Row]:
    """Rows without copies: a fork repeats records, a teleported session repeats responses under new uuids."""
    texts: dict[Any, set[str]] = {}
    for row in rows:
        keys = [("uuid", row["uuid"], row["kind"]), ("response", row["response_id"], row["kind"])]
        keys = [key for key in keys if key[1] is not None]
        text = _text(connection, row["id"])
        if any(text in texts.get(key, ()) for key in keys):
            continue
        for key in keys:
            texts.setdefault(key, set()).add(text)
        yield row


def _text(connection: sqlite3.Connection, id: int) -> str:
    return str(connection.execute("SELECT text FROM searchable WHERE id = ?", (id,)).fetchone()[0])


def _hit(connection: sqlite3.Connection, row: Row, snippet: str) -> Row:
    text, highlights = _marked(snippet)
    (session,) = fetch_dicts(connection, _SESSION, (row["session_id"],))
    (about,) = connection.execute("SELECT about FROM searchable WHERE id = ?", (row["id"],)).fetchone()
    return {
        **session,
        "message_id": row["record_id"],
        "uuid": row["uuid"],
        "at": sessions.iso(row["at"]),
        "role": about.split(" ", 3)[2][1:],
        "tool": row["tool"],
        "is_sidechain": bool(row["is_sidechain"]),
        "agent": row["agent"],
        "snippet": text,
        "highlights": highlights,
    }


def _marked(snippet: str) -> tuple[str, list[tuple[int, int]]]:
    """A snippet on one line, and where what was found begins and ends in it."""
    text, highlights = "", []
    for part in re.split(f"({_START}.*?{_END})", snippet, flags=re.DOTALL):
        plain = re.sub(r"\s+", " ", part.strip(_START + _END))
        if part.startswith(_START) and part.endswith(_END):
            highlights.append((len(text), len(text) + len(plain)))
        text += plain
    return text, highlights
