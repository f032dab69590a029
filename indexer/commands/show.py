"""`cm show`."""

from __future__ import annotations

import os
import sys

import click

from .. import archive, completion, config, conversation, document, projects, sessions, zones
from ..cli import index_options, json_option, refresh_option, say, timezone_option
from ..errors import BadInput
from ..output import console, counted, dumps, printable
from ..tables import duration
from .common import open_index

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from typing import Any

    from rich.console import RenderableType

    from ..sessions import Target
    from ..sources import Archive

    Row = dict[str, Any]
    Clock = Callable[[str], str]

_WIDTH = 100
# Lines of a tool's result that are shown.
_FOLDED = 3


@click.command()
@click.argument("target", metavar="SESSION|MESSAGE|last")
@click.option(
    "-p", "--project", metavar="TEXT", shell_complete=completion.projects, help="Look for it in that project only."
)
@click.option("--thinking", is_flag=True, help="Show what Claude thought, where it was written down.")
@click.option("--full", is_flag=True, help="Show all that tools were given and gave back.")
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
@click.option("--html", "form", flag_value="html", help="Print a page that needs nothing else.")
@click.option("--raw", "form", flag_value="raw", help="Print the very records of the transcript.")
@timezone_option
@json_option
@refresh_option
@index_options
def show(
    roots: tuple[str, ...],
    db: str | None,
    no_refresh: bool,
    as_json: bool,
    timezone: str | None,
    form: str | None,
    full: bool,
    thinking: bool,
    project: str | None,
    target: str,
) -> None:
    """Read a conversation: a whole session, or the turn of one message.

    A session is named by the beginning of its id, or is the last one. A message is named by its uuid, by the API's id
    of it, or as `cm search --json` gives it.

    What was said and what it cost is in the index. What tools were given and gave back stands in the transcript; where
    that is gone, it is said what is missing.

    \b
    Examples:
      cm show last
      cm show last --project shop --thinking
      cm show 5e551000 --html > session.html
    """
    connection = open_index(db, roots, no_refresh, "show")
    try:
        found = sessions.find(connection, target, _projects(connection, project))
        archived = archive.open_reader(config.database(db), connection)
        if form == "raw":
            _raw(connection, found, None if archived is None else archived.read)
            return
        told = conversation.read(connection, found, None if archived is None else archived.read)
        zones.apply(connection, timezone)
        when = zones.clock(connection)
    finally:
        connection.close()
    if as_json:
        click.echo(dumps(told, indent=True))
    elif form is not None:
        write = document.markdown if form == "markdown" else document.html
        click.echo(write(told, when, thinking), nl=False)
    else:
        _page(_draw(told, when, thinking, full))
    if form is not None or as_json:
        for line in document.told_missing(told):
            say(line)


def _projects(connection: sqlite3.Connection, wanted: str | None) -> list[int] | None:
    if wanted is None:
        return None
    found = projects.find(connection, wanted)
    if not found:
        raise BadInput(f"no project matches {wanted}; `cm projects` lists them")
    return found


def _raw(connection: sqlite3.Connection, target: Target, archived: Archive | None) -> None:
    missing = 0
    for data in conversation.raw(connection, target, archived):
        missing += data is None
        if data is not None:
            click.echo(data)
    if missing:
        say(f"{counted(missing, 'record')} missing: gone with the transcript, rewritten in it, or forgotten")


def _page(text: str) -> None:
    """Through the pager on a terminal; one that ends by itself where all fits."""
    if not sys.stdout.isatty():
        click.echo(text)
        return
    os.environ.setdefault("LESS", "FRX")
    click.echo_via_pager(text)


# On the terminal


def _draw(found: Row, when: Clock, thinking: bool, full: bool) -> str:
    from shutil import get_terminal_size

    drawing = console(min(get_terminal_size((_WIDTH, 24)).columns, 120))
    with drawing.capture() as captured:
        for part in _Drawing(when, thinking, full).conversation(found):
            drawing.print(part, soft_wrap=getattr(part, "overflow", None) == "ignore")
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    return text


