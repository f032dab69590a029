"""What programs get from `cm serve`: totals, metrics, health, and the pages' files."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import pytest
from builders import Home, append, assistant, usage, user, write
from conftest import CHECKOUT, RunCm, clean_environment
from webserver import Server, serving

prometheus = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")

STATS, METRICS, HEALTH = "/-/cm/stats.json", "/-/cm/metrics", "/-/cm/health"


def samples(text: str) -> dict[str, list]:
    return {family.name: family.samples for family in prometheus.text_string_to_metric_families(text)}


def total(found: list, **labels: str) -> float:
    return math.fsum(sample.value for sample in found if labels.items() <= sample.labels.items())


# Totals


def test_stats_are_what_the_command_prints(web: Server, demo_index: Path, run_cm: RunCm):
    printed = run_cm("stats", "--json", "--no-refresh", "--db", demo_index).stdout
    reply = web.get(STATS)
    assert reply.headers["content-type"].startswith("application/json")
    assert reply.text == printed
    assert reply.json["messages_count"] > 100


def test_the_metrics_are_those_totals(web: Server):
    stats, reply = web.get(STATS).json, web.get(METRICS)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(reply.text)
    for kind in ("input", "output", "cache_creation", "cache_read"):
        assert total(found["cm_tokens"], kind=kind) == stats[f"total_{kind}_tokens"]
    assert total(found["cm_cost_usd"]) == pytest.approx(stats["total_cost"])
    assert total(found["cm_responses"]) == stats["messages_count"]
    assert total(found["cm_sessions"]) == stats["conversations_count"]
    assert {sample.labels["project"] for sample in found["cm_sessions"]} == set(stats["project_breakdown"])


def test_a_project_with_a_strange_name_does_not_break_the_metrics(home: Home, run_cm: RunCm, db: Path):
    strange = '/tmp/a "quoted"\\back\nslash{x="y"}'
    write(home.transcript(), [user(cwd=strange), assistant(cwd=strange, model="claude-zeta-99")])
    assert run_cm("refresh", "--quiet").returncode == 0
    with serving(db) as server:
        found = samples(server.get(METRICS).text)
    assert {sample.labels["project"] for sample in found["cm_tokens"]} == {strange}
    assert total(found["cm_unpriced_tokens"], model="claude-zeta-99") == 30
    assert not found["cm_cost_usd"]


# While nothing changes, and when something does


@pytest.mark.parametrize("path", [STATS, METRICS])
def test_who_has_it_already_gets_nothing_again(web: Server, path):
    first = web.get(path)
    for tag in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = web.get(path, {"If-None-Match": tag})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert web.get(path, {"If-None-Match": '"other"'}).body == first.body


def test_a_head_is_the_same_without_its_body(web: Server):
    reply = web.get(STATS, method="HEAD")
    assert (reply.status, reply.body, reply.headers["etag"]) == (200, b"", web.get(STATS).headers["etag"])


@pytest.mark.parametrize("path", [STATS, METRICS])
def test_nothing_can_be_posted(web: Server, path):
    assert web.get(path, method="POST", body="{}").status in (403, 405)


def test_a_refresh_is_seen_at_once_and_one_that_finds_nothing_changes_no_totals(home: Home, run_cm: RunCm, db: Path):
    write(home.transcript(), [user(), assistant(usage=usage(10, 20))])
    run_cm("refresh", "--quiet")
    with serving(db) as server:
        first = server.get(STATS)
        assert first.json["total_output_tokens"] == 20
        run_cm("refresh", "--quiet")
        assert server.get(STATS, {"If-None-Match": first.headers["etag"]}).status == 304
        append(home.transcript(), [assistant(usage=usage(10, 300))])
        run_cm("refresh", "--quiet")
        second = server.get(STATS, {"If-None-Match": first.headers["etag"]})
        assert (second.status, second.json["total_output_tokens"]) == (200, 320)
        assert total(samples(server.get(METRICS).text)["cm_tokens"], kind="output") == 320


REFRESHING = """
import os, sys, indexer
while not os.path.exists(sys.argv[1]):
    indexer.refresh(full=True)
    print("refreshed", flush=True)
