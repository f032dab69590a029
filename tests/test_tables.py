"""Tables of the reports: what stands in them, that they fit, and how they behave on a terminal and off it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from builders import Home, assistant, title, tool_result, tool_use, usage, user, write
from conftest import RunCm, clean_environment
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from indexer import refresh, tables

NAMES = ["daily", "weekly", "monthly", "hourly", "sessions", "projects", "models", "agents", "tools", "blocks"]
DAYS = 60
START = datetime(2026, 8, 1, 9, tzinfo=UTC)
ESCAPE = "\x1b[2J\x07"
NAUGHTY = f"Clear{ESCAPE} the\nscreen \u202e 日本語"
UNPRICED = "claude-zeta-99"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty days of millions of tokens, three models each, with names that nobody wants on a terminal; indexed."""
    folder = tmp_path_factory.mktemp("months")
    home = Home(folder)
    models = ("claude-opus-4-5-20251101", "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929")
    counts = usage(1_234_567, 7_654_321, cache_write=23_456_789, cache_read=123_456_789)
    for day in range(DAYS):
        session, at = f"{day:08}-0000-4000-8000-000000000000", (START + timedelta(days=day)).isoformat()[:19] + ".000Z"
        use = tool_use(f"mcp__tracker__list{ESCAPE}")
        shared = {"sessionId": session, "cwd": f"/home/dev/some-{'very-' * 5}long-name-{day % 7}", "timestamp": at}
        lines = [assistant(use, model=model, usage=counts, **shared) for model in models]
        lines = [user("Go.", **shared), *lines, tool_result(use["id"], **shared), title(NAUGHTY, session)]
        write(home.transcript(session, f"/p{day % 7}"), lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("CM_LOG", str(folder / "log"))
        patch.setenv("CM_TIMEZONE", "UTC")
        refresh([str(home.root)], str(folder / "cm.db"))
    return folder


@pytest.fixture
def months(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That history is the only one that `cm` knows."""
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(history / ".claude"))
    monkeypatch.setenv("CM_DB", str(history / "cm.db"))


def table(run_cm: RunCm, *arguments: str, columns: int = 100) -> list[str]:
    found = run_cm(*arguments, env={"COLUMNS": str(columns), "CM_TIMEZONE": "UTC"})
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def body(lines: list[str]) -> list[str]:
    """The rows between the rules."""
    first, last = (place for place, line in enumerate(lines) if line.startswith("──"))
    return lines[first + 1 : last]


# What stands in them


def test_a_table_says_what_json_says(months: None, run_cm: RunCm) -> None:
    lines = table(run_cm, "daily", columns=200)
    rows = json.loads(run_cm("daily", "--json", env={"CM_TIMEZONE": "UTC"}).stdout)
    shown = [re.split(r"\s{2,}", line.strip()) for line in body(lines)]
    for cells, row in zip(shown, rows, strict=True):
        assert cells[:2] == [row["day"], "opus-4-5, sonnet-4-5, haiku-4-5"]
        counts = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens", "total_tokens")
        assert cells[2:7] == [f"{row[name]:,}" for name in counts]
        assert cells[7] == f"${row['cost_usd']:,.2f}"
    total = re.split(r"\s{2,}", next(line for line in lines if line.startswith("Total")))
    assert total[1] == f"{sum(row['input_tokens'] for row in rows):,}"
    assert total[6] == f"${sum(row['cost_usd'] for row in rows):,.2f}"


@pytest.mark.parametrize("columns", [80, 100, 140])
@pytest.mark.parametrize("name", NAMES)
def test_each_row_is_one_line_that_fits(months: None, run_cm: RunCm, name: str, columns: int) -> None:
    rows = json.loads(run_cm(name, "--json").stdout)
    lines = table(run_cm, name, columns=columns)
    assert len(body(lines)) == len(rows)
    assert max(cell_len(line) for line in [*body(lines), *lines[:4]]) <= columns


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_prices_fit(months: None, run_cm: RunCm, columns: int) -> None:
    lines = table(run_cm, "prices", columns=columns)
    drawn = lines[: lines.index("")]
    assert max(map(cell_len, drawn)) <= columns
    opus = next(line for line in drawn if line.startswith("claude-opus-4-5")).split()
    assert opus[1:3] == ["5", "25"]


def test_the_parts_of_a_row_stand_below_it_the_dearest_first(months: None, run_cm: RunCm) -> None:
    lines = body(table(run_cm, "daily", "-b", "--limit", "1"))
    assert [re.split(r"\s{2,}", line.strip())[0] for line in lines[1:]] == ["└ sonnet-4-5", "└ opus-4-5", "└ haiku-4-5"]


def test_numbers_are_shortened_only_where_they_do_not_fit(months: None, run_cm: RunCm) -> None:
    assert "370,370,367" in table(run_cm, "daily", "--limit", "1")[5]
    assert "370M" in table(run_cm, "daily", "--limit", "1", columns=80)[5]


def test_bars_are_as_long_as_the_costs_are_large(home: Home, run_cm: RunCm) -> None:
    lines = [assistant(timestamp=f"2026-10-0{n}T09:00:00.000Z", usage=usage(0, n * 100_000)) for n in (1, 2, 4)]
    write(home.transcript(), lines)
    bars = [line.count("█") for line in body(table(run_cm, "daily"))]
    assert bars[2] == 2 * bars[1] == 4 * bars[0] > 0


def test_two_projects_of_one_name_are_told_apart(home: Home, run_cm: RunCm) -> None:
    for n, path in enumerate(("/work/app", "/home/app", "/home/site")):
        write(home.transcript(str(n), path), [assistant(cwd=path, sessionId=f"session-{n}")])
    shown = {line.split()[0] for line in body(table(run_cm, "projects"))}
    assert shown == {"work/app", "home/app", "site"}


def test_a_project_is_shown_as_the_config_calls_it(home: Home, run_cm: RunCm, tmp_path: Path) -> None:
    write(home.transcript(), [assistant(cwd="/home/dev/app")])
    file = tmp_path / "config.toml"
    file.write_text('[projects]\napp = { name = "shop", group = "work" }\n')
    found = run_cm("projects", env={"CM_CONFIG": str(file)})
    assert "work/shop" in found.stdout


@pytest.mark.parametrize("name", NAMES)
def test_control_characters_are_shown_and_not_sent(months: None, run_cm: RunCm, name: str) -> None:
    for options in ([], ["--csv"]):
        found = run_cm(name, *options, env={"COLUMNS": "200"}).stdout
        assert not set(found) & {"\x1b", "\x07", "\u202e"}
    assert not set(run_cm(name, "--json").stdout) & {"\x1b", "\x07"}
    if name == "sessions":
        assert r"Clear\x1b[2J\x07 the screen" in run_cm(name, env={"COLUMNS": "200"}).stdout


# What there is to know


def test_that_a_subscription_is_not_billed_this_way_is_said_once(months: None, run_cm: RunCm) -> None:
    for name in ("daily", "tools", "blocks"):
        assert run_cm(name).stdout.count("a subscription is not billed this way") == 1


def test_what_has_no_price_is_unpriced_and_named(home: Home, run_cm: RunCm) -> None:
    times = [f"2026-10-0{n}T09:00:00.000Z" for n in (1, 1, 2)]
    models = [UNPRICED, "claude-opus-4-5", UNPRICED]
    lines = [assistant(model=m, timestamp=at, usage=usage(1_000, 0)) for m, at in zip(models, times, strict=True)]
    write(home.transcript(), lines)
    lines = table(run_cm, "daily")
    priced, unpriced = body(lines)
    assert re.search(r"\$0\.01\+", priced) and "unpriced" in unpriced
    assert any(re.match(r"Total .*\$0\.01\+", line) for line in lines)
    assert any(f"{UNPRICED} (2,000 tokens)" in line and "cm prices set" in line for line in lines)


def test_a_model_that_is_spelled_in_two_ways_is_named_once(home: Home, run_cm: RunCm) -> None:
    models = ["claude-opus-4-5-20251101", "us.anthropic.claude-opus-4-5-20251101-v1:0", "claude-opus-4-5"]
    write(home.transcript(), [assistant(model=model) for model in models])
    (row,) = body(table(run_cm, "daily"))
    assert row.split()[1] == "opus-4-5" and row.count("opus") == 1


def test_responses_without_their_final_count_are_counted(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [assistant(usage=usage(1, 2), stop_reason=None) for _ in range(3)])
    for name in ("daily", "sessions", "blocks"):
        assert "3 responses lack their final output count" in run_cm(name).stdout


def test_nothing_is_said_of_what_is_not_there(months: None, run_cm: RunCm) -> None:
    shown = run_cm("daily").stdout
    assert "Total" in shown
    for word in ("unpriced", "lack", "not shown", "Shared"):
        assert word not in shown


def test_rows_that_a_limit_leaves_out_are_counted_and_the_total_is_of_all(months: None, run_cm: RunCm) -> None:
    lines = table(run_cm, "daily", "--limit", "2", columns=120)
    assert len(body(lines)) == 2
    assert any(f"{DAYS - 2} older days are not shown" in line for line in lines)
    whole = table(run_cm, "daily", columns=120)
    assert [line for line in whole if line.startswith("Total")] == [line for line in lines if line.startswith("Total")]


# On a terminal


def on_terminal(*arguments: str, columns: int = 100, lines: int = 30, **environment: str) -> str:
    """What `cm` prints on a terminal of that size, with what makes it coloured."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer", *arguments],
        stdout=follower,
        stderr=subprocess.PIPE,
        env=clean_environment({"CM_TIMEZONE": "UTC", "TERM": "xterm-256color", **environment}),
    )
    os.close(follower)
    found = b""
    while chunk := read(leader):
        found += chunk
    os.close(leader)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return found.decode().replace("\r\n", "\n")


