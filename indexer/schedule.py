"""What keeps the index current by itself: a line for cron, units for systemd, an agent for launchd."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

from .errors import BadInput, CmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = ("cron", "systemd", "launchd")
# What is ours is known by this, and nothing else is touched.
MARK = "made by cm schedule"
_CRON_MARK = "# cm schedule"
_UNIT = "cm-refresh"
_LABEL = "cm.refresh"

MINUTE, HOUR, DAY = 60, 3_600, 86_400
# A job has next to no environment: what decides where things are goes with it.
_FILES = ("CM_DB", "CM_LOG", "CM_CONFIG", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
_LISTS = {"CM_ROOTS": os.pathsep, "CLAUDE_CONFIG_DIR": ","}
_TEXTS = ("CM_LOG_LEVEL", "CM_TIMEZONE", "CM_START_OF_WEEK", "CM_WORKERS", "CM_HOST", "CM_USER", "TZ")
# cron cuts off the rest of a longer command.
_CRON_LENGTH = 950


class Job(NamedTuple):
    """A command with its environment, to be run every so many seconds."""

    command: list[str]
    environment: dict[str, str]
    seconds: int


class Document(NamedTuple):
    """Something of the system's that a schedule stands in: a file, or the user's crontab; "" is none."""

    name: str
    before: str
    after: str


def seconds(every: str) -> int:
    """Seconds of a span such as 30s, 5m, 2h or 1d. Raises BadInput."""
    found = re.fullmatch(r"([1-9]\d{0,5})([smhd])", every)
    if found is None:
        raise BadInput(f"--every {every}: give a number and s, m, h or d, such as 5m")
    return int(found[1]) * {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY}[found[2]]


def job(every: str, db: str | None = None, roots: Sequence[str] = ()) -> Job:
    """`cm refresh` by the program that runs now, for the places it would use now. Raises BadInput."""
    options = ["--db", _absolute(db)] if db else []
    for root in roots:
        options += ["--root", _absolute(root)]
    made = Job([*_program(), "refresh", "--quiet", *options], _environment(), seconds(every))
    for text in (*made.command, *made.environment.values()):
        if not text.isprintable():
            raise BadInput(f"{text!r}: no schedule can hold a path with control characters; name another")
    return made


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _program() -> list[str]:
    script = _absolute(sys.argv[0])
    is_script = os.path.basename(script) == "cm" and os.access(script, os.X_OK)
    return [script] if is_script else [sys.executable, "-P", "-m", str(__package__)]


def _environment() -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if value}
    found = {name: _absolute(given[name]) for name in _FILES if name in given}
    for name, separator in _LISTS.items():
        if name in given:
            parts = (part.strip() for part in given[name].split(separator))
            found[name] = separator.join(_absolute(part) for part in parts if part)
    found |= {name: given[name] for name in _TEXTS if name in given}
    if os.path.expanduser("~") != _home():
        found["HOME"] = os.path.expanduser("~")
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if _program()[0] == sys.executable and os.path.basename(folder) not in ("site-packages", "dist-packages"):
        found["PYTHONPATH"] = folder
    return found


def _home() -> str:
    """The home that a job gets."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


# What each of them reads


def cron_line(job: Job) -> str:
    """The job as a line of a crontab. Raises BadInput: cron cannot express how often."""
    words = [f"{name}={shlex.quote(value)}" for name, value in job.environment.items()]
    # cron makes a line end of every other percent sign.
    command = " ".join([*words, shlex.join(job.command)]).replace("%", r"\%")
    if len(command) > _CRON_LENGTH:
        raise BadInput(f"the command has {len(command)} characters, too many for cron: shorten it with CM_CONFIG")
    return f"{_cron_times(job.seconds)} {command} {_CRON_MARK}\n"


def _cron_times(seconds: int) -> str:
    minutes, hours = seconds // MINUTE, seconds // HOUR
    if seconds % MINUTE == 0 and minutes < 60 and 60 % minutes == 0:
        return "* * * * *" if minutes == 1 else f"*/{minutes} * * * *"
    if seconds % HOUR == 0 and hours <= 24 and 24 % hours == 0:
        return {1: "0 * * * *", 24: "0 0 * * *"}.get(hours, f"0 */{hours} * * *")
    raise BadInput("cron can only divide an hour or a day evenly: take --every 5m, 15m, 1h, 6h or the like")


def systemd_units(job: Job) -> dict[str, str]:
    """A service and its timer, by the names of their files."""
    variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in job.environment.items())
    command = " ".join(_quoted(word).replace("$", "$$") for word in job.command)
    return {
        f"{_UNIT}.service": f"# {MARK} systemd\n[Unit]\nDescription=Index Claude Code's history\n\n"
        f"[Service]\nType=oneshot\n{variables}ExecStart={command}\n"
        "# 3: some files could not be read; 75: another refresh is at work.\nSuccessExitStatus=3 75\nNice=10\n",
        f"{_UNIT}.timer": f"# {MARK} systemd\n[Unit]\nDescription=Index Claude Code's history now and then\n\n"
        f"[Timer]\nOnStartupSec=1min\nOnUnitActiveSec={job.seconds}s\n\n[Install]\nWantedBy=timers.target\n",
    }


