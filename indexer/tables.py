"""Tables for people's eyes: what fits into a width, and how each value is written there."""

from __future__ import annotations

import re
import shutil

from .output import console, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NamedTuple

    Row = dict[str, Any]
    # What a line is, and its values.
    Line = tuple[str, Row]

    class Column(NamedTuple):
        """What is shown, how it is written, and how soon it is left out where space is short."""

        name: str
        title: str
        kind: str
        rank: int = 0  # the highest goes first, 0 stays
        short: str = ""  # title over shortened numbers
        least: int = 0  # what a text can be cut to
        most: int = 0  # what it is cut to at any rate

    class Names(NamedTuple):
        """What things are called: models by their ids, the dearest first; projects by their paths; UTC times."""

        models: Mapping[str, str]
        projects: Mapping[str, str]
        when: Callable[[str], str]

else:
    from collections import namedtuple

    Column = namedtuple("Column", "name title kind rank short least most", defaults=(0, "", 0, 0))
    Names = namedtuple("Names", "models projects when")

# Kinds of lines: a row of the report, one in which nothing was used, a model's part of a row, the sum of all.
PLAIN, FAINT, PART, TOTAL = "plain", "faint", "part", "total"

# Kinds of columns.
TEXT, ID, MODEL, MODELS, PROJECT, TOOL = "text", "id", "model", "models", "project", "tool"
WHEN, HOUR, BAR = "when", "hour", "bar"
TOKENS, COUNT, USD, SHARE, PERCENT, MS, BYTES = "tokens", "count", "usd", "share", "percent", "ms", "bytes"
NUMBER = "number"
_LEFT = (TEXT, ID, MODEL, MODELS, PROJECT, TOOL, WHEN, HOUR, BAR)

_TOKENS = (
    Column("input_tokens", "Input", TOKENS, 1),
    Column("output_tokens", "Output", TOKENS),
    Column("cache_creation_tokens", "Cache write", TOKENS, 1, "Write"),
    Column("cache_read_tokens", "Cache read", TOKENS, 1, "Read"),
    Column("total_tokens", "Total", TOKENS, 4),
)
_COST = (Column("cost_usd", "Cost", USD), Column("cost_usd", "", BAR, 3))
_MODELS = Column("models", "Models", MODELS, least=16, most=34)


def _timeline(title: str, key: str, kind: str = TEXT) -> tuple[Column, ...]:
    return (Column(key, title, kind), _MODELS, *_TOKENS, *_COST)


def _ranking(title: str, key: str, kind: str, *counts: Column) -> tuple[Column, ...]:
    return (Column(key, title, kind, least=16), *counts, *_TOKENS, *_COST)


COLUMNS = {
    "daily": _timeline("Day", "day"),
    "weekly": _timeline("Week of", "week"),
    "monthly": _timeline("Month", "month"),
    "hourly": _timeline("Hour", "hour", HOUR),
    "sessions": (
        Column("last_at", "Last active", WHEN),
        Column("session_id", "Session", ID),
        Column("project", "Project", PROJECT, least=10, most=24),
        Column("title", "Title", TEXT, least=20, most=60),
        Column("models", "Models", MODELS, 4, least=10, most=24),
        Column("turns", "Turns", COUNT, 5),
        Column("tools", "Tools", COUNT, 5),
        Column("tool_errors", "Errors", COUNT, 6),
        Column("files", "Files", COUNT, 5),
        Column("pull_requests", "PRs", COUNT, 6),
        Column("interruptions", "Stops", COUNT, 6),
        Column("parent", "From", ID, 4),
        Column("shared_responses", "Shared", COUNT, 5),
        Column("output_tokens", "Output", TOKENS, 1),
        Column("total_tokens", "Total", TOKENS),
        *_COST,
    ),
    "projects": _ranking("Project", "project", PROJECT, Column("sessions", "Sessions", COUNT, 3)),
    "hosts": _ranking("Host", "host", TEXT, Column("sessions", "Sessions", COUNT, 3)),
    "models": _ranking("Model", "model", MODEL, Column("responses", "Responses", COUNT, 3)),
    "agents": _ranking(
        "Agent", "agent", TEXT, Column("runs", "Runs", COUNT, 2), Column("responses", "Responses", COUNT, 4)
    ),
    "skills": _ranking("Skill", "skill", TEXT, Column("responses", "Responses", COUNT, 3)),
    "mcp-servers": _ranking("MCP server", "mcp_server", TEXT, Column("responses", "Responses", COUNT, 3)),
    "plugins": _ranking("Plugin", "plugin", TEXT, Column("responses", "Responses", COUNT, 3)),
    "tools": (
        Column("tool", "Tool", TOOL, least=20),
        Column("calls", "Calls", COUNT),
        Column("errors", "Errors", COUNT, 2),
        Column("error_rate", "Rate", SHARE),
        Column("median_ms", "Median", MS),
        Column("p95_ms", "p95", MS),
        Column("result_bytes", "Results", BYTES, 1),
        Column("web_searches", "Searches", COUNT, 4),
        Column("web_search_cost_usd", "Fee", USD, 4),
        Column("cost_usd", "Cost", USD),
        Column("calls", "", BAR, 3),
    ),
    "blocks": (
        Column("block", "Block", WHEN),
        Column("lasted", "Lasted", TEXT),
        Column("models", "Models", MODELS, 1, least=16, most=34),
        Column("input_tokens", "Input", TOKENS, 4),
        Column("output_tokens", "Output", TOKENS, 2),
        Column("total_tokens", "Total", TOKENS),
        Column("limit_percent", "Limit", PERCENT),
        Column("cost_usd_per_hour", "per hour", USD, 2),
        *_COST,
    ),
    "prices": (
        Column("model", "Model", MODEL, least=16),
        Column("period", "When", TEXT, 1),
        Column("input", "Input", NUMBER),
        Column("output", "Output", NUMBER),
        Column("cache_write_5m", "5m", NUMBER, 3),
        Column("cache_write_1h", "1h", NUMBER, 3),
        Column("cache_read", "Read", NUMBER, 2),
        Column("factors", "Factors", TEXT, 5),
        Column("uses", "Uses", COUNT, 4),
        Column("source", "Source", COUNT, 6),
    ),
}  # fmt: skip
# What is rare: nothing is shown for none of it, and no column where there is none at all.
_RARE = {
    "runs",
    "parent",
    "shared_responses",
    "tool_errors",
    "files",
    "pull_requests",
    "interruptions",
    "limit_percent",
    "errors",
    "error_rate",
    "web_searches",
    "web_search_cost_usd",
}

