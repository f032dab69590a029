"""The generated parts of README.md, for cog: help, schema, named queries and commands that are really run.

COLUMNS=100 cog -r README.md
"""

from __future__ import annotations

import ast
import atexit
import io
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

_COLUMN = re.compile(r"^(?:  |, )(\w+) (.+?),? -- (.*)$", re.MULTILINE)
_TITLE = re.compile(r"^CREATE TABLE (\w+) \( -- (.*)$", re.MULTILINE)


# Modules in the order in which somebody who wants to know how it works would read them.
_MODULES = {
    "From transcripts to rows": "refresh plan discovery checkpoint pool processes shard transcripts reader parser lines"
    " record usage times passages batch digest",
    "The index": "store schema rows writer staging summary private",
    "What is derived": "accounting relations session_facts rollups zones prices own_prices pricing hosts fulltext",
    "What is answered": "reports filters projects metrics blocks tables output sessions conversation document markdown"
    " sources search queries dictionary statusline status",
    "Whether it is right": "naive verify check explain comparison ccusage",
    "Following": "watch events sweep follow schedule log",
    "Keeping and forgetting": "archive chunks keeping backup restore cleanup privacy redaction erasure",
    "Several machines": "merge facts across export push",
    "The command line and Python": "main cli completion config settings errors api demo",
}


@cache
def _home() -> Path:
    """A home directory with a made-up history, the same in every run."""
    from indexer.demo import write_history

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    home = Path(folder.name).resolve()
    until = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
    write_history(home / ".claude", until=until, days=10, projects=3, sessions_per_day=2, seed=7)
    return home


def _execute(arguments: list[str], **changes: str) -> str:
    home = _home()
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CHECKOUT),
        "TZ": "UTC",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    } | changes
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=home, capture_output=True, text=True, check=False
    )
    # What differs from run to run is shown as an ellipsis.
    text = (done.stdout + done.stderr).replace(str(home), "~")
    text = re.sub(r'("(?:seconds|discover|parse|finalize)": )[\d.e-]+', r"\1…", text)
    return re.sub(r"\b\d+\.\d+ s\b", "… s", text).rstrip("\n")


def run(*commands: str) -> str:
    """A console block of cm commands, with what they print, and of lines for the shell between them."""
    lines = ["```console"]
    for command in commands:
        lines.append(f"$ {command}")
        if command.startswith("cm "):
            lines.append(_execute(["-m", "indexer", *shlex.split(command)[1:]]))
        else:
            subprocess.run(command, shell=True, check=True, cwd=_home(), env={"HOME": str(_home())})  # noqa: S602  # ours
    return "\n".join([*lines, "```"])


def a_transcript() -> str:
    """Where one of the made-up transcripts is, as the shell understands it."""
    found = min(path for path in _home().glob(".claude/projects/*/*.jsonl") if path.read_bytes().endswith(b"\n"))
    return f"~/{found.relative_to(_home())}"


def screenshot(command: str, file: Path) -> None:
    """What a command shows in a colour terminal, as a picture that asks no other host for fonts."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=100, file=io.StringIO())
    console.print(Text.from_ansi(_execute(["-m", "indexer", *shlex.split(command)[1:]], FORCE_COLOR="1", NO_COLOR="")))
    svg = console.export_svg(title=command)
    file.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


def example(code: str) -> str:
    """A Python block, with what it prints."""
    code = code.strip("\n")
    return f"```python\n{code}\n```\n\nprints\n\n```\n{_execute(['-c', code])}\n```"


def help(*names: str) -> str:
    """The help of commands."""
    parts = [_execute(["-m", "indexer", *name.split(), "--help"]) for name in names]
    return "\n\n".join(f"```\n{part}\n```" for part in parts)


def all_help() -> str:
    """The help of every command, under its name."""
    from indexer.cli import COMMANDS

    parts = [f"<details><summary><code>cm {name}</code></summary>\n\n{help(name)}\n\n</details>" for name in COMMANDS]
    return "\n\n".join([f"```\n{_execute(['-m', 'indexer', '--help'])}\n```", *parts])


def schema() -> str:
    """Every table and its columns, as the comments in the schema say."""
    _execute(["-m", "indexer", "refresh", "--quiet"])
    connection = sqlite3.connect(_home() / ".local/share/cm/cm.db")
    parts = []
    for (sql,) in connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE TABLE % ( --%' ORDER BY rowid"
    ):
        name, title = _TITLE.findall(sql)[0]
        rows = [
            f"| `{column}` | {kind.split(' ')[0].lower()} | {text} |" for column, kind, text in _COLUMN.findall(sql)
        ]
        parts.append("\n".join([f"**`{name}`**: {title}", "", "| column | type | |", "| --- | --- | --- |", *rows]))
    connection.close()
    return "\n\n".join(parts)


def views() -> str:
    """Every view, what it is for, and its columns."""
    _execute(["-m", "indexer", "refresh", "--quiet"])
    connection = sqlite3.connect(_home() / ".local/share/cm/cm.db")
    text = (CHECKOUT / "indexer/schema/views.sql").read_text()
    rows = ["| view | | columns |", "| --- | --- | --- |"]
    for comment, name in re.findall(r"((?:^-- .*\n)+)CREATE VIEW (\w+)", text, re.MULTILINE):
        about = " ".join(line.removeprefix("-- ") for line in comment.splitlines())
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
        rows.append(f"| `{name}` | {about} | {', '.join(f'`{column}`' for column in columns)} |")
    connection.close()
    return "\n".join(rows)


def queries() -> str:
    """The named queries."""
    from indexer.queries import named

    rows = ["| query | parameters | answers |", "| --- | --- | --- |"]
    for query in named().values():
        parameters = ", ".join(f"`{name}` ({value or 'none'})" for name, value in query.parameters.items())
        rows.append(f"| `{query.name}` | {parameters} | {query.description} |")
    return "\n".join(rows)


def modules() -> str:
    """Every module and what it says of itself."""
    listed = {name for names in _MODULES.values() for name in names.split()}
    there = {path.stem for path in (CHECKOUT / "indexer").glob("[!_]*.py")}
    if listed != there:
        raise ValueError(f"modules that are not listed, or not there: {sorted(listed ^ there)}")
    rows = ["| module | |", "| --- | --- |"]
    for group, names in _MODULES.items():
        rows.append(f"| **{group}** | |")
        for name in names.split():
            about = ast.get_docstring(ast.parse((CHECKOUT / f"indexer/{name}.py").read_bytes())) or ""
            rows.append(f"| `{name}` | {about.splitlines()[0]} |")
    return "\n".join(rows)


if __name__ == "__main__":
    folder = CHECKOUT / ".github"
    folder.mkdir(exist_ok=True)
    screenshot("cm daily", folder / "daily.svg")