def _quoted(word: str) -> str:
    """A word of a unit file: systemd has quotes and backslashes of its own, and specifiers that begin with %."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if re.fullmatch(r"[\w@%+=:,./-]+", escaped, re.ASCII) else f'"{escaped}"'


def launchd_agent(job: Job) -> str:
    """A property list for LaunchAgents."""
    import plistlib

    agent = {
        "Label": _LABEL,
        "ProgramArguments": job.command,
        "EnvironmentVariables": job.environment,
        "StartInterval": job.seconds,
        "RunAtLoad": True,
        "ProcessType": "Background",
    }
    text = plistlib.dumps(agent, sort_keys=False).decode()
    return text.replace("<plist ", f"<!-- {MARK} launchd -->\n<plist ", 1)


def text(kind: str, job: Job) -> str:
    """What a kind of schedule needs, for people to put where it belongs."""
    if kind == "cron":
        return cron_line(job)
    if kind == "launchd":
        return launchd_agent(job)
    folder = os.path.dirname(_places("systemd")[0])
    return "\n".join(f"# {os.path.join(folder, name)}\n{unit}" for name, unit in systemd_units(job).items())


# Where they stand


def installed(kind: str) -> str:
    """What stands there now; "" if nothing of ours does. Raises CmError."""
    if kind == "cron":
        return "".join(line for line in _crontab().splitlines(keepends=True) if _is_ours(line))
    return "".join(_read(place) for place in _places(kind))


def documents(kind: str, job: Job | None) -> list[Document]:
    """What installing a job would change, or removing it for None. Raises CmError: what is there is not ours."""
    if kind == "cron":
        before = _crontab()
        return [Document("crontab", before, _with_line(before, cron_line(job) if job else ""))]
    if job is None:
        after = ["" for _ in _places(kind)]
    else:
        after = list(systemd_units(job).values()) if kind == "systemd" else [launchd_agent(job)]
    return [Document(place, _read(place), wanted) for place, wanted in zip(_places(kind), after, strict=True)]


def difference(changes: Sequence[Document]) -> str:
    """What changes, as a unified diff."""
    import difflib

    lines: list[str] = []
    for name, before, after in changes:
        old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
        found = difflib.unified_diff(old, new, name if before else os.devnull, name if after else os.devnull, n=1)
        lines += [line if line.endswith("\n") else f"{line}\n" for line in found]
    return "".join(lines)


def apply(kind: str, changes: Sequence[Document]) -> None:
    """Puts it there, and has it run. Raises CmError."""
    if kind == "cron":
        _run(["crontab", "-"], changes[0].after)
    elif kind == "systemd":
        _apply_units(changes)
    else:
        _apply_agent(changes[0])


def _with_line(crontab: str, line: str) -> str:
    """A crontab with our line in the place of the one it had, else at its end."""
    kept: list[str] = []
    for old in crontab.splitlines(keepends=True):
        if not _is_ours(old):
            kept.append(old if old.endswith("\n") else f"{old}\n")
        elif line:
            kept.append(line)
            line = ""
    return "".join([*kept, line])


def _is_ours(line: str) -> bool:
    return line.rstrip().endswith(_CRON_MARK) and not line.lstrip().startswith("#")


def _crontab() -> str:
    done = _run(["crontab", "-l"], is_checked=False)
    # All crons say so for a user who has none, and exit as for an error.
    if done.returncode and "no crontab" not in done.stderr:
        raise CmError(f"crontab -l: {_reason(done)}")
    return "" if done.returncode else done.stdout


def _places(kind: str) -> list[str]:
    if kind == "launchd":
        return [os.path.expanduser(f"~/Library/LaunchAgents/{_LABEL}.plist")]
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [os.path.join(folder, "systemd", "user", f"{_UNIT}.{suffix}") for suffix in ("service", "timer")]


def _read(place: str) -> str:
    try:
        with open(place, encoding="utf-8", errors="surrogateescape") as file:
            found = file.read()
    except FileNotFoundError:
        return ""
    if MARK not in found:
        raise CmError(f"{place} was not made by cm: move it away, so that it is not lost")
    return found


def _apply_units(changes: Sequence[Document]) -> None:
    timer = f"{_UNIT}.timer"
    is_removed = not changes[0].after
    _run(["systemctl", "--user", "daemon-reload"])  # where that fails, nothing must be written
    if is_removed:
        _run(["systemctl", "--user", "disable", "--now", timer])
    _write(changes)
    _run(["systemctl", "--user", "daemon-reload"])
    if not is_removed:
        _run(["systemctl", "--user", "enable", timer])
        _run(["systemctl", "--user", "restart", timer])


def _apply_agent(change: Document) -> None:
    _need("launchctl")
    domain = f"gui/{os.getuid()}"
    if change.before:
        _run(["launchctl", "bootout", f"{domain}/{_LABEL}"], is_checked=False)
    _write([change])
    if change.after:
        _run(["launchctl", "bootstrap", domain, change.name])


def _write(changes: Sequence[Document]) -> None:
    for name, _, after in changes:
        if after:
            os.makedirs(os.path.dirname(name), exist_ok=True)
            with open(name, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(after)
        elif os.path.exists(name):
            os.remove(name)


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise CmError(f"{program} is not here: install it, take another of {', '.join(KINDS)}, or run `cm watch`")


def _run(command: list[str], input: str | None = None, is_checked: bool = True) -> subprocess.CompletedProcess[str]:
    _need(command[0])
    # Anything can stand in a crontab, and must come out as it went in.
    done = subprocess.run(
        command, input=input, capture_output=True, check=False, encoding="utf-8", errors="surrogateescape"
    )
    if is_checked and done.returncode:
        raise CmError(f"{shlex.join(command)}: {_reason(done)}")
    return done


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split()) or f"exit code {done.returncode}"
