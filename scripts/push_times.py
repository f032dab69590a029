#!/usr/bin/env python3
"""Times `cm push` of a whole index into an empty PostgreSQL, again without a change, and after 1,000 more responses.

scripts/push_times.py TRANSCRIPTS… postgresql://me@127.0.0.1/empty    (Claude config directories)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transcripts", type=Path, nargs="+")
    parser.add_argument("url")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        more = Path(folder) / "more" / "projects" / "-more" / "more.jsonl"
        more.parent.mkdir(parents=True)
        more.touch()
        roots = [*options.transcripts, more.parent.parent.parent]
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "CM_DB": f"{folder}/cm.db", "CM_LOG": f"{folder}/log"}
        environment["CM_ROOTS"] = os.pathsep.join(str(root.resolve()) for root in roots)
        cm(environment, "refresh", "--quiet")
        print("| push | rows sent | responses | seconds |\n| --- | --- | --- | --- |")
        for name in ("first", "without a change", "after 1,000 more"):
            if name == "after 1,000 more":
                more.write_text("\n".join(map(response, range(1000))) + "\n")
                cm(environment, "refresh", "--quiet")
            started = time.perf_counter()
            sent = json.loads(cm(environment, "push", options.url, "--no-refresh", "--json"))["rows_sent"]
            seconds = time.perf_counter() - started
            print(f"| {name} | {sum(sent.values()):,} | {sent.get('responses', 0):,} | {seconds:.1f} |", flush=True)


def cm(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "indexer", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def response(n: int) -> str:
    """A line of a transcript; all of one hour, as a busy day's."""
    usage = {
        "input_tokens": n,
        "output_tokens": n + 1,
        "cache_read_input_tokens": 1000,
        "cache_creation_input_tokens": 0,
    }
    message = {"id": f"msg_02{n:022}", "role": "assistant", "model": "claude-opus-4-8", "content": [], "usage": usage}
    common = {"sessionId": "more", "cwd": "/more", "timestamp": f"2026-11-01T10:{n // 60:02}:{n % 60:02}.000Z"}
    return json.dumps({"type": "assistant", "uuid": f"more-{n}", "requestId": f"req_{n}", "message": message} | common)


if __name__ == "__main__":
    main()
