"""`cm export`: what many machines write side by side, DuckDB reads as if it had all been on one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from builders import SESSION, Home, append, assistant, text, title, tool_result, tool_use, usage, user, write
from conftest import CHECKOUT, RunCm, clean_environment
from hosts import (
    DAILY,
    SHARED,
    STATS_ELSEWHERE,
    Machine,
    Rows,
    a_real_team,
    a_team,
    ask,
    index_of_all,
    index_of_merged,
    machines,
    plain,
    stats,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_keep import configure

from indexer import erasure, export, store
from indexer.facts import VERSION, Options

duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


def write_out(machine: Machine, directory: Path, *options: bool) -> dict[str, Any]:
    connection = store.open_reader(str(machine.db))
    try:
        return export.export(connection, str(machine.db), str(directory), Options(*options))
    finally:
        connection.close()


def answer(directory: Path, *queries: str) -> Rows:
    """What DuckDB says to the last of the queries, after the views were made."""
    with closing(duckdb.connect()) as connection:
        connection.execute(f"SET file_search_path = '{directory}'")
        connection.execute((directory / "views.sql").read_text())
        for query in queries:
            connection.execute(query)
        return plain(connection.fetchall())


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def stamps(directory: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again."""
    found = {str(path.relative_to(directory)): path.stat() for path in directory.rglob("*.parquet")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


# The numbers


def test_the_views_give_the_numbers_of_one_index_of_all_hosts(tmp_path: Path):
    team = a_team(tmp_path / "team")
    for machine in team:
        write_out(machine, tmp_path / "out")
    everything = index_of_all(team, tmp_path / "all.db")
    assert answer(tmp_path / "out", STATS_ELSEWHERE) == stats(everything)
    assert answer(tmp_path / "out", DAILY) == ask(everything, DAILY)
    naive = answer(tmp_path / "out", "SELECT sum(output_tokens) FROM responses")[0][0]
    assert naive > answer(tmp_path / "out", "SELECT sum(output_tokens) FROM usage")[0][0]


def test_they_are_the_numbers_of_merged_indexes(tmp_path: Path):
    team = a_team(tmp_path / "team")
    for machine in team:
        write_out(machine, tmp_path / "out")
    merged = index_of_merged([team[1], team[2], team[0]], tmp_path / "merged.db")
    assert answer(tmp_path / "out", STATS_ELSEWHERE) == stats(merged)
    assert answer(tmp_path / "out", DAILY) == ask(merged, DAILY)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_real_transcripts_too(tmp_path: Path):
    team = a_real_team(tmp_path / "team")
    for machine in team:
        write_out(machine, tmp_path / "out")
    everything = index_of_all(team, tmp_path / "all.db")
    assert answer(tmp_path / "out", STATS_ELSEWHERE) == stats(everything)
    assert answer(tmp_path / "out", DAILY) == ask(everything, DAILY)


def test_searches_count_where_the_call_stands_on_one_host_and_its_result_on_another(tmp_path: Path):
    call = tool_use("WebSearch")
    asking, told = assistant(call), tool_result(call["id"], result={"searchCount": 100})
    for machine, record in zip(machines(tmp_path, "ab"), (asking, told), strict=True):
        write(machine.home.transcript(), [record])
        machine.index()
        write_out(machine, tmp_path / "out")
    (row,) = answer(tmp_path / "out", "SELECT web_searches, web_search_cost_usd FROM usage")
    assert row == (100, 1)


def test_daily_usage_is_by_the_zone_of_the_reference_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CM_TIMEZONE", "Asia/Kathmandu")
    (machine,) = machines(tmp_path, "a")
    times = ("2026-10-01T18:14:59Z", "2026-10-01T18:15:00Z")  # midnight in Kathmandu
    write(machine.home.transcript(), [assistant(timestamp=time) for time in times])
    machine.index()
    write_out(machine, tmp_path / "out")
    days = "SELECT day, responses FROM daily_usage ORDER BY day"
    assert answer(tmp_path / "out", days) == [("2026-10-01", 1), ("2026-10-02", 1)]
    in_utc = "SELECT day_utc, responses FROM daily_usage_utc"
    assert answer(tmp_path / "out", in_utc) == [("2026-10-01", 2)]


def test_prices_are_those_of_the_reference_host_and_another_can_be_taken(tmp_path: Path):
    prices = Path(os.environ["XDG_CONFIG_HOME"]) / "cm" / "prices.toml"
    prices.parent.mkdir(parents=True)
    for machine, rate in zip(machines(tmp_path, "ab"), (1, 2), strict=True):
        prices.write_text(f'[[price]]\nmodel = "mine"\ninput = {rate}\noutput = 0\n')
        write(machine.home.transcript(), [assistant(model="mine", usage=usage(1_000_000, 5))])
        machine.index()
        write_out(machine, tmp_path / "out")
    cost = "SELECT sum(cost_usd) FROM usage"
    assert answer(tmp_path / "out", "SELECT * FROM reference_host") == [("a", "dev")]
    assert answer(tmp_path / "out", cost) == [(2,)]
    other = "CREATE OR REPLACE VIEW reference_host AS SELECT 'b' AS host, 'dev' AS user_name"
    assert answer(tmp_path / "out", other, cost) == [(4,)]


RECORDS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 400), st.booleans(), st.integers(0, 2), st.sampled_from((1, 2, 3))),
    min_size=1,
    max_size=12,
)


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(RECORDS)
def test_it_does_not_matter_on_which_host_a_record_stands(
    tmp_path_factory: pytest.TempPathFactory, drawn: Sequence[tuple[int, int, bool, int, int]]
):
    """Records of few responses, on the first host, the second or both, in one of three sessions, at few times."""
    folder = tmp_path_factory.mktemp("hosts")
    team = machines(folder, "ab")
    parts: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for n, (response, output, is_sidechain, session, places) in enumerate(drawn):
        name = f"5e551000-0000-4000-8000-00000000020{session}"
        record = assistant(
            id=f"msg_01{response:022}", requestId=None, uuid=f"00000000-0000-4000-8000-{n:012}", sessionId=name,
            usage=usage(output, output + n), isSidechain=is_sidechain, timestamp=f"2026-10-0{1 + output % 2}T00:00:00Z",
            model=("claude-opus-4-5", "claude-haiku-4-5")[n % 2],
        )  # fmt: skip
        for place in (0, 1):
            if places & 1 << place:
                parts.setdefault((place, name), []).append(record)
    for (place, name), records in parts.items():
        write(team[place].home.transcript(name), records)
    there = [machine for place, machine in enumerate(team) if any(place == other for other, _ in parts)]
    for machine in there:
        machine.index()
        write_out(machine, folder / "out")
    everything = index_of_all(there, folder / "all.db")
    assert answer(folder / "out", STATS_ELSEWHERE) == stats(everything)
    assert answer(folder / "out", DAILY) == ask(everything, DAILY)


