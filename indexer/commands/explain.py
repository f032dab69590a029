"""`cm explain`."""

from __future__ import annotations

import os
from typing import Any

import click

from .. import comparison, zones
from .. import explain as library
from ..cli import index_options, json_option, refresh_option, timezone_option
from ..output import dumps, printable
from .common import open_index, tokens_of

WIDTH = 100
# Name, column of tokens, rate, and the cost it is part of.
_KINDS = (
    ("input", "input_tokens", "input", "input"),
    ("output", "output_tokens", "output", "output"),
    ("cache write 5m", "cache_creation_5m_tokens", "cache_write_5m", "cache_write"),
    ("cache write 1h", "cache_creation_1h_tokens", "cache_write_1h", "cache_write"),
    ("cache read", "cache_read_tokens", "cache_read", "cache_read"),
    ("web searches", "web_searches", "web_search", "web_search"),
)
_NANO = 10**9
# Responses named for each reason a difference has; --json names all.
_LISTED = 3


@click.command()
@click.argument("target", metavar="DAY|SESSION|RESPONSE", required=False)
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(),
    help="Compare with the JSON of `ccusage daily` or `ccusage session`; without a day or session, all of it.",
)
@timezone_option
@refresh_option
@json_option
@index_options
def explain(
    roots: tuple[str, ...],
    db: str | None,
    as_json: bool,
    no_refresh: bool,
    timezone: str | None,
    against: str | None,
    target: str | None,
) -> None:
    """Show how a number came about, record by record.

    Every response of the day or session: where its records stand and which of them are copies, which gave each count,
    the price, the factors and the cost; and at the end the sum, which is what the reports show.

    With --against, the two must have the same time zone; what no reason explains is listed as unexplained.

    A day is 2026-10-31, 20261031, today or yesterday. The beginning of a session's id is enough, if it is the only one.

    \b
    Examples:
      cm explain yesterday
      cm explain 5e551000
      cm explain msg_01AbCdEfGhIjKlMnOpQrStUv
      ccusage daily --json > ccusage.json && cm explain --against ccusage.json
    """
    if target is None and against is None:
        raise click.UsageError("name a day, a session or a response")
    connection = open_index(db, roots, no_refresh, "explain")
    try:
        zones.apply(connection, timezone)
        if against is not None:
            found = comparison.compare(connection, against, target)
        else:
            found = library.explain(connection, library.find(connection, str(target)))
    finally:
        connection.close()
    write = _comparison if against is not None else _text
    click.echo(dumps(found, indent=True) if as_json else write(found))


def _text(found: dict[str, Any]) -> str:
    rows = [row for response in found["responses"] for row in (response, *response["advisor_calls"])]
    named = dict.fromkeys(row["price"]["source"] for row in rows if row["price"])
    sources = {source: number for number, source in enumerate(named, 1)}
    blocks = [_response(row, sources, found["is_merged"]) for row in found["responses"]]
    notes = [_field(f"source {number}", source) for source, number in sources.items()]
    return "\n\n".join([*blocks, "\n".join([*_sum(found), *notes])])


def _response(row: dict[str, Any], sources: dict[str, int], is_merged: bool) -> str:
    machine = _machine(row) if is_merged else ""
    lines = [
        printable(f"{row['response_key']}  {row['at']}  {row['model']}"),
        _field("session", row["session_id"]),
        _field("project", row["project"] + (f", subagent {row['agent']}" if row["agent"] else "")),
        printable(f"  {'owner':<11}{row['file']}:{row['line']}{machine}"),
        *_counts(row, sources),
        *_records(row, is_merged),
    ]
    for number, call in enumerate(row["advisor_calls"], 1):
        lines += [_field(f"advisor {number}", call["model"]), *_counts(call, sources)]
    return "\n".join(lines)


def _machine(row: dict[str, Any]) -> str:
    return f" on {row['user']}@{row['host']}"


def _field(name: str, value: str) -> str:
    from textwrap import fill

    text = f"  {name:<11}{printable(value)}"
    return fill(text, WIDTH, subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False)


