"""Prices: the hand-worked cases, periods, ids, the user's file, and agreement with genai-prices."""

from __future__ import annotations

import math
import random
import runpy
import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import own_prices, prices
from indexer.prices import Cost, Price, PriceError, Rate

ROOT = Path(prices.__file__).resolve().parent.parent
SHIPPED = prices.load()
RATES = {rate.id: rate for rate in prices.rates(SHIPPED)}
NANO = 10**9
TODAY = "2026-11-22"


def ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def price_of(model: str, day: str = TODAY, among: list[Price] = SHIPPED) -> Price:
    price = prices.price_at(among, model, ms(day))
    assert price is not None
    return price


def bill(
    model: str = "claude-opus-4-5",
    day: str = TODAY,
    *,
    input: int = 0,
    output: int = 0,
    write_5m: int = 0,
    write_1h: int = 0,
    read: int = 0,
    searches: int = 0,
    fast: bool = False,
    us: bool = False,
    batch: bool = False,
) -> Cost:
    price = price_of(model, day)
    rate = RATES[prices.rate_id(price, input + write_5m + write_1h + read, fast, us, batch)]
    return prices.cost(rate, input, output, write_5m, write_1h, read, searches)


def decimals(*numbers: int | str) -> list[Decimal]:
    return [Decimal(number) for number in numbers]


def usd(cost: Cost) -> Decimal:
    return Decimal(sum(cost)) / NANO


# Cases worked by hand.


def test_a_million_tokens_written_for_an_hour_cost_10() -> None:
    assert usd(bill(write_1h=1_000_000)) == Decimal("10.00")


def test_a_million_tokens_written_for_five_minutes_cost_6_25() -> None:
    assert usd(bill(write_5m=1_000_000)) == Decimal("6.25")


def test_300k_of_context_is_priced_whole_at_the_long_rates_output_too() -> None:
    cost = bill("claude-sonnet-4-5", input=150_000, read=150_000, output=100_000)
    assert cost == Cost(900_000_000, 2_250_000_000, 0, 90_000_000, 0)
    assert usd(cost) == Decimal("3.24")


def test_the_long_rates_of_opus_4_6_ended() -> None:
    assert usd(bill("claude-opus-4-6", "2026-03-01", input=300_000, output=1_000)) == Decimal("3.0375")
    assert usd(bill("claude-opus-4-6", "2026-04-01", input=300_000, output=1_000)) == Decimal("1.525")


def test_fast_mode_of_opus_4_6_costs_six_times() -> None:
    assert usd(bill("claude-opus-4-6", "2026-02-15", output=1_000_000, fast=True)) == 150


def test_us_inference_costs_a_tenth_more() -> None:
    assert usd(bill("claude-opus-4-6", output=1_000_000, us=True)) == Decimal("27.50")


def test_a_batch_costs_half() -> None:
    assert usd(bill(output=1_000_000, batch=True)) == Decimal("12.50")


def test_a_hundred_web_searches_cost_a_dollar_whatever_the_factors() -> None:
    assert usd(bill(searches=100)) == 1
    assert usd(bill("claude-opus-5", searches=100, fast=True, us=True, batch=True)) == 1


def test_an_unknown_model_has_no_price() -> None:
    assert prices.price_at(SHIPPED, "claude-zeta-99", ms(TODAY)) is None


# Model: input, 5m write, 1h write, cache read, output, fast, US.
PUBLISHED = """
claude-fable-5-2    8     10     16    0.20  40    2  1.1
claude-mythos-5-2   8     10     16    0.20  40    2  1.1
claude-fable-5-1    10    12.5   20    0.25  50    1  1.1
claude-mythos-5-1   10    12.5   20    0.25  50    1  1.1
claude-fable-5      10    12.5   20    1     50    1  1.1
claude-mythos-5     10    12.5   20    1     50    1  1.1
claude-opus-5-5     4     5      8     0.20  20    2  1.1
claude-opus-5       5     6.25   10    0.5   25    2  1.1
claude-opus-4-8     5     6.25   10    0.5   25    2  1.1
claude-opus-4-7     5     6.25   10    0.5   25    1  1.1
claude-opus-4-6     5     6.25   10    0.5   25    6  1.1
claude-opus-4-5     5     6.25   10    0.5   25    1  1
claude-opus-4-1     15    18.75  30    1.5   75    1  1
claude-opus-4       15    18.75  30    1.5   75    1  1
claude-3-opus       15    18.75  30    1.5   75    1  1
claude-sonnet-5-5   2     2.5    4     0.10  10    1  1.1
claude-sonnet-5     2     2.5    4     0.2   10    1  1.1
claude-sonnet-4-6   3     3.75   6     0.3   15    1  1.1
claude-sonnet-4-5   3     3.75   6     0.3   15    1  1
claude-sonnet-4     3     3.75   6     0.3   15    1  1
claude-3-7-sonnet   3     3.75   6     0.3   15    1  1
claude-3-5-sonnet   3     3.75   6     0.3   15    1  1
claude-3-sonnet     3     3.75   6     0.3   15    1  1
claude-haiku-5-5    0.10  0.125  0.20  0.01  0.50  1  1.1
claude-haiku-4-5    1     1.25   2     0.1   5     1  1
claude-3-5-haiku    0.8   1      1.6   0.08  4     1  1
claude-3-haiku      0.25  0.30   0.50  0.03  1.25  1  1
"""
PUBLISHED_ROWS = [line.split() for line in PUBLISHED.split("\n") if line]


