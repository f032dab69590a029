"""Machines whose transcripts are in the index: what this one is called, and what the index has of each.

This machine has id 1 in its own index, every other one the digest of its names. The names are taken when the index is
made and stay, so that a laptop whose name changes with the network does not become another host; `host` and `user` in
the config file change them.
"""

from __future__ import annotations

from . import config
from .errors import BadInput
from .store import fetch_dicts, transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

THIS = 1

# A merged host's time is that of its newest state that was merged.
AS_OF_NS = "max(max(checked_ns, coalesce(replaced_at, 0) * 1000000, coalesce(gone_at, 0) * 1000000))"

_LISTED = f"""
SELECT
  h.name AS host, h.user AS user, h.id = {THIS} AS is_this_machine,
  coalesce(sum(f.replaced_at IS NULL AND f.gone_at IS NULL), 0) AS present,
  coalesce(sum(f.replaced_at IS NULL AND f.gone_at IS NOT NULL), 0) AS gone,
  coalesce(sum(f.replaced_at IS NOT NULL), 0) AS rewritten,
  coalesce(u.responses, 0) AS responses,
  strftime('%Y-%m-%dT%H:%M:%fZ', nullif({AS_OF_NS}, 0) / 1e9, 'unixepoch') AS as_of
FROM hosts AS h
LEFT JOIN files AS f ON f.host_id = h.id
LEFT JOIN (SELECT host_id, sum(responses) AS responses FROM usage_days GROUP BY host_id) AS u ON u.host_id = h.id
GROUP BY h.id
ORDER BY h.id <> {THIS}, h.name, h.user
"""
# From each root to the next in an index: DISTINCT reads all files.
_ROOTS = f"""
WITH RECURSIVE roots (root) AS (
  SELECT min(root) FROM files WHERE host_id = {THIS}
  UNION ALL
  SELECT (SELECT min(root) FROM files WHERE host_id = {THIS} AND root > roots.root) FROM roots WHERE root IS NOT NULL
)
SELECT root FROM roots WHERE root IS NOT NULL
"""
_OTHERS = f"SELECT name, user FROM hosts WHERE id <> {THIS}"


def listed(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Each host with its transcripts, the responses it owns, and the state it has here; this machine first."""
    return [{**row, "is_this_machine": bool(row["is_this_machine"])} for row in fetch_dicts(connection, _LISTED)]


def roots(connection: sqlite3.Connection) -> list[str]:
    """Claude config directories of this machine that are in the index."""
    return [row[0] for row in connection.execute(_ROOTS)]


def others(connection: sqlite3.Connection) -> list[str]:
    """Machines whose indexes were merged into this one, as user@host."""
    return [f"{user}@{name}" for name, user in connection.execute(f"{_OTHERS} ORDER BY name, user")]


def identify(connection: sqlite3.Connection, name: str, user: str) -> int:
    """Id that a host of these names has in this index."""
    from .digest import digest_text

    is_this = connection.execute(f"SELECT name, user FROM hosts WHERE id = {THIS}").fetchone() == (name, user)
    return THIS if is_this else digest_text(name, user)


def update(connection: sqlite3.Connection) -> None:
    """Calls this machine what the config file says, if it says something else than the index.

    Raises BadInput: the index has another machine of these names.
    """
    before = connection.execute(f"SELECT name, user FROM hosts WHERE id = {THIS}").fetchone()
    after = (config.host() or before[0], config.user() or before[1])
    if after == before:
        return
    if connection.execute("SELECT 1 FROM hosts WHERE (name, user) = (?, ?)", after).fetchone():
        raise BadInput(f"{after[1]}@{after[0]} is another machine in this index; choose another host or user")
    from . import accounting

    connection.executescript(accounting.TOUCHED)
    transaction(connection, lambda: _rename(connection, *after))


def _rename(connection: sqlite3.Connection, name: str, user: str) -> None:
    connection.execute(f"UPDATE hosts SET name = ?, user = ? WHERE id = {THIS}", (name, user))
    if others(connection):
        from . import accounting

        # Names decide between copies that agree in all else.
        accounting.touch_all(connection)
        accounting.derive(connection)
