"""The README beside an export: its lines are run as they stand there, and say what `cm` says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from builders import assistant, usage, write
from conftest import clean_environment
from hosts import Machine, ask, machines, need

from indexer import export, store
from indexer.facts import Options

need("pyarrow")

Lines = Callable[[str], str]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """What a machine wrote that has a history in October and in November."""
    (machine,) = machines(tmp_path, ["anvil"])
    counts = {"2026-10-31T12:00:00Z": 1111, "2026-11-01T12:00:00Z": 2222, "2026-11-02T12:00:00Z": 4444}
    write(machine.home.transcript(), [assistant(usage=usage(output=n), timestamp=at) for at, n in counts.items()])
    machine.index()
    assert said_by_cm(machine) == [("2026-10-31", 1111), ("2026-11-01", 2222), ("2026-11-02", 4444)]
    with closing(store.open_reader(str(machine.db))) as connection:
        export.export(connection, str(machine.db), str(tmp_path / "out"), Options())
    return tmp_path / "out"


def said_by_cm(machine: Machine) -> list[tuple[str, int]]:
    return ask(machine.db, "SELECT day, output_tokens FROM daily_usage ORDER BY day")


@pytest.fixture
def lines(exported: Path) -> Lines:
    """The part of the README that begins so, up to the next empty line, of this directory."""

    def find(begin: str) -> str:
        text = (exported / "README.md").read_text()
        found = re.search(rf"^{re.escape(begin)}.*?(?=\n\n|\n```)", text, re.MULTILINE | re.DOTALL)
        assert found, begin
        return found[0].replace("DIRECTORY", str(exported))

    return find


def shell(lines: str, program: str, prompt: str) -> str:
    """What a program says that is started as the first line says, to what is asked in the second."""
    if shutil.which(program, path=path()) is None:
        pytest.skip(f"{program} is not installed")
    start, question = (line.partition("#")[0] for line in lines.splitlines()[:2])
    environment = clean_environment() | {"PATH": path(), "SPARK_LOCAL_IP": "127.0.0.1"}
    command, asked = ["sh", "-c", start.removeprefix("$ ")], question.removeprefix(prompt)
    return subprocess.run(
        command, input=f"{asked}\n", env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def path() -> str:
    """Where pip installs programs, first."""
    return f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"


def python(lines: str, shown: str = "", folder: Path | None = None) -> str:
    """What another Python prints of these lines."""
    program = f"{lines}\n{shown}"
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(
        command, cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def test_the_command_line_of_duckdb(lines: Lines):
    said = shell(lines("$ cd DIRECTORY && duckdb"), "duckdb", "D ")
    days = re.findall("(2026-[0-9-]+).*?(1111|2222|4444)", said)
    assert days == [("2026-11-02", "4444"), ("2026-11-01", "2222"), ("2026-10-31", "1111")]


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_command_line_of_spark(lines: Lines):
    if shutil.which("java") is None:
        pytest.skip("Java is not installed")
    said = shell(lines("$ cd DIRECTORY && spark-sql"), "spark-sql", "spark-sql> ")
    assert "anvil\tdev" in said and "7777" in said


def test_duckdb_in_python(lines: Lines):
    need("duckdb")
    assert "7777" in python(
        lines("import duckdb"), "print(db.sql('SELECT output_tokens FROM project_usage').fetchall())"
    )


def test_clickhouse(lines: Lines, exported: Path):
    need("chdb")
    query = lines("-- ClickHouse")
    assert "7777" in python(f"import chdb\nprint(chdb.query({query!r}, 'CSV'))", folder=exported)


def test_polars(lines: Lines):
    need("polars")
    *imports, frame = lines("import polars").splitlines()
    assert python("\n".join(imports), f"print({frame}.collect()['output_tokens'].sum())") == "6666\n"


def test_pandas(lines: Lines):
    need("pandas")
    *imports, frame = lines("import pandas").splitlines()
    assert python("\n".join(imports), f"print({frame}['output_tokens'].sum())") == "6666\n"
