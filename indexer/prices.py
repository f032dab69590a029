"""Prices of models by period, and the exact cost of a response at them."""

from __future__ import annotations

import os
from collections import namedtuple

from .config import SHIPPED_PRICES
from .errors import PriceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from decimal import Decimal
    from typing import Any, NamedTuple

    class Price(NamedTuple):
        """What a model costs in a period: USD per million tokens, factors, USD per 1,000 web searches.

        The period is in milliseconds since 1970 UTC, its end exclusive, None where open. `id` has 40 bits and
        follows from model and start alone. Long rates hold above `threshold` tokens of input and cache.
        """

        id: int
        model: str
        valid_from: int | None
        valid_until: int | None
        input: Decimal
        output: Decimal
        cache_write_5m: Decimal
        cache_write_1h: Decimal
        cache_read: Decimal
        threshold: int | None
        long_input: Decimal | None
        long_output: Decimal | None
        long_cache_write_5m: Decimal | None
        long_cache_write_1h: Decimal | None
        long_cache_read: Decimal | None
        fast: Decimal
        us: Decimal
        batch: Decimal
        web_search: Decimal
        source: str

    class Rate(NamedTuple):
        """A price with its factors applied: nanodollars per token as fractions, nanodollars per search.

        Cache writes of both lifetimes have one denominator, because they are rounded as one sum.
        """

        id: int
        price_id: int
        input_num: int
        input_den: int
        output_num: int
        output_den: int
        cache_write_5m_num: int
        cache_write_1h_num: int
        cache_write_den: int
        cache_read_num: int
        cache_read_den: int
        web_search: int

    class Cost(NamedTuple):
        """Whole nanodollars by kind."""

        input: int
        output: int
        cache_write: int
        cache_read: int
        web_search: int

else:
    # typing costs a no-change refresh 4 ms.
    Price = namedtuple(
        "Price",
        "id model valid_from valid_until input output cache_write_5m cache_write_1h cache_read "
        "threshold long_input long_output long_cache_write_5m long_cache_write_1h long_cache_read "
        "fast us batch web_search source",
    )
    Rate = namedtuple(
        "Rate",
        "id price_id input_num input_den output_num output_den cache_write_5m_num cache_write_1h_num "
        "cache_write_den cache_read_num cache_read_den web_search",
    )
    Cost = namedtuple("Cost", "input output cache_write cache_read web_search")


KINDS = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
# What a row may leave out: Anthropic's multiples of the input rate, and the usual factors.
CACHE_MULTIPLES = {"cache_write_5m": "1.25", "cache_write_1h": "2", "cache_read": "0.1"}
FACTORS = {"fast": "1", "us": "1", "batch": "0.5", "web_search": "10"}
ROW_KEYS = ("model", "from", "until", *KINDS, "long_context", *FACTORS, "source")
# USD per million tokens; the dearest model costs 75, so more is a slip.
MAX_USD = 9000
MAX_DECIMALS = 6
# SQL rounds with 2 * numerator * count + denominator in 63 bits, and a count is at most 10^9.
MAX_TERM = 4 * 10**9

LONG, FAST, US, BATCH = 8, 4, 2, 1


_canonical_ids: dict[str, str] = {}
_known_spellings: dict[str, str] = {}


def canonical(model: str) -> str:
    """The id prices are listed under: without date, version, context, region and provider, usually spelled.

    Only those are removed: an id with anything else around it stays another model's.
    """
    name = _canonical_ids.get(model)
    if name is None:
        core = _core(model)
        name = _canonical_ids[model] = _spellings().get(core, core)
    return name


def _core(model: str) -> str:
    import re

    # The match takes quadratic time, and what stands in a transcript may be hostile.
    if len(model) > 200:
        return model
    # Bedrock has us.anthropic.…-v1:0, Vertex @20251101 and @default, OpenRouter :beta and :thinking.
    match = re.fullmatch(
        r"(?:.*/)?(?:(?:[a-z-]+\.)?anthropic\.)?(claude-[^/]+?)"
        r"(?:[-@](?:\d{8}|\d{4}-\d\d-\d\d|latest|default)|-v\d+(?::\d+)?|:beta|:thinking|\[1m\])*",
        model.lower(),
    )
    return match[1] if match else model


def _spellings() -> Mapping[str, str]:
    if not _known_spellings:
        listed = _shipped()["spellings"].items()
        _known_spellings.update({spelling: model for model, spellings in listed for spelling in spellings})
    return _known_spellings


def load(user_file: str | os.PathLike[str] | None = None) -> list[Price]:
    """Shipped prices with the user's laid over, by model and start; no two of a model overlap.

    A user's file that does not exist is one without rows. Raises PriceError.
    """
    shipped = _prices(_shipped()["price"], SHIPPED_PRICES)
    own = [] if user_file is None else prices_of(rows_in(read_text(user_file), user_file), user_file)
    for price in own:
        shipped = [part for other in shipped for part in _outside(other, price)]
    return sorted(shipped + own, key=_order)


