"""`cm prices`: what applies when, and the user's own prices."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation

import click

from .. import config, own_prices, pricing, store, tables
from .. import prices as library
from ..cli import json_option, say
from ..errors import BadInput
from ..output import dumps, printable
from .common import tokens_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOTE = (
    "USD per million tokens; 5m and 1h: written to the cache for so long; read: from it. A price ends before the day it"
    " says, at midnight UTC. Factors multiply: fast mode, US inference, batch (0.5 unless it says otherwise);"
    " web_search is USD per 1,000 (10 unless it says otherwise)."
)
_LONG = tuple(f"long_{kind}" for kind in library.KINDS)
# As the table shows them.
_SHOWN = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")

_db_option = click.option("--db", metavar="FILE", help="The index; else CM_DB, else ~/.local/share/cm/cm.db.")


def _usd(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ValueError(text) from error


class _Prices(click.Group):
    """Without a subcommand it lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "-h", "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Prices)
def prices() -> None:
    """What models cost when, in USD per million tokens. `cm prices [MODEL]` lists it.

    Your own prices are in one file, prices.toml in the directory of cm's configuration, and go before the shipped
    ones. A change prices the past anew.
    """


@prices.command("list")
@click.argument("model", required=False)
@click.option("--all", "is_all", is_flag=True, help="Also what is over and was never used; JSON has it anyway.")
@json_option
@_db_option
def show(db: str | None, as_json: bool, is_all: bool, model: str | None) -> None:
    """List what applies when, from which source, and how many of the index's API calls are priced by it."""
    _print(model, db, as_json, is_all)


@prices.command("set")
@click.argument("model")
@click.option("--input", "input_", type=_usd, metavar="USD", required=True, help="USD per million tokens of input.")
@click.option("--output", type=_usd, metavar="USD", required=True, help="… of output.")
@click.option("--cache-read", type=_usd, metavar="USD", help="… read from the cache; else 0.1 of input.")
@click.option(
    "--cache-write-5m", type=_usd, metavar="USD", help="… written to it for five minutes; else 1.25 of input."
)
@click.option("--cache-write-1h", type=_usd, metavar="USD", help="… written to it for an hour; else twice the input.")
@click.option(
    "--from", "valid_from", type=click.DateTime(["%Y-%m-%d", "%Y%m%d"]), metavar="DATE", help="From this day, UTC."
)
@json_option
@_db_option
def set_price(
    db: str | None,
    as_json: bool,
    valid_from: datetime | None,
    cache_write_1h: Decimal | None,
    cache_write_5m: Decimal | None,
    cache_read: Decimal | None,
    output: Decimal,
    input_: Decimal,
    model: str,
) -> None:
    """Set your price of a model, for all time or until its next one, and price the past by it.

    \b
    Examples:
      cm prices set glm-4.6 --input 0.6 --output 2.2
      cm prices set claude-opus-5 --input 4 --output 20 --from 2026-12-01
    """
    start = None if valid_from is None else valid_from.date()
    own_prices.set_price(config.prices_file(), model, input_, output, cache_read, cache_write_5m, cache_write_1h, start)
    _print(model, db, as_json, is_all=True)


@prices.command("reset")
@click.argument("model", required=False)
@_db_option
def reset(db: str | None, model: str | None) -> None:
    """Set your prices aside, or take out those of one model; the shipped ones hold again, for the past too."""
    path = config.prices_file()
    if model is not None:
        if not own_prices.unset_price(path, model):
            raise BadInput(f"you have set no price of {model}; your prices are in {path}")
        told = f"your price of {model} is taken out of {path}"
    elif os.path.exists(path):
        own_prices.set_aside(path)
        told = f"the shipped prices hold; yours are in {path}.bak"
    else:
        told = "you had set no prices"
    _update(config.database(db))
    say(told)


def _update(path: str) -> None:
    if not pricing.update_index(path):
        say("a refresh is at work on the index: the next command prices the past")


