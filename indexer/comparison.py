"""Where ccusage's numbers differ from the index's, by how much, and which responses explain it."""

from __future__ import annotations

import os

from . import ccusage, prices, zones
from .ccusage import DAILY, SESSION, Entry, Unread
from .errors import BadInput
from .explain import DAY_MS, find, iso_day
from .output import dumps
from .store import fetch_dicts, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, TypeAlias

    # Input, output, cache write, cache read, USD.
    Sum: TypeAlias = tuple[int, int, int, int, float]
    # A response by its key, and which of its calls.
    Call: TypeAlias = tuple[str, int]

COLUMNS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens", "cost_usd")
_THEIRS = ("inputTokens", "outputTokens", "cacheCreationTokens", "cacheReadTokens", "totalCost")
ZERO: Sum = (0, 0, 0, 0, 0.0)
# Its dollars are sums of floating-point numbers.
_NO_COST = 1e-6

_OURS = """
SELECT
  {bucket} AS bucket, sum(r.input_tokens), sum(r.output_tokens), sum(r.cache_write_tokens), sum(r.cache_read_tokens),
  coalesce(sum(r.input + r.output + r.cache_write + r.cache_read + r.web_search), 0) / 1e9
FROM response_costs AS r
JOIN sessions AS s ON s.id = r.session_id
GROUP BY bucket
"""
_OWNED = """
SELECT DISTINCT r.key
FROM responses AS r
JOIN sessions AS s ON s.id = r.session_id
WHERE {bucket} IN (SELECT value FROM json_each(?))
"""
_CALLS = """
SELECT
  r.key, r.part, {bucket} AS bucket, r.input_tokens, r.output_tokens, r.cache_write_tokens, r.cache_read_tokens,
  (r.input + r.output + r.cache_write + r.cache_read + r.web_search) / 1e9 AS cost_usd,
  r.cache_write_1h_tokens, r.web_searches, r.flags, r.rate_id, m.name AS model, f.path AS file, w.line,
  r.recorded_nano
FROM response_costs AS r
JOIN sessions AS s ON s.id = r.session_id
JOIN models AS m ON m.id = r.model_id
JOIN records AS w ON w.id = r.owner_id
JOIN files AS f ON f.id = w.id >> 40
WHERE r.key IN (SELECT value FROM json_each(?))
"""
_LOCAL_DAY = """
date((r.at + coalesce(
  (SELECT z.offset_ms FROM zone_offsets AS z WHERE z.from_at <= r.at ORDER BY z.from_at DESC LIMIT 1), 0
)) / 1000.0, 'unixepoch')"""
_RECORDS = """
SELECT u.key, f.path AS file, w.line, f.replaced_at IS NULL AND f.gone_at IS NULL AND f.host_id = 1 AS is_present
FROM record_usage AS u
JOIN records AS w ON w.id = u.record_id
JOIN files AS f ON f.id = w.id >> 40
WHERE u.part = 0
UNION ALL
SELECT NULL, f.path, w.line, f.replaced_at IS NULL AND f.gone_at IS NULL AND f.host_id = 1
FROM records AS w
JOIN models AS m ON m.id = w.model_id
JOIN files AS f ON f.id = w.id >> 40
WHERE m.name = '<synthetic>'
"""


class Report:
    """A report of ccusage: `kind` is daily or session; sums, and costs of models by canonical id, by day or session."""

    def __init__(self, kind: str, rows: Iterable[dict[str, Any]]) -> None:
        self.kind = kind
        self.sums: dict[str, Sum] = {}
        self.models: dict[str, dict[str, float]] = {}
        self.agents: set[str] = set()
        for row in rows:
            key = str(row.get("period") or row.get("date") or row["sessionId"])
            self.sums[key] = _add(self.sums.get(key, ZERO), _sum(row[name] for name in _THEIRS))
            self.agents.update(row.get("metadata", {}).get("agents", ()))
            models = self.models.setdefault(key, {})
            for item in row.get("modelBreakdowns", ()):
                name = prices.canonical(item["modelName"].removesuffix("-fast"))
                models[name] = models.get(name, 0.0) + float(item["cost"])

    def free(self) -> set[str]:
        """Models that never cost anything."""
        named = {name for models in self.models.values() for name in models}
        return {name for name in named if not any(models.get(name) for models in self.models.values())}

    def warnings(self) -> list[str]:
        others = ", ".join(sorted(self.agents - {"claude"}))
        return [f"it also counts {others}: `ccusage claude` is for Claude Code alone"] if others else []