# What is written


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine whose history is in two months."""
    (found,) = machines(tmp_path, ["anvil"])
    write(
        found.home.transcript(), [user("A secret plan", gitBranch="private"), assistant(text("Told")), title("Titled")]
    )
    old = [assistant(timestamp=f"2026-09-0{day}T10:00:00Z", sessionId=SHARED) for day in (1, 2)]
    write(found.home.transcript(SHARED), old)
    found.index()
    return found


def test_each_host_writes_its_own_partitions(machine: Machine, tmp_path: Path):
    write_out(machine, tmp_path / "out")
    written = {name for name in files(tmp_path / "out") if name.startswith("responses")}
    assert written == {f"responses/month=2026-{month}/host=anvil/dev.parquet" for month in ("09", "10")}


def test_many_hosts_export_into_one_directory_at_once(tmp_path: Path):
    team = machines(tmp_path / "team", [f"host-{n}" for n in range(6)])
    writing = []
    for machine in team:
        write(machine.home.transcript(), [assistant()])
        machine.index()
        command = [sys.executable, "-m", "indexer", "export", str(tmp_path / "out"), "--no-refresh"]
        writing.append(subprocess.Popen(command, env=clean_environment(of(machine)), cwd=CHECKOUT))
    assert [process.wait(timeout=100) for process in writing] == [0] * 6
    assert answer(tmp_path / "out", "SELECT count(DISTINCT host) FROM usage") == [(6,)]
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_the_same_index_gives_the_same_bytes(machine: Machine, tmp_path: Path):
    for name in ("one", "two"):
        write_out(machine, tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_only_the_partitions_that_changed_are_written(machine: Machine, tmp_path: Path):
    write_out(machine, tmp_path / "out")
    before = stamps(tmp_path / "out")
    found = write_out(machine, tmp_path / "out")
    assert (found["partitions_written"], stamps(tmp_path / "out")) == (0, before)
    append(machine.home.transcript(), [assistant()])
    machine.index()
    write_out(machine, tmp_path / "out")
    after = stamps(tmp_path / "out")
    changed = {name.split("/host")[0] for name in after if before.get(name) != after[name]}
    assert changed == {
        f"{table}/month=2026-10" for table in ("messages", "records", "responses", "tool_calls", "tool_results")
    }


def test_an_export_that_went_on_is_the_export_of_the_index_as_it_is(machine: Machine, tmp_path: Path):
    write_out(machine, tmp_path / "out")
    write(machine.home.transcript(), [assistant(timestamp="2026-11-01T00:00:00Z")])  # rewritten: what it said stays
    write(machine.home.transcript(SHARED), [assistant(timestamp="2026-08-01T00:00:00Z", sessionId=SHARED)])
    machine.index()
    write_out(machine, tmp_path / "out")
    write_out(machine, tmp_path / "new")
    assert files(tmp_path / "out") == files(tmp_path / "new")


def test_what_an_older_cm_wrote_is_written_anew(machine: Machine, tmp_path: Path):
    write_out(machine, tmp_path / "out")
    whole, before = files(tmp_path / "out"), stamps(tmp_path / "out")
    views, manifest = tmp_path / "out/views.sql", tmp_path / "out/_manifests/host=anvil/dev.json"
    views.write_text(whole["views.sql"].decode().replace(f"format {VERSION}.", f"format {VERSION - 1}."))
    manifest.write_text(manifest.read_text().replace(f'"format": {VERSION}', f'"format": {VERSION - 1}'))
    found = write_out(machine, tmp_path / "out")
    assert (found["partitions_written"], found["partitions_unchanged"]) == (len(before), 0)
    assert before.items().isdisjoint(stamps(tmp_path / "out").items())
    assert files(tmp_path / "out") == whole


def test_a_month_without_rows_is_taken_away_whatever_the_manifest_knows(machine: Machine, tmp_path: Path):
    write_out(machine, tmp_path / "out")
    left = tmp_path / "out" / "records" / "month=2026-08" / "host=anvil"
    left.mkdir(parents=True)
    shutil.copy(next((tmp_path / "out").glob("records/*/*/dev.parquet")), left / "dev.parquet")
    shutil.copy(left / "dev.parquet", left / "another.parquet")
    assert write_out(machine, tmp_path / "out")["partitions_removed"] == 1
    assert [path.name for path in left.iterdir()] == ["another.parquet"]


def test_a_file_that_was_lost_or_cut_short_is_written_again(machine: Machine, tmp_path: Path):
    write_out(machine, tmp_path / "out")
    whole = files(tmp_path / "out")
    lost, cut = sorted((tmp_path / "out").glob("messages/*/*/dev.parquet"))
    lost.unlink()
    cut.write_bytes(b"PAR1")
    assert write_out(machine, tmp_path / "out")["partitions_written"] == 2
    assert files(tmp_path / "out") == whole


KILLED = """
import os, sys
from indexer import export, store
from indexer.facts import Options