def read(leader: int) -> bytes:
    try:
        return os.read(leader, 65_536)
    except OSError:  # Linux says so that nobody holds the other end any more
        return b""


def plain(shown: str) -> list[str]:
    return re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("columns", "height"), [(80, 24), (100, 40)])
def test_a_table_fits_on_the_terminal(months: None, run_cm: RunCm, name: str, columns: int, height: int) -> None:
    lines = plain(on_terminal(name, columns=columns, lines=height))
    assert max(cell_len(line) for line in lines) <= columns
    # The prompt that follows has a line, too.
    assert len(lines) < height


def test_a_table_on_a_terminal_is_cut_to_the_newest_rows_and_says_so(months: None, run_cm: RunCm) -> None:
    lines = plain(on_terminal("daily"))
    shown = body(lines)
    assert 10 < len(shown) < DAYS
    assert shown == body(table(run_cm, "daily"))[-len(shown) :]
    assert any(f"{DAYS - len(shown)} older days are not shown" in line and "--limit 0" in line for line in lines)


def test_newest_first_is_cut_at_the_other_end(months: None, run_cm: RunCm) -> None:
    upwards = body(plain(on_terminal("daily", "--order", "desc")))
    assert upwards == body(plain(on_terminal("daily")))[::-1]


def test_who_names_a_range_or_a_number_gets_every_row(months: None, run_cm: RunCm) -> None:
    for options in (["--limit", "0"], ["--since", "2026-01-01"], ["--until", "2026-12-31"], ["--limit", "55"]):
        shown = body(plain(on_terminal("daily", *options)))
        assert len(shown) == (55 if "55" in options else DAYS)


