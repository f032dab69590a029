"""Writes indexer/prices.toml: Anthropic's part of genai-prices, and what it lacks.

For maintainers: `pip install genai-prices`, run it, look at the difference. Where a newer genai-prices
carries something that is added here, it stops and says so; then take the addition out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import genai_prices
from genai_prices.data import providers
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, StartDateConstraint, TieredPrices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OUTPUT = Path(__file__).resolve().parent.parent / "indexer" / "prices.toml"
GENAI_PRICES = f"genai-prices {genai_prices.__version__}"

# Our kinds of tokens, and genai-prices' names for their prices.
KINDS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_write_5m": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "cache_read": "cache_read_mtok",
}
BATCH = Decimal("0.5")
WEB_SEARCH = Decimal(10)

PRICING = "https://platform.claude.com/docs/en/about-claude/pricing"
RESIDENCY = "https://platform.claude.com/docs/en/manage-claude/data-residency"
FAST_MODE = "https://code.claude.com/docs/en/fast-mode"

# Source: RESIDENCY. Opus 4.6, Sonnet 4.6 and later have US inference, so the list of those without is closed.
US = Decimal("1.1")
WITHOUT_US = (
    "claude-3-haiku",
    "claude-3-sonnet",
    "claude-3-opus",
    "claude-3-5-haiku",
    "claude-3-5-sonnet",
    "claude-3-7-sonnet",
    "claude-opus-4",
    "claude-opus-4-1",
    "claude-opus-4-5",
    "claude-sonnet-4",
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
)
# Source: FAST_MODE. The page names the days of removal; genai-prices never ends a fast mode.
FAST = {"claude-opus-4-6": Decimal(6), "claude-opus-4-7": Decimal(6)}
FAST_UNTIL = {"claude-opus-4-7": date(2026, 7, 24), "claude-opus-4-8": date(2026, 11, 30)}
# Source: PRICING, the rows for limited availability.
PRICED_LIKE = {"claude-mythos-5": "claude-fable-5", "claude-mythos-5-1": "claude-fable-5-1"}
# Source: PRICING, long context.
LONG_CONTEXT = {
    "claude-sonnet-4": (
        200_000,
        {kind: Decimal(rate) for kind, rate in zip(KINDS, ("6", "22.5", "7.5", "12", "0.6"), strict=True)},
    )
}


@dataclass(frozen=True)
class Row:
    """A model's price in a period, as it is written."""

    model: str
    valid_from: date | None
    valid_until: date | None
    rates: dict[str, Decimal]
    above: int | None
    long_rates: dict[str, Decimal]
    fast: Decimal
    us: Decimal
    source: str


def model_id(info: ModelInfo) -> str:
    """`claude-3-opus` for `claude-3-opus-latest`, `claude-opus-4` for `claude-opus-4-0`."""
    return re.sub(r"-(latest|0)$", "", info.id)


def expect(condition: bool, model: str, what: str) -> None:
    """Ends the script where genai-prices is no longer as it was when this was written."""
    if not condition:
        raise SystemExit(f"{model}: {GENAI_PRICES} {what}; look into it and change this script")


def start(price: ConditionalPrice, model: str) -> date | None:
    if price.constraint is None:
        return None
    if isinstance(price.constraint, StartDateConstraint):
        return price.constraint.start_date
    raise SystemExit(f"{model}: {GENAI_PRICES} has a price by time of day; look into it and change this script")


def periods(info: ModelInfo) -> Iterator[tuple[date | None, date | None, ModelPrice]]:
    """From, until and standard prices; genai-prices knows only when a price starts."""
    prices = info.prices if isinstance(info.prices, list) else [ConditionalPrice(prices=info.prices)]
    starts = [start(price, info.id) for price in prices]
    for price, valid_from, valid_until in zip(prices, starts, [*starts[1:], None], strict=True):
        yield valid_from, valid_until, price.prices


def amounts(prices: ModelPrice, model: str) -> tuple[dict[str, Decimal], int | None, dict[str, Decimal]]:
    """Rates, the long-context threshold and its rates."""
    rates, long_rates, thresholds = {}, {}, set()
    for kind, name in KINDS.items():
        price = getattr(prices, name)
        if isinstance(price, TieredPrices):
            expect(len(price.tiers) == 1, model, "has more than one tier")
            rates[kind], long_rates[kind] = price.base, price.tiers[0].price
            thresholds.add(price.tiers[0].start)
        else:
            rates[kind] = price
    expect(
        len(thresholds) <= 1 and len(long_rates) in (0, len(KINDS)),
        model,
        "has kinds with tiers of their own",
    )
    return rates, next(iter(thresholds), None), long_rates


def multiplier(info: ModelInfo, key: str, value: str) -> Decimal:
    """What a variant multiplies every kind by; 1 where there is none."""
    *_, (_, _, standard) = periods(info)
    rates, above, long_rates = amounts(standard, info.id)
    for variant in info.price_variants or ():
        if variant.when == {key: value}:
            varied, varied_above, varied_long = amounts(variant.prices, info.id)
            ratios = {varied[kind] / rates[kind] for kind in KINDS}
            ratios |= {varied_long[kind] / long_rates[kind] for kind in varied_long}
            expect(len(ratios) == 1 and above == varied_above, info.id, f"varies kinds unequally for {value}")
            return ratios.pop()
    return Decimal(1)