def _counts(row: dict[str, Any], sources: dict[str, int]) -> list[str]:
    """The price and what is to be known about it, and a table of tokens and cost by kind."""
    lines = [_field("price", _price(row["price"], sources))]
    lines += [_field("factor", text) for text in _factors(row)]
    lines += [_field("note", text) for text in _notes(row)]
    lines.append(f"    {'':<15}{'tokens':>14}{'USD per M':>12}{'nanodollars':>18}  given by".rstrip())
    has_hours = row["cache_creation_1h_tokens"] > 0
    counts = row | {"cache_creation_5m_tokens": row["cache_creation_tokens"] - row["cache_creation_1h_tokens"]}
    for name, column, rate, cost in _KINDS:
        if counts[column]:
            # Cache writes of both lifetimes are rounded as one sum.
            shown = None if column == "cache_creation_5m_tokens" and has_hours else cost
            lines.append(_kind(row, name, column, counts[column], rate, shown))
    if row["price"] is not None:
        total = sum(row["cost_nano"].values())
        lines.append(f"    {'cost':<15}{'':>26}{total:>18,}  {_usd(total)}")
    if row["recorded_cost_usd"] is not None:
        lines.append(_field("recorded", f"${row['recorded_cost_usd']}, by the transcript itself"))
    return lines


def _kind(row: dict[str, Any], name: str, column: str, count: int, rate: str, cost: str | None) -> str:
    price = row["price"]
    usd = "" if price is None else f"{price[rate]:.10g}" + ("/1000" if rate == "web_search" else "")
    nano = "" if price is None or cost is None else f"{row['cost_nano'][cost]:,}"
    return f"    {name:<15}{count:>14,}{usd:>12}{nano:>18}  {_given_by(row, column)}".rstrip()


def _given_by(row: dict[str, Any], column: str) -> str:
    """Which record has the largest count, where they differ."""
    if column == "web_searches" and row["searches"]:
        return ", ".join(f"{call['web_searches']} by {_place(row, call)}" for call in row["searches"])
    best = row["maxima"].get("cache_creation_tokens" if column == "cache_creation_5m_tokens" else column)
    return "" if best is None else f"{_place(row, best)}, others from {best['smallest']:,}"


def _place(row: dict[str, Any], other: dict[str, Any]) -> str:
    where = "line" if other["file"] == row["file"] else printable(os.path.basename(other["file"])) + " line"
    return f"{where} {other['line']}"


def _price(price: dict[str, Any] | None, sources: dict[str, int]) -> str:
    if price is None:
        return "none: nobody has priced this model at that time; it is left out of the sums"
    period = [f"from {price['from']}"] * bool(price["from"]) + [f"until {price['until']}"] * bool(price["until"])
    return f"{price['model']} {' '.join(period) or 'at all times'}, source {sources[price['source']]}"


def _factors(row: dict[str, Any]) -> list[str]:
    words = {"fast": "fast mode", "us": "inference in the US", "batch": "batch"}
    found = []
    for name, value in row["factors"].items():
        if name == "long_context_above":
            found.append(f"long context: above {value:,} tokens of input and cache, so all at the higher rates")
        elif name == "fast" and value == 1:
            found.append("fast mode ×1: its records say fast, but the model had no fast mode at that time")
        else:
            found.append(f"{words[name]} ×{value:g}")
    return found


def _notes(row: dict[str, Any]) -> list[str]:
    notes = {
        "is_undercounted": "undercounted: its final output was never written, so it is more than this",
        "is_implausible": "a count above 10^9 was taken as 0",
        "has_fallback": "an attempt of another model failed before; its tokens are not added",
    }
    return [text for name, text in notes.items() if row[name]]


def _records(row: dict[str, Any], is_merged: bool) -> list[str]:
    """The records by file, the owner's first."""
    said = [_said(record) for record in row["records"]]
    is_same = len(set(said)) == 1
    lines = [f"  records{', each with ' + said[0] if is_same else ''}"]
    place = (row["host"], row["user"], row["file"])
    for record, counts in zip(row["records"], said, strict=True):
        if (record["host"], record["user"], record["file"]) != place:
            place = (record["host"], record["user"], record["file"])
            lines.append(printable(f"    {record['file']}{_machine(record) if is_merged else ''}"))
        original = record["duplicate_of"] if record["role"] != "owner" else None
        text = f"    line {record['line']:<7}{record['role']}"
        text += f" as {_place(row, original)}" if original else ""
        text += "" if is_same else f": {counts}"
        lines.append(text + (" (its source is gone)" if record["is_source_gone"] else ""))
    return lines


