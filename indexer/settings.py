"""The user's config file: what it may say, and where it says what is wrong; also how projects are shown."""

from __future__ import annotations

import os

from .errors import BadInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MAX_WORKERS = 1000
KEYS = (
    "roots", "database", "timezone", "start_of_week", "workers", "host", "user", "projects", "search", "keep", "text",
    "redact",
)  # fmt: skip
# What the search may be over beside messages and tool inputs.
SEARCHABLE = ("tool-results", "thinking")

# Source of a value that comes from the file.
FILE = "file"

# The file as it was last read, by its path: a command asks for several settings.
_read: dict[str, tuple[tuple[int, int], File]] = {}


def xdg(variable: str, default: str) -> str:
    """A directory of the XDG specification, where a relative path is invalid and ignored."""
    value = os.environ.get(variable, "")
    return value if os.path.isabs(value) else os.path.expanduser(default)


def path() -> str:
    """The config file: `CM_CONFIG`, else in the XDG config directory. It may not exist."""
    default = os.path.join(xdg("XDG_CONFIG_HOME", "~/.config"), "cm", "config.toml")
    return os.path.abspath(os.path.expanduser(os.environ.get("CM_CONFIG") or default))


class File:
    """What a config file says: values by key, paths made absolute, and projects by path or name."""

    def __init__(self, file: str = "", text: str = "", values: Mapping[str, Any] | None = None) -> None:
        self.path = file
        self.text = text
        self.values = dict(values or {})
        self.projects: dict[str, tuple[str | None, str | None]] = {}

    def where(self, *keys: str) -> str:
        """The file and the line where a key stands."""
        return f"{self.path}:{_line(self.text, keys)}"


def load() -> File:
    """The config file as it is now; without one, nothing is set.

    Raises:
        BadInput: it cannot be read, or has an unknown key or a wrong value; says in which line.
    """
    file = path()
    try:
        status = os.stat(file)
    except OSError as error:
        if os.environ.get("CM_CONFIG"):
            raise BadInput(f"CM_CONFIG names {file}: {error.strerror}; make it, or unset CM_CONFIG") from error
        return File()
    stamp = (status.st_mtime_ns, status.st_size)
    if file not in _read or _read[file][0] != stamp:
        _read[file] = (stamp, _checked(_parse(file)))
    return _read[file][1]


def choose(key: str, option: Any, name: str, variable: str, default: Any) -> tuple[Any, str]:
    """The value of a setting and its source: the option, else the environment, else the file, else the default.

    Raises BadInput: the file cannot be used.
    """
    if option:
        return option, name
    if os.environ.get(variable):
        return os.environ[variable], variable
    file = load()
    if key in file.values:
        return file.values[key], FILE
    return default, "default"


def project_label(project: str, name: str) -> str:
    """How a project is shown: under the name that the file gives its path or its name, behind its group."""
    projects = load().projects
    alias, group = projects.get(project) or projects.get(name) or (None, None)
    shown = alias or name
    return f"{group}/{shown}" if group else shown


def _parse(path: str) -> File:
    import tomllib

    try:
        with open(path, encoding="utf-8-sig", newline="") as opened:
            text = opened.read()
        return File(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: {error}; correct that line") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: it is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; make it a readable file, or name another with CM_CONFIG") from error


def _line(text: str, keys: tuple[str, ...]) -> int:
    """The line where a key is given a value: the text is read line by line until it has that value.

    tomllib does not tell; this needs no rules of its own for dotted keys, inline tables or multi-line strings.
    """
    import tomllib

    lines = text.split("\n")
    first = 1
    for count in range(1, len(lines) + 1):
        try:
            found: Any = tomllib.loads("\n".join(lines[:count]) + "\n")
        except tomllib.TOMLDecodeError:
            continue  # within a value that goes on
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return first
        first = count + 1
    return len(lines)


