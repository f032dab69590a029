"""Local time in SQL: the offsets from UTC of the configured zone, and the day its weeks begin with.

Reports add the offset that holds at a response's time, so its local day is what the zone's rules say for that moment,
across daylight saving and in zones at :30 and :45.
"""

from __future__ import annotations

import os
import time

from . import config, settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

# From 1970 on, so that no response is older than the table; a response newer than its end has the last offset.
END = 2_240_611_200_000  # 2041-01-01
# In no zone do two changes since 1970 lie within a week: steps of a week find what steps of a day find.
STEP = 7 * 86_400_000

# The views that read `zone_offsets`. SQLite resolves what stands in a view when it is made, so that only a temporary
# copy of them sees a temporary table of that name.
LOCAL_VIEWS = ("local_usage", "local_calls", "local_quarters", "local_tools")


def offsets(zone: str | None, start: int = 0, end: int = END) -> list[tuple[int, int]]:
    """Milliseconds since 1970 UTC and the offset in milliseconds that holds from then on, for a span of time.

    The zone is an IANA name; None is the system's, as the C library knows it: also a POSIX rule in TZ, or a
    /etc/localtime that is no link.
    """
    offset_at = _offset_at(zone)
    at, offset = start, offset_at(start)
    found = [(at, offset)]
    while at < end:
        after = min(at + STEP, end)
        if (next_offset := offset_at(after)) != offset:
            found.append((_change(offset_at, at, after), next_offset))
            offset = next_offset
        at = after
    return found