def _said(record: dict[str, Any]) -> str:
    counts = [record[kind] for kind in ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")]
    return "{:,} in, {:,} out, {:,} written, {:,} read".format(*counts)


def _sum(found: dict[str, Any]) -> list[str]:
    total = found["sum"]
    counted = f"responses: {total['responses']:,}"
    if total["advisor_calls"]:
        counted += f", calls of advisors: {total['advisor_calls']:,}"
    lines = [printable(f"sum of {found['kind']} {found['name']}; {counted}")]
    lines.append(f"    {'':<15}{'tokens':>14}{'':>12}{'nanodollars':>18}")
    for name, column, _, cost in _KINDS:
        if column != "cache_creation_5m_tokens":
            is_write = cost == "cache_write"
            tokens = total["cache_creation_tokens" if is_write else column]
            label = "cache write" if is_write else name
            lines.append(f"    {label:<15}{tokens:>14,}{'':>12}{total['cost_nano'][cost]:>18,}")
    nano = sum(total["cost_nano"].values())
    cost = "nothing in it has a price" if total["cost_usd"] is None else f"{_usd(nano)} at the API's prices"
    lines.append(f"    {'cost':<15}{'':>26}{nano:>18,}  {cost}")
    lines += [_field("unpriced", f"{tokens_of(item)}, not in the cost") for item in total["unpriced"]]
    if total["undercounted_responses"]:
        count = total["undercounted_responses"]
        lines.append(_field("note", f"undercounted responses, whose final output was never written: {count:,}"))
    return lines


def _usd(nano: int) -> str:
    return f"${nano // _NANO:,}.{nano % _NANO:09}"


def _comparison(found: dict[str, Any]) -> str:
    blocks = [_difference(item) for item in found["differences"]]
    count, what = len(found["differences"]), "day" if found["report"] == "daily" else "session"
    differ = f"1 {what} differs" if count == 1 else f"{count:,} {what}s differ"
    verdict = f"{differ}, {found['same']:,} {'is' if found['same'] == 1 else 'are'} the same"
    return "\n\n".join([*blocks, "\n".join([verdict, *map(printable, found["warnings"])])])


def _difference(item: dict[str, Any]) -> str:
    heads = "".join(
        f"{name:>{width}}"
        for name, width in zip(("input", "output", "cache write", "cache read", "USD"), _WIDTHS, strict=True)
    )
    lines = [f"{printable(item['key']):<36}".rstrip(), f"  {'':<12}{heads}"]
    lines += [_amounts("index", item["index"]), _amounts("ccusage", item["ccusage"])]
    lines.append(_amounts("difference", item["difference"], "+"))
    for reason in item["reasons"]:
        lines += [_field("because", reason["reason"]), _amounts("", reason, "+")]
        for response in reason["responses"][:_LISTED]:
            lines.append(
                printable(f"    {response['response_key']} at {os.path.basename(response['file'])}:{response['line']}")
            )
        if len(reason["responses"]) > _LISTED:
            lines.append(f"    and {len(reason['responses']) - _LISTED:,} more")
    if any(abs(amount) >= 1e-6 for amount in item["unexplained"].values()):
        lines.append(_amounts("unexplained", item["unexplained"], "+"))
    return "\n".join(lines)


_WIDTHS = (14, 14, 16, 18, 16)


def _amounts(name: str, amounts: dict[str, Any] | None, sign: str = "") -> str:
    if amounts is None:
        return f"  {name:<12}{'is not in the file':>{_WIDTHS[0] + _WIDTHS[1]}}"
    values = [amounts[column] for column in comparison.COLUMNS]
    texts = [f"{value:{sign},}" for value in values[:4]] + [f"{values[4]:{sign},.6f}"]
    return f"  {name:<12}" + "".join(f"{text:>{width}}" for text, width in zip(texts, _WIDTHS, strict=True))