def known_rows(info: ModelInfo) -> Iterator[Row]:
    """Rows of a model that genai-prices has."""
    model = model_id(info)
    # It lists batches only since 2026-10-14, and only of models then active; they were always half price.
    expect(multiplier(info, "processing", "batch") in (1, BATCH), model, "no longer halves batches")
    fast = multiplier(info, "speed", "fast")
    for valid_from, valid_until, prices in periods(info):
        search = prices.web_searches_kcount
        expect(search in (None, WEB_SEARCH), model, f"has another price of web searches, {search}")
        rates, above, long_rates = amounts(prices, model)
        yield Row(model, valid_from, valid_until, rates, above, long_rates, fast, Decimal(1), GENAI_PRICES)


def with_siblings(rows: Iterable[Row]) -> Iterator[Row]:
    """Adds the models that are priced like another."""
    known = list(rows)
    yield from known
    for model, like in PRICED_LIKE.items():
        expect(all(row.model != model for row in known), model, "now has it")
        for row in known:
            if row.model == like:
                yield replace(row, model=model, source=f"{PRICING} ({like}: {row.source})")


def with_additions(row: Row) -> Row:
    """The row with its US multiplier, long-context rates and fast mode where they are added here."""
    if row.model not in WITHOUT_US:
        row = replace(row, us=US, source=f"{row.source}; US inference: {RESIDENCY}")
    if row.model in LONG_CONTEXT:
        expect(row.above is None, row.model, "now has its long-context rates")
        above, long_rates = LONG_CONTEXT[row.model]
        row = replace(row, above=above, long_rates=long_rates, source=f"{row.source}; long context: {PRICING}")
    if row.model in FAST:
        expect(row.fast == 1, row.model, "now has its fast mode")
        row = replace(row, fast=FAST[row.model])
    if row.model in FAST or row.model in FAST_UNTIL:
        row = replace(row, source=f"{row.source}; fast mode: {FAST_MODE}")
    return row


def cut(row: Row) -> Iterator[Row]:
    """The row, or two that meet on the day its fast mode ends."""
    end = FAST_UNTIL.get(row.model)
    if end is None:
        yield row
        return
    expect(row.valid_from is None and row.valid_until is None, row.model, "now has periods")
    yield replace(row, valid_until=end)
    yield replace(row, valid_from=end, fast=Decimal(1))


def all_rows() -> list[Row]:
    anthropic = next(provider for provider in providers if provider.id == "anthropic")
    # Claude 2 and older have no cache prices: they were gone before prompt caching and Claude Code.
    infos = [info for info in anthropic.models if not re.match(r"claude-(v1|2)$", info.id)]
    known = with_siblings(row for info in infos for row in known_rows(info))
    rows = [row for added in map(with_additions, known) for row in cut(added)]
    return sorted(rows, key=lambda row: (row.model, row.valid_from or date.min))


def spellings(model: str) -> list[str]:
    """Other ids of a model: version dotted, with `.0`, before or behind the family: `claude-4.5-opus`."""
    family = "".join(re.findall(r"-([a-z]+)", model))
    major, *minor = re.findall(r"\d+", model)
    versions = [f"{major}-{minor[0]}", f"{major}.{minor[0]}"] if minor else [major, f"{major}-0", f"{major}.0"]
    ids = {name for version in versions for name in (f"claude-{family}-{version}", f"claude-{version}-{family}")}
    return sorted(ids - {model})


def decimal(value: Decimal) -> str:
    return f"{value.normalize():f}"


def table(row: Row) -> str:
    """The row as a [[price]] table."""
    lines = ["[[price]]", f'model = "{row.model}"']
    lines += [f"{key} = {day}" for key, day in (("from", row.valid_from), ("until", row.valid_until)) if day]
    lines += [f"{kind} = {decimal(row.rates[kind])}" for kind in KINDS]
    if row.above is not None:
        long_rates = ", ".join(f"{kind} = {decimal(row.long_rates[kind])}" for kind in KINDS)
        lines.append(f"long_context = {{ above = {row.above}, {long_rates} }}")
    lines += [f"fast = {decimal(row.fast)}", f"us = {decimal(row.us)}", f"batch = {decimal(BATCH)}"]
    lines += [f"web_search = {decimal(WEB_SEARCH)}", f'source = "{row.source}"']
    return "\n".join(lines) + "\n"


HEADER = f"""\
# What Claude models cost, by period: USD per million tokens, multipliers, USD per 1,000 web searches.
# `until` is exclusive, 00:00 UTC. Written by scripts/gen_prices.py from {GENAI_PRICES}; edit that.
"""


def render() -> str:
    """The whole file; equal for equal versions of genai-prices."""
    rows = all_rows()
    models = sorted({row.model for row in rows})
    names = [name for model in models for name in [model, *spellings(model)]]
    expect(len(names) == len(set(names)), "spellings", "has models whose ids collide")
    lines = [f"{model} = {spellings(model)}".replace("'", '"') for model in models]
    other_ids = "# Ids that mean the same model.\n[spellings]\n" + "\n".join(lines) + "\n"
    return "\n".join([HEADER, other_ids, *map(table, rows)])


if __name__ == "__main__":
    OUTPUT.write_text(render(), encoding="utf-8", newline="\n")
