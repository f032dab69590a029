"""Settings and where things are, by one precedence: the option, else the environment, else the file, else a default."""

from __future__ import annotations

import os

from . import settings
from .errors import BadInput, CmError
from .settings import xdg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


SHIPPED_PRICES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "prices.toml")


def data_file() -> str:
    """The index where nothing names one."""
    return os.path.join(xdg("XDG_DATA_HOME", "~/.local/share"), "cm", "cm.db")


def database(option: str | None = None) -> str:
    """The index: `--db`, else `CM_DB`, else the file's `database`, else in the XDG data directory."""
    return _file("database", option, "--db", "CM_DB", data_file())[0]


def log_file() -> str:
    """The log: `CM_LOG`, else in the XDG state directory."""
    default = os.path.join(xdg("XDG_STATE_HOME", "~/.local/state"), "cm", "cm.log")
    return os.path.abspath(os.path.expanduser(os.environ.get("CM_LOG") or default))


def prices_file() -> str:
    """The user's prices, which may not exist."""
    return os.path.join(xdg("XDG_CONFIG_HOME", "~/.config"), "cm", "prices.toml")


def timezone(option: str | None = None) -> str | None:
    """The IANA zone whose days count: `--timezone`, else `CM_TIMEZONE`, else the file's, else None: the system's."""
    return _timezone(option)[0]


def start_of_week(option: str | None = None) -> str:
    """The day a week begins with, in lower case: `--start-of-week`, else `CM_START_OF_WEEK`, else the file's."""
    return _start_of_week(option)[0]


def workers(option: int | None = None) -> int | None:
    """Threads that read: `--workers`, else `CM_WORKERS`, else the file's, else None: as many as pay off."""
    return _workers(option)[0]


def host() -> str | None:
    """What this machine is called in its index: `CM_HOST`, else the file's, else None: as when the index was made."""
    name: str | None = settings.choose("host", None, "", "CM_HOST", None)[0]
    return name


def user() -> str | None:
    """Whose history this machine's is called: `CM_USER`, else the file's, else None: as when the index was made."""
    name: str | None = settings.choose("user", None, "", "CM_USER", None)[0]
    return name


def effective(db: str | None = None, option: Sequence[str] = ()) -> dict[str, tuple[Any, str]]:
    """Every setting with its value and its source, as `cm config` shows them. Raises CmError."""
    return {
        "config": (settings.path(), "CM_CONFIG" if os.environ.get("CM_CONFIG") else "default"),
        "roots": (roots(option)[0], _candidates(option)[1]),
        "database": _file("database", db, "--db", "CM_DB", data_file()),
        "log": (log_file(), "CM_LOG" if os.environ.get("CM_LOG") else "default"),
        "prices": (prices_file(), "default"),
        "timezone": _timezone(None),
        "start_of_week": _start_of_week(None),
        "workers": _workers(None),
        "host": settings.choose("host", None, "", "CM_HOST", None),
        "user": settings.choose("user", None, "", "CM_USER", None),
        "projects": settings.choose("projects", None, "", "", {}),
        "search": settings.choose("search", None, "", "", []),
        "keep": settings.choose("keep", None, "", "", False),
        "text": settings.choose("text", None, "", "", True),
        "redact": settings.choose("redact", None, "", "", False),
    }


def keeps() -> bool:
    """Whether the transcripts' bytes are kept in the archive. Raises BadInput: the file cannot be used."""
    return bool(settings.load().values.get("keep"))


def keeps_text() -> bool:
    """Whether what was said is stored. Raises BadInput."""
    return settings.load().values.get("text") is not False


def patterns() -> tuple[str, ...]:
    """Regular expressions of what must not be stored: those of the ready sets, and the user's. Raises BadInput."""
    given = settings.load().values.get("redact", False)
    if not given:
        return ()
    from .redaction import SETS

    chosen = {} if given is True else given
    ready = [pattern for name in chosen.get("sets", SETS) for pattern in SETS[name]]
    return (*ready, *chosen.get("patterns", ()))