def price_at(prices: Sequence[Price], model: str, at_ms: int) -> Price | None:
    """The price of a model at a time; `prices` as `load` gives them."""
    from bisect import bisect_right

    name = canonical(model)
    index = bisect_right(prices, (name, float(at_ms)), key=_order) - 1
    if index < 0 or prices[index].model != name or at_ms >= _end(prices[index]):
        return None
    return prices[index]


def rate_id(price: Price, context_tokens: int, is_fast: bool, is_us: bool, is_batch: bool) -> int:
    """The rate of a response; `context_tokens` are its input, cache-write and cache-read tokens."""
    is_long = price.threshold is not None and context_tokens > price.threshold
    return price.id * 16 + LONG * is_long + FAST * is_fast + US * is_us + BATCH * is_batch


def rates(prices: Iterable[Price]) -> list[Rate]:
    """All sixteen rates of each price."""
    return [_rate(price, bits) for price in prices for bits in range(16)]


def _rate(price: Price, bits: int) -> Rate:
    from fractions import Fraction
    from math import lcm

    # A dollar per million tokens is 1,000 nanodollars per token.
    factor = Fraction(1000)
    for bit, multiplier in ((FAST, price.fast), (US, price.us), (BATCH, price.batch)):
        if bits & bit:
            factor *= Fraction(multiplier)
    prefix = "long_" if bits & LONG and price.threshold is not None else ""
    input, output, write_5m, write_1h, read = (Fraction(getattr(price, prefix + kind)) * factor for kind in KINDS)
    write_den = lcm(write_5m.denominator, write_1h.denominator)
    return Rate(
        id=price.id * 16 + bits,
        price_id=price.id,
        input_num=input.numerator,
        input_den=input.denominator,
        output_num=output.numerator,
        output_den=output.denominator,
        cache_write_5m_num=int(write_5m * write_den),
        cache_write_1h_num=int(write_1h * write_den),
        cache_write_den=write_den,
        cache_read_num=read.numerator,
        cache_read_den=read.denominator,
        web_search=int(price.web_search * 10**6),
    )


def cost(
    rate: Rate,
    input: int,
    output: int,
    cache_write_5m: int,
    cache_write_1h: int,
    cache_read: int,
    web_searches: int,
) -> Cost:
    """What tokens and searches cost; each kind is rounded once, half to even."""
    written = cache_write_5m * rate.cache_write_5m_num + cache_write_1h * rate.cache_write_1h_num
    return Cost(
        input=_divide_half_even(input * rate.input_num, rate.input_den),
        output=_divide_half_even(output * rate.output_num, rate.output_den),
        cache_write=_divide_half_even(written, rate.cache_write_den),
        cache_read=_divide_half_even(cache_read * rate.cache_read_num, rate.cache_read_den),
        web_search=web_searches * rate.web_search,
    )


def _divide_half_even(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest + (quotient & 1) > denominator)