@pytest.mark.parametrize(("model", "published"), [(row[0], row[1:]) for row in PUBLISHED_ROWS])
def test_rates_are_the_published_ones(model: str, published: list[str]) -> None:
    p = price_of(model)
    ours = [p.input, p.cache_write_5m, p.cache_write_1h, p.cache_read, p.output, p.fast, p.us]
    assert ours == decimals(*published)
    assert [p.batch, p.web_search] == decimals("0.5", 10)
    assert p.source


def test_no_other_model_is_shipped() -> None:
    assert {price.model for price in SHIPPED} == {row[0] for row in PUBLISHED_ROWS}


# Model, first and last day of the tier, threshold, input, output, 5m write, 1h write, cache read.
TIERS = """
claude-opus-4-6    2026-02-05  2026-03-12  200000  10   37.5  12.5   20  1
claude-sonnet-4-6  2026-02-17  2026-03-12  200000  6    22.5  7.5    12  0.6
claude-sonnet-4-5  2025-09-29  2026-11-22  200000  6    22.5  7.5    12  0.6
claude-sonnet-4    2025-05-22  2026-11-22  200000  6    22.5  7.5    12  0.6
claude-haiku-5-5   2026-10-07  2026-11-22  100000  0.5  2.5   0.625  1   0.05
"""


@pytest.mark.parametrize("tier", [line.split() for line in TIERS.split("\n") if line], ids=lambda t: t[0])
def test_long_context_rates_are_the_published_ones(tier: list[str]) -> None:
    model, first, last, *numbers = tier
    for day in (first, last):
        p = price_of(model, day)
        ours = [p.threshold, *(getattr(p, f"long_{kind}") for kind in prices.KINDS)]
        assert ours == decimals(*numbers)


def test_other_models_have_no_long_context_rates_today() -> None:
    today = {row[0] for row in PUBLISHED_ROWS if price_of(row[0]).threshold is not None}
    assert today == {"claude-sonnet-4-5", "claude-sonnet-4", "claude-haiku-5-5"}


# Periods and factors.


def test_a_response_at_the_threshold_is_not_long_and_one_token_above_is() -> None:
    assert usd(bill("claude-sonnet-4-5", input=200_000)) == Decimal("0.6")
    assert usd(bill("claude-sonnet-4-5", input=200_001)) == Decimal("1.200006")
    assert usd(bill("claude-haiku-5-5", input=100_000)) == Decimal("0.01")
    assert usd(bill("claude-haiku-5-5", input=99_998, write_5m=1, write_1h=1, read=1)) == Decimal("0.049999") + Decimal(
        "0.000001675"
    )


def test_output_does_not_count_towards_the_threshold() -> None:
    assert usd(bill("claude-sonnet-4-5", input=200_000, output=100_000)) == Decimal("2.1")


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-sonnet-4-6"])
def test_until_is_exclusive_at_midnight_utc(model: str) -> None:
    end = ms("2026-03-13")
    before, after = prices.price_at(SHIPPED, model, end - 1), prices.price_at(SHIPPED, model, end)
    assert before is not None and after is not None
    assert (before.threshold, before.valid_until) == (200_000, end)
    assert (after.threshold, after.valid_from) == (None, end)


@pytest.mark.parametrize(
    ("model", "last", "end", "multiplier"),
    [("claude-opus-4-7", "2026-07-23", "2026-07-24", 6), ("claude-opus-4-8", "2026-11-29", "2026-11-30", 2)],
)
def test_fast_mode_costs_nothing_extra_after_it_ended(model: str, last: str, end: str, multiplier: int) -> None:
    assert usd(bill(model, f"{last}T23:59:59", output=1_000_000, fast=True)) == 25 * multiplier
    assert usd(bill(model, end, output=1_000_000, fast=True)) == 25
    assert price_of(model, end).fast == 1


def test_fast_mode_multiplies_every_kind_of_tokens() -> None:
    slow, fast = (
        bill("claude-opus-5", input=9, output=9, write_5m=9, write_1h=9, read=9, fast=is_fast)
        for is_fast in (False, True)
    )
    assert [2 * nano for nano in slow] == list(fast)


def test_factors_multiply() -> None:
    cost = bill("claude-opus-4-6", "2026-03-01", input=200_001, output=8, fast=True, us=True, batch=True)
    # 10 and 37.5 USD per million, times 6, 1.1 and 0.5.
    assert cost == Cost(200_001 * 33_000, 8 * 123_750, 0, 0, 0)


def test_us_inference_costs_the_same_for_models_that_lack_it() -> None:
    assert usd(bill(output=1_000_000, us=True)) == 25