def _print(model: str | None, db: str | None, as_json: bool, is_all: bool) -> None:
    path = config.database(db)
    listed = library.load(config.prices_file())
    _update(path)
    uses, unpriced = _index(path)
    if model is not None:
        name = library.canonical(model)
        listed = [price for price in listed if price.model == name]
        unpriced = [item for item in unpriced if library.canonical(item["model"]) == name]
        if not listed and not unpriced:
            raise BadInput(f"{model} has no price; give it one with `cm prices set {model} --input … --output …`")
    elif not is_all and not as_json:
        now = (datetime.now(UTC) - _EPOCH) // timedelta(milliseconds=1)
        listed = [price for price in listed if uses.get(price.id) or not _is_over(price, now)]
    if as_json:
        found = {"prices": [_object(price, uses) for price in listed], "unpriced": unpriced}
        click.echo(dumps(found, indent=True))
    else:
        click.echo(_text(listed, uses, unpriced))


def _index(path: str) -> tuple[dict[int, int], list[dict[str, Any]]]:
    """Uses of each price and what has none; without an index there are none."""
    if not os.path.exists(path):
        return {}, []
    connection = store.open_reader(path)
    try:
        with store.snapshot(connection):
            return pricing.uses(connection), pricing.unpriced(connection)
    finally:
        connection.close()


def _is_over(price: library.Price, at: int) -> bool:
    return price.valid_until is not None and price.valid_until <= at


def _day(at: int | None) -> date | None:
    return None if at is None else (_EPOCH + timedelta(milliseconds=at)).date()


def _object(price: library.Price, uses: dict[int, int]) -> dict[str, Any]:
    """A price in the words of the prices file."""
    amounts = {kind: float(getattr(price, kind)) for kind in library.KINDS}
    tier = None
    if price.threshold is not None:
        tier = {"above": price.threshold, **{kind[5:]: float(getattr(price, kind)) for kind in _LONG}}
    return {
        "model": price.model,
        "from": _day(price.valid_from),
        "until": _day(price.valid_until),
        **amounts,
        "long_context": tier,
        **{factor: float(getattr(price, factor)) for factor in library.FACTORS},
        "source": price.source,
        "uses": uses.get(price.id, 0),
    }


def _text(listed: Sequence[library.Price], uses: dict[int, int], unpriced: list[dict[str, Any]]) -> str:
    sources = {source: n for n, source in enumerate(dict.fromkeys(price.source for price in listed), 1)}
    parts = []
    if listed:
        rows = [row for price in listed for row in _rows(price, uses.get(price.id, 0), sources[price.source])]
        lines = [(tables.PLAIN, row) for row in rows]
        width, _ = tables.terminal_size()
        parts = [tables.draw("prices", lines, tables.Names({}, {}, str), width), click.wrap_text(_NOTE, width)]
        parts.append("\n".join(f"source {n}: {printable(source)}" for source, n in sources.items()))
    parts += [
        printable(f"unpriced: {tokens_of(item)}; give it a price with `cm prices set {item['model']}`")
        for item in unpriced
    ]
    return "\n\n".join(parts)


def _rows(price: library.Price, uses: int, source: int) -> list[dict[str, Any]]:
    """One row, and another for long contexts where they cost more."""
    factors = ", ".join(
        f"{factor} {float(getattr(price, factor)):g}"
        for factor, usual in library.FACTORS.items()
        if getattr(price, factor) != Decimal(usual)
    )
    amounts = {kind: float(getattr(price, kind)) for kind in _SHOWN}
    row = {"model": price.model, "period": _period(price), **amounts}
    rows = [{**row, "factors": factors, "uses": uses, "source": source}]
    if price.threshold is not None:
        above = {kind: float(getattr(price, f"long_{kind}")) for kind in _SHOWN}
        rows.append({"model": f"… above {price.threshold:,}", **above})
    return rows


def _period(price: library.Price) -> str:
    start, end = _day(price.valid_from), _day(price.valid_until)
    if start and end:
        return f"{start} to {end}"
    return f"from {start}" if start else f"until {end}" if end else ""