def load(path: str) -> Report:
    """Reads a report of ccusage. Raises BadInput: it is not the JSON of `daily` or `session`."""
    import json

    try:
        with open(path, "rb") as file:
            report = json.load(file)
        kind, rows = next((kind, report[name]) for name, kind in _NAMES.items() if isinstance(report.get(name), list))
        return Report(kind, rows)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; name a file with the output of `ccusage daily --json`") from error
    except (ValueError, AttributeError, KeyError, TypeError, StopIteration) as error:
        raise BadInput(f"{path} is not the output of `ccusage daily --json` or `ccusage session --json`") from error


_NAMES = {"daily": DAILY, "session": SESSION, "sessions": SESSION}


def _sum(values: Iterable[Any]) -> Sum:
    tokens_in, out, write, read, usd = values
    return int(tokens_in), int(out), int(write), int(read), float(usd)


def _add(one: Sum, other: Sum, sign: int = 1) -> Sum:
    return _sum(a + sign * b for a, b in zip(one, other, strict=True))


def compare(connection: sqlite3.Connection, path: str, target: str | None = None) -> dict[str, Any]:
    """The object that `cm explain --against --json` prints: days or sessions that differ, and why.

    A reason's numbers are what it adds to ccusage's; what no reason explains is `unexplained`. Raises BadInput.
    """
    report = load(path)
    with snapshot(connection):
        comparison = _Comparison(connection, report)
        if target is not None:
            found = find(connection, target)
            what = "day" if report.kind == DAILY else "session"
            if found.kind != what:
                raise BadInput(f"{path} is by {what}, and {target} is not one; name one, or leave it out")
            comparison.keys &= {found.name}
            comparison.same = 1 - len(comparison.keys)
        differences = comparison.explain()
    return {
        "report": report.kind,
        "warnings": report.warnings() + ([_OTHER_ZONE] if _is_shifted(differences) else []),
        "same": comparison.same,
        "differences": differences,
    }


_OTHER_ZONE = (
    "what is unexplained adds up to nothing over all days: if ccusage was given another time zone, or ran in one, name"
    " it with --timezone"
)