replace, left = os.replace, int(sys.argv[3])

def replace_or_die(*names):
    global left
    if not left:
        os.kill(os.getpid(), 9)
    left -= 1
    replace(*names)

os.replace = replace_or_die
connection = store.open_reader(sys.argv[1])
export.export(connection, sys.argv[1], sys.argv[2], Options())
"""


def test_killed_before_any_rename_the_next_export_ends_the_work(machine: Machine, tmp_path: Path):
    write_out(machine, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    renames = len(whole)
    for left in {0, 3, 4, renames // 2, renames - 1}:
        out = tmp_path / f"out-{left}"
        command = [sys.executable, "-c", KILLED, str(machine.db), str(out), str(left)]
        assert subprocess.run(command, env=clean_environment(), cwd=CHECKOUT, check=False).returncode == -9
        found = sorted(out.rglob("*.parquet"))
        assert bool(found) == (left > 3)  # what is no table comes first
        for path in found:
            assert whole[str(path.relative_to(out))] == path.read_bytes()
        write_out(machine, out)
        assert {name: data for name, data in files(out).items() if not name.endswith(".partial")} == whole


def test_a_merged_host_is_not_exported(tmp_path: Path):
    team = a_team(tmp_path / "team")
    everything = index_of_all(team, tmp_path / "all.db")
    write_out(Machine("anvil", team[0].home, everything), tmp_path / "from-all")
    write_out(team[0], tmp_path / "own")
    for table in ("records", "messages", "tool_calls", "tool_results"):
        changed = "EXCLUDE (file_id) REPLACE (CAST(occurred_at AS VARCHAR) AS occurred_at)"
        rows = f"SELECT * {changed} FROM {table} ORDER BY ALL"
        assert answer(tmp_path / "from-all", rows) == answer(tmp_path / "own", rows)


def test_two_users_of_one_machine_and_names_that_are_no_file_names(tmp_path: Path):
    odd = "a b/c=d%ü"
    team = machines(tmp_path, [odd, odd])
    for machine, name in zip(team, ("../x", "y'z"), strict=True):
        write(machine.home.transcript(), [assistant()])
        machine.index(name)
        write_out(machine, tmp_path / "out")
    found = answer(tmp_path / "out", "SELECT host, user_name, responses FROM host_usage ORDER BY user_name")
    assert found == [(odd, "../x", 1), (odd, "y'z", 1)]


def test_a_table_without_rows_can_be_read(tmp_path: Path):
    (machine,) = machines(tmp_path, ["bare"])
    write(machine.home.transcript(), [user()])
    machine.index()
    write_out(machine, tmp_path / "out")
    assert answer(tmp_path / "out", "SELECT count(*) FROM usage") == [(0,)]
    append(machine.home.transcript(), [assistant()])
    machine.index()
    write_out(machine, tmp_path / "out")
    assert answer(tmp_path / "out", "SELECT count(*) FROM usage") == [(1,)]
    assert not list((tmp_path / "out").glob("records/month=none/*/*"))


# What is kept back


def values(directory: Path) -> str:
    """All that any file says, its names included."""
    rows = [parquet.read_table(path, partitioning=None).to_pylist() for path in sorted(directory.rglob("*.parquet"))]
    return repr(rows) + repr(sorted(files(directory))) + "".join(path.read_text() for path in directory.rglob("*.json"))


def test_no_text_leaves_the_index_unless_asked_for(machine: Machine, tmp_path: Path):
    write_out(machine, tmp_path / "out")
    assert not any(words in values(tmp_path / "out") for words in ("secret plan", "Told", "Titled"))
    write_out(machine, tmp_path / "out", True)
    assert all(words in values(tmp_path / "out") for words in ("secret plan", "Told", "Titled"))
    write_out(machine, tmp_path / "out")
    assert "secret plan" not in values(tmp_path / "out")


@pytest.mark.parametrize("taken_out", ["forgotten", "redacted", "switched off"])
def test_what_is_taken_out_of_the_index_is_in_no_later_export(machine: Machine, tmp_path: Path, taken_out: str):
    write_out(machine, tmp_path / "out", True)
    if taken_out == "forgotten":
        erasure.forget(str(machine.db), [SESSION])
    elif taken_out == "redacted":
        erasure.redact(str(machine.db), ("secret plan", "Told", "Titled"))
    else:
        configure("text = false")
        machine.index()
    write_out(machine, tmp_path / "out", True)
    assert not any(words in values(tmp_path / "out") for words in ("secret plan", "Told", "Titled"))
    assert write_out(machine, tmp_path / "out", True)["partitions_written"] == 0


def test_anonymised_paths_and_branches_still_group_and_join(tmp_path: Path):
    team = a_team(tmp_path / "team")
    for machine in team:
        write_out(machine, tmp_path / "out", False, True)
        write_out(machine, tmp_path / "plain")
    hidden = ("/home", "dev/", "secret-", str(tmp_path))
    assert not any(words in values(tmp_path / "out") for words in hidden)
    sums = "SELECT {}, sum(output_tokens), sum(cost_usd) FROM usage GROUP BY 1 ORDER BY 2, 3"
    counted = [row[1:] for row in answer(tmp_path / "out", sums.format("project"))]
    assert counted == [row[1:] for row in answer(tmp_path / "plain", sums.format("project"))]


def test_what_tools_were_given_is_text_or_a_path_too(tmp_path: Path):
    (machine,) = machines(tmp_path, ["anvil"])
    calls = [tool_use("SlashCommand", command="/ask secret plan"), tool_use("Edit", file_path="/home/dev/plan.py")]
    write(machine.home.transcript(), [assistant(*calls), assistant(tool_use("Task", subagent_type="Explore"))])
    machine.index()
    subjects = "SELECT subject FROM tool_calls ORDER BY 1"
    write_out(machine, tmp_path / "out")
    assert answer(tmp_path / "out", subjects) == [("/ask",), ("/home/dev/plan.py",), ("Explore",)]
    write_out(machine, tmp_path / "out", True)
    assert answer(tmp_path / "out", subjects)[0] == ("/ask secret plan",)
    write_out(machine, tmp_path / "out", False, True)
    assert "plan" not in values(tmp_path / "out")
    assert {("/ask",), ("Explore",)} < set(answer(tmp_path / "out", subjects))


def test_with_another_key_digests_are_others(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    digests = set()
    for key in ("", "a long key", "another key"):
        monkeypatch.setenv("CM_ANONYMISE_KEY", key)
        write_out(machine, tmp_path / "out", False, True)
        digests.add(answer(tmp_path / "out", "SELECT project FROM project_usage")[0][0])
        assert key == "" or key not in (tmp_path / "out/_manifests/host=anvil/dev.json").read_text()
    assert len(digests) == 3


# The command


def of(machine: Machine) -> dict[str, str]:
    """The environment in which `cm` is that machine's."""
    return {"CM_DB": str(machine.db), "CLAUDE_CONFIG_DIR": str(machine.home.root)}


