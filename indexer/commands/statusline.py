"""`cm statusline`. It runs without click, and whatever goes wrong it prints one harmless line and exits with 0."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

# A refresh in the background is not worth starting again so soon.
_PAUSE_SECONDS = 10


def run(arguments: Sequence[str]) -> int:
    """Prints the line. Claude Code shows nothing at all of a command that fails or is silent."""
    from getopt import GetoptError, getopt

    try:
        given, _ = getopt(list(arguments), "", ["format=", "db=", "refresh"])
    except GetoptError as error:
        return _print(f"cm: {error}")
    options = dict(given)
    return show(options.get("--db"), options.get("--format"), "--refresh" in options)


def show(db: str | None, form: str | None, refreshes: bool) -> int:
    """Prints the line for what stands on stdin."""
    try:
        from ..statusline import line

        text = line(_told(), db, form)
        if refreshes:
            _refresh(db)
    except Exception as error:  # nobody reads a traceback in a status bar
        from ..output import printable

        text = f"cm: {printable(str(error) or type(error).__name__)}"
    return _print(text)


def _told() -> object:
    """What Claude Code tells; nothing on a terminal, where somebody only tries it."""
    import json

    if sys.stdin is None or sys.stdin.isatty():
        return None
    try:
        return json.loads(sys.stdin.buffer.read())
    except (ValueError, RecursionError, OSError):
        return None


def _print(text: str) -> int:
    # Not print: a locale without `·` would fail here.
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
    return 0


def _refresh(db: str | None) -> None:
    """Starts a refresh that nobody waits for: the next line shows what it found."""
    import os
    import subprocess
    import time

    from .. import config

    try:
        # Every refresh writes its process id there when it begins.
        if time.time() - os.stat(f"{config.database(db)}.lock").st_mtime < _PAUSE_SECONDS:
            return
    except FileNotFoundError:
        pass
    option = ["--db", db] if db else []
    # -P: the folder of the session is full of other people's modules.
    subprocess.Popen(
        [sys.executable, "-P", "-m", "indexer", "refresh", "--quiet", *option],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Claude Code may kill this line's processes
    )


def __getattr__(name: str) -> click.Command:
    if name == "statusline":
        return _command()
    raise AttributeError(name)


_HELP = """One line for Claude Code's status bar, from the JSON it gives on stdin.

Put this into settings.json:

\b
  "statusLine": {"type": "command", "command": "cm statusline --refresh"}

It shows what is known of: model, cost of the session and of today, the active 5-hour block with the time left in it,
context used. An index not refreshed for an hour says so.

\b
Fields of --format:
"""


def _command() -> click.Command:
    import click

    from ..statusline import FIELDS

    fields = "".join(f"  {{{name}}}  {text}\n" for name, text in FIELDS.items())

    @click.command("statusline", help=_HELP + fields)
    @click.option("--format", "form", metavar="TEXT", help="What to print, with {fields}.")
    @click.option("--refresh", "refreshes", is_flag=True, help="Bring the index up to date in the background.")
    @click.option("--db", metavar="FILE", help="The index; else CM_DB, else ~/.local/share/cm/cm.db.")
    def command(db: str | None, refreshes: bool, form: str | None) -> int:
        return show(db, form, refreshes)

    return command
