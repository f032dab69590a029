"""What a report is to be about, as people write it: ranges of local days, models, sessions, hosts."""

from __future__ import annotations

import re
from datetime import date, timedelta

from .errors import BadInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

DATES = "YYYY-MM-DD, YYYYMMDD, YYYY-MM, today, yesterday, 7d, 2w, this-week, last-week, this-month, last-month"
# More than any history has, and a date knows no year 0.
_MAX_DAYS = 36_500


def first_day(text: str, today: date, start_of_week: int = 0) -> date:
    """Where a range begins: `7d` are the last seven days, of which today is one. Raises BadInput."""
    days = _days(text)
    return _period(text, today, start_of_week)[0] if days is None else today - timedelta(days - 1)


def last_day(text: str, today: date, start_of_week: int = 0) -> date:
    """Where a range ends: with `7d` on the day before the last seven, where such a range begins. Raises BadInput."""
    days = _days(text)
    return _period(text, today, start_of_week)[1] if days is None else today - timedelta(days)


def day_of_last(count: int, period: str, today: date, start_of_week: int) -> date:
    """The first of the last days, weeks or months, so many of them; the present one counts."""
    back = min(count, _MAX_DAYS // 31) - 1
    if period == "month":
        return _month(today, back)
    return today - timedelta((today.weekday() - start_of_week) % 7 + back * 7 if period == "week" else back)


def _days(text: str) -> int | None:
    found = re.fullmatch(r"(\d{1,5})([dw])", text.lower(), re.ASCII)
    return min(int(found[1]) * (7 if found[2] == "w" else 1), _MAX_DAYS) if found else None


def _period(text: str, today: date, start_of_week: int) -> tuple[date, date]:
    word = text.lower()
    if word in ("today", "yesterday"):
        day = today - timedelta(word == "yesterday")
        return day, day
    if word in ("this-week", "last-week"):
        week = day_of_last(1 + (word == "last-week"), "week", today, start_of_week)
        return week, week + timedelta(6)
    if word in ("this-month", "last-month"):
        back = int(word == "last-month")
        return _month(today, back), _month(today, back - 1) - timedelta(1)
    found = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)|(\d{4})(\d\d)(\d\d)|(\d{4})-(\d\d)", word, re.ASCII)
    try:
        if found is None:
            raise ValueError(text)
        year, month, *days = (int(part) for part in found.groups() if part)
        first = date(year, month, *(days or [1]))
        return first, first if days else _month(first, -1) - timedelta(1)
    except ValueError as error:
        raise BadInput(f"{text}: there is no such day; write one as {DATES}") from error


def _month(today: date, back: int) -> date:
    """The first day of the month so many before this one."""
    months = today.year * 12 + today.month - 1 - back
    return date(months // 12, months % 12 + 1, 1)


def models(connection: sqlite3.Connection, wanted: str) -> list[int]:
    """Ids of the models that have the text in their name."""
    rows = connection.execute("SELECT id, name FROM models").fetchall()
    return [id for id, name in rows if wanted.lower() in name.lower()]


def sessions(connection: sqlite3.Connection, wanted: str) -> list[int]:
    """Ids of the sessions whose id begins with the text."""
    rows = connection.execute("SELECT id, session_id FROM sessions").fetchall()
    return [id for id, session in rows if session.startswith(wanted)]


def hosts(connection: sqlite3.Connection, wanted: str) -> list[int]:
    """Ids of the hosts of that name, of that user, or known as user@host; else of those that have it as a part."""
    known = {id: (name, user, f"{user}@{name}") for id, name, user in connection.execute("SELECT * FROM hosts")}
    exact = [id for id, names in known.items() if wanted in names]
    return exact or [id for id, names in known.items() if wanted.lower() in names[2].lower()]