"""


def test_200_requests_while_refreshes_write_and_neither_disturbs_the_other(home: Home, db: Path, tmp_path: Path):
    for number in range(5):
        write(home.transcript(f"5e551000-0000-4000-8000-{number:012}"), [assistant() for _ in range(20)])
    enough = tmp_path / "enough"
    writer = subprocess.Popen(
        [sys.executable, "-c", REFRESHING, str(enough)], env=clean_environment(), stdout=PIPE, stderr=PIPE, text=True
    )
    assert writer.stdout is not None and writer.stdout.readline() == "refreshed\n"
    pages = [STATS, "/cm/records?_size=20", "/cm/usage.json?_size=20", METRICS, "/cm/daily_usage", HEALTH, "/", "/cm"]
    with serving(db) as server, ThreadPoolExecutor(4) as readers:
        replies = list(readers.map(server.get, pages * 25))
        assert writer.poll() is None
        enough.touch()
        refreshed, problems = writer.communicate(timeout=60)
    assert (writer.returncode, problems) == (0, "")
    assert refreshed.count("refreshed") > 5
    assert [reply.status for reply in replies] == [200] * 200
    assert {reply.json["messages_count"] for reply in replies[:: len(pages)]} == {100}


# Health


def test_a_whole_index_is_well(web: Server):
    reply = web.get(HEALTH)
    assert (reply.status, reply.json["status"]) == (200, "ok")
    assert reply.json["last_refresh"]["age_seconds"] >= 0
    assert reply.headers["cache-control"] == "no-store"


def test_an_index_that_is_not_complete_newer_or_gone_is_not(home: Home, run_cm: RunCm, db: Path):
    write(home.transcript(), [user(), assistant()])
    run_cm("refresh", "--quiet")
    with serving(db) as server:
        change(db, "INSERT INTO meta VALUES ('is_loading', '1')")
        reply = server.get(HEALTH)
        assert (reply.status, reply.json["status"]) == (503, "loading")
        change(db, "PRAGMA user_version = 1000")
        reply = server.get(HEALTH)
        assert (reply.status, reply.json["status"]) == (503, "unusable")
        assert "newer cm" in reply.json["error"]
        assert (server.get(STATS).status, "newer cm" in server.get(STATS).json["error"]) == (503, True)
        db.unlink()
        assert server.get(HEALTH).status == 503
        assert "Traceback" not in server.talk


def change(db: Path, sql: str) -> None:
    connection = sqlite3.connect(db)
    connection.execute(sql)
    connection.commit()
    connection.close()


# Files


def test_a_file_of_the_pages_is_kept_for_good_by_its_version(web: Server):
    page = web.get("/").text
    address = page.split('href="/-/cm/static/')[1].partition('"')[0]
    reply = web.get(f"/-/cm/static/{address}")
    assert reply.status == 200 and "max-age=31536000" in reply.headers["cache-control"]
    name = address.partition("?")[0]
    assert "max-age=0" in web.get(f"/-/cm/static/{name}").headers["cache-control"]
    assert web.get(f"/-/cm/static/{name}", {"If-None-Match": reply.headers["etag"]}).status == 304


@pytest.mark.parametrize("name", ["nothing.js", "..", "../guard.py", "%2e%2e%2fguard.py", "..%2fguard.py", ".", ""])
def test_there_is_no_way_to_other_files(web: Server, name):
    assert web.get(f"/-/cm/static/{name}").status == 404


def test_every_file_of_the_pages_has_its_type(web: Server):
    files = [file.name for file in (CHECKOUT / "indexer/web/static").iterdir()]
    types = {web.get(f"/-/cm/static/{name}").headers["content-type"] for name in files}
    assert types and "application/octet-stream" not in types