def _offset_at(zone: str | None) -> Callable[[int], int]:
    if zone is None:
        return lambda at: time.localtime(at // 1000).tm_gmtoff * 1000
    if zone == "UTC":
        return lambda at: 0
    from datetime import datetime
    from zoneinfo import ZoneInfo

    here = ZoneInfo(zone)

    def offset(at: int) -> int:
        passed = datetime.fromtimestamp(at // 1000, here).utcoffset()
        return 0 if passed is None else (passed.days * 86_400 + passed.seconds) * 1000

    return offset


def _change(offset_at: Callable[[int], int], before: int, after: int) -> int:
    """The second in which the offset changes, once, between two times."""
    low, high, offset = before // 1000, after // 1000, offset_at(before)
    while high - low > 1:
        middle = (low + high) // 2
        if offset_at(middle * 1000) == offset:
            low = middle
        else:
            high = middle
    return high * 1000


def _stamp() -> str:
    """Changes with the settings, and with the rules of the zone; a `stat`, because it is asked at every refresh."""
    zone = config.timezone()
    rules = "/etc/localtime" if zone is None else f"/usr/share/zoneinfo/{zone}"
    try:
        status = os.stat(rules)
        version = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        version = "-"
    return f"{zone} {os.environ.get('TZ') if zone is None else ''} {version} {config.start_of_week()} {END}"


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether the index's local days are those of the settings as they are now."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'zone'").fetchone()
    return row is not None and row[0] == _stamp()


def update(connection: sqlite3.Connection) -> None:
    """Makes the index's local days those of the settings, if these changed. Raises BadInput: there is no such zone."""
    if is_current(connection):
        return
    from . import rollups
    from .store import transaction

    stamp, rows = _stamp(), offsets(config.timezone())
    first_day = settings.DAYS.index(config.start_of_week())

    def replace() -> None:
        connection.execute("DELETE FROM zone_offsets")
        connection.executemany("INSERT INTO zone_offsets VALUES (?, ?)", rows)
        rollups.sum_days(connection)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('start_of_week', ?)", (str(first_day),))
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('zone', ?)", (stamp,))

    transaction(connection, replace)


# What is embedded in a record has a time of its own.
_SPAN = """
SELECT min(at), max(at) FROM (
  SELECT min(at) AS at FROM records UNION ALL SELECT max(at) FROM records
  UNION ALL SELECT min(at) FROM responses UNION ALL SELECT max(at) FROM responses
)
"""


def apply(connection: sqlite3.Connection, option: str | None = None) -> None:
    """Local days are those of the zone that is named, else of the settings as they are now. Raises BadInput."""
    if option or not is_current(connection):
        use(connection, config.timezone(option))


def use(connection: sqlite3.Connection, zone: str | None) -> None:
    """Makes this connection's local days those of another zone; the index itself is not changed."""
    from . import rollups

    (first, last) = connection.execute(_SPAN).fetchone()
    now = int(time.time() * 1000)
    # From midnight: a beginning within a quarter of an hour would count as a change there.
    start = now if first is None else min(first, now)
    rows = offsets(zone, start // rollups.DAY * rollups.DAY, max(last or now, now) + STEP)
    connection.execute("CREATE TEMP TABLE zone_offsets (from_at INTEGER PRIMARY KEY, offset_ms INTEGER NOT NULL)")
    connection.executemany("INSERT INTO temp.zone_offsets VALUES (?, ?)", rows)
    marks = ", ".join("?" * len(LOCAL_VIEWS))
    for (sql,) in connection.execute(
        f"SELECT sql FROM main.sqlite_schema WHERE name IN ({marks})", LOCAL_VIEWS
    ).fetchall():
        connection.execute(sql.replace("CREATE VIEW", "CREATE TEMP VIEW", 1))
    if rollups.is_odd(connection):
        connection.execute("DROP VIEW temp.local_quarters")
        connection.execute(
            f"CREATE TEMP VIEW local_quarters AS SELECT *, at / {rollups.QUARTER} AS quarter FROM local_usage"
        )
    # The table of days has those of the configured zone.
    connection.execute("CREATE TEMP VIEW local_days AS SELECT * FROM local_quarters")


def offset_at(connection: sqlite3.Connection, at: int) -> int:
    """The offset in milliseconds that holds at a time, in the zone that this connection uses."""
    row = connection.execute(
        "SELECT offset_ms FROM zone_offsets WHERE from_at <= ? ORDER BY from_at DESC LIMIT 1", (at,)
    ).fetchone()
    return 0 if row is None else int(row[0])


def start_of_day(connection: sqlite3.Connection, day: int) -> int:
    """Milliseconds since 1970 UTC of the first moment of a local day, which need not be 00:00; days since 1970."""
    return int(connection.execute(_START_OF_DAY, (day * 86_400_000,)).fetchone()[0])


_START_OF_DAY = """
SELECT min(max(z.from_at, ?1 - z.offset_ms))
FROM (SELECT from_at, offset_ms, lead(from_at, 1, 1 << 62) OVER (ORDER BY from_at) AS until_at FROM zone_offsets) AS z
WHERE ?1 - z.offset_ms < z.until_at
"""


def name(zone: str | None) -> str:
    """How the zone is called: the system's by the link that names it."""
    if zone is not None:
        return zone
    rule = os.environ.get("TZ")
    target = os.path.realpath("/etc/localtime") if rule is None else rule.lstrip(":") or "UTC"
    named = target.rpartition("/zoneinfo/")[2]
    return "local time" if os.path.isabs(named) else named


def clock(connection: sqlite3.Connection) -> Callable[[str], str]:
    """Local times of UTC ones, as short as one reads them."""
    from bisect import bisect_right
    from datetime import UTC, datetime, timedelta

    rows = connection.execute("SELECT from_at, offset_ms FROM zone_offsets ORDER BY from_at").fetchall()
    starts = [row[0] for row in rows]

    def when(text: str) -> str:
        at = datetime.fromisoformat(text)
        place = bisect_right(starts, at.timestamp() * 1000) - 1
        offset = timedelta(milliseconds=rows[place][1] if place >= 0 else 0)
        return (at.astimezone(UTC) + offset).strftime("%Y-%m-%d %H:%M")

    return when