# Where nobody sees how wide it is.
_WIDTH = 100
_GAP, _BAR_WIDTH, _LEAST_BAR = 2, 16, 6
# Tried until it fits: columns up to a rank, numbers shortened.
_FITS = ((6, False), (5, False), (4, False), (3, False), (2, False), (3, True), (2, True), (1, True), (0, True))
_BLOCKS = " ▏▎▍▌▋▊▉█"
# Not bright black, which some terminals show as black.
_STYLES = {USD: "green", BAR: "cyan", MODELS: "dim"}
_LINE_STYLES = {PLAIN: "", FAINT: "dim", PART: "dim", TOTAL: "bold"}


def terminal_size() -> tuple[int, int]:
    """Columns and lines of the terminal."""
    return shutil.get_terminal_size((_WIDTH, 24))


def draw(name: str, lines: Sequence[Line], names: Names, width: int, splits: Sequence[str] = ()) -> str:
    """A table with colours, at most so wide: one line for each of those given; a TOTAL is the last."""
    for rank, is_short in _FITS:
        columns = [column for column in _columns(name, lines, splits) if column.rank <= rank]
        titles = [column.short or column.title if is_short else column.title for column in columns]
        cells = [_cells(columns, line, names, is_short) for line in lines]
        widths = _widths(columns, titles, cells, width)
        if sum(widths) + _GAP * (len(widths) - 1) <= width:
            break
    for place, column in enumerate(columns):
        if column.kind == BAR:
            _draw_bars(column.name, place, widths[place], lines, cells)
        elif column.kind == MODELS:
            for (kind, row), line in zip(lines, cells, strict=True):
                line[place] = line[place] if kind == PART else _some(_called(row, names), widths[place])
    return _render(columns, titles, widths, lines, cells)


def _columns(name: str, lines: Sequence[Line], splits: Sequence[str]) -> list[Column]:
    found = [
        column for column in COLUMNS[name] if column.name not in _RARE or any(row.get(column.name) for _, row in lines)
    ]
    own = {column.name for column in found}
    if "project" in splits:
        found.insert(1, Column("project", "Project", PROJECT, least=10))
    if "host" in splits:
        found.insert(1, Column("host", "Host", TEXT, least=10, most=24))
    # Most people are the same user everywhere.
    if "user" in splits and (
        len({row.get("user") for _, row in lines} - {None}) > 1 or not {"host"} & (own | {*splits})
    ):
        found.insert(1 + ("host" in splits), Column("user", "User", TEXT, least=8, most=16))
    return found


