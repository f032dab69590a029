"""The page as one file that needs nothing else: styles, scripts and numbers are in it, and it can load nothing more."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections import Counter

from .. import __version__, settings
from ..output import dumps
from . import dashboard

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_LIBRARIES = ("d3.min.js", "plot.umd.min.js")
# Each may use what stands before it.
_MODULES = ("dom.js", "format.js", "charts.js", "cards.js", "links.js", "filters.js", "page.js")


def html(
    connection: sqlite3.Connection, wanted: dashboard.Wanted, has_text: bool = True, has_paths: bool = True
) -> str:
    """The page with the numbers that are asked for.

    Without text there are no titles of sessions, which are prompts or made from them; without paths, projects go by
    their names. Raises BadInput.
    """
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    numbers = dashboard.numbers(connection, wanted)
    if not has_text:
        _remove_text(numbers)
    if not has_paths:
        _remove_paths(numbers)
    style, theme, scripts = _static("cm.css"), _static("theme.js"), [*map(_static, _LIBRARIES), _one_module()]
    inline = {
        "policy": _policy(style, [theme, *scripts]),
        "style": Markup(style),
        "theme": Markup(theme),
        "scripts": [Markup(script) for script in scripts],
        # In JSON a "<" stands in strings only; so none of them ends the element.
        "data": Markup(dumps(numbers).replace("<", "\\u003c")),
        "scope": _scope(numbers),
    }
    pages = Environment(loader=FileSystemLoader(os.path.join(_HERE, "templates")), autoescape=True)
    return str(pages.get_template("cm/page.html").render(inline=inline, version=__version__))


def _scope(numbers: dict[str, Any]) -> str:
    """What the numbers are limited to, in words; a project by its name."""
    labels = {row["project"]: row["label"] for row in numbers["choices"]["projects"]}
    projects = [labels.get(project, os.path.basename(project)) for project in numbers["wanted"]["projects"]]
    models, hosts = numbers["wanted"]["models"], numbers["wanted"]["hosts"]
    words = [
        ", ".join(projects) or "All projects",
        ", ".join(models) or "all models",
        *([", ".join(hosts)] if hosts else []),
    ]
    return " · ".join(words)


def _remove_text(numbers: dict[str, Any]) -> None:
    for row in (*numbers["sessions"], *numbers["newest_sessions"]):
        row["title"] = None


def _remove_paths(numbers: dict[str, Any]) -> None:
    """Projects by their names alone; several of one name are told apart by a number."""
    rows = [*numbers["choices"]["projects"], *numbers["projects"], *numbers["sessions"], *numbers["newest_sessions"]]
    names: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        path = row["project"]
        if path not in names:
            name = settings.project_label(path, os.path.basename(path))
            counts[name] += 1
            names[path] = name if counts[name] == 1 else f"{name} ({counts[name]})"
        row["project"] = row["label"] = names[path]
    numbers["wanted"]["projects"] = [names.get(path, os.path.basename(path)) for path in numbers["wanted"]["projects"]]


def _static(name: str) -> str:
    with open(os.path.join(_HERE, "static", name), encoding="utf-8") as file:
        return file.read()


def _one_module() -> str:
    """The page's modules as one script: each in a function of its own, whose result has what it exports."""
    return "\n".join(map(_as_function, _MODULES))


def _as_function(name: str) -> str:
    source = re.sub(r'^import (?:\* as )?(.+) from "\./(\w+)\.js";$', r"const \1 = \2_js;", _static(name), flags=re.M)
    names = re.findall(r"^export (?:async )?(?:function|const) (\w+)", source, re.M)
    body = re.sub(r"^export ", "", source, flags=re.M)
    return f"const {name.removesuffix('.js')}_js = (() => {{\n{body}\nreturn {{ {', '.join(names)} }};\n}})();"


def _policy(style: str, scripts: list[str]) -> str:
    """Nothing may be loaded or sent, and only these scripts and this style hold."""
    allowed = " ".join(map(_hash, scripts))
    return f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
