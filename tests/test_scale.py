"""scripts/scale.py: real engines on the exports of made-up hosts say what `cm` says of their merged indexes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT, clean_environment


def run(folder: Path, engine: str, hosts: int, responses: int) -> str:
    """What the script prints; it fails where a number is not equal."""
    sizes = ["--hosts", str(hosts), "--responses", str(responses)]
    command = [sys.executable, str(CHECKOUT / "scripts" / "scale.py"), str(folder), *sizes, "--engines", engine]
    return subprocess.run(command, env=clean_environment(), stdout=subprocess.PIPE, text=True, check=True).stdout


def test_duckdb_on_three_hosts(tmp_path: Path):
    pytest.importorskip("duckdb", reason="duckdb is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    # A session in twenty stands on two hosts: 20 sessions of 100 responses.
    last = run(tmp_path, "duckdb", 3, 2000).splitlines()[-1]
    assert last.startswith("| duckdb | 3 | 6,000 |") and last.endswith(" equal |")


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_spark_cluster_on_two_hosts(tmp_path: Path):
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed")
    last = run(tmp_path, "spark", 2, 2000).splitlines()[-1]
    assert last.startswith("| spark | 2 | 4,000 |") and last.endswith(" equal |")
