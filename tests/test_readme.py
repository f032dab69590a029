"""The README's examples that go on until they are ended; what the others print is made by running them."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import time
from pathlib import Path

from builders import Home, append, assistant, user, write
from conftest import clean_environment

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_program_that_follows_the_history_is_told_what_is_said(home: Home):
    (code,) = re.findall(r"```python\n((?:(?!```).)*^watch\(tell\)\n)```", README, re.DOTALL | re.MULTILINE)
    write(home.transcript(), [user()])
    program = subprocess.Popen([sys.executable, "-c", code], env=clean_environment(), stdout=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and program.poll() is None:
            append(home.transcript(), [assistant()])  # until it has begun to follow
            time.sleep(0.5)
            if _has_said(program):
                break
        else:
            raise AssertionError("nothing was said")
    finally:
        program.terminate()
        program.wait()


def _has_said(program: subprocess.Popen[str]) -> bool:
    assert program.stdout is not None
    if not select.select([program.stdout], [], [], 0)[0]:
        return False
    assert re.fullmatch(r"\S+Z claude-opus-\S+ Done\.\n", program.stdout.readline())
    return True