class _Drawing:
    """A conversation as what rich prints. Nothing of a transcript is taken for markup or for control characters."""

    def __init__(self, when: Clock, thinking: bool, full: bool) -> None:
        self._when = when
        self._thinking = thinking
        self._full = full

    def conversation(self, found: Row) -> Iterator[RenderableType]:
        from rich.text import Text

        yield Text(_safe(" ".join((found["title"] or "Untitled session").split())), "bold")
        for name, text in document.facts(found, self._when):
            # Not cut into lines: it is there to be copied.
            yield Text(f"{name.lower():<9}{_safe(text)}", "dim", no_wrap=True, overflow="ignore")
        for turn in found["turns"]:
            yield from self._turn(turn)
        for line in document.told_missing(found):
            yield Text(f"\n{_safe(line)}", "yellow", no_wrap=True, overflow="ignore")

    def _turn(self, turn: Row) -> Iterator[RenderableType]:
        from rich.rule import Rule
        from rich.text import Text

        used = document.spent(turn)
        head = f"{turn['number']} · {self._when(turn['at'])}{f' · {used}' if used else ''}"
        yield Text()
        yield Rule(Text(head, "cyan"), align="left", style="dim")
        if turn["prompt"]:
            yield from self._prompt(turn["prompt"])
        for step in turn["steps"]:
            yield from self.step(step)

    def step(self, step: Row) -> Iterator[RenderableType]:
        from rich.markdown import Markdown
        from rich.padding import Padding
        from rich.text import Text

        kind = step["kind"]
        if kind == "answer":
            yield Text()
            yield Markdown(_safe(document.GONE if step["text"] is None else step["text"]), hyperlinks=False)
        elif kind == "prompt":
            yield from self._prompt(step)
        elif kind == "tool":
            yield from self._tool(step)
        elif kind == "agent":
            yield from self._agent(step)
        elif kind == "note":
            yield Text(f"\n{document.about(step)}", "magenta")
            yield Padding(self._folded(step["text"] or ""), (0, 0, 0, 2))
        elif self._thinking and step["text"] != "":
            yield Text()
            yield Padding(Text(_safe(step["text"] or document.GONE), "italic dim"), (0, 0, 0, 2))

    def _prompt(self, step: Row) -> Iterator[RenderableType]:
        from rich.text import Text

        images = f" [{step['images']} attached]" if step["images"] else ""
        yield Text(f"\n❯ {_safe(step['text'] or document.GONE)}{images}", "bold green")

    def _tool(self, step: Row) -> Iterator[RenderableType]:
        from rich.padding import Padding
        from rich.text import Text

        line = Text("\n", overflow="fold" if self._full else "ellipsis", no_wrap=not self._full)
        line.append("✗ " if step["is_error"] else "● ", "red" if step["is_error"] else "green")
        line.append(_safe(step["name"]), "bold")
        line.append(_facts(step), "dim")
        line.append(f"  {_safe(' '.join((step['subject'] or '').split()))}")
        yield line
        if self._full and step["input"] is not None:
            yield Padding(Text(_safe(document.given(step)), "dim"), (0, 0, 0, 2))
        yield Padding(self._folded(document.returned(step)), (0, 0, 0, 2))
        for agent in step["agents"]:
            yield from self._agent(agent)

    def _agent(self, agent: Row) -> Iterator[RenderableType]:
        from rich.console import Group
        from rich.padding import Padding
        from rich.text import Text

        yield Text(f"\n▸ {_safe(document.named(agent))}", "magenta")
        yield Padding(Group(*(part for step in agent["steps"] for part in self.step(step))), (0, 0, 0, 4))

    def _folded(self, text: str) -> RenderableType:
        from rich.text import Text

        lines = _safe(text).strip("\n").split("\n")
        rest = 0 if self._full else len(lines) - _FOLDED
        shown = lines if rest <= 1 else [*lines[:_FOLDED], f"… {rest:,} more lines"]
        return Text("\n".join(shown), "dim", overflow="fold" if self._full else "ellipsis", no_wrap=not self._full)


def _facts(step: Row) -> str:
    """How long a tool took, and how much it gave back."""
    from datetime import datetime, timedelta

    if step["ended_at"] is None:
        return ""
    passed = datetime.fromisoformat(step["ended_at"]) - datetime.fromisoformat(step["at"])
    size = f", {step['result_bytes']:,} bytes" if step["result_bytes"] else ""
    return f"  {duration(max(passed / timedelta(milliseconds=1), 0))}{size}"


def _safe(text: str) -> str:
    return printable(text, one_line=False).expandtabs(4)
