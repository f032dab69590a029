"""The pages as a person sees them: a real Chromium, a real `cm serve`, no error, no other host."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from builders import ABSENT, Home, assistant, text, title, tool_result, tool_use, usage, user, write
from conftest import RunCm
from webserver import Server, serving

from indexer import refresh

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
expect = sync_api.expect
expect.set_options(timeout=20_000)  # a busy machine is no failure
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed: apt-get install chromium", allow_module_level=True)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    Visit = Callable[..., Page]

# What a browser asks of the network by itself is not the page's.
ARGUMENTS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
CHARTS = ("daily", "cumulative", "calendar", "hours", "cache")
RANKINGS = ("models", "projects", "sessions", "agents", "tools")
NASTY = '</script><img src=x onerror="document.title=1"><b>bold</b> {{ 7*7 }} <script>document.title="2"</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Opens a page, and at the end sees to it that it was quiet and kept to itself."""
    if "served" in request.fixturenames:
        request.getfixturevalue("served")  # so that pages end before it: what they still load would be an error
    errors: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(url: str, width: int = 1280, **options: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_selector("main:not([aria-busy=true])")
        return page

    open_page.errors = errors
    yield open_page
    for context in contexts:
        context.close()
    assert not errors
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith("data:")}
    assert hosts <= {"127.0.0.1", None}, asked


@pytest.fixture
def served(home: Home, db: Path, tmp_path: Path) -> Iterator[Server]:
    """A server on an index of this test's own."""
    write(home.transcript(), [])
    refresh(db=str(db))
    with serving(db, HOME=str(tmp_path)) as server:
        yield server


def at(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).isoformat(timespec="milliseconds")[:23] + "Z"


def check_for_screen_readers(page: Page) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    # What is under the pointer is drawn anew by Plot each time, inside an image that has a name.
    found = axe.Axe().run(page, context={"exclude": [[".plot .tip"]]})
    assert found.violations_count == 0, found.generate_report()


def figure(page: Page, name: str) -> str:
    """A number of the range's totals, as it stands there."""
    return page.locator("#totals dl div", has=page.get_by_text(name, exact=True)).locator("dd").inner_text()


def usd(value: float) -> str:
    return f"${value:,.2f}"


# The numbers


def test_the_totals_are_those_of_cm_stats(visit: Visit, web: Server, demo_index, run_cm: RunCm):
    stats = json.loads(run_cm("stats", "--json", "--no-refresh", "--db", demo_index).stdout)
    page = visit(f"{web.url}/?since=all")
    assert figure(page, "Cost") == usd(stats["total_cost"])
    assert figure(page, "Responses") == f"{stats['messages_count']:,}"
    assert figure(page, "Sessions") == f"{stats['conversations_count']:,}"
    shown = {row.locator("th a").inner_text(): row.locator("td.strong").inner_text() for row in rows(page, "models")}
    assert sorted(shown.values()) == sorted(usd(model["total_cost"]) for model in stats["model_breakdown"].values())


def rows(page: Page, card: str):
    return page.locator(f"#{card} tbody tr").all()


def test_every_chart_is_drawn_and_has_its_numbers_behind_it(visit: Visit, web: Server, demo_index, run_cm: RunCm):
    page = visit(f"{web.url}/?since=all")
    for name in CHARTS:
        chart = page.locator(f"#{name} figure svg[role=img]")
        assert chart.get_attribute("aria-label"), name
        assert chart.locator("rect, path").count() > 3, name
        page.locator(f"#{name} summary").click()
        page.locator(f"#{name} tbody tr").nth(3).wait_for()
    daily = json.loads(run_cm("daily", "--json", "--no-refresh", "--db", demo_index).stdout)
    assert page.locator("#calendar tbody tr").count() == len(daily)
    newest = page.locator("#calendar tbody tr").first
    assert newest.locator("th").inner_text() == daily[-1]["day"]
    assert newest.locator("td").first.inner_text() == usd(daily[-1]["cost_usd"])


