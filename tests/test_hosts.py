"""Machines and users as one more dimension of the reports; what this machine is called."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from builders import SESSION, assistant, tool_result, tool_use, usage, user, write
from conftest import RunCm
from ledger import refresh, rows
from machines import Machines

OPUS, SONNET = "claude-opus-4-5", "claude-sonnet-4-5"


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Sam's laptop, Sam's and Kim's desktops, all in the laptop's index; Sam went on with a session on the desktop."""
    made = Machines(tmp_path, monkeypatch)
    for name, who, host, session, model, output in (
        ("alpha", "sam", "laptop", SESSION, OPUS, 1),
        ("beta", "sam", "desktop", SESSION, SONNET, 10),
        ("gamma", "kim", "desktop", "kims", OPUS, 100),
    ):
        made.use(name)
        monkeypatch.setenv("CM_HOST", host)
        monkeypatch.setenv("CM_USER", who)
        call = tool_use("Bash")
        said = assistant(call, model=model, usage=usage(output=output), sessionId=session)
        write(
            made.home.transcript(session), [user(sessionId=session), said, tool_result(call["id"], sessionId=session)]
        )
        refresh()
    made.merge("alpha", "beta", "gamma")
    made.use("alpha")
    monkeypatch.delenv("CM_HOST")
    monkeypatch.delenv("CM_USER")
    return made


def report(run_cm: RunCm, *arguments: object) -> list[dict[str, Any]]:
    done = run_cm(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def by_host(found: list[dict[str, Any]], what: str = "output_tokens") -> dict[tuple[str, str], Any]:
    return {(row["host"], row["user"]): row[what] for row in found}


EACH = {("laptop", "sam"): 1, ("desktop", "sam"): 10, ("desktop", "kim"): 100}


@pytest.mark.parametrize("name", ["daily", "weekly", "monthly", "hourly", "agents", "blocks", "projects"])
def test_a_report_has_one_row_for_each_machine_and_user_if_asked(machines, run_cm: RunCm, name: str):
    assert [row["output_tokens"] for row in report(run_cm, name)] == [111]
    found = report(run_cm, name, "--by", "host")
    assert by_host(found) == EACH
    assert sum(row["cost_usd"] for row in found) == pytest.approx(report(run_cm, name)[0]["cost_usd"])


def test_models_sessions_and_tools_too(machines, run_cm: RunCm):
    found = report(run_cm, "models", "--by", "host")
    assert {(row["model"], *key): row["output_tokens"] for row in found for key in [(row["host"], row["user"])]} == {
        (OPUS, "laptop", "sam"): 1,
        (SONNET, "desktop", "sam"): 10,
        (OPUS, "desktop", "kim"): 100,
    }
    assert by_host(report(run_cm, "sessions", "--by", "host")) == EACH
    assert by_host(report(run_cm, "tools", "--by", "host"), "calls") == dict.fromkeys(EACH, 1)
    assert [row["calls"] for row in report(run_cm, "tools", "--by", "user")] == [2, 1]


def test_by_user_adds_up_all_machines_of_one(machines, run_cm: RunCm):
    found = report(run_cm, "daily", "--by", "user")
    assert {row["user"]: row["output_tokens"] for row in found} == {"sam": 11, "kim": 100}
    assert "host" not in found[0]


def test_the_parts_of_a_row_are_its_own(machines, run_cm: RunCm):
    for row in report(run_cm, "daily", "--by", "host", "--breakdown"):
        assert [part["output_tokens"] for part in row["breakdown"]] == [row["output_tokens"]]
    for row in report(run_cm, "hosts", "--breakdown"):
        assert [part["output_tokens"] for part in row["breakdown"]] == [row["output_tokens"]]


@pytest.mark.parametrize(
    ("wanted", "output"),
    [("laptop", 1), ("desktop", 110), ("sam", 11), ("kim@desktop", 100), ("KTOP", 110), ("kim@", 100)],
)
def test_only_one_machine_or_user(machines, run_cm: RunCm, wanted: str, output: int):
    for name in ("daily", "models", "tools", "blocks", "hosts"):
        found = report(run_cm, name, "--host", wanted)
        assert sum(row["output_tokens"] for row in found) == output, name


def test_a_machine_that_is_not_there_is_told(machines, run_cm: RunCm):
    done = run_cm("daily", "--host", "tower")
    assert "no host matches tower" in done.stderr
    assert done.returncode == 0


def test_hosts_sums_up_each_machine(machines, run_cm: RunCm):
    assert by_host(report(run_cm, "hosts")) == EACH
    lines = run_cm("hosts", env={"COLUMNS": "120"}).stdout
    for word in ("laptop", "desktop", "kim"):
        assert word in lines


def test_a_table_names_users_only_where_they_differ(machines, run_cm: RunCm):
    assert "kim" in run_cm("daily", "--by", "host", env={"COLUMNS": "140"}).stdout
    assert "User" not in run_cm("daily", "--by", "host", "--host", "sam", env={"COLUMNS": "140"}).stdout


def test_csv_has_both_columns(machines, run_cm: RunCm):
    done = run_cm("daily", "--by", "host", "--csv")
    assert by_host(list(csv.DictReader(done.stdout.splitlines()))) == {key: str(value) for key, value in EACH.items()}


def test_views_name_machine_and_user(machines):
    found = rows("SELECT host, user, output_tokens FROM usage")
    assert by_host(found) == EACH
    found = rows("SELECT host, user, count(*) AS records FROM messages GROUP BY 1, 2")
    assert by_host(found, "records") == dict.fromkeys(EACH, 3)
    assert by_host(rows("SELECT * FROM host_usage")) == EACH


def test_with_one_machine_a_report_is_as_it_was(machines, run_cm: RunCm):
    machines.use("beta")
    found = report(run_cm, "daily")
    assert not {"host", "user"} & set(found[0])
    done = run_cm("daily", env={"CM_HOST": None, "CM_USER": None})
    assert done.returncode == 0 and done.stdout
    assert "desktop" not in done.stdout + done.stderr


def test_names_stay_as_they_were_when_the_index_was_made_unless_the_config_file_has_others(
    machines, tmp_path, monkeypatch, run_cm: RunCm
):
    machines.use("beta")
    monkeypatch.delenv("CM_HOST")
    monkeypatch.delenv("CM_USER")
    refresh()
    assert rows("SELECT name, user FROM hosts") == [{"name": "desktop", "user": "sam"}]
    file = tmp_path / "config.toml"
    file.write_text('host = "tower"\nuser = "samantha"\n')
    monkeypatch.setenv("CM_CONFIG", str(file))
    refresh()
    assert rows("SELECT name, user FROM hosts") == [{"name": "tower", "user": "samantha"}]
    assert f"{file}:1" in run_cm("config").stdout
    file.write_text("host = 5\n")
    done = run_cm("refresh")
    assert done.returncode == 1
    assert f"{file}:1: host must be a name" in done.stderr


def test_explain_says_on_which_machine_a_line_is(machines, run_cm: RunCm):
    done = run_cm("explain", "kims")
    assert ".jsonl:2 on kim@desktop\n" in done.stdout
    machines.use("beta")
    assert " on " not in run_cm("explain", SESSION, env={"CM_HOST": None, "CM_USER": None}).stdout.partition("price")[0]