def test_each_kind_is_rounded_once_half_to_even() -> None:
    # Cache reads at 10 nanodollars, times 1.1 and 0.5: 5.5 a token.
    assert bill("claude-haiku-5-5", read=1, us=True, batch=True).cache_read == 6
    assert bill("claude-haiku-5-5", read=3, us=True, batch=True).cache_read == 16
    # Writes at 68.75 and 110: rounded apart they would be 138 + 110.
    assert bill("claude-haiku-5-5", write_5m=2, write_1h=1, us=True, batch=True).cache_write == 248
    assert bill("claude-haiku-5-5", write_5m=6, us=True, batch=True).cache_write == 412


@settings(database=None)
@given(
    rate=st.sampled_from(sorted(RATES.values())),
    tokens=st.lists(st.integers(0, NANO), min_size=6, max_size=6),
)
def test_cost_is_the_exact_product_rounded_half_to_even(rate: Rate, tokens: list[int]) -> None:
    input, output, write_5m, write_1h, read, searches = tokens
    written = write_5m * rate.cache_write_5m_num + write_1h * rate.cache_write_1h_num
    assert prices.cost(rate, *tokens) == Cost(
        input=round(Fraction(input * rate.input_num, rate.input_den)),
        output=round(Fraction(output * rate.output_num, rate.output_den)),
        cache_write=round(Fraction(written, rate.cache_write_den)),
        cache_read=round(Fraction(read * rate.cache_read_num, rate.cache_read_den)),
        web_search=searches * rate.web_search,
    )


def test_sql_can_compute_the_same_cost_without_overflow() -> None:
    connection = sqlite3.connect(":memory:")
    generator = random.Random(3)
    doubled = "(2 * ?1 * ?2 + ?3)"
    sql = f"SELECT {doubled} / (2 * ?3) - ({doubled} % (2 * ?3) = 0 AND {doubled} / (2 * ?3) % 2)"
    try:
        for rate in RATES.values():
            tokens = generator.choice([generator.randrange(100), generator.randrange(NANO), NANO])
            [nano] = connection.execute(sql, (tokens, rate.output_num, rate.output_den)).fetchone()
            assert nano == prices.cost(rate, 0, tokens, 0, 0, 0, 0).output
    finally:
        connection.close()


# Ids.


def test_ids_are_the_same_in_every_process_and_release() -> None:
    assert price_of("claude-opus-4-5").id == 350150871238
    assert price_of("claude-opus-4-6").id == 1004961473599


def test_ids_are_unique_and_leave_room_for_the_rates() -> None:
    assert len({price.id for price in SHIPPED}) == len(SHIPPED)
    assert len(RATES) == 16 * len(SHIPPED)
    assert max(price.id for price in SHIPPED) < 2**40
    assert max(RATES) < 2**63


def test_an_id_stays_when_only_rates_change(tmp_path: Path) -> None:
    changed = user_prices(tmp_path, 'model = "claude-opus-4-5"\ninput = 1\noutput = 2')
    assert price_of("claude-opus-4-5", among=changed).id == price_of("claude-opus-4-5").id


def test_a_rate_id_says_its_price_and_factors() -> None:
    price = price_of("claude-sonnet-4-5")
    assert prices.rate_id(price, 200_000, False, False, False) == price.id * 16
    assert prices.rate_id(price, 200_001, True, True, True) == price.id * 16 + 15
    assert prices.rate_id(price, 0, True, False, False) == price.id * 16 + 4
    assert prices.rate_id(price, 0, False, True, False) == price.id * 16 + 2
    assert prices.rate_id(price, 0, False, False, True) == price.id * 16 + 1
    assert {RATES[price.id * 16 + bits].price_id for bits in range(16)} == {price.id}


def test_rates_are_reduced_and_small_enough_for_sql() -> None:
    for rate in RATES.values():
        for kind in ("input", "output", "cache_read"):
            assert math.gcd(getattr(rate, f"{kind}_num"), getattr(rate, f"{kind}_den")) == 1
        assert math.gcd(rate.cache_write_5m_num, rate.cache_write_1h_num, rate.cache_write_den) == 1
        assert max(rate[2:-1]) <= prices.MAX_TERM
        assert rate.web_search == 10_000_000


def test_prices_of_a_model_follow_each_other_without_gap_or_overlap() -> None:
    for before, after in pairwise(SHIPPED):
        if before.model == after.model:
            assert before.valid_until == after.valid_from is not None
        else:
            assert (before.valid_until, after.valid_from) == (None, None)


