"""Prices in the index: a change prices the past anew, and what has no price costs NULL; `cm prices`."""

from __future__ import annotations

import fcntl
import json
import os
import random
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from builders import Home, append, assistant, usage, user, write
from conftest import RunCm
from ledger import health, only, refresh, rows, stats

from indexer import config, naive, own_prices, prices, pricing, rollups, store
from indexer import refresh as refresh_only

ZETA = "claude-zeta-99"
OPUS = "claude-opus-4-5"
COLUMNS = "input, output, cache_write, cache_read, web_search"


def cost(model: str = OPUS) -> float | None:
    """USD of everything by a model."""
    found = only(rows("SELECT sum(cost_usd) AS cost FROM usage WHERE model = ?", model))["cost"]
    return None if found is None else round(found, 9)


def user_prices(text: str) -> Path:
    path = Path(config.prices_file())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def two_days(home: Home, model: str = OPUS) -> Path:
    """A million output tokens on the last of May and on the first of June."""
    times = ("2026-05-31T23:59:59.999Z", "2026-06-01T00:00:00.000Z")
    return write(home.transcript(), [assistant(model=model, usage=usage(0, 1_000_000), timestamp=at) for at in times])


def listed(run_cm: RunCm, *arguments: str) -> dict[str, Any]:
    done = run_cm("prices", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# The past follows the prices.


def test_a_changed_price_holds_for_the_past_and_no_transcript_is_read(home: Home) -> None:
    two_days(home)
    refresh()
    assert cost() == 50
    own_prices.set_price(config.prices_file(), OPUS, 5, 30)
    assert refresh().bytes_read == 0
    assert cost() == 60


def test_it_holds_for_the_past_when_the_transcripts_are_gone(home: Home) -> None:
    path = two_days(home)
    append(home.transcript("other"), [user(sessionId="other")])
    refresh()
    path.unlink()
    own_prices.set_price(config.prices_file(), OPUS, 5, 30)
    refresh()
    assert cost() == 60


def test_a_price_from_a_day_leaves_what_was_before(home: Home) -> None:
    two_days(home)
    refresh()
    own_prices.set_price(config.prices_file(), OPUS, 5, 30, valid_from=date(2026, 6, 1))
    refresh()
    assert cost() == 25 + 30


def test_a_model_without_a_price_gets_one(home: Home) -> None:
    two_days(home, ZETA)
    refresh()
    assert cost(ZETA) is None
    own_prices.set_price(config.prices_file(), ZETA, 1, 2)
    refresh()
    assert cost(ZETA) == 4


def test_what_a_price_does_not_cover_stays_unpriced(home: Home) -> None:
    two_days(home, ZETA)
    refresh()
    own_prices.set_price(config.prices_file(), ZETA, 1, 2, valid_from=date(2026, 6, 1))
    refresh()
    assert [row["cost_usd"] for row in rows("SELECT cost_usd FROM usage ORDER BY at")] == [None, 2]
    assert only(health()["unpriced"])["output_tokens"] == 1_000_000
    assert stats().unpriced_models == {ZETA: 1_000_000}


def test_a_newer_cm_that_knows_one_more_spelling_of_a_model_prices_the_past_by_it(home: Home) -> None:
    spelling = "us.anthropic.claude-opus-4-5-20251101-v1:0"
    two_days(home, spelling)
    refresh()
    with closing(store.open_writer(config.database())) as connection:
        connection.execute("UPDATE models SET canonical = name")
        connection.execute("UPDATE daily_prices SET price_id = NULL, long_context_above = NULL")
        connection.execute("DELETE FROM meta WHERE key = 'prices'")
        rollups.sum_all(connection)
    assert cost(spelling) is None
    refresh()
    assert cost(spelling) == 50


def test_removing_the_file_brings_the_shipped_prices_back(home: Home) -> None:
    two_days(home)
    own_prices.set_price(config.prices_file(), OPUS, 5, 30)
    refresh()
    assert cost() == 60
    own_prices.set_aside(config.prices_file())
    refresh()
    assert cost() == 50


def test_a_response_that_comes_later_has_the_users_price(home: Home) -> None:
    path = two_days(home)
    own_prices.set_price(config.prices_file(), OPUS, 5, 30)
    refresh()
    append(path, [assistant(model=OPUS, usage=usage(0, 1_000_000))])
    refresh()
    assert cost() == 90


def test_the_long_context_of_a_model_follows_the_file(home: Home) -> None:
    write(home.transcript(), [assistant(model=OPUS, usage=usage(300_000, 0))])
    refresh()
    assert cost() == 1.5
    user_prices(
        f'[[price]]\nmodel = "{OPUS}"\ninput = 5\noutput = 25\n'
        "long_context = { above = 250000, input = 10, output = 50 }\n"
    )
    refresh()
    assert cost() == 3


def test_pricing_the_past_writes_no_response_however_many_there_are(home: Home) -> None:
    days = [f"2026-10-0{1 + n % 3}T10:00:00.000Z" for n in range(2_000)]
    write(home.transcript(), [assistant(model=OPUS, usage=usage(0, 100), timestamp=at) for at in days])
    refresh_only()
    before = rows("SELECT * FROM responses ORDER BY id")
    for start in (None, date(2026, 10, 2)):
        own_prices.set_price(config.prices_file(), OPUS, 1, 2, valid_from=start)
        connection = store.open_writer(config.database())
        changed = connection.total_changes
        pricing.update(connection)
        assert connection.total_changes - changed < 1_500
        connection.close()
    assert rows("SELECT * FROM responses ORDER BY id") == before
    assert cost() == 0.4


def test_a_price_that_did_not_change_is_not_loaded_again(home: Home) -> None:
    two_days(home)
    refresh()
    connection = store.open_writer(config.database())
    changed = connection.total_changes
    pricing.update(connection)
    assert connection.total_changes == changed
    connection.close()


def test_the_index_charges_what_the_prices_say_to_the_nanodollar(home: Home) -> None:
    """Also at rates that are no whole nanodollars, where each kind is rounded half to even."""
    odd = '[[price]]\nmodel = "odd"\ninput = 0.0005\noutput = 0.000001\ncache_read = 0.0125\nfast = 1.5\nus = 1.1\n'
    user_prices(odd + "long_context = { above = 900, input = 0.0015, output = 0.0625 }\n")
    rng = random.Random(7)
    models = ["odd", OPUS, "claude-haiku-5-5", "claude-opus-4-6", "claude-sonnet-4-5", ZETA]
    records = []
    for _ in range(600):
        extra = {"speed": rng.choice(["fast", "standard"]), "inference_geo": rng.choice(["us", "global"])}
        extra |= {"service_tier": rng.choice(["batch", "standard"])}
        extra |= {"server_tool_use": {"web_search_requests": rng.randrange(3)}}
        counts = [rng.choice([rng.randrange(700), rng.randrange(300_000)]) for _ in range(5)]
        at = f"2026-{rng.randrange(1, 10):02}-11T10:00:00.000Z"
        records.append(assistant(model=rng.choice(models), usage=usage(*counts, **extra), timestamp=at))
    write(home.transcript(), records)
    refresh_only()
    listed = prices.load(config.prices_file())
    rates = {rate.id: rate for rate in prices.rates(listed)}
    sql = f"SELECT r.*, m.name AS model, {COLUMNS} FROM response_costs AS r JOIN models AS m ON m.id = r.model_id"
    found = rows(sql)
    assert len(found) == len(records)
    for row in found:
        expected = naive.cost(listed, rates, row)
        assert tuple(row[kind] for kind in COLUMNS.split(", ")) == (expected or (None,) * 5)
    assert {row["rate_id"] is None for row in found} == {True, False}


# A file that cannot be used.


@pytest.mark.parametrize("text", ["[[price]\n", '[[price]]\nmodel = "x"\n', "price = 3\n"])
def test_prices_that_cannot_be_used_are_told_and_the_index_keeps_those_it_has(
    home: Home, run_cm: RunCm, text: str
) -> None:
    path = two_days(home)
    own_prices.set_price(config.prices_file(), OPUS, 5, 30)
    refresh_only()
    file = user_prices(text)
    append(path, [assistant(model=OPUS, usage=usage(0, 1_000_000))])
    done = run_cm("refresh")
    assert done.returncode == 0
    told = done.stderr.splitlines()
    assert told[0].startswith(f"cm: {file}: ")
    assert told[0].endswith("; costs are by the prices as they were")
    assert "1 new response" in told[1]
    assert cost() == 90
    asked = run_cm("prices")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert asked.stderr.startswith(f"cm: {file}: ")
    assert len(asked.stderr.splitlines()) == 1


def test_with_unusable_prices_a_first_refresh_has_the_shipped_ones(home: Home, run_cm: RunCm) -> None:
    two_days(home)
    file = user_prices("[[price]\n")
    assert run_cm("refresh", "--quiet").returncode == 0
    assert cost() == 50
    file.write_text(f'[[price]]\nmodel = "{OPUS}"\ninput = 1\noutput = 2\n')
    assert run_cm("refresh", "--quiet").stderr == ""
    assert cost() == 4


def test_a_report_says_that_the_prices_cannot_be_used_and_answers(home: Home, run_cm: RunCm) -> None:
    two_days(home)
    user_prices("[[price]\n")
    done = run_cm("stats", "--json")
    assert (done.returncode, json.loads(done.stdout)["total_cost"]) == (0, 50.0)
    assert len(done.stderr.splitlines()) == 1


# The command.


def test_prices_are_listed_with_period_source_and_uses(home: Home, run_cm: RunCm) -> None:
    times = ("2026-03-12T23:00:00.000Z", "2026-03-13T00:00:00.000Z", "2026-03-14T00:00:00.000Z")
    write(home.transcript(), [assistant(model="claude-opus-4-6", timestamp=at) for at in times])
    refresh_only()
    before, after = listed(run_cm, "anthropic/claude-opus-4-6-20260201")["prices"]
    assert (before["from"], before["until"], before["uses"]) == (None, "2026-03-13", 1)
    assert before["long_context"]["above"] == 200_000
    assert before["long_context"]["output"] == 37.5
    assert (after["from"], after["until"], after["uses"]) == ("2026-03-13", None, 2)
    assert after["long_context"] is None
    assert "genai-prices" in after["source"]


def test_what_happens_at_midnight_is_of_one_day(home: Home, run_cm: RunCm) -> None:
    times = ("2026-10-01T23:59:59.999Z", "2026-10-02T00:00:00.000Z")
    write(home.transcript(), [assistant(model=model, timestamp=at) for at in times for model in (OPUS, ZETA)])
    refresh_only()
    found = listed(run_cm)
    assert sum(price["uses"] for price in found["prices"]) == 2
    assert [(row["model"], row["responses"]) for row in found["unpriced"]] == [(ZETA, 2)]


def test_what_is_over_and_was_never_used_is_listed_on_demand(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [user()])
    refresh_only()
    usual, every = run_cm("prices").stdout, run_cm("prices", "--all").stdout
    assert "claude-opus-4-6" in usual and OPUS in usual
    assert "until 2026-03-13" in every and "until 2026-03-13" not in usual
    for options in ([], ["--all"]):
        assert len(listed(run_cm, *options)["prices"]) == len(prices.load())


def test_what_will_hold_is_listed(run_cm: RunCm) -> None:
    run_cm("prices", "set", ZETA, "--input", "1", "--output", "2", "--from", "2999-01-01")
    assert "from 2999-01-01" in run_cm("prices").stdout


def test_prices_are_listed_without_an_index(run_cm: RunCm, db: Path) -> None:
    found = listed(run_cm)
    assert found["unpriced"] == []
    assert {price["uses"] for price in found["prices"]} == {0}
    assert not db.exists()


def test_the_text_names_each_source_and_each_model(home: Home, run_cm: RunCm) -> None:
    shown = run_cm("prices", "--all").stdout
    assert all(price.model in shown and f": {price.source}\n" in f"{shown}\n" for price in prices.load())


def test_setting_a_price_shows_it_and_prices_the_past_at_once(home: Home, run_cm: RunCm) -> None:
    two_days(home, ZETA)
    refresh_only()
    done = run_cm("prices", "set", ZETA, "--input", "1", "--output", "2.5", "--json")
    assert "refresh" not in done.stderr
    price = only(json.loads(done.stdout)["prices"])
    assert (price["output"], price["cache_write_1h"], price["source"], price["uses"]) == (2.5, 2, "user", 2)
    assert cost(ZETA) == 5


def test_a_later_price_ends_the_one_before(home: Home, run_cm: RunCm) -> None:
    two_days(home, ZETA)
    refresh_only()
    run_cm("prices", "set", ZETA, "--input", "1", "--output", "2")
    assert run_cm("prices", "set", ZETA, "--input", "1", "--output", "3", "--from", "20260601").returncode == 0
    assert cost(ZETA) == 5
    assert [price["uses"] for price in listed(run_cm, ZETA)["prices"]] == [1, 1]


def test_every_rate_can_be_set(home: Home, run_cm: RunCm) -> None:
    rates = {"input": "1", "output": "2", "cache-read": "0.3", "cache-write-5m": "4", "cache-write-1h": "5"}
    run_cm("prices", "set", ZETA, *(f"--{name}={value}" for name, value in rates.items()))
    price = only(listed(run_cm, ZETA)["prices"])
    assert {name: price[name.replace("-", "_")] for name in rates} == {name: float(rates[name]) for name in rates}


def test_resetting_prices_the_past_by_the_shipped_ones_and_keeps_the_file(home: Home, run_cm: RunCm) -> None:
    two_days(home)
    refresh_only()
    run_cm("prices", "set", OPUS, "--input", "5", "--output", "30")
    assert cost() == 60
    done = run_cm("prices", "reset")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"{config.prices_file()}.bak" in done.stderr
    assert Path(f"{config.prices_file()}.bak").exists()
    assert cost() == 50


def test_resetting_one_model_prices_its_past_and_leaves_the_others(home: Home, run_cm: RunCm) -> None:
    two_days(home)
    refresh_only()
    run_cm("prices", "set", OPUS, "--input", "5", "--output", "30")
    run_cm("prices", "set", ZETA, "--input", "1", "--output", "2")
    done = run_cm("prices", "reset", OPUS)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"your price of {OPUS} is taken out of {config.prices_file()}" in done.stderr
    assert cost() == 50
    assert only(listed(run_cm, ZETA)["prices"])["input"] == 1
    again = run_cm("prices", "reset", OPUS)
    assert again.returncode == 1
    assert f"you have set no price of {OPUS}; your prices are in {config.prices_file()}" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["set", ZETA, "--input", "x", "--output", "1"], 2, "'--input'"),
        (["set", ZETA, "--input", "1"], 2, "'--output'"),
        (["set", ZETA, "--input", "1", "--output", "2", "--from", "soon"], 2, "'--from'"),
        (["set", ZETA, "--input", "-1", "--output", "2"], 1, "input is -1; give a number"),
        (["set", ZETA, "--input", "NaN", "--output", "2"], 1, "input is NaN; give a number"),
        ([ZETA], 1, f"{ZETA} has no price; give it one with `cm prices set"),
    ],
)
def test_what_cannot_be_set_or_shown_is_told(run_cm: RunCm, arguments: list[str], code: int, told: str) -> None:
    done = run_cm("prices", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert not Path(config.prices_file()).exists()


def test_while_a_refresh_is_at_work_the_price_is_set_and_the_next_command_uses_it(home: Home, run_cm: RunCm) -> None:
    two_days(home)
    refresh_only()
    descriptor = os.open(f"{config.database()}.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    done = run_cm("prices", "set", OPUS, "--input", "5", "--output", "30")
    assert done.returncode == 0
    assert "a refresh is at work on the index: the next command prices the past" in done.stderr
    assert cost() == 50
    os.close(descriptor)
    refresh()
    assert cost() == 60


# What has no price.


def test_an_unknown_model_costs_null_and_is_listed_everywhere_with_all_its_tokens(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant(usage=usage(0, 1_000_000)), assistant(model=ZETA, usage=usage(1, 2, 3, 4, 5))])
    refresh()
    assert cost(ZETA) is None
    expected = {"model": ZETA, "responses": 1, "input_tokens": 1, "output_tokens": 2}
    expected |= {"cache_creation_tokens": 7, "cache_read_tokens": 5}
    assert listed(run_cm)["unpriced"] == [expected] == health()["unpriced"]
    said = f"{ZETA}: 1 response, 1 input, 2 output, 7 cache write, 5 cache read tokens"
    assert all(said in run_cm(command).stdout for command in ("prices", "stats", "status"))
    total = stats()
    assert (total.total_cost, total.unpriced_models) == (25.0, {ZETA: 15})


def test_a_neighbouring_model_lends_no_price(home: Home) -> None:
    write(home.transcript(), [assistant(model="claude-opus-4-9"), assistant(model="claude-opus-4-50")])
    refresh()
    assert {row["cost_usd"] for row in rows("SELECT cost_usd FROM usage")} == {None}