def test_json_and_csv_are_whole_on_a_terminal_too(months: None, run_cm: RunCm) -> None:
    assert len(json.loads(on_terminal("daily", "--json"))) == DAYS
    assert len(on_terminal("daily", "--csv").splitlines()) == DAYS + 1


def test_a_table_off_a_terminal_is_whole_and_a_hundred_wide(months: None, run_cm: RunCm) -> None:
    found = run_cm("daily", env={"COLUMNS": None})
    lines = found.stdout.splitlines()
    assert len(body(lines)) == DAYS
    assert max(map(cell_len, lines)) == 100


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_a_session_can_be_taken_up_by_what_its_line_shows(months: None, run_cm: RunCm, columns: int) -> None:
    listed = {row["session_id"][:8] for row in json.loads(run_cm("sessions", "--json").stdout)}
    shown = body(plain(on_terminal("sessions", columns=columns)))
    assert all(any(short in line for short in listed) for line in shown)


def test_a_title_of_several_lines_stands_in_one(home: Home, run_cm: RunCm) -> None:
    write(home.transcript(), [user("  When running:\n\n\tmake test\nit fails"), assistant()])
    assert "When running: make test it fails" in run_cm("sessions", env={"COLUMNS": "150"}).stdout


@pytest.mark.parametrize("name", ["daily", "sessions"])
def test_a_dumb_terminal_gets_the_same_without_colours(months: None, name: str) -> None:
    for columns in (80, 120):
        assert on_terminal(name, columns=columns, TERM="dumb").splitlines() == plain(on_terminal(name, columns=columns))


def test_colours_are_for_terminals_and_for_who_asks(months: None, run_cm: RunCm) -> None:
    assert "\x1b[" in on_terminal("daily")
    assert "\x1b[" not in on_terminal("daily", NO_COLOR="1")
    assert "\x1b[" not in run_cm("daily").stdout
    assert "\x1b[" in run_cm("daily", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[" not in run_cm("daily", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert plain(on_terminal("daily")) == on_terminal("daily", NO_COLOR="1").splitlines()


def test_a_locale_without_line_drawing_is_no_error(months: None, run_cm: RunCm) -> None:
    found = run_cm("daily", env={"PYTHONIOENCODING": "ascii"})
    assert (found.returncode, found.stderr) == (0, "")
    assert "Total" in found.stdout


def test_json_does_not_wait_for_the_library_that_draws_tables(months: None) -> None:
    asked = "import sys; from indexer.cli import run_cli; run_cli(['daily', '--json']); print('rich' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", asked], check=True, env=clean_environment(), capture_output=True, encoding="utf-8"
    )
    assert found.stdout.endswith("False\n")


# How values are written


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.0k"), (99_949, "99.9k"), (99_950, "100k"), (999_499, "999k"),
     (999_500, "1.0M"), (354_081_809, "354M"), (1_792_017_044, "1.8B")],
)  # fmt: skip
def test_shortened_counts(count: int, shown: str) -> None:
    assert tables.tokens(count) == shown


@given(st.integers(0, 10**14))
def test_a_shortened_count_is_short_and_near(count: int) -> None:
    shown = tables.tokens(count)
    assert len(shown) <= 7
    value = float(shown.rstrip("kMB").replace(",", "")) * {"k": 1e3, "M": 1e6, "B": 1e9}.get(shown[-1], 1)
    assert abs(value - count) <= 0.06 * count


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0, "0 ms"), (999, "999 ms"), (1_000, "1.0 s"), (59_900, "59.9 s"), (59_960, "1m 00s"), (61_000, "1m 01s"),
     (3_599_600, "1h 00m"), (7_260_000, "2h 01m"), (172_800_000, "2d 0h")],
)  # fmt: skip
def test_durations(milliseconds: int, shown: str) -> None:
    assert tables.duration(milliseconds) == shown
