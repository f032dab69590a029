"""Keeps the price tables of the index equal to the shipped prices with the user's laid over them."""

from __future__ import annotations

import os

from . import accounting, config, prices

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

    from .prices import Price

# Where a price has no beginning or no end: 1970 and the year 10000, in milliseconds.
_ALWAYS, _FOREVER = 0, 253_402_300_800_000


def _stamp() -> str:
    """Changes when the shipped prices or the user's do; two `stat` calls, because it is asked at every refresh."""
    parts = []
    for path in (prices.SHIPPED, config.prices_file()):
        try:
            status = os.stat(path)
            parts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
        except OSError:
            parts.append(f"{path} -")
    return "\n".join(parts)


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether the index was priced by the prices as they are now."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'prices'").fetchone()
    return row is not None and row[0] == _stamp()


def update(connection: sqlite3.Connection) -> None:
    """Loads the prices if they changed, and prices the past by them: no transcript is read for that.

    Raises PriceError: the user's prices cannot be used; the index keeps those it has.
    """
    if is_current(connection):
        return
    from .store import insert, transaction

    stamp = _stamp()
    rows = prices.load(config.prices_file())

    def replace() -> None:
        before = {row[0]: row for row in connection.execute("SELECT * FROM prices")}
        after = {price.id: _row(price) for price in rows}
        changed = {row[1] for row in before.values() ^ after.values()} if before else set()
        for table in ("rates", "prices"):
            connection.execute(f"DELETE FROM {table}")
        connection.executemany(insert("prices", ", ".join(_columns(connection, "prices")), ""), after.values())
        connection.executemany(insert("rates", ", ".join(prices.Rate._fields), ""), prices.rates(rows))
        accounting.reprice(connection, changed)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('prices', ?)", (stamp,))

    transaction(connection, replace)


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]


def _row(price: Price) -> tuple[object, ...]:
    """A price as the table has it; REAL is for reading, the exact fractions are in `rates`."""
    start = _ALWAYS if price.valid_from is None else price.valid_from
    end = _FOREVER if price.valid_until is None else price.valid_until
    rest = (float(value) if hasattr(value, "as_tuple") else value for value in price[4:])
    return (price.id, price.model, start, end, *rest)
