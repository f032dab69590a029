"""Projects by what people call them: how each is shown, and which are meant."""

from __future__ import annotations

from collections import Counter

from .errors import BadInput
from .output import printable
from .settings import project_label

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

# An error names no more than these.
_NAMED = 5
_MOST_FOLDERS = 10


def labels(connection: sqlite3.Connection) -> dict[str, str]:
    """What each project is called, by its path: its name or the config file's, after the folders above it where two
    bear the same.
    """
    found = {path: project_label(path, name) for path, name in connection.execute("SELECT path, name FROM projects")}
    names = dict(found)
    for depth in range(2, _MOST_FOLDERS):
        taken = Counter(names.values())
        if len(taken) == len(names):
            break
        for path, label in found.items():
            if taken[names[path]] > 1:
                names[path] = "/".join([*path.replace("\\", "/").rstrip("/").split("/")[-depth:-1], label])
    return names


def find(connection: sqlite3.Connection, wanted: str) -> list[int]:
    """Ids of the projects of that path or that are shown so, else of that name, else of the one path that has it as a
    part.

    A name is the last part of a path, or what the config file calls it; a group's name is that of all in it.

    Raises:
        BadInput: it is part of several.
    """
    known = connection.execute("SELECT id, path, name FROM projects ORDER BY path").fetchall()
    whole = wanted.rstrip("/") or wanted
    part = whole.lower()
    shown = {path: label.lower() for path, label in labels(connection).items()}
    names = {id: project_label(path, name).lower() for id, path, name in known}
    by_path = [id for id, path, _ in known if path == whole]
    by_name = [id for id, _, name in known if part in (name.lower(), names[id]) or names[id].startswith(f"{part}/")]
    by_label = [id for id, path, _ in known if shown[path] == part]
    if by_path or by_name or by_label:
        return by_path or by_name or by_label
    by_part = [(id, path) for id, path, _ in known if part in path.lower() or part in names[id]]
    if len(by_part) > 1:
        raise BadInput(f"--project {wanted} is part of {_listed([path for _, path in by_part])}; name more of it")
    return [id for id, _ in by_part]


def _listed(paths: list[str]) -> str:
    named = ", ".join(printable(path) for path in paths[:_NAMED])
    return f"{named} and {len(paths) - _NAMED} more" if len(paths) > _NAMED else named