# Model ids.


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("claude-opus-4-5", "claude-opus-4-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("claude-sonnet-4-5-20250929[1m]", "claude-sonnet-4-5"),
        ("claude-opus-5[1m]", "claude-opus-5"),
        ("claude-opus-4-1@20250805", "claude-opus-4-1"),
        ("claude-opus-4-6@default", "claude-opus-4-6"),
        ("claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet"),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5"),
        ("eu.anthropic.claude-sonnet-4-20250514-v1:0", "claude-sonnet-4"),
        ("apac.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet"),
        ("global.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
        ("us-gov.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "claude-3-haiku"),
        ("bedrock/us.anthropic.claude-opus-4-20250514-v1:0", "claude-opus-4"),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-opus-4-6-v1",
            "claude-opus-4-6",
        ),
        ("vertex_ai/claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
        ("openrouter/anthropic/claude-3.7-sonnet:thinking", "claude-3-7-sonnet"),
        ("anthropic/claude-4.5-opus-20251124:beta", "claude-opus-4-5"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("claude-3.5-sonnet", "claude-3-5-sonnet"),
        ("claude-3-opus-20240229", "claude-3-opus"),
        ("claude-4-opus", "claude-opus-4"),
        ("claude-opus-4-0", "claude-opus-4"),
        ("Claude-Opus-4-5", "claude-opus-4-5"),
    ],
)
def test_a_model_is_recognised_without_date_version_context_region_and_provider(model: str, name: str) -> None:
    assert prices.canonical(model) == name
    assert price_of(model).model == name


@pytest.mark.parametrize(
    "model",
    [
        "claude-opus-4-9",
        "claude-opus-4-55",
        "claude-opus-4-5-preview",
        "claude-opus-4-5-2025",
        "claude-opus-4.9",
        "claude-4.9-opus",
        "claude-opus-4-8-fast",
        "anthropic/claude-opus-4.5:batch",
        "my-claude-opus-4-5",
        "claude-opus",
        "claude-opus-latest",
        "claude-",
        "claude-mythos-preview",
        "opus",
        "<synthetic>",
        "gpt-5",
        "",
        "claude-opus-4-5\n",
    ],
)
def test_a_model_is_never_priced_by_a_part_of_its_id(model: str) -> None:
    assert prices.price_at(SHIPPED, model, ms(TODAY)) is None


def test_a_hostile_id_takes_no_time() -> None:
    hostile = "claude-x" + "-latest" * 200_000 + "!"
    assert prices.canonical(hostile) == hostile


def test_importing_the_module_imports_nothing_slow() -> None:
    code = "import sys, indexer.prices; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-S", "-c", code], cwd=ROOT, text=True).split()
    # datetime comes with sqlite3, which the package imports.
    slow = {"re", "typing", "decimal", "fractions", "tomllib", "json", "hashlib", "tempfile", "orjson", "click"}
    assert not slow & set(loaded)


# The user's file.


def user_file(directory: Path, *rows: str) -> Path:
    path = directory / "prices.toml"
    path.write_text("".join(f"[[price]]\n{row}\n\n" for row in rows), encoding="utf-8")
    return path


def user_prices(directory: Path, *rows: str) -> list[Price]:
    return prices.load(user_file(directory, *rows))


def periods(among: list[Price], model: str) -> list[tuple[int | None, int | None, int]]:
    return [(p.valid_from, p.valid_until, int(p.input)) for p in among if p.model == model]


def test_without_a_file_the_shipped_prices_hold(tmp_path: Path) -> None:
    assert prices.load(tmp_path / "none.toml") == SHIPPED


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("# nothing yet\n")
    assert prices.load(tmp_path / "prices.toml") == SHIPPED


def test_what_a_row_leaves_out_follows_from_the_input_rate(tmp_path: Path) -> None:
    p = price_of("my-model", among=user_prices(tmp_path, 'model = "my-model"\ninput = 4\noutput = 9.5'))
    ours = [p.input, p.output, p.cache_write_5m, p.cache_write_1h, p.cache_read]
    assert ours == decimals(4, "9.5", 5, 8, "0.4")
    assert [p.fast, p.us, p.batch, p.web_search] == decimals(1, 1, "0.5", 10)
    assert (p.threshold, p.long_input, p.source) == (None, None, "user")


def test_long_context_rates_follow_from_the_long_input_rate(tmp_path: Path) -> None:
    row = (
        'model = "my-model"\ninput = 4\noutput = 9\n'
        "long_context = { above = 1000, input = 8, output = 10, cache_read = 0.5 }"
    )
    p = price_of("my-model", among=user_prices(tmp_path, row))
    assert p.threshold == 1000
    ours = [p.long_input, p.long_output, p.long_cache_write_5m, p.long_cache_write_1h, p.long_cache_read]
    assert ours == decimals(8, 10, 10, 16, "0.5")


def test_numbers_are_exact(tmp_path: Path) -> None:
    row = 'model = "my-model"\ninput = 0.1\noutput = 0.000001\nfast = 1.1'
    assert price_of("my-model", among=user_prices(tmp_path, row)).input == Decimal("0.1")
    assert price_of("my-model", among=user_prices(tmp_path, row)).fast == Decimal("1.1")


def test_a_row_without_dates_replaces_every_shipped_row_of_its_model(tmp_path: Path) -> None:
    laid = user_prices(tmp_path, 'model = "claude-opus-4-6"\ninput = 1\noutput = 2')
    assert periods(laid, "claude-opus-4-6") == [(None, None, 1)]
    assert [p for p in laid if p.model != "claude-opus-4-6"] == [p for p in SHIPPED if p.model != "claude-opus-4-6"]