def read_text(user_file: str | os.PathLike[str]) -> str:
    """The text of the user's file, empty without one. Raises PriceError."""
    try:
        with open(user_file, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise PriceError(f"{user_file}: it is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise PriceError(f"{user_file}: {error.strerror}; make it a readable file") from error


def rows_in(text: str, user_file: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of the user's file as they stand in its text. Raises PriceError."""
    parsed = _parse(text, user_file)
    _check_keys(parsed, ("price",), (), f"{user_file}")
    rows = parsed.get("price", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PriceError(f"{user_file}: price is not a list of tables; begin each row with [[price]]")
    return rows


def prices_of(rows: Iterable[dict[str, Any]], user_file: str | os.PathLike[str]) -> list[Price]:
    """What rows of the user's file say. Raises PriceError, also where two overlap."""
    prices = _prices(rows, user_file)
    for price in prices:
        for rate in rates([price]):
            written = rate.cache_write_5m_num + rate.cache_write_1h_num
            if max(written, *rate[2:-1]) > MAX_TERM:
                raise PriceError(f"{user_file}: {price.model}: rates times factors have too many digits; round them")
    return prices


def _shipped() -> dict[str, Any]:
    with open(SHIPPED_PRICES, encoding="utf-8") as file:
        return _parse(file.read(), SHIPPED_PRICES)


def _parse(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    import tomllib
    from decimal import Decimal

    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise PriceError(f"{path}: {error}; correct that line") from error


def _prices(rows: Iterable[dict[str, Any]], path: str | os.PathLike[str]) -> list[Price]:
    """Prices by model and start; one without an end holds until the next. Raises PriceError, also where two overlap."""
    from itertools import pairwise

    numbered = [
        (price_of(row, f"{path}: price {n} ({row.get('model', 'no model')})"), n) for n, row in enumerate(rows, 1)
    ]
    numbered.sort(key=lambda pair: _order(pair[0]))
    for index, ((one, n), (other, m)) in enumerate(pairwise(numbered)):
        if one.model != other.model or _end(one) <= _start(other):
            continue
        if one.valid_until is None and _start(one) < _start(other):
            numbered[index] = one._replace(valid_until=other.valid_from), n
        else:
            raise PriceError(f"{path}: prices {n} and {m} ({one.model}) overlap; end one with until, or remove it")
    return [price for price, _ in numbered]


def price_of(row: Mapping[str, Any], where: str) -> Price:
    """What a row says. Raises PriceError, which names where it stands."""
    from decimal import Decimal

    _check_keys(row, ROW_KEYS, ("model", "input", "output"), where)
    model = canonical(_text(row["model"], f"{where}: model"))
    valid_from, valid_until = _milliseconds(row, "from", where), _milliseconds(row, "until", where)
    if valid_from is not None and valid_until is not None and valid_until <= valid_from:
        raise PriceError(f"{where}: until is not after from; give a later until")
    threshold, long_amounts = _long_context(row, where)
    return Price(
        id=_id(model, valid_from),
        model=model,
        valid_from=valid_from,
        valid_until=valid_until,
        threshold=threshold,
        source=_text(row.get("source", "user"), f"{where}: source"),
        **_amounts(row, where),
        **long_amounts,
        **{key: _number(row.get(key, Decimal(usual)), f"{where}: {key}") for key, usual in FACTORS.items()},
    )


def _long_context(row: Mapping[str, Any], where: str) -> tuple[int | None, dict[str, Any]]:
    if "long_context" not in row:
        return None, {f"long_{kind}": None for kind in KINDS}
    tier, where = row["long_context"], f"{where}: long_context"
    if not isinstance(tier, dict):
        raise PriceError(f"{where} is not a table; write {{ above = 200000, input = …, output = … }}")
    _check_keys(tier, ("above", *KINDS), ("above", "input", "output"), where)
    if type(tier["above"]) is not int or tier["above"] not in range(2**63):
        raise PriceError(f"{where}: above is {tier['above']}; give a whole number of tokens")
    return tier["above"], {f"long_{kind}": rate for kind, rate in _amounts(tier, where).items()}


def _amounts(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The five rates, those left out from the input rate."""
    from decimal import Decimal

    amounts = {kind: _number(row[kind], f"{where}: {kind}") for kind in KINDS if kind in row}
    for kind, multiple in CACHE_MULTIPLES.items():
        amounts.setdefault(kind, amounts["input"] * Decimal(multiple))
    return amounts


def _check_keys(row: Mapping[str, Any], allowed: Collection[str], required: Iterable[str], where: str) -> None:
    for key in row:
        if key not in allowed:
            raise PriceError(f"{where}: unknown key {key!r}; use {', '.join(allowed)}")
    for key in required:
        if key not in row:
            raise PriceError(f"{where}: {key} is missing; add it")


def _number(value: object, what: str) -> Decimal:
    from decimal import Decimal

    if isinstance(value, Decimal) or type(value) is int:
        number = Decimal(value)
        if number.is_finite() and 0 <= number <= MAX_USD and round(number, MAX_DECIMALS) == number:
            return number
    raise PriceError(
        f"{what} is {value}; give a number without quotes, 0 to {MAX_USD}, at most {MAX_DECIMALS} decimals"
    )


def _text(value: object, what: str) -> str:
    # Not printable are control characters, and lone surrogates, which could not be written.
    if isinstance(value, str) and value and value.isprintable():
        return value
    raise PriceError(f"{what} is {value!r}; give a printable name in quotes")


def _milliseconds(row: Mapping[str, Any], key: str, where: str) -> int | None:
    from datetime import date

    value = row.get(key)
    if value is None:
        return None
    # A datetime is a date too.
    if type(value) is not date:
        raise PriceError(f"{where}: {key} is {value}; give a date without quotes, such as 2026-03-13")
    return (value - date(1970, 1, 1)).days * 86_400_000


def _id(model: str, valid_from: int | None) -> int:
    from .digest import digest_text

    # 40 of its 63 bits, so that sixteen rates of each price have ids too.
    return digest_text(model, valid_from) >> 23


def _start(price: Price) -> float:
    return float("-inf") if price.valid_from is None else price.valid_from


def _end(price: Price) -> float:
    return float("inf") if price.valid_until is None else price.valid_until


def _order(price: Price) -> tuple[str, float]:
    return price.model, _start(price)


def _outside(price: Price, own: Price) -> list[Price]:
    """What remains of a shipped price beside one of the user's."""
    if price.model != own.model or _end(price) <= _start(own) or _end(own) <= _start(price):
        return [price]
    parts = []
    if _start(price) < _start(own):
        parts.append(price._replace(valid_until=own.valid_from))
    if _end(own) < _end(price):
        parts.append(price._replace(id=_id(price.model, own.valid_until), valid_from=own.valid_until))
    return parts
