"""What a shell offers for a word: projects and models of the index, named queries. Silent, whatever goes wrong."""

from __future__ import annotations

import re

from .errors import CmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from click import Context, Parameter
    from click.shell_completion import CompletionItem

_MODELS = """
SELECT name FROM models AS m WHERE EXISTS (SELECT 1 FROM responses AS r WHERE r.model_id = m.id)
"""
# A reader that has to wait is of no use to somebody who types.
_BUSY_SECONDS = 0.1
# What bash does not take for part of a word.
_SPECIAL = re.compile(r"[^\w@%+=:,./~-]")


def projects(context: Context, parameter: Parameter, incomplete: str) -> list[str]:
    """Names of projects, as they are and as they are shown; their paths where a path is begun."""
    from .settings import project_label

    found = _rows(context, "SELECT path, name FROM projects")
    names = {name for _, name in found} | {project_label(path, name) for path, name in found}
    return _offered(names | ({path for path, _ in found} if incomplete.startswith("/") else set()), incomplete)


def models(context: Context, parameter: Parameter, incomplete: str) -> list[str]:
    """Models that something was used of."""
    return _offered((name for (name,) in _rows(context, _MODELS)), incomplete)


def hosts(context: Context, parameter: Parameter, incomplete: str) -> list[str]:
    """Machines whose history is in the index."""
    return _offered((name for (name,) in _rows(context, "SELECT DISTINCT name FROM hosts")), incomplete)


def _rows(context: Context, sql: str) -> list[tuple[str, ...]]:
    from sqlite3 import Error

    from . import config, store

    try:
        connection = store.open_reader(config.database(context.params.get("db")), _BUSY_SECONDS)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()
    except (CmError, Error, OSError):
        return []


def _offered(names: Iterable[str], incomplete: str) -> list[str]:
    # A control character would act on the terminal, and a line end cut a word in two.
    return sorted(name for name in names if name.startswith(incomplete) and name.isprintable())


def queries(context: Context, parameter: Parameter, incomplete: str) -> list[str]:
    """Names of the queries that ship with cm."""
    from .queries import named

    return [name for name in named() if name.startswith(incomplete)]


def prepare_shells() -> None:
    """Makes bash take a name with a space in it for one word; the other shells do that themselves."""
    from click.shell_completion import BashComplete, add_completion_class

    class Bash(BashComplete):
        def format_completion(self, item: CompletionItem[str]) -> str:
            return f"{item.type},{_SPECIAL.sub(_escape, item.value)}"

    add_completion_class(Bash)


def _escape(found: re.Match[str]) -> str:
    # Twice: click's script reads the line without `-r`, which takes one away.
    return f"\\\\{found[0]}"