def test_a_row_for_a_period_splits_the_shipped_row_around_it(tmp_path: Path) -> None:
    row = 'model = "claude-opus-5"\nfrom = 2026-08-01\nuntil = 2026-09-01\ninput = 1\noutput = 2'
    laid = user_prices(tmp_path, row)
    start, end = ms("2026-08-01"), ms("2026-09-01")
    assert periods(laid, "claude-opus-5") == [(None, start, 5), (start, end, 1), (end, None, 5)]
    assert len({price.id for price in laid}) == len(laid)
    assert price_of("claude-opus-5", "2026-08-31T23:59:59", laid).input == 1
    assert price_of("claude-opus-5", "2026-09-01", laid) == price_of("claude-opus-5")._replace(
        id=price_of("claude-opus-5", "2026-09-01", laid).id, valid_from=end
    )


def test_a_row_over_two_shipped_periods_cuts_both(tmp_path: Path) -> None:
    row = 'model = "claude-opus-4-6"\nfrom = 2026-03-01\nuntil = 2026-04-01\ninput = 1\noutput = 2'
    laid = user_prices(tmp_path, row)
    start, end = ms("2026-03-01"), ms("2026-04-01")
    assert periods(laid, "claude-opus-4-6") == [(None, start, 5), (start, end, 1), (end, None, 5)]
    assert price_of("claude-opus-4-6", "2026-02-28", laid).threshold == 200_000
    assert price_of("claude-opus-4-6", "2026-04-01", laid).threshold is None


def test_a_row_before_or_after_a_shipped_period_leaves_that_one_as_it_is(tmp_path: Path) -> None:
    row = 'model = "claude-opus-4-6"\nuntil = 2026-01-01\ninput = 1\noutput = 2'
    laid = user_prices(tmp_path, row)
    start, end = ms("2026-01-01"), ms("2026-03-13")
    assert periods(laid, "claude-opus-4-6") == [(None, start, 1), (start, end, 5), (end, None, 5)]
    laid = user_prices(tmp_path, row.replace("until", "from").replace("2026-01-01", "2026-06-01"))
    start = ms("2026-06-01")
    assert periods(laid, "claude-opus-4-6") == [(None, end, 5), (end, start, 5), (start, None, 1)]


def test_two_rows_of_the_user_may_meet(tmp_path: Path) -> None:
    first = 'model = "claude-opus-5"\nuntil = 2026-08-01\ninput = 1\noutput = 2'
    second = 'model = "anthropic/claude-opus-5.0"\nfrom = 2026-08-01\ninput = 3\noutput = 4'
    middle = ms("2026-08-01")
    laid = user_prices(tmp_path, second, first)
    assert periods(laid, "claude-opus-5") == [(None, middle, 1), (middle, None, 3)]