def _checked(file: File) -> File:
    for key, value in file.values.items():
        if key not in KEYS:
            raise BadInput(f"{file.where(key)}: unknown key {key!r}; use {', '.join(KEYS)}")
        if key not in ("projects", "redact") and (problem := _problem(key, value)):
            raise BadInput(f"{file.where(key)}: {key} {problem}")
    if file.values.get("keep") and file.values.get("text") is False:
        raise BadInput(f"{file.where('keep')}: keep = true keeps what text = false leaves out; choose one of them")
    _check_redact(file)
    _resolve(file)
    _read_projects(file)
    return file


def _problem(key: str, value: Any) -> str | None:
    """What is wrong with a value, if anything is."""
    if key == "roots":
        right = isinstance(value, list) and bool(value) and all(map(_is_name, value))
        return None if right else 'must be a list of Claude config directories, such as ["~/.claude"]'
    if key == "database":
        return None if _is_name(value) else 'must be the path of a file, such as "~/cm.db"'
    if key == "timezone":
        right = _is_name(value) and is_timezone(value)
        return None if right else 'must be the name of a time zone, such as "Europe/Berlin"'
    if key in ("keep", "text"):
        return None if isinstance(value, bool) else "must be true or false"
    if key == "start_of_week":
        right = isinstance(value, str) and value.lower() in DAYS
        return None if right else f"must be one of {', '.join(DAYS)}"
    if key == "search":
        right = isinstance(value, list) and all(item in SEARCHABLE for item in value)
        return None if right else f"must be a list of {', '.join(SEARCHABLE)}"
    if key in ("host", "user"):
        return None if _is_name(value) else 'must be a name, such as "laptop"'
    right = type(value) is int and 1 <= value <= MAX_WORKERS
    return None if right else f"must be a whole number from 1 to {MAX_WORKERS}"


def _check_redact(file: File) -> None:
    """`redact` is true, or a table of ready sets and of the user's own patterns; a wrong one must not go unnoticed."""
    given = file.values.get("redact", False)
    if isinstance(given, bool):
        return
    from .redaction import SETS, problem

    where = file.where("redact")
    if not isinstance(given, dict) or not given.keys() <= {"sets", "patterns"}:
        raise BadInput(f"{where}: redact must be true or false, or a table with sets and patterns")
    for key in given:
        if not isinstance(given[key], list) or not all(isinstance(item, str) for item in given[key]):
            raise BadInput(f"{file.where('redact', key)}: {key} must be a list of texts")
    for name in given.get("sets", ()):
        if name not in SETS:
            raise BadInput(f"{file.where('redact', 'sets')}: there is no set {name!r}; use {', '.join(SETS)}")
    for pattern in given.get("patterns", ()):
        if wrong := problem(pattern):
            raise BadInput(f"{file.where('redact', 'patterns')}: {pattern!r} {wrong}")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def is_timezone(name: str) -> bool:
    """Whether this machine knows the time zone."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError; a folder of zones an OSError
        return False
    return True


def _resolve(file: File) -> None:
    """Makes paths absolute: a command may run anywhere, so a relative one starts where the file is."""
    folder = os.path.dirname(file.path)

    def absolute(path: str) -> str:
        return os.path.join(folder, os.path.expanduser(path))

    if "roots" in file.values:
        file.values["roots"] = [absolute(root) for root in file.values["roots"]]
    if "database" in file.values:
        file.values["database"] = absolute(file.values["database"])


def _read_projects(file: File) -> None:
    projects = file.values.get("projects", {})
    if not isinstance(projects, dict):
        raise BadInput(f"{file.where('projects')}: projects must be a table; begin it with [projects]")
    for key, value in projects.items():
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not given.keys() <= {"name", "group"}:
            raise BadInput(
                f"{file.where('projects', key)}: project {key!r} must be a name in quotes, or"
                ' { name = "…", group = "…" }'
            )
        for what, text in given.items():
            if not _is_name(text):
                raise BadInput(f"{file.where('projects', key)}: {what} of project {key!r} must be a printable text")
        plain = os.path.expanduser(key).rstrip("/") or key
        file.projects[plain] = (given.get("name"), given.get("group"))
