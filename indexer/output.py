"""Rows as text: tables for people, JSON, CSV, TSV and Markdown for programs."""

from __future__ import annotations

import re
from itertools import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from rich.console import Console

FORMATS = ("table", "json", "jsonl", "csv", "tsv", "markdown")

# C0 and C1 controls: an escape sequence in a transcript must not reach the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_OR_BREAK = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# JSON leaves these as they are; in strings, and nowhere else can they be, they may be escaped.
_CONTROL_IN_JSON = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_AMOUNT = re.compile(r"\$?[\d,]+(\.\d+)?|unpriced")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code, f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def printable(value: str, one_line: bool = True) -> str:
    """Text with its control characters shown escaped; without `one_line`, tabs and line ends stay."""
    return (_CONTROL_OR_BREAK if one_line else _CONTROL).sub(_escape, value)


def console(width: int) -> Console:
    """What draws with colours, into memory: they are taken out where it is printed to what shows none."""
    from io import StringIO

    from rich.console import Console

    # Without a height rich takes a dumb terminal to be 80 wide.
    return Console(
        file=StringIO(), force_terminal=True, color_system="standard", width=width, height=24, legacy_windows=False,
        highlight=False,
    )  # fmt: skip


def counted(number: int, noun: str) -> str:
    """How many there are of something: 1 day, 2 days."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def dumps(value: Any, indent: bool = False) -> str:
    """JSON text, keys in their order."""
    import orjson

    text = orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    if text.isascii() and "\x7f" not in text:
        return text  # to look through a megabyte takes 7 ms
    return _CONTROL_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)


def render(columns: Sequence[str], rows: Iterable[Sequence[Any]], form: str) -> str:
    """Rows in one of FORMATS, without the final newline."""
    return "\n".join(lines(columns, rows, form))


def lines(columns: Sequence[str], rows: Iterable[Sequence[Any]], form: str) -> Iterator[str]:
    """The same, row by row, each without its newline; only a table needs all rows before its first line."""
    if form == "json":
        yield from _array(columns, rows)
    elif form == "jsonl":
        yield from (dumps(dict(zip(columns, row, strict=True))) for row in rows)
    elif form in ("csv", "tsv"):
        yield from _separated(columns, rows, "," if form == "csv" else "\t")
    else:
        yield _table(columns, list(rows), "github" if form == "markdown" else "simple")


def _array(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    # A comma stands behind each object but the last.
    before = None
    for row in rows:
        yield "[" if before is None else f"{before},"
        before = "  " + dumps(dict(zip(columns, row, strict=True)), indent=True).replace("\n", "\n  ")
    yield from ["[]"] if before is None else [before, "]"]


def _separated(columns: Sequence[str], rows: Iterable[Sequence[Any]], separator: str) -> Iterator[str]:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    for row in chain([columns], rows):
        writer.writerow([value.hex() if isinstance(value, bytes) else value for value in row])
        yield text.getvalue().removesuffix("\n")
        text.seek(0)
        text.truncate()


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], style: str) -> str:
    from tabulate import tabulate

    headers = [printable(name) for name in columns]
    shown = [[_cell(value, style) for value in row] for row in rows]
    align = ["right" if all(map(_is_number, column)) else "left" for column in zip(*rows, strict=True)]
    # tabulate would otherwise read "1e5" or "0012" in a text as a number, and show it as another.
    return tabulate(shown, headers, tablefmt=style, disable_numparse=True, colalign=align or None)


def _is_number(value: Any) -> bool:
    """Numbers, and what was made of them for people."""
    return (
        value is None or isinstance(value, (int, float)) or (isinstance(value, str) and bool(_AMOUNT.fullmatch(value)))
    )


def _cell(value: Any, style: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    text = printable(f"{value:.6g}" if isinstance(value, float) else str(value))
    return text.replace("|", "\\|") if style == "github" else text
