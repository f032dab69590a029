"""What a shell offers for a word: projects and models of the index, named queries. Silent, whatever goes wrong."""

from __future__ import annotations

import re

from .errors import CmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from click import Context, Parameter
    from click.shell_completion import CompletionItem

_PROJECTS = "SELECT name FROM projects UNION SELECT path FROM projects WHERE ? GLOB '/*' ORDER BY 1"
_MODELS = """
SELECT name FROM models AS m WHERE EXISTS (SELECT 1 FROM responses AS r WHERE r.model_id = m.id) ORDER BY name
"""
# A reader that has to wait is of no use to somebody who types.
_BUSY_SECONDS = 0.1
# What bash does not take for part of a word.
_SPECIAL = re.compile(r"[^\w@%+=:,./~-]")


def projects(context: Context, parameter: Parameter, incomplete: str) -> list[str]:
    """Names of projects, and their paths where a path is begun."""
    return _offered(context, _PROJECTS, (incomplete,), incomplete)


def models(context: Context, parameter: Parameter, incomplete: str) -> list[str]:
    """Models that something was used of."""
    return _offered(context, _MODELS, (), incomplete)


def _offered(context: Context, sql: str, parameters: tuple[str, ...], incomplete: str) -> list[str]:
    from sqlite3 import Error

    from . import config, store

    try:
        connection = store.open_reader(config.database(context.params.get("db")), _BUSY_SECONDS)
        try:
            found = [row[0] for row in connection.execute(sql, parameters)]
        finally:
            connection.close()
    except (CmError, Error, OSError):
        return []
    # A control character would act on the terminal, and a line end cut a word in two.
    return [name for name in found if name.startswith(incomplete) and name.isprintable()]


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
    return f"\\{found[0]}"