def test_the_command_says_what_it_wrote(home: Home, tmp_path: Path, run_cm: RunCm):
    write(home.transcript(), [assistant()])
    done = run_cm("export", tmp_path / "out", "--json")
    found = json.loads(done.stdout)
    assert (found["partitions_written"], found["partitions_unchanged"]) == (11, 0)
    again = run_cm("export", tmp_path / "out")
    assert (again.returncode, again.stderr) == (0, "")
    assert "0 files written, 11 as they were" in again.stdout


def test_what_a_newer_cm_wrote_is_left_alone(machine: Machine, tmp_path: Path, run_cm: RunCm):
    write_out(machine, tmp_path / "out")
    views = tmp_path / "out" / "views.sql"
    views.write_text(views.read_text().replace(f"format {VERSION}.", "format 99.", 1))
    before = files(tmp_path / "out")
    done = run_cm("export", tmp_path / "out", "--no-refresh", env=of(machine))
    assert (done.returncode, done.stdout) == (1, "")
    assert "newer cm" in done.stderr and done.stderr.count("\n") == 1
    assert files(tmp_path / "out") == before


def test_without_pyarrow_it_says_what_to_install(home: Home, tmp_path: Path, run_cm: RunCm):
    write(home.transcript(), [assistant()])
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "pyarrow.py").write_text("raise ImportError")
    done = run_cm("export", tmp_path / "out", env={"PYTHONPATH": f"{tmp_path / 'lib'}{os.pathsep}{CHECKOUT}"})
    assert (done.returncode, done.stdout) == (1, "")
    assert "-m pip install pyarrow`" in done.stderr and done.stderr.count("\n") == 1


def test_a_directory_that_cannot_be_written_is_one_line(machine: Machine, tmp_path: Path, run_cm: RunCm):
    (tmp_path / "file").write_text("")
    done = run_cm("export", tmp_path / "file" / "out", "--no-refresh", env=of(machine))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_one_export_at_a_time(machine: Machine, tmp_path: Path, run_cm: RunCm):
    with store.Lock(str(machine.db), of="export"):
        done = run_cm("export", tmp_path / "out", "--no-refresh", env=of(machine))
    assert done.returncode == 75
    assert "another export" in done.stderr
