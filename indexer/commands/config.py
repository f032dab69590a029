"""`cm config`."""

from __future__ import annotations

from typing import Any

import click

from .. import config as library
from .. import settings
from ..cli import index_options, json_option
from ..output import dumps, printable

# What holds where nothing is set.
_UNSET = {
    "timezone": "the system's",
    "workers": "as many as pay off",
    "host": "as the machine was called when the index was made",
    "user": "as the user was called when the index was made",
}


@click.command()
@json_option
@index_options
def config(roots: tuple[str, ...], db: str | None, as_json: bool) -> None:
    """Every setting with its value and where that comes from.

    An option counts first, then the environment, then the config file, then the default.
    """
    file = settings.load()
    found = {
        name: {"value": value, "source": file.where(name) if source == settings.FILE else source}
        for name, (value, source) in library.effective(db, roots).items()
    }
    click.echo(dumps(found, indent=True) if as_json else _text(found, library.roots(roots)[1]))


def _text(found: dict[str, dict[str, Any]], looked: list[str]) -> str:
    rows = [
        (name, line, item["source"]) for name, item in found.items() for line in _lines(name, item["value"], looked)
    ]
    wide = max(len(line) for _, line, _ in rows)
    return "\n".join(printable(f"{name:<13} {line:<{wide}}  {source}") for name, line, source in rows)


def _lines(name: str, value: Any, looked: list[str]) -> list[str]:
    """A value as text; of several roots or projects one line each."""
    if name == "projects":
        aliases = [f"{key}: {_alias(given)}" for key, given in value.items()]
        return aliases or ["shown by the last part of their path"]
    if name == "roots":
        return value or [f"none found in {', '.join(looked)}"]
    if name == "search":
        return [", ".join(("messages", "what tools were given", *value))]
    if name == "redact":
        return [_redacted(value)]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return [str(value or _UNSET[name])]


def _redacted(given: bool | dict[str, list[str]]) -> str:
    if not given:
        return "nothing"
    from ..redaction import SETS

    chosen = {} if given is True else given
    own = len(chosen.get("patterns", ()))
    return ", ".join([*chosen.get("sets", SETS), *([f"{own} of your own"] if own else [])])


def _alias(given: str | dict[str, str]) -> str:
    """A project as it is shown: its name, its group, or both."""
    return given if isinstance(given, str) else "/".join(given[part] for part in ("group", "name") if part in given)