def searched() -> tuple[str, ...]:
    """What is searched beside messages and tool inputs. Raises BadInput: the file cannot be used."""
    return tuple(settings.load().values.get("search", ()))


def _file(key: str, option: str | None, name: str, variable: str, default: str) -> tuple[str, str]:
    path, source = settings.choose(key, option, name, variable, default)
    return os.path.abspath(os.path.expanduser(path)), source


def _timezone(option: str | None) -> tuple[str | None, str]:
    zone, source = settings.choose("timezone", option, "--timezone", "CM_TIMEZONE", None)
    # The file's is known to be one, and to import the zones takes a while.
    if source not in (settings.FILE, "default") and not settings.is_timezone(zone):
        raise BadInput(f"{source} {zone}: there is no such time zone; name one such as Europe/Berlin")
    return zone, source


def _start_of_week(option: str | None) -> tuple[str, str]:
    day, source = settings.choose("start_of_week", option, "--start-of-week", "CM_START_OF_WEEK", "monday")
    if day.lower() not in settings.DAYS:
        raise BadInput(f"{source} {day}: there is no such day; name one of {', '.join(settings.DAYS)}")
    return day.lower(), source


def _workers(option: int | None) -> tuple[int | None, str]:
    count, source = settings.choose("workers", option, "--workers", "CM_WORKERS", None)
    if isinstance(count, str):
        if not (count.isascii() and count.isdigit() and 1 <= int(count) <= settings.MAX_WORKERS):
            raise BadInput(f"{source} {count}: give a whole number from 1 to {settings.MAX_WORKERS}")
        count = int(count)
    return count, source


def _candidates(option: Sequence[str]) -> tuple[Sequence[str], str]:
    if not option and not os.environ.get("CM_ROOTS") and os.environ.get("CLAUDE_CONFIG_DIR"):
        return os.environ["CLAUDE_CONFIG_DIR"].split(","), "CLAUDE_CONFIG_DIR"
    default = ("~/.claude", os.path.join(xdg("XDG_CONFIG_HOME", "~/.config"), "claude"))
    places, source = settings.choose("roots", option, "--root", "CM_ROOTS", default)
    return places.split(os.pathsep) if isinstance(places, str) else places, source


def roots(option: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Claude config directories: those that have `projects/`, and all places that were looked at.

    A `projects` directory itself is accepted too, and stands for its parent.

    Raises:
        CmError: a directory named by `--root` does not exist.
    """
    found: list[str] = []
    looked: list[str] = []
    candidates, source = _candidates(option)
    for candidate in candidates:
        if not candidate.strip():
            continue
        path = os.path.abspath(os.path.expanduser(candidate.strip()))
        if source == "--root" and not os.path.isdir(path):
            raise CmError(f"--root {candidate}: no such directory; name a Claude config directory such as ~/.claude")
        if os.path.basename(path) == "projects" and not os.path.isdir(os.path.join(path, "projects")):
            path = os.path.dirname(path)
        looked.append(path)
        if path not in found and os.path.isdir(os.path.join(path, "projects")):
            found.append(path)
    return found, looked


def missing_roots(option: Sequence[str] = ()) -> str | None:
    """What is wrong with where transcripts are looked for, in a sentence: a directory that is named and not there, or
    no history in the usual ones. None if nothing is. Raises CmError.
    """
    found, looked = roots(option)
    _, source = _candidates(option)
    if source == "default":
        return None if found else f"there is no history in {' or '.join(f'{place}/projects' for place in looked)}"
    missing = [place for place in looked if not os.path.isdir(place)]
    if not missing:
        return None
    where = settings.load().where("roots") if source == settings.FILE else source
    return f"{where} names {', '.join(missing)}: no such directory; correct that, or make it reachable"