def test_every_card_leads_to_its_rows_in_datasette(visit: Visit, web: Server):
    page = visit(f"{web.url}/?since=all")
    for name in (*CHARTS, *RANKINGS):
        address = page.locator(f"#{name} footer a.rows").get_attribute("href")
        assert web.get(address).status == 200, name
    # The rows of one day are those that its numbers are made of.
    page.locator("#calendar summary").click()
    day = page.locator("#calendar tbody tr").first
    path, _, query = day.locator("th a").get_attribute("href").partition("?")
    found = web.get(f"{path}.json?{query}&_shape=array&_size=max").json
    assert len([row for row in found if row["part"] == 0]) == int(day.locator("td").nth(2).inner_text())


def test_a_chart_says_what_is_under_the_pointer(visit: Visit, web: Server):
    page = visit(f"{web.url}/?since=all")
    box = page.locator("#daily svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#daily svg .tip")).to_contain_text("$")


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Pacific/Auckland"])
def test_a_day_is_that_of_the_index_wherever_the_browser_is(visit: Visit, web: Server, zone):
    page = visit(f"{web.url}/?since=2026-11-19&until=2026-11-19", timezone_id=zone)
    assert "Thu, Nov 19, 2026" in page.locator("#totals h2").inner_text()
    box = page.locator("#daily svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#daily svg .tip")).to_contain_text("Thu, Nov 19, 2026")
    page.locator("#daily summary").click()
    expect(page.locator("#daily tbody th").first).to_have_text("2026-11-19")


def test_the_running_block_shows_how_long_it_goes_on(visit: Visit, served: Server, home: Home, db):
    write(home.transcript(), [assistant(timestamp=at(minutes=9)), assistant(timestamp=at(minutes=2))])
    refresh(db=str(db))
    block = visit(served.url).locator("#block")
    assert "left, until" in block.inner_text()
    assert block.locator("progress").get_attribute("aria-label")


def test_what_has_no_price_is_not_shown_as_nothing(visit: Visit, served: Server, home: Home, db):
    write(home.transcript(), [assistant(model="claude-zeta-99", timestamp=at(minutes=9))])
    refresh(db=str(db))
    page = visit(served.url)
    assert figure(page, "Cost") == "unknown"
    assert "claude-zeta-99 has no price: 30 tokens" in page.locator(".notices").inner_text()


# What is shown is chosen, and stands in the address


def test_models_and_projects_are_chosen_and_stand_in_the_address(visit: Visit, web: Server, demo_index, run_cm: RunCm):
    page = visit(f"{web.url}/?since=all")
    everything = figure(page, "Cost")
    page.locator("#model-menu summary").click()
    choice = page.locator("#model-menu label").first
    model = choice.inner_text()
    choice.click()
    expect(page.locator("#totals dd").first).not_to_have_text(everything)
    assert f"model={model}" in page.url
    (row,) = json.loads(run_cm("models", "--model", model, "--json", "--no-refresh", "--db", demo_index).stdout)
    assert figure(page, "Cost") == usd(row["cost_usd"])
    page.go_back()
    expect(page.locator("#totals dd").first).to_have_text(everything)
    page.locator("#projects tbody th a").first.click()
    page.wait_for_selector("#project-menu.is-limited")
    assert page.locator("#projects tbody tr").count() == 1


def test_days_are_chosen_by_name_or_by_date(visit: Visit, web: Server):
    page = visit(f"{web.url}/?since=all")
    page.locator("#filters [name=since]").fill("2026-11-15")
    page.locator("#filters [name=until]").fill("2026-11-16")
    page.wait_for_selector("#totals small:has-text('2 days')")
    assert "since=2026-11-15&until=2026-11-16" in page.url
    page.get_by_role("link", name="Last month").click()
    page.wait_for_selector("#presets a[aria-current]:has-text('Last month')")
    assert "since=last-month" in page.url


def test_charts_show_tokens_instead_of_costs(visit: Visit, web: Server):
    page = visit(f"{web.url}/?since=all")
    page.get_by_text("Tokens", exact=True).first.click()
    page.wait_for_selector("h2:has-text('Daily tokens')")
    assert "measure=tokens" in page.url
    expect(page.locator("#daily svg")).not_to_contain_text("$")
    page.reload()
    page.wait_for_selector("h2:has-text('Daily tokens')")
    assert page.locator("input[value=tokens]").is_checked()


# States


def test_an_index_of_nothing_says_what_to_do(visit: Visit, served: Server):
    assert "cm refresh" in visit(served.url).locator("main").inner_text()