def test_a_row_of_the_user_without_an_end_holds_until_their_next_one(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    own_prices.set_price(path, "my-model", 3, 4, valid_from=date(2026, 8, 1))
    own_prices.set_price(path, "my-model", 1, 2)
    before, after = (price_of("my-model", day, prices.load(path)) for day in ("2026-07-31", "2026-08-01"))
    assert [before.input, after.input] == decimals(1, 3)
    assert before.valid_until == after.valid_from == ms("2026-08-01")


def test_a_model_priced_only_for_a_period_is_unpriced_outside_it(tmp_path: Path) -> None:
    row = 'model = "my-model"\nfrom = 2026-08-01\nuntil = 2026-09-01\ninput = 1\noutput = 2'
    laid = user_prices(tmp_path, row)
    days = ("2026-07-31T23:59:59", "2026-08-01", "2026-08-31", "2026-09-01")
    found = [prices.price_at(laid, "my-model", ms(day)) is not None for day in days]
    assert found == [False, True, True, False]


GOOD = 'model = "m"\ninput = 1\noutput = 2\n'


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([GOOD + "inptu = 1"], "price 1 (m): unknown key 'inptu'; use model, from, until, input"),
        ([GOOD, 'model = "n"\ninput = 1'], "price 2 (n): output is missing; add it"),
        (["input = 1\noutput = 2"], "price 1 (no model): model is missing; add it"),
        (['model = 5\ninput = 1\noutput = 2'], "price 1 (5): model is 5; give a printable name in quotes"),
        (['model = ""\ninput = 1\noutput = 2'], "model is ''; give a printable name in quotes"),
        (['model = "m"\ninput = -1\noutput = 2'], "price 1 (m): input is -1; give a number without quotes"),
        (['model = "m"\ninput = "1"\noutput = 2'], "input is 1; give a number without quotes"),
        (['model = "m"\ninput = true\noutput = 2'], "input is True; give a number"),
        (['model = "m"\ninput = nan\noutput = 2'], "input is NaN; give a number"),
        (['model = "m"\ninput = inf\noutput = 2'], "input is Infinity; give a number"),
        (['model = "m"\ninput = 9000.000001\noutput = 2'], "input is 9000.000001; give a number"),
        (['model = "m"\ninput = 0.0000001\noutput = 2'], "at most 6 decimals"),
        ([GOOD + "fast = -2"], "price 1 (m): fast is -2"),
        ([GOOD + "web_search = 9001"], "price 1 (m): web_search is 9001"),
        ([GOOD + "source = 1"], "price 1 (m): source is 1"),
        ([GOOD + 'from = "2026-01-01"'], "from is 2026-01-01; give a date without quotes"),
        ([GOOD + "from = 2026-01-01T00:00:00Z"], "from is 2026-01-01 00:00:00+00:00; give a date"),
        ([GOOD + "from = 2026-01-01\nuntil = 2026-01-01"], "price 1 (m): until is not after from"),
        ([GOOD + "from = 2026-01-02\nuntil = 2026-01-01"], "price 1 (m): until is not after from"),
        ([GOOD + "long_context = 5"], "price 1 (m): long_context is not a table"),
        ([GOOD + "long_context = { above = 5, input = 1 }"], "long_context: output is missing; add it"),
        ([GOOD + "long_context = { above = 5, input = 1, output = 2, us = 2}"], "unknown key 'us'; use ab"),
        ([GOOD + "long_context = { above = 5.5, input = 1, output = 2 }"], "above is 5.5; give a whole"),
        ([GOOD + "long_context = { above = 5, input = -1, output = 2 }"], "long_context: input is -1"),
        ([GOOD, GOOD], "prices 1 and 2 (m) overlap; end one with until, or remove it"),
        ([GOOD + "until = 2026-02-01", GOOD + "from = 2026-01-31"], "prices 1 and 2 (m) overlap"),
        ([GOOD, GOOD.replace('"m"', '"x"'), GOOD], "prices 1 and 3 (m) overlap"),
        (['model = "m"\ninput = 8999.999999\noutput = 2'], "m: rates times factors have too many digits"),
        ([GOOD + "fast = 1.000001\nus = 1.000001"], "m: rates times factors have too many digits; round"),
        ([GOOD + "input = 3"], "(at line 5"),
        ([GOOD + "input 3"], "(at line 5"),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_in_one_line_with_file_and_place(tmp_path: Path, rows: list[str], told: str) -> None:
    path = user_file(tmp_path, *rows)
    with pytest.raises(PriceError) as caught:
        prices.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[price]\nmodel = 'm'\n", "price is not a list of tables; begin each row with [[price]]"),
        (b"price = [1]\n", "price is not a list of tables"),
        (b"[[prices]]\nmodel = 'm'\n", "unknown key 'prices'; use price"),
        (b"[spellings]\nx = ['y']\n", "unknown key 'spellings'; use price"),
        (b"# caf\xe9\n", "it is not UTF-8; save it as UTF-8"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_bytes(content)
    with pytest.raises(PriceError, match=r"^[^\n]*$") as caught:
        prices.load(path)
    assert str(caught.value).startswith(f"{path}: {told}")


def test_a_directory_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PriceError, match="Is a directory; make it a readable file"):
        prices.load(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_bytes(b"\xef\xbb\xbf[[price]]\r\nmodel = 'm'\r\ninput = 1\r\noutput = 2\r\n")
    assert price_of("m", among=prices.load(path)).input == 1


# Setting and resetting.


def test_setting_a_price_creates_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "config" / "cm" / "prices.toml"
    own_prices.set_price(path, "claude-opus-4-5-20251101", Decimal("1E+1"), Decimal("0.000001"))
    assert path.read_text() == '[[price]]\nmodel = "claude-opus-4-5"\ninput = 10\noutput = 0.000001\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert price_of("claude-opus-4-5", among=prices.load(path)).cache_write_1h == 20


def test_all_rates_and_the_start_are_written(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    start = date(2026, 8, 1)
    own_prices.set_price(path, "my-model", 1, 2, Decimal("0.3"), 4, 5, start)
    p = price_of("my-model", among=prices.load(path))
    ours = [p.input, p.output, p.cache_read, p.cache_write_5m, p.cache_write_1h]
    assert ours == decimals(1, 2, "0.3", 4, 5)
    assert p.valid_from == ms("2026-08-01")


BEFORE = """\
# My prices. [[price]] begins a row.

[[price]]  # negotiated
model = "claude-opus-4.5"
input = 3  # was 5
# until the contract ends
output = 9

[ price.long_context ]
above = 1
input = 2
output = 3

# A gateway's model.
[[price]]
model = 'other'
input = 1
output = 2
# the end"""


def test_a_row_is_replaced_and_all_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(BEFORE)
    own_prices.set_price(path, "claude-opus-4-5", 7, 8)
    assert (
        path.read_text()
        == """\
# My prices. [[price]] begins a row.

[[price]]  # negotiated
model = "claude-opus-4-5"
input = 7
output = 8
# until the contract ends


# A gateway's model.
[[price]]
model = 'other'
input = 1
output = 2
# the end"""
    )


def test_a_row_of_another_model_or_start_is_added(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(BEFORE)
    own_prices.set_price(path, 'quo"ted', 7, 8, valid_from=date(2026, 8, 1))
    added = '\n\n[[price]]\nmodel = "quo\\"ted"\nfrom = 2026-08-01\ninput = 7\noutput = 8\n'
    assert path.read_text() == BEFORE + added
    own_prices.set_price(path, 'quo"ted', 9, 8, valid_from=date(2026, 8, 1))
    assert path.read_text() == BEFORE + added.replace("7", "9")


def test_setting_twice_is_setting_once(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(BEFORE)
    own_prices.set_price(path, "other", 7, 8)
    once = path.read_text()
    own_prices.set_price(path, "other", 7, 8)
    assert path.read_text() == once


def test_an_open_file_becomes_private_and_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "dotfiles.toml", tmp_path / "prices.toml"
    target.write_text("")
    target.chmod(0o644)
    link.symlink_to(target)
    own_prices.set_price(link, "my-model", 1, 2)
    assert link.is_symlink()
    assert "my-model" in target.read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dotfiles.toml", "prices.toml"]


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("price = [{ model = 'm', input = 1, output = 2 }]\n", "do not each begin with \\[\\[price\\]\\]"),
        (f"[[price]]\n{GOOD}\n[[price]]\n{GOOD}until = 2026-01-01\n", "overlap"),
        ("[[price]]\nmodel = 'x'\n", "input is missing"),
        ("[[price]\n", "line 1"),
        ("[['price']]\nmodel = 'x'\ninput = 1\noutput = 2\n", "edit it by hand"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_edited_is_left_alone(tmp_path: Path, before: str, told: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(before)
    with pytest.raises(PriceError, match=told):
        own_prices.set_price(path, "m", 7, 8)
    assert path.read_text() == before


@pytest.mark.parametrize("bad", [Decimal(-1), Decimal("NaN"), Decimal("0.0000001"), 9001, 1.5, "1"])
def test_a_bad_rate_is_refused_and_nothing_written(tmp_path: Path, bad: Decimal) -> None:
    path = tmp_path / "prices.toml"
    with pytest.raises(PriceError, match=r"my-model: output is .*; give a number"):
        own_prices.set_price(path, "my-model", 1, bad)
    assert not path.exists()


@pytest.mark.parametrize("model", ["", "a\nb", "\udcff", "\x7f"])
def test_a_name_that_could_not_be_written_is_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(PriceError, match="give a printable name"):
        own_prices.set_price(tmp_path / "prices.toml", model, 1, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_place_of_the_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").mkdir()
    with pytest.raises(PriceError, match="Is a directory"):
        own_prices.set_price(tmp_path / "prices.toml", "my-model", 1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["prices.toml"]


def test_a_price_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PriceError, match="Not a directory"):
        own_prices.set_price(tmp_path / "file" / "prices.toml", "my-model", 1, 2)


def test_the_rows_of_a_model_are_taken_out_and_all_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(BEFORE)
    assert own_prices.unset_price(path, "claude-opus-4-5-20251101")
    after = """\
# My prices. [[price]] begins a row.

# until the contract ends


# A gateway's model.
[[price]]
model = 'other'
input = 1
output = 2
# the end"""
    assert path.read_text() == after
    assert not own_prices.unset_price(path, "claude-opus-4-5")
    assert path.read_text() == after
    assert own_prices.unset_price(path, "other")
    assert prices.load(path) == SHIPPED
    assert path.read_text().endswith("# A gateway's model.\n# the end")


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([None, 1, 2, 3])), max_size=8))
def test_taking_out_undoes_what_was_set_of_a_model(changes: list[tuple[str, int | None]]) -> None:
    with TemporaryDirectory() as folder:
        both, one = Path(folder, "both.toml"), Path(folder, "one.toml")
        for usd, (model, day) in enumerate(changes, 1):
            for path in (both, one) if model == "a" else (both,):
                own_prices.set_price(path, model, usd, usd, valid_from=day and date(2026, 8, day))
        for model in ("b", "c"):
            assert own_prices.unset_price(both, model) == (model in dict(changes))
        assert prices.load(both) == [
            price._replace(source=price.source.replace(str(one), str(both))) for price in prices.load(one)
        ]


def test_a_file_that_is_edited_by_hand_only_is_not_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(before := "price = [{ model = 'm', input = 1, output = 2 }]\n")
    with pytest.raises(PriceError, match="edit it by hand"):
        own_prices.unset_price(path, "m")
    assert path.read_text() == before


def test_resetting_sets_the_file_aside(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(BEFORE)
    own_prices.set_aside(path)
    assert prices.load(path) == SHIPPED
    assert (tmp_path / "prices.toml.bak").read_text() == BEFORE
    own_prices.set_aside(path)
    assert (tmp_path / "prices.toml.bak").read_text() == BEFORE


# Agreement with genai-prices.


def test_the_shipped_file_is_what_the_generator_writes() -> None:
    pytest.importorskip("genai_prices")
    script = runpy.run_path(str(ROOT / "scripts" / "gen_prices.py"))
    assert (ROOT / "indexer" / "prices.toml").read_text(encoding="utf-8") == script["render"]()


def test_every_id_that_genai_prices_knows_has_a_price() -> None:
    pytest.importorskip("genai_prices")
    from genai_prices.data import providers
    from genai_prices.types import ClauseEquals, ClauseOr, ClauseStartsWith

    ids: dict[str, str] = {}
    for model in next(p for p in providers if p.id == "anthropic").models:
        if model.id not in ("claude-2", "claude-v1"):
            for clause in model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]:
                if isinstance(clause, ClauseEquals):
                    ids[clause.equals] = model.id
                elif isinstance(clause, ClauseStartsWith) and not clause.starts_with.endswith(("@", "-2025")):
                    ids[clause.starts_with] = model.id
    assert len(ids) > 50
    assert [one for one, other in ids.items() if price_of(one) != price_of(other)] == []


NO_SEARCHES = {"claude-3-haiku", "claude-3-opus-latest", "claude-3-sonnet"}
BATCH_ALWAYS = {"claude-fable-5-2", "claude-mythos-5-2"}
NO_BATCH = NO_SEARCHES | {
    "claude-3-5-haiku-latest",
    "claude-3-5-sonnet",
    "claude-3-7-sonnet-latest",
    "claude-opus-4-0",
    "claude-opus-4-1",
    "claude-sonnet-4-0",
}


def is_incomplete(model: str, day: date, is_fast: bool, is_batch: bool, context: int, searches: int) -> bool:
    """Where genai-prices is known to lack something."""
    return (
        (is_fast and is_batch)
        or (is_fast and model in ("claude-opus-4-6", "claude-opus-4-7"))
        or (is_fast and model == "claude-opus-4-8" and day >= date(2026, 11, 30))
        or (is_batch and model in NO_BATCH)
        or (is_batch and model not in BATCH_ALWAYS and day < date(2026, 10, 14))
        or (model == "claude-sonnet-4-0" and context > 200_000)
        or (searches > 0 and model in NO_SEARCHES)
    )


def test_ten_thousand_responses_cost_what_genai_prices_says() -> None:
    genai = pytest.importorskip("genai_prices")
    from genai_prices.data import providers
    from genai_prices.types import calc_unit_price

    anthropic = next(provider for provider in providers if provider.id == "anthropic")
    models = [model.id for model in anthropic.models if model.id not in ("claude-2", "claude-v1")]
    generator = random.Random(7)
    compared: dict[str, int] = dict.fromkeys(models, 0)
    while sum(compared.values()) < 10_000:
        model = generator.choice(models)
        at = datetime(2025, 6, 1, tzinfo=UTC) + timedelta(milliseconds=generator.randrange(600 * 86_400_000))
        is_fast, is_batch = generator.choice([(False, False), (True, False), (False, True), (True, True)])
        sizes = [0, 10, 1_000, 60_000, 200_000, 10**6]
        input, write_5m, write_1h, read, output = (generator.randint(0, generator.choice(sizes)) for _ in range(5))
        if generator.random() < 0.1:
            input = max(
                0,
                generator.choice([100_000, 200_000]) + generator.choice([0, 1]) - write_5m - write_1h - read,
            )
        searches = generator.choice([0, 0, 7])
        context = input + write_5m + write_1h + read
        if is_incomplete(model, at.date(), is_fast, is_batch, context, searches):
            continue
        compared[model] += 1
        usage = genai.Usage(
            input_tokens=context,
            output_tokens=output,
            cache_read_tokens=read,
            cache_write_tokens=write_5m + write_1h,
            cache_write_1h_tokens=write_1h,
            web_searches=searches,
        )
        factors = ({"speed": "fast"} if is_fast else {}) | ({"processing": "batch"} if is_batch else {})
        theirs = genai.calc_price(
            usage, model, provider_id="anthropic", genai_request_timestamp=at, price_context=factors
        )
        p = theirs.model_price
        kinds = [
            calc_unit_price(p.input_mtok, input, context, 10**6),
            calc_unit_price(p.output_mtok, output, context, 10**6),
            calc_unit_price(p.cache_write_mtok, write_5m, context, 10**6)
            + calc_unit_price(p.cache_write_1h_mtok, write_1h, context, 10**6),
            calc_unit_price(p.cache_read_mtok, read, context, 10**6),
            calc_unit_price(p.web_searches_kcount, searches, context, 1000),
        ]
        assert (theirs.output_price, theirs.total_price) == (kinds[1], sum(kinds))
        price = prices.price_at(SHIPPED, model, int(at.timestamp() * 1000))
        assert price is not None
        rate = RATES[prices.rate_id(price, context, is_fast, False, is_batch)]
        ours = prices.cost(rate, input, output, write_5m, write_1h, read, searches)
        rounded = [int((kind * NANO).to_integral_value(ROUND_HALF_EVEN)) for kind in kinds]
        assert list(ours) == rounded, (model, at, factors, context)
    assert min(compared.values()) > 100
