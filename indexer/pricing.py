"""Keeps the price tables of the index equal to the shipped prices with the user's laid over them."""

from __future__ import annotations

import os

from . import config
from .errors import PriceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

    from .prices import Price

# Where a price has no beginning or no end: 1970 and the year 10000, in milliseconds.
_ALWAYS, _FOREVER = 0, 253_402_300_800_000

# Of responses it reads nothing but an index.
_USED = """
SELECT d.price_id, count(*)
FROM daily_prices AS d
CROSS JOIN responses AS r
WHERE
  d.price_id IS NOT NULL AND r.model_id = d.model_id
  AND r.at >= d.day * 86400000 AND r.at < (d.day + 1) * 86400000
GROUP BY d.price_id
"""

# By which rates each model is priced, and from when to when.
_RATES = """
SELECT d.model_id, min(d.day), max(d.day), d.long_context_above, p.*
FROM daily_prices AS d
LEFT JOIN rates AS p ON p.price_id = d.price_id
GROUP BY d.model_id, p.id
"""

# It begins with the days without a price, which are few, where a view would work out what every response cost.
_UNPRICED = """
SELECT
  m.name AS model, sum(r.part = 0) AS responses, sum(r.input_tokens) AS input_tokens,
  sum(r.output_tokens) AS output_tokens, sum(r.cache_write_tokens) AS cache_creation_tokens,
  sum(r.cache_read_tokens) AS cache_read_tokens
FROM daily_prices AS d
CROSS JOIN responses AS r ON
  r.model_id = d.model_id AND r.at >= d.day * 86400000 AND r.at < (d.day + 1) * 86400000
JOIN models AS m ON m.id = r.model_id
WHERE d.price_id IS NULL
GROUP BY m.id
ORDER BY m.name
"""


def _stamp() -> str:
    """Changes when the shipped prices or the user's do; two `stat` calls, because it is asked at every refresh."""
    parts = []
    for path in (config.SHIPPED_PRICES, config.prices_file()):
        try:
            status = os.stat(path)
            parts.append(f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ino}")
        except OSError:
            parts.append(f"{path} -")
    return "\n".join(parts)


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether the index is priced by the prices as they are now."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'prices'").fetchone()
    return row is not None and row[0] == _stamp()


def update(connection: sqlite3.Connection) -> None:
    """Loads the prices if they changed, which prices the past by them: no transcript is read, no response written.

    Raises PriceError: the user's prices cannot be used; the index keeps those it has, or gets the shipped ones.
    """
    if is_current(connection):
        return
    from . import prices

    stamp = _stamp()
    try:
        rows = prices.load(config.prices_file())
    except PriceError:
        if connection.execute("SELECT 1 FROM prices").fetchone() is None:
            _replace(connection, prices.load(), "")
        raise
    _replace(connection, rows, stamp)


def _replace(connection: sqlite3.Connection, rows: list[Price], stamp: str) -> None:
    from . import accounting, prices, rollups
    from .store import insert, transaction

    def replace() -> None:
        before = set(connection.execute(_RATES))
        for table in ("rates", "prices"):
            connection.execute(f"DELETE FROM {table}")
        connection.executemany(insert("prices", ", ".join(_columns(connection, "prices")), ""), map(_row, rows))
        connection.executemany(insert("rates", ", ".join(prices.Rate._fields), ""), prices.rates(rows))
        models = connection.execute("SELECT id, name FROM models").fetchall()
        # A newer cm may know more spellings.
        named = [(prices.canonical(name), model_id) for model_id, name in models]
        connection.executemany("UPDATE models SET canonical = ? WHERE id = ?", named)
        accounting.price_days(connection)
        changed = {row[0] for row in before.symmetric_difference(connection.execute(_RATES))}
        if changed:
            rollups.price(connection, changed)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('prices', ?)", (stamp,))

    transaction(connection, replace)


def update_index(path: str) -> bool:
    """Prices an index by the prices as they are now, if there is one; False while a refresh holds its lock.

    Raises CmError.
    """
    import sqlite3

    from . import store
    from .errors import Locked

    if not os.path.exists(path):
        return True
    try:
        with store.Lock(path):
            connection = store.open_writer(path)
            try:
                update(connection)
            finally:
                connection.close()
    except Locked:
        return False
    except sqlite3.Error as error:
        raise store.explain(path, error) from error
    return True


def uses(connection: sqlite3.Connection) -> dict[int, int]:
    """How many calls of the API have each price, by its id; an advisor's is one of its own."""
    return dict(connection.execute(_USED).fetchall())


def unpriced(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Models without a price at the time they were used: responses and tokens of each kind that have none."""
    from .store import fetch_dicts

    return fetch_dicts(connection, _UNPRICED)


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]


def _row(price: Price) -> tuple[object, ...]:
    """A price as the table has it; REAL is for reading, the exact fractions are in `rates`."""
    from decimal import Decimal

    start = _ALWAYS if price.valid_from is None else price.valid_from
    end = _FOREVER if price.valid_until is None else price.valid_until
    rest = (float(value) if isinstance(value, Decimal) else value for value in price[4:])
    return (price.id, price.model, start, end, *rest)
