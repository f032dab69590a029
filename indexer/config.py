"""Where things are: transcripts, index, log. Nothing here touches more than the environment and a few `stat` calls."""

from __future__ import annotations

import os

from .errors import CmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def _xdg(variable: str, default: str) -> str:
    # The XDG specification: a relative path is invalid and ignored.
    value = os.environ.get(variable, "")
    return value if os.path.isabs(value) else os.path.expanduser(default)


def data_file() -> str:
    """The index where neither `--db` nor `CM_DB` names one."""
    return os.path.join(_xdg("XDG_DATA_HOME", "~/.local/share"), "cm", "cm.db")


def database(option: str | None = None) -> str:
    """The index: `--db`, else `CM_DB`, else in the XDG data directory."""
    return os.path.abspath(os.path.expanduser(option or os.environ.get("CM_DB") or data_file()))


def log_file() -> str:
    """The log: `CM_LOG`, else in the XDG state directory."""
    default = os.path.join(_xdg("XDG_STATE_HOME", "~/.local/state"), "cm", "cm.log")
    return os.path.abspath(os.path.expanduser(os.environ.get("CM_LOG") or default))


def prices_file() -> str:
    """The user's prices, which may not exist."""
    return os.path.join(_xdg("XDG_CONFIG_HOME", "~/.config"), "cm", "prices.toml")


def _candidates(option: Sequence[str]) -> tuple[Iterable[str], str]:
    if option:
        return option, "--root"
    if os.environ.get("CM_ROOTS"):
        return os.environ["CM_ROOTS"].split(os.pathsep), "CM_ROOTS"
    if os.environ.get("CLAUDE_CONFIG_DIR"):
        return os.environ["CLAUDE_CONFIG_DIR"].split(","), "CLAUDE_CONFIG_DIR"
    return ("~/.claude", os.path.join(_xdg("XDG_CONFIG_HOME", "~/.config"), "claude")), "the default places"


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
