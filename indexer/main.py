"""The `cm` command: where errors become one line and an exit code."""

from __future__ import annotations

import gc
import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_PLAIN = {"--json", "--quiet", "-q"}
_HELP = {"-h", "--help"}


def main() -> NoReturn:
    """Runs the command line and exits: 0 done, 1 error, 2 usage, 3 some files failed, 75 locked."""
    from .errors import CmError

    # Whatever is made, also by a library, is for this user alone.
    os.umask(0o077)
    # A start makes many objects and few cycles: looking for some took 2 ms of 60.
    gc.set_threshold(100_000)
    for stream in (sys.stdout, sys.stderr):
        # A locale that lacks a character is no reason to print nothing.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = _run(sys.argv[1:])
        if sys.stdout is not None:  # closed by whoever started this
            sys.stdout.flush()
    except CmError as error:
        code = _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader has what it wanted. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", 1)
    # The interpreter looks for cycles once more before it ends, which took 4 ms of 60; nothing waits for that.
    gc.freeze()
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    from .output import printable

    print(f"cm: {printable(message)}", file=sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["refresh"] and set(arguments[1:]) <= _PLAIN:
        # What cron runs every few minutes: click alone would triple its time.
        from .commands.refresh import run

        quiet = "--quiet" in arguments or "-q" in arguments
        return run(is_quiet=quiet, as_json="--json" in arguments)
    if arguments[:1] == ["statusline"] and not _HELP & set(arguments):
        from .commands.statusline import run as run_statusline

        return run_statusline(arguments[1:])
    from .cli import run_cli

    return run_cli(arguments)


if __name__ == "__main__":
    main()