def test_a_wrong_day_is_told_and_leads_back(visit: Visit, web: Server):
    page = visit(f"{web.url}/?since=yesteryear")
    page.get_by_role("alert").get_by_text("there is no such day").wait_for()
    page.get_by_role("link", name="Back to the last 30 days").click()
    page.wait_for_selector("#totals")
    # The browser logs a 400 by itself.
    visit.errors[:] = [error for error in visit.errors if "400" not in error]


def test_a_server_that_stopped_is_told_and_what_is_shown_stays(visit: Visit, served: Server, home: Home, db):
    write(home.transcript(), [assistant(timestamp=at(minutes=9))])
    refresh(db=str(db))
    page = visit(served.url)
    served.stop()
    # It asks again after ten times what the last answer took, which on a busy machine is not five seconds.
    page.wait_for_selector("#status.failed:has-text('does not answer')", timeout=90_000)
    assert page.locator("#daily svg").is_visible()
    visit.errors.clear()  # the browser logs the refused connection by itself


def test_the_page_updates_by_itself_and_leaves_open_what_is_open(visit: Visit, served: Server, home: Home, db):
    first, second = assistant(timestamp=at(minutes=9)), assistant(timestamp=at(minutes=8))
    write(home.transcript(), [first])
    refresh(db=str(db))
    page = visit(served.url)
    assert figure(page, "Responses") == "1"
    summary = page.locator("#daily summary")
    summary.click()
    write(home.transcript(), [first, second])
    refresh(db=str(db))
    expect(page.locator("#totals dd").nth(2)).to_have_text("2")
    expect(page.locator("#daily details[open] tbody tr")).to_have_count(1)
    expect(summary).to_be_focused()


# Light and dark, wide and narrow, keyboard and screen reader