class _Comparison:
    def __init__(self, connection: sqlite3.Connection, report: Report) -> None:
        self._connection = connection
        self._kind = kind = report.kind
        self._theirs = theirs = report.sums
        self._their_models = report.models
        self._prices = _their_prices(report.free())
        self._in_sql = _LOCAL_DAY if kind == DAILY else "s.session_id"
        rows = connection.execute(_OURS.format(bucket=self._in_sql))
        self._ours = {bucket: _sum(amounts) for bucket, *amounts in rows}
        self._calls: dict[Call, dict[str, Any]] = {}
        every = self._ours.keys() | theirs.keys()
        self.keys = {key for key in every if not _is_same(self._ours.get(key, ZERO), theirs.get(key, ZERO))}
        self.same = len(every) - len(self.keys)

    def explain(self) -> list[dict[str, Any]]:
        """Every day or session that differs; of two versions of ccusage's rules, those that explain more."""
        keys = self._candidates()
        for row in fetch_dicts(self._connection, _CALLS.format(bucket=self._in_sql), (dumps(sorted(keys)),)):
            self._calls[row["key"], row["part"]] = row
        entries, unread = self._read(keys)
        best: list[dict[str, Any]] | None = None
        for is_newer in (False, True):
            kept = ccusage.deduplicate((entry for entry, _ in entries), self._kind, is_newer)
            found = self._differences(entries, kept, unread)
            if best is None or _unexplained(found) < _unexplained(best):
                best = found
        return best or []

    # What ccusage reads

    def _read(self, keys: set[str]) -> tuple[list[tuple[Entry, str | None]], dict[str, list[str]]]:
        """What ccusage reads, with the key of the response it is to us, and why it does not read the rest, by key."""
        wanted: dict[str, dict[int, list[str | None]]] = {}
        unread: dict[str, list[str]] = {}
        for key, file, line, is_present in self._connection.execute(_RECORDS):
            if key is None or key in keys:
                if is_present:
                    wanted.setdefault(file, {}).setdefault(line, []).append(key)
                elif key is not None:
                    unread.setdefault(key, []).append(
                        "its transcript is gone or was rewritten, and only the index has it"
                    )
        entries: list[tuple[Entry, str | None]] = []
        for file in sorted(wanted):
            for number, line in _lines(file, wanted[file]):
                for key in dict.fromkeys(wanted[file][number]):
                    try:
                        entries += [(entry, key) for entry in ccusage.read(line, file, number, self._kind)]
                    except Unread as reason:
                        if key is not None:
                            unread.setdefault(key, []).append(str(reason))
        return entries, unread

    def _candidates(self) -> set[str]:
        """Keys of responses that may have to do with what differs: owned there, or with a record there."""
        owned = self._connection.execute(_OWNED.format(bucket=self._in_sql), (dumps(sorted(self.keys)),))
        keys = {key for (key,) in owned}
        if self._kind == SESSION:
            paths = (row[:2] for row in self._connection.execute(_RECORDS) if row[0] is not None)
            return keys | {key for key, file in paths if ccusage.session_of(file) in self.keys}
        sql = f"SELECT DISTINCT u.key, {_LOCAL_DAY} FROM record_usage AS u JOIN records AS r ON r.id = u.record_id"
        return keys | {key for key, day in self._connection.execute(sql) if day in self.keys}

    def _bucket(self, entry: Entry) -> str:
        if self._kind == SESSION:
            return ccusage.session_of(entry.file)
        return iso_day((entry.at + zones.offset_at(self._connection, entry.at)) // DAY_MS)

    # What explains a difference

    def _differences(
        self, entries: Sequence[tuple[Entry, str | None]], kept: Sequence[Entry], unread: Mapping[str, list[str]]
    ) -> list[dict[str, Any]]:
        keys = {(entry.file, entry.line, entry.part): key for entry, key in entries}
        counted: dict[str, dict[Call, list[Entry]]] = {}
        where: dict[Call, set[str]] = {}
        for entry in kept:
            key, bucket = keys[entry.file, entry.line, entry.part], self._bucket(entry)
            call = (key if key is not None else f"{entry.file}:{entry.line}", entry.part)
            counted.setdefault(bucket, {}).setdefault(call, []).append(entry)
            where.setdefault(call, set()).add(bucket)
        ours: dict[str, set[Call]] = {}
        for call, row in self._calls.items():
            if row["bucket"] in self.keys:
                ours.setdefault(row["bucket"], set()).add(call)
        found = []
        for bucket in sorted(self.keys):
            reasons = _Reasons()
            theirs = counted.get(bucket, {})
            for call in sorted(ours.get(bucket, set()) | theirs.keys()):
                self._explain_call(reasons, bucket, call, theirs.get(call, []), where.get(call, set()), unread)
            self._explain_unpriced(reasons, bucket, ours.get(bucket, set()))
            found.append(self._difference(bucket, reasons))
        return found

    def _difference(self, bucket: str, reasons: _Reasons) -> dict[str, Any]:
        ours, theirs = self._ours.get(bucket, ZERO), self._theirs.get(bucket, ZERO)
        difference = _add(theirs, ours, -1)
        explained = ZERO
        for reason in reasons.found.values():
            explained = _add(explained, reason["sum"])
        return {
            "key": bucket,
            "index": _named(ours),
            "ccusage": _named(theirs) if bucket in self._theirs else None,
            "difference": _named(difference),
            "reasons": [
                {"reason": text, **_named(reason["sum"]), "responses": sorted(reason["responses"], key=_size)}
                for text, reason in sorted(reasons.found.items(), key=lambda item: -abs(item[1]["sum"][4]))
            ],
            "unexplained": _named(_add(difference, explained, -1)),
        }

    def _explain_call(
        self,
        reasons: _Reasons,
        bucket: str,
        call: Call,
        theirs: Sequence[Entry],
        where: set[str],
        unread: Mapping[str, list[str]],
    ) -> None:
        row = self._calls.get(call)
        ours = row if row is not None and row["bucket"] == bucket else None
        there = ZERO
        for entry in theirs:
            there = _add(there, (*_tokens(entry), self._cost(entry)))
        here = _counted(ours) if ours else ZERO
        if _is_same(here, there):
            return
        place = (row["file"], row["line"]) if row is not None else (theirs[0].file, theirs[0].line)
        charged = ZERO
        if ours and theirs:
            # What differs in the price of the same tokens is one reason, what differs in the tokens another.
            charged = (0, 0, 0, 0, self._their_cost_of(ours) - here[4])
            reasons.add(self._price_reason(ours), charged, call, place)
        rest = _add(_add(there, here, -1), charged, -1)
        if not _is_same(rest, ZERO):
            reasons.add(self._reason(row, ours, theirs, where, bucket, unread), rest, call, place)

    def _explain_unpriced(self, reasons: _Reasons, bucket: str, calls: Iterable[Call]) -> None:
        """Models that only ccusage has a price for: what it charges stands in its report by model."""
        names = {call: prices.canonical(self._calls[call]["model"]) for call in sorted(calls)}
        for model, usd in self._their_models.get(bucket, {}).items():
            unpriced = [call for call, name in names.items() if name == model and name not in self._prices]
            for call in unpriced:
                row = self._calls[call]
                share = usd / len(unpriced)
                text = f"{model} has a price there, and none here (its cost is divided evenly among the responses)"
                if row["rate_id"] is None:
                    reasons.add(text, (0, 0, 0, 0, share), call, (row["file"], row["line"]))

    def _reason(
        self,
        row: dict[str, Any] | None,
        ours: dict[str, Any] | None,
        theirs: Sequence[Entry],
        where: set[str],
        bucket: str,
        unread: Mapping[str, list[str]],
    ) -> str:
        what = "session" if self._kind == SESSION else "day"
        if row is None:
            return "counted there: <synthetic> records, which no call of the API is behind"
        if ours is None and row["bucket"] in where:
            return f"counted there once more for this {what}: copies without a requestId, or with another"
        if ours is None:
            return f"counted there for this {what}, here for another: its owner is in {row['bucket']}"
        if not theirs and where:
            why = " (it goes by the file's path)" if what == "session" else ""
            return f"counted there for another {what}{why}: {', '.join(sorted(where))}"
        if not theirs:
            causes = unread.get(ours["key"])
            return f"not counted there: {causes[0]}" if causes else "taken there for a copy of another response"
        if len(theirs) > 1:
            has_request = all(entry.request_id for entry in theirs)
            by = "its copies have other requestIds" if has_request else "its copies have no requestId"
            return f"counted there more than once: {by}"
        if _tokens(theirs[0])[:2] == (ours["input_tokens"], ours["output_tokens"]):
            return "its cache tokens are counted there by one record, and its split into 5m and 1h alone"
        return "counted there as one of its records says: nothing is taken from the others, or from iterations"

    # What ccusage charges

    def _cost(self, entry: Entry) -> float:
        if entry.recorded_usd is not None:
            return float(entry.recorded_usd)
        price = self._prices.get(prices.canonical(entry.model or ""))
        return 0.0 if price is None else ccusage.cost(entry.counts, price, entry.is_fast)

    def _their_cost_of(self, row: dict[str, Any]) -> float:
        """What ccusage would charge for our numbers."""
        if row["recorded_nano"] is not None:
            return float(row["recorded_nano"]) / 1e9
        hour = row["cache_write_1h_tokens"]
        write = row["cache_write_tokens"] - hour
        price = self._prices.get(prices.canonical(row["model"]))
        counts = (row["input_tokens"], row["output_tokens"], write, hour, row["cache_read_tokens"])
        return 0.0 if price is None else ccusage.cost(counts, price, bool(row["flags"] & 1))

    def _price_reason(self, row: dict[str, Any]) -> str:
        """What of a price ccusage does not know, or has otherwise."""
        if row["recorded_nano"] is not None:
            return "its recorded costUSD is taken there"
        if prices.canonical(row["model"]) not in self._prices:
            return f"{row['model']} has no price there"
        rate = (row["rate_id"] or 0) % 16
        largest = max(row["input_tokens"], row["output_tokens"], row["cache_write_tokens"], row["cache_read_tokens"])
        is_long = bool(rate & prices.LONG) or largest > ccusage.THRESHOLD
        causes = ["web searches are free"] * (row["web_searches"] > 0)
        causes += [f"long contexts by the newest price, and by what is above {ccusage.THRESHOLD:,} of a kind"] * is_long
        causes += ["fast mode costs more at all times, or never"] * bool(rate & prices.FAST)
        causes += ["inference in the US costs no more"] * bool(rate & prices.US)
        causes += ["a batch costs no less"] * bool(rate & prices.BATCH)
        return f"charged otherwise there: {', '.join(causes) or 'one price for all times, and none of yours'}"


class _Reasons:
    """What explains a difference, by its wording."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def add(self, reason: str, amount: Sum, call: Call, place: tuple[str, int]) -> None:
        if _is_same(amount, ZERO, 1e-12):
            return
        entry = self.found.setdefault(reason, {"sum": ZERO, "responses": []})
        entry["sum"] = _add(entry["sum"], amount)
        part = "advisor" if call[1] else "response"
        named = {"response_key": call[0], "part": part, "file": place[0], "line": place[1], **_named(amount)}
        entry["responses"].append(named)


def _their_prices(free: set[str]) -> dict[str, prices.Price]:
    """The one price of each model that ccusage knows: the newest, with the largest multiplier fast mode ever had."""
    found: dict[str, prices.Price] = {}
    for price in prices.load():
        before = found.get(price.model)
        found[price.model] = price if before is None else price._replace(fast=max(price.fast, before.fast))
    return {model: price for model, price in found.items() if model not in free}


def _counted(row: dict[str, Any]) -> Sum:
    tokens = (row["input_tokens"], row["output_tokens"], row["cache_write_tokens"], row["cache_read_tokens"])
    return _sum((*tokens, row["cost_usd"] or 0.0))


def _tokens(entry: Entry) -> tuple[int, int, int, int]:
    tokens_in, out, five_minutes, hour, read = entry.counts
    return tokens_in, out, five_minutes + hour, read


def _is_same(one: Sum, other: Sum, tolerance: float = _NO_COST) -> bool:
    return one[:4] == other[:4] and abs(one[4] - other[4]) < tolerance


def _named(amount: Sum) -> dict[str, int | float]:
    return {**dict(zip(COLUMNS, amount, strict=True)), "cost_usd": round(amount[4], 9)}


def _unexplained(found: Iterable[dict[str, Any]]) -> float:
    return float(sum(abs(amount) for item in found for amount in item["unexplained"].values()))


def _is_shifted(found: Sequence[dict[str, Any]]) -> bool:
    """Whether what one day lacks others have: what nothing explains adds up to next to nothing."""
    left = [sum(item["unexplained"][column] for column in COLUMNS[:4]) for item in found]
    return bool(sum(map(abs, left)) > 100 * abs(sum(left)))


def _size(response: dict[str, Any]) -> tuple[float, str]:
    return -abs(response["cost_usd"]), response["response_key"]


def _lines(file: str, wanted: Mapping[int, object]) -> Iterable[tuple[int, bytes]]:
    """The wanted lines of a transcript; of one that cannot be read any more, none."""
    try:
        with open(os.fsencode(file), "rb") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if number in wanted)
    except OSError:
        return