def _widths(columns: Sequence[Column], titles: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Texts are cut to no less than their least, and bars are as wide as there is space."""
    from rich.cells import cell_len

    wanted = [max(cell_len(text) for text in texts) for texts in zip(titles, *cells, strict=True)]
    wanted = [min(want, column.most or want) for want, column in zip(wanted, columns, strict=True)]
    found = [min(want, column.least or want) for want, column in zip(wanted, columns, strict=True)]
    for place, column in enumerate(columns):
        if column.kind == BAR:
            wanted[place], found[place] = _BAR_WIDTH, _LEAST_BAR
    spare = width - sum(found) - _GAP * (len(found) - 1)
    for place, want in enumerate(wanted):
        more = max(0, min(spare, want - found[place]))
        found[place] += more
        spare -= more
    return found


def _draw_bars(name: str, place: int, width: int, lines: Sequence[Line], cells: Sequence[list[str]]) -> None:
    largest = max((row[name] or 0 for kind, row in lines if kind == PLAIN), default=0)
    for (kind, row), line in zip(lines, cells, strict=True):
        if kind == PLAIN and largest:
            eighths = round((row[name] or 0) / largest * width * 8)
            line[place] = _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def _render(
    columns: Sequence[Column],
    titles: Sequence[str],
    widths: Sequence[int],
    lines: Sequence[Line],
    cells: Sequence[Sequence[str]],
) -> str:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    has_total = lines[-1][0] == TOTAL
    table = Table(
        box=SIMPLE, show_edge=False, show_footer=has_total, pad_edge=False, padding=(0, _GAP - 1, 0, 0),
        header_style="bold", border_style="dim",
    )  # fmt: skip
    for column, title, width, total in zip(columns, titles, widths, cells[-1], strict=True):
        justify: Any = "left" if column.kind in _LEFT else "right"
        table.add_column(
            title, Text(total, _LINE_STYLES[TOTAL]), justify=justify, width=width, no_wrap=True, overflow="ellipsis"
        )
    for (kind, _), line in zip(lines[:-1] if has_total else lines, cells, strict=False):
        styles = [_STYLES.get(column.kind, "") if kind == PLAIN else _LINE_STYLES[kind] for column in columns]
        table.add_row(*(Text(text, style) for text, style in zip(line, styles, strict=True)))
    drawing = console(sum(widths) + _GAP * len(widths))
    with drawing.capture() as captured:
        drawing.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


# How values are written


def _cells(columns: Sequence[Column], line: Line, names: Names, is_short: bool) -> list[str]:
    kind, row = line
    labelled = next((column for column in columns if column.kind == MODELS), columns[0])
    found = []
    for column in columns:
        value = row.get(column.name)
        if kind == PART and column.kind in _LEFT:
            text = f"└ {names.models.get(row['model'], row['model'])}" if column is labelled else ""
        elif kind in (FAINT, TOTAL) and column is columns[0] and "label" in row:
            text = row["label"]
        elif not value and (kind == FAINT or column.name in _RARE):
            text = ""
        elif column.kind == USD:
            text = _usd(value, row)
        elif column.kind == MODELS:
            text = ", ".join(_called(row, names))
        else:
            text = _written(column.kind, value, names, is_short)
        found.append(printable(text))
    return found


def _written(kind: str, value: Any, names: Names, is_short: bool) -> str:
    if value is None or kind == BAR:
        return ""
    if kind == TOKENS:
        return tokens(value) if is_short else f"{value:,}"
    if kind == NUMBER:
        return f"{value:.6g}"
    if kind in (COUNT, SHARE, PERCENT):
        return f"{value:,}" if kind == COUNT else f"{value * (100 if kind == SHARE else 1):.1f}%"
    if kind == MS:
        return duration(value)
    if kind == BYTES:
        return _scaled(value, ((1e9, " GB"), (1e6, " MB"), (1e3, " kB")), " B")
    text = " ".join(str(value).split())  # a title may have several lines
    if kind == TOOL:
        return re.sub(r"^mcp__(.+?)__", r"\1: ", text)
    if kind in (ID, HOUR):
        return text[:8] if kind == ID else text[:16].replace("T", " ")
    if kind == WHEN:
        return names.when(text)
    return (names.projects if kind == PROJECT else names.models).get(text, text)


def tokens(count: float) -> str:
    """A count in few characters: 9,999, 12.3k, 354M."""
    return f"{count:,.0f}" if count < 10_000 else _scaled(count, ((1e9, "B"), (1e6, "M"), (1e3, "k")), "")


def _scaled(value: float, units: Sequence[tuple[float, str]], rest: str) -> str:
    for size, unit in units:
        # Rounded up to a thousand, it is one of the next unit.
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.{0 if scaled >= 99.95 else 1}f}{unit}"
    return f"{value:.0f}{rest}"


def _usd(amount: float | None, row: Row) -> str:
    """USD of the priced part; `+` says that there is more, whose price is not known."""
    if amount is None:
        return "unpriced" if row.get("unpriced_tokens") else ""
    more = "+" if row.get("unpriced_tokens") else ""
    return f"${amount:,.2f}{more}" if amount == 0 or amount >= 0.005 else f"<$0.01{more}"


def duration(milliseconds: float) -> str:
    """A time in its two largest units."""
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds:02}s"


def _called(row: Row, names: Names) -> list[str]:
    models = row.get("models") or ()
    return list(dict.fromkeys(printable(name) for model, name in names.models.items() if model in models))


def _some(called: Sequence[str], width: int) -> str:
    """As many names as fit, and how many more there are."""
    from rich.cells import cell_len

    for count in range(len(called), 0, -1):
        more = f" +{len(called) - count}" if count < len(called) else ""
        text = ", ".join(called[:count]) + more
        if cell_len(text) <= width:
            return text
    return called[0] if called else ""


def short_model(canonical: str) -> str:
    """A model's name as it is called: opus-4-5."""
    return re.sub(r"^claude-", "", canonical)