def test_dark_is_what_the_system_says_until_somebody_chooses(visit: Visit, web: Server):
    light, dark = "rgb(245, 245, 248)", "rgb(16, 18, 24)"
    page = visit(web.url, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == dark
    page.get_by_role("button", name="Dark mode").click()
    assert page.evaluate(background) == light
    page.reload()
    assert page.evaluate(background) == light
    assert page.get_by_role("button", name="Dark mode").get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("width", [380, 1600])
def test_nothing_sticks_out_and_nothing_is_too_narrow(visit: Visit, web: Server, demo_index, width):
    pages = [f"{web.url}/?since=all", f"{web.url}/-/cm/session/{longest_session(demo_index)}"]
    for url in pages:
        page = visit(url, width)
        page.wait_for_selector("svg.plot")
        assert page.evaluate("document.documentElement.scrollWidth") == width, url
        for box in [svg.bounding_box() for svg in page.locator("figure svg.plot").all()]:
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screen_reader_finds_its_way(visit: Visit, web: Server, demo_index, scheme):
    for path in ("/?since=all", f"/-/cm/session/{longest_session(demo_index)}"):
        page = visit(web.url + path, color_scheme=scheme)
        page.wait_for_selector("svg.plot")
        check_for_screen_readers(page)


def test_everything_can_be_done_with_the_keyboard(visit: Visit, web: Server):
    page = visit(f"{web.url}/?since=all")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#project-menu summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_selector("#project-menu.is-limited")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.closest('details').id") == "project-menu"
    assert not page.locator("#project-menu").get_attribute("open")


# A session


def longest_session(db: Path) -> str:
    import sqlite3

    with sqlite3.connect(db) as connection:
        return connection.execute("SELECT session_id FROM sessions ORDER BY record_count DESC").fetchone()[0]


def test_a_session_is_found_from_the_page_and_told_in_order(visit: Visit, served: Server, home: Home, db):
    call = tool_use("Bash", command="make test")
    task = tool_use("Agent", subagent_type="Explore", description="Look around", prompt="Look for it.")
    write(
        home.transcript(),
        [
            title("Fix the build"),
            user("Please fix the build.", timestamp=at(minutes=9)),
            assistant(text("I will look."), timestamp=at(minutes=8), usage=usage(input=1_000_000, output=0)),
            assistant(call, timestamp=at(minutes=7)),
            tool_result(call["id"], "3 failed", is_error=True, timestamp=at(minutes=6)),
            assistant(task, timestamp=at(minutes=5)),
            tool_result(task["id"], "It is there.", result={"agentId": "a1"}, timestamp=at(minutes=2)),
            assistant(text("It is mended."), timestamp=at(minutes=1)),
        ],
    )
    inner = {"isSidechain": True, "agentId": "a1"}
    branch = [
        user("Look for it.", timestamp=at(minutes=4), **inner),
        assistant(text("Found in src."), timestamp=at(minutes=3), **inner),
    ]
    write(home.subagent(), branch)
    refresh(db=str(db))
    page = visit(served.url)
    page.get_by_role("link", name="Fix the build").click()
    page.wait_for_selector("h1:has-text('Fix the build')")
    turn = page.locator("#turn-1")
    assert "$5.0" in turn.locator(".used").first.inner_text()
    said = turn.inner_text()
    order = ["Please fix the build.", "I will look.", "make test", "failed", "Explore", "It is mended."]
    assert [said.index(words) for words in order] == sorted(said.index(words) for words in order)
    assert not page.get_by_text("3 failed").is_visible(), "what a tool gave back is folded"
    page.locator(".tool summary").first.click()
    assert page.get_by_text("3 failed").is_visible()
    assert not page.get_by_text("Found in src.").is_visible()
    page.locator(".branch summary").click()
    assert page.get_by_text("Found in src.").is_visible()
    assert page.locator("#timeline svg circle").count() == 7
    page.locator("#timeline summary").click()
    expect(page.locator("#timeline tbody tr")).to_have_count(9)


@pytest.mark.parametrize("width", [380, 1600])
def test_what_claude_wrote_is_laid_out(visit: Visit, served: Server, home: Home, db, width):
    table = [f"|{'a_rather_long_column|' * 12}", f"|{'--:|' * 12}", f"|{'1|' * 12}"]
    answer = ["## Plan", "", "- one", "- two", "", "```py", "x" * 300, "```", "", *table, "", "[docs](https://x.org)"]
    asked = user("## As *typed*", timestamp=at(minutes=2))
    write(home.transcript(), [asked, assistant(text("\n".join(answer)), timestamp=at(minutes=1))])
    refresh(db=str(db))
    page = visit(f"{served.url}/-/cm/session/5e551000-0000-4000-8000-000000000001", width)
    assert "## As *typed*" in page.locator(".prompt").inner_text()
    said = page.locator(".answer")
    assert "##" not in said.inner_text()
    assert said.locator("li").all_inner_texts() == ["one", "two"]
    assert said.get_by_role("link", name="docs").get_attribute("rel") == "noreferrer noopener"
    assert said.locator("td").first.evaluate("cell => getComputedStyle(cell).textAlign") == "right"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    check_for_screen_readers(page)


def test_a_transcript_full_of_markup_does_nothing(visit: Visit, served: Server, home: Home, db):
    call = tool_use(NASTY, command=NASTY)
    records = [
        title(NASTY),
        user(NASTY, timestamp=at(minutes=9), cwd=f"/home/dev/{NASTY.replace('/', '_')}"),
        assistant(text(NASTY), call, timestamp=at(minutes=8)),
        tool_result(call["id"], NASTY, is_error=True, timestamp=at(minutes=7)),
        assistant(text("\x1b[31mred\u202e"), model=NASTY, timestamp=at(minutes=6), requestId=ABSENT),
    ]
    write(home.transcript(), records)
    refresh(db=str(db))
    page = visit(served.url)
    for path in ("/", "/?measure=tokens", "/-/cm/session/5e551000-0000-4000-8000-000000000001"):
        page.goto(served.url + path)
        page.wait_for_selector("main:not([aria-busy=true])")
        for summary in page.locator("summary:visible").all():
            summary.click()
        page.wait_for_timeout(200)
        assert page.locator("img, main b, main script:not([type='application/json'])").count() == 0
        assert page.title() not in ("1", "2")
        assert NASTY in page.locator("main").inner_text() or "bold</b>" in page.locator("main").inner_text()
    assert "\\x1b[31mred\\u202e" in page.locator("main").inner_text()


def test_what_was_said_is_found_and_leads_to_where_it_was_said(visit: Visit, served: Server, home: Home, db, run_cm):
    call = tool_use("Bash", command="kubectl rollout restart")
    records = [
        title(NASTY),
        user(f"Why does the rollout fail? {NASTY}"),
        assistant(text("It lacks a secret.")),
        assistant(call),
    ]
    write(home.transcript(), [*records, tool_result(call["id"], "done")])
    refresh(db=str(db))
    page = visit(served.url)
    field = page.get_by_role("searchbox", name="What was said")
    field.fill("rollout")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("run `cm search` with any word once")
    assert run_cm("search", "rollout", "--db", db).returncode == 0
    page.reload()
    expect(page.locator(".hits li")).to_have_count(2)
    assert set(page.locator("mark").all_inner_texts()) == {"rollout"}
    assert page.locator("main b, main img").count() == 0
    check_for_screen_readers(page)
    page.set_viewport_size({"width": 380, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == 380
    said = page.locator(".hits li", has_text="kubectl")
    said.get_by_role("link").click()
    expect(page.locator(".tool:target summary")).to_be_visible()
    assert "kubectl rollout restart" in page.locator(".tool:target").inner_text()
    page.goto(f"{served.url}/-/cm/search?q=%2D%3E")
    expect(page.get_by_role("alert")).to_contain_text("no word")
    page.goto(f"{served.url}/-/cm/search?q=nowhere")
    expect(page.get_by_role("status").last).to_have_text("Nothing was said that matches.")


def test_a_session_that_is_not_there_is_a_page_that_says_so(visit: Visit, web: Server):
    page = visit(f"{web.url}/-/cm/session/nobody")
    assert "no session or message begins with nobody" in page.get_by_role("alert").inner_text()
    visit.errors[:] = [error for error in visit.errors if "404" not in error]


def test_a_long_session_comes_a_page_at_a_time(visit: Visit, served: Server, home: Home, db):
    records = []
    for number in range(60):
        records += [user(f"Prompt number {number + 1}."), assistant(text("Done."))]
    write(home.transcript(), records)
    refresh(db=str(db))
    page = visit(f"{served.url}/-/cm/session/5e551000-0000-4000-8000-000000000001")
    assert page.locator(".turn").count() == 25
    check_for_screen_readers(page)
    page.get_by_role("link", name="Later").first.click()
    page.wait_for_selector("#turn-26")
    page.get_by_role("link", name="Later").first.click()
    page.wait_for_selector("#turn-60")
    assert page.get_by_role("link", name="Later").count() == 0
    assert "Turns 51–60 of 60" in page.locator(".pages").first.inner_text()


# One file


def test_the_report_is_the_same_page_without_a_server(visit: Visit, web: Server, demo_index, tmp_path, run_cm: RunCm):
    file = tmp_path / "usage.html"
    run_cm("report", "--html", file, "--since", "all", "--db", demo_index, "--no-refresh")
    page, live = visit(f"file://{file}"), visit(f"{web.url}/?since=all")
    for name in ("Cost", "Tokens", "Responses", "Sessions", "The cache saved"):
        assert figure(page, name) == figure(live, name)
    for name in CHARTS:
        assert page.locator(f"#{name} figure svg[role=img]").count() == 1, name
    page.get_by_text("Tokens", exact=True).first.click()
    page.wait_for_selector("h2:has-text('Daily tokens')")
    page.locator("#daily summary").click()
    page.locator("#daily tbody tr").nth(3).wait_for()
    assert page.locator("main a").count() == 0, "there is nothing that it could lead to"
    links = [link.get_attribute("href") for link in page.locator("a").all()]
    assert all(re.match(r"#|https://observablehq\.com", link) for link in links)


@pytest.mark.parametrize("minutes", [4 * 24 * 60, 50 * 60, 5 * 60, 20, 3, 0.1])
def test_no_two_places_below_a_timeline_are_called_the_same(visit: Visit, served: Server, home: Home, db, minutes):
    times = [at(minutes=minutes * part / 12) for part in range(13)]
    write(home.transcript(), [user("Go on.", timestamp=time) for time in times] + [assistant(timestamp=times[0])])
    refresh(db=str(db))
    page = visit(f"{served.url}/-/cm/session/5e551000-0000-4000-8000-000000000001")
    page.wait_for_selector("#timeline svg text")
    named = page.locator("#timeline svg text", has_text=re.compile(r"\d")).all_text_contents()
    assert len(named) > 1
    assert len(set(named)) == len(named)
