"""The user's prices file as commands change it: rows set and taken out, what they wrote beside them kept."""

from __future__ import annotations

import os

from . import prices
from .errors import PriceError
from .prices import KINDS, canonical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date
    from decimal import Decimal
    from typing import Any

_BY_HAND = "{}: its rows do not each begin with [[price]]; edit it by hand"


def set_price(
    user_file: str | os.PathLike[str],
    model: str,
    input: Decimal | int,
    output: Decimal | int,
    cache_read: Decimal | int | None = None,
    cache_write_5m: Decimal | int | None = None,
    cache_write_1h: Decimal | int | None = None,
    valid_from: date | None = None,
) -> None:
    """Write a row into the user's file, or over theirs of the same model and start; None leaves a key out.

    Other rows, and comments on lines of their own, stay. Raises PriceError, and then leaves the file alone.
    """
    amounts = zip(KINDS, (input, output, cache_write_5m, cache_write_1h, cache_read), strict=True)
    given = {"model": canonical(model), "from": valid_from, **dict(amounts)}
    row = {key: value for key, value in given.items() if value is not None}
    prices.price_of(row, canonical(model))
    rows, parts = _parts(user_file)
    keys = [(canonical(other["model"]), other.get("from")) for other in rows]
    key = (row["model"], valid_from)
    if key in keys:
        index = keys.index(key)
        head, comments = _emptied(parts[index + 1])
        rows[index], parts[index + 1] = row, head + _assignments(row) + comments
    else:
        text = "".join(parts)
        separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        rows.append(row)
        parts.append(f"{separator}[[price]]\n{_assignments(row)}")
    prices.prices_of(rows, user_file)
    _write_parts(user_file, rows, parts)


def unset_price(user_file: str | os.PathLike[str], model: str) -> bool:
    """Take all rows of a model out of the user's file; False if there are none.

    Other rows, and comments on lines of their own, stay. Raises PriceError, and then leaves the file alone.
    """
    rows, parts = _parts(user_file)
    name = canonical(model)
    is_left = [canonical(row["model"]) != name for row in rows]
    if all(is_left):
        return False
    rows = [row for row, stays in zip(rows, is_left, strict=True) if stays]
    parts[1:] = [part if stays else _emptied(part)[1] for part, stays in zip(parts[1:], is_left, strict=True)]
    _write_parts(user_file, rows, parts)
    return True


def set_aside(user_file: str | os.PathLike[str]) -> None:
    """Set the user's file aside, as `….bak`; without a file there is nothing to do. Raises PriceError."""
    try:
        os.replace(user_file, f"{os.fspath(user_file)}.bak")
    except FileNotFoundError:
        return
    except OSError as error:
        raise PriceError(f"{user_file}: {error.strerror}; move it away by hand") from error


def _parts(user_file: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the user's file, and its text in parts: what is before the first row, then each row."""
    import re

    text = prices.read_text(user_file)
    rows = prices.rows_in(text, user_file)
    prices.prices_of(rows, user_file)
    parts = re.split(r"^(?=[^\S\n]*\[\[\s*price\s*\]\])", text, flags=re.MULTILINE)
    if len(parts) != 1 + len(rows):
        raise PriceError(_BY_HAND.format(user_file))
    return rows, parts


def _emptied(part: str) -> tuple[str, str]:
    """The line that begins a row, and the comments and empty lines below it: they may be about the next row."""
    import re

    head, *lines = re.findall(r"[^\n]*\n|[^\n]+", part)  # splitlines would cut at more than newlines
    return head, "".join(line for line in lines if not line.strip() or line.lstrip().startswith("#"))


def _write_parts(user_file: str | os.PathLike[str], rows: list[dict[str, Any]], parts: Iterable[str]) -> None:
    text = "".join(parts)
    if prices.rows_in(text, user_file) != rows:  # a row may have begun within a text
        raise PriceError(_BY_HAND.format(user_file))
    _write_text(user_file, text)


def _assignments(row: Mapping[str, Any]) -> str:
    from decimal import Decimal
    from json import dumps

    # A Decimal's own text may be 1E+1, and an int formatted as "f" gains zeros.
    literals = {key: f"{Decimal(value):f}" if key in KINDS else str(value) for key, value in row.items()}
    literals["model"] = dumps(row["model"], ensure_ascii=False)
    return "".join(f"{key} = {literal}\n" for key, literal in literals.items())


def _write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file at once; only its owner can read it. Raises PriceError."""
    from tempfile import NamedTemporaryFile

    # What a link points to is replaced, not the link.
    target = os.path.realpath(path)
    try:
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        with NamedTemporaryFile("wb", dir=os.path.dirname(target), delete=False) as file:
            try:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, target)
            except OSError:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise PriceError(f"{path}: {error.strerror}; nothing was changed") from error
