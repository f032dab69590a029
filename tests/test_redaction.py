"""Secrets are masked before anything is stored, and nothing else changes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import builders
import orjson
import pytest
from builders import SESSION, assistant, text, tool_result, tool_use, user
from conftest import RunCm
from hypothesis import given, settings
from hypothesis import strategies as st
from test_keep import configure, restored

from indexer import archive, chunks, erasure, keeping, refresh, store
from indexer.redaction import SETS, Redactor, redactor

# Made up, and put together here so that no scanner takes this file for a leak.
ANTHROPIC = "sk-ant-" + "api03-" + "a1B2" * 12
GITHUB = "ghp_" + "Ab1" * 12
AWS = "AKIA" + "ABCD1234" * 2
SLACK = "xoxb-" + "1234567890-abcdef"
NPM = "npm_" + "aB3d" * 9
JWT = "eyJ" + "hbGciOiJI" + ".eyJ" + "zdWIiOiIx" + "." + "c2lnbmF0dXJl"
PRIVATE_KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA\n" * 4 + "-----END RSA " + "PRIVATE KEY-----"
SECRETS = [ANTHROPIC, GITHUB, AWS, SLACK, NPM, JWT, PRIVATE_KEY]
ALL = tuple(pattern for patterns in SETS.values() for pattern in patterns)


def stored_bytes(db: Path) -> bytes:
    """Everything in every file that cm wrote, what is compressed unpacked."""
    folders = [db.parent, Path(os.environ["CM_LOG"]).parent]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    data = b"".join(path.read_bytes() for path in files)
    if Path(archive.place(str(db))).exists():
        with closing(archive.Reader(archive.place(str(db)))) as reader:
            for (packed,) in reader.connection.execute("SELECT data FROM chunks"):
                data += chunks.decompress(packed)
            for (packed,) in reader.connection.execute("SELECT meta FROM files WHERE meta IS NOT NULL"):
                data += chunks.decompress(packed)
    return data


def remains(db: Path, secret: str) -> bool:
    data = stored_bytes(db)
    return any(form in data for form in (secret.encode(), orjson.dumps(secret)[1:-1]))


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:8])
def test_a_secret_is_stored_nowhere(home: builders.Home, db: Path, secret: str) -> None:
    configure("keep = true\nredact = true")
    call = tool_use("Bash", command=f"curl -H 'x: {secret}'")
    result = tool_result(call["id"], f"export KEY={secret}\n", result={"stdout": f"KEY={secret}\n", "lines": [secret]})
    lines = [user(f"My key is {secret}, use it."), assistant(text(f"`{secret}`"), call), result]
    lines.append(builders.title(f"About {secret}"))
    builders.write(home.transcript(), lines)
    builders.write(home.subagent(), [user(f"Use\n{secret}")])
    home.subagent().with_name("agent-a1.meta.json").write_bytes(orjson.dumps({"agentType": "x", "description": secret}))
    refresh()
    assert not remains(db, secret)
    assert b"[redacted]" in stored_bytes(db)


def test_numbers_stay_and_verify_agrees(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    lines = [user(f"Key {ANTHROPIC}"), assistant(text(f"{GITHUB} {'ü' * 30} {PRIVATE_KEY}")), builders.title(JWT)]
    builders.write(home.transcript(), lines)
    configure("")
    refresh(db=str(db.parent / "plain.db"))
    configure("redact = true")
    refresh()
    sql = (
        "SELECT offset, length, line, at, uuid, parent_uuid, model_id, response_id, message_id, request_id FROM records"
    )
    spent = "SELECT * FROM record_usage ORDER BY 1, 2"
    for question in (sql, spent, "SELECT * FROM responses", "SELECT * FROM tool_uses"):
        assert rows(db, question) == rows(db.parent / "plain.db", question)
    done = run_cm("verify")
    assert done.returncode == 0, done.stdout


def rows(db: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(store.open_reader(str(db))) as connection:
        return connection.execute(sql).fetchall()


def test_the_user_s_patterns_see_text_as_it_reads(home: builders.Home, db: Path) -> None:
    configure(
        """
        [redact]
        sets = []
        patterns = ['password="[^"]+"', '^Kunde: .*$', 'Müller', '(?P<secret>[a-z]+)@example\\.org']
        """
    )
    builders.write(
        home.transcript(),
        [user('password="hunter2"\nKunde: Acme & Söhne\nFrau Müller, jane@example.org'), assistant()],
    )
    refresh()
    (said,) = rows(db, "SELECT text FROM records WHERE text LIKE '%Frau%'")[0]
    assert "hunter2" not in said and "Acme" not in said and "Müller" not in said and "jane" not in said
    assert "@example.org" in said


def test_a_pattern_may_match_what_numbers_rest_on_and_they_stay(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    lines = [user("msg_01 claude assistant usage 2026", cwd="/home/claude/app"), assistant(text("claude"))]
    builders.write(home.transcript(), lines)
    configure("")
    refresh(db=str(db.parent / "plain.db"))
    patterns = ["msg_[0-9]+", "claude", "assistant", "usage", "2026", "tokens", SESSION]
    configure(f"[redact]\nsets = []\npatterns = {patterns}")
    refresh()
    for question in ("SELECT key, input_tokens, output_tokens, at FROM responses", "SELECT session_id FROM sessions"):
        assert rows(db, question) == rows(db.parent / "plain.db", question)
    assert rows(db, "SELECT path FROM projects") == [("/home/******/app",)]
    assert rows(db, "SELECT text FROM records WHERE text IS NOT NULL")[0] == ("****** ****** ********* ***** ****",)


def test_a_broken_line_is_masked_and_the_record_behind_it_still_found(home: builders.Home, db: Path) -> None:
    configure("keep = true\nredact = true")
    whole = builders.line(user("After.")).rstrip(b"\n")
    builders.write(home.transcript(), [b'{"type":"user","message":{"content":"' + GITHUB.encode() + whole + b"\n"])
    refresh()
    assert rows(db, "SELECT text FROM records") == [("After.",)]
    assert not remains(db, GITHUB)


def test_a_torn_line_is_kept_without_its_end_because_half_a_secret_is_not_recognised(
    home: builders.Home, db: Path, tmp_path: Path
) -> None:
    configure("keep = true\nredact = true")
    whole = builders.line(user())
    path = builders.write(home.transcript(), [whole])
    builders.append(path, [b'{"type":"user","message":{"content":"Key: ' + ANTHROPIC[:12].encode()])
    refresh()
    assert not remains(db, ANTHROPIC[:12])
    (torn,) = restored(db, tmp_path / "torn").values()
    assert torn == whole + b'{"type":"user","message":{"content":"Key: ' + b"[redacted]**"
    builders.append(path, [b'"}}\n'])
    refresh()
    assert restored(db, tmp_path / "whole").popitem()[1] == path.read_bytes()
    with closing(store.open_reader(str(db))) as index:
        assert keeping.status(index, str(db))["masked"] == 0


def test_what_a_pattern_of_one_s_own_may_begin_in_is_not_kept_of_a_torn_line(
    home: builders.Home, db: Path, tmp_path: Path
) -> None:
    configure("keep = true\n[redact]\nsets = []\npatterns = ['secret: .*']")
    path = builders.write(home.transcript(), [user()])
    builders.append(path, [b'{"type":"user","message":{"content":"secr'])
    refresh()
    path.unlink()
    refresh()
    assert not remains(db, "secr")
    (back,) = restored(db, tmp_path / "out").values()
    assert back.splitlines()[1] == b"[redacted]".ljust(41, b"*")


@settings(max_examples=30)
@given(st.integers(0, 2000), st.sampled_from(SECRETS))
def test_wherever_a_line_is_torn_no_half_of_a_secret_is_kept(cut: int, secret: str) -> None:
    line = builders.line(user(f"x {secret} y"))
    torn = line[: min(cut, len(line) - 2)]
    kept = redactor(ALL).mask_chunk(torn)
    assert len(kept) == len(torn)
    assert redactor(ALL).mask_chunk(kept) == kept
    first = orjson.dumps(secret)[1:-1]
    at = line.find(first)
    if at + 4 <= len(torn) and not secret.startswith("-----"):
        assert first[:4] not in kept


def test_what_is_read_from_a_transcript_is_shown_as_it_may_be_stored(home: builders.Home, run_cm: RunCm) -> None:
    configure("redact = true")
    call = tool_use("Bash", command=f"curl -H 'x: {GITHUB}'")
    builders.write(home.transcript(), [user(), assistant(call), tool_result(call["id"], f"KEY={ANTHROPIC}")])
    for form in ("--full", "--html", "--json"):
        shown = run_cm("show", SESSION, form).stdout
        assert "[redacted]" in shown
        assert GITHUB not in shown and ANTHROPIC not in shown
    assert GITHUB in run_cm("show", SESSION, "--raw").stdout


def test_the_log_is_masked_and_names_of_transcripts_are_told_of(
    home: builders.Home, db: Path, run_cm: RunCm, make_unreadable: Callable[[Path], None]
) -> None:
    configure("redact = true")
    path = builders.write(home.transcript(project=f"/home/{GITHUB}"), [user()])
    named = path.rename(path.with_name(f"{GITHUB}.jsonl"))
    run_cm("refresh")
    make_unreadable(builders.append(named, [user()]))
    run_cm("refresh")
    log = Path(os.environ["CM_LOG"]).read_text()
    assert "[redacted]" in log and GITHUB not in log
    checked = run_cm("check")
    assert "the names of 1 transcripts hold what is to be redacted" in checked.stdout
    assert GITHUB not in checked.stdout


def test_restore_says_that_a_session_differs(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    configure("keep = true\nredact = true")
    path = builders.write(home.transcript(), [user(f"Key {ANTHROPIC}")])
    other = builders.write(home.transcript("other"), [user("Nothing", sessionId="other")])
    refresh()
    done = run_cm("keep", "restore", SESSION, db.parent / "out")
    assert f"session {SESSION} differs" in done.stderr
    back = Path(done.stdout.strip())
    assert back.stat().st_size == path.stat().st_size
    assert "differs" not in run_cm("keep", "restore", "other", db.parent / "out").stderr
    assert other.exists()


def test_what_was_stored_before_is_found_and_masked(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    configure("keep = true")
    path = builders.write(
        home.transcript(), [user(f"Key {ANTHROPIC}\n{PRIVATE_KEY}", cwd=f"/home/{GITHUB}/app"), assistant()]
    )
    agent = builders.write(home.subagent(), [user(isSidechain=True, agentId="a1")])
    agent.with_name("agent-a1.meta.json").write_text(json.dumps({"agentType": "x", "description": GITHUB}, indent=1))
    refresh()
    assert remains(db, ANTHROPIC)
    configure("keep = true\nredact = true")
    dry = run_cm("redact", "--dry-run", "--json")
    places = {item["place"] for item in orjson.loads(dry.stdout)["findings"]}
    assert {"records.text", "archive", "contexts.cwd", "projects.path", "sessions.title"} <= places
    assert ANTHROPIC not in dry.stdout
    with closing(store.open_reader(str(db))) as connection:
        problems = list(erasure.problems(connection))
    assert len(problems) == len(places)
    assert all("cm redact" in fix for _, fix in problems)
    assert remains(db, ANTHROPIC)
    checked = run_cm("check", "--json")
    assert checked.returncode == 1
    assert "cm redact" in checked.stdout
    done = run_cm("redact", "--yes")
    assert done.returncode == 0, done.stderr
    for secret in (ANTHROPIC, PRIVATE_KEY, GITHUB):
        assert not remains(db, secret)
    assert run_cm("check").returncode == 0
    assert run_cm("verify").returncode == 0
    refresh()
    assert run_cm("redact", "--dry-run", "--json").stdout.count('"place"') == 0
    assert len(rows(db, "SELECT 1 FROM projects")) == 1
    path.unlink()


def test_nothing_is_masked_until_it_is_configured(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    builders.write(home.transcript(), [user(f"Key {ANTHROPIC}")])
    refresh()
    assert remains(db, ANTHROPIC)
    assert run_cm("redact").returncode == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("redact = 3", "redact must be"),
        ("[redact]\nsets = ['keys']", "there is no set 'keys'"),
        ("[redact]\npatterns = ['(']", "is no regular expression"),
        ("[redact]\npatterns = ['a*']", "matches the empty text"),
        ("keep = 'yes'", "keep must be true or false"),
        ("keep = true\ntext = false", "choose one of them"),
    ],
)
def test_a_wrong_setting_is_told_and_nothing_is_read(
    home: builders.Home, run_cm: RunCm, config: str, said: str
) -> None:
    builders.write(home.transcript(), [user()])
    configure(config)
    done = run_cm("refresh")
    assert done.returncode == 1
    assert said in done.stderr
    assert "config.toml:" in done.stderr


def test_what_looks_like_a_secret_and_is_none_stays() -> None:
    for harmless in ("task-0123456789abcdef0123456789abcdef", "disk-usage", "AKIAlong", "eyJhbG.x.y", "risk-free"):
        line = builders.line(user(f"See {harmless} there"))
        assert redactor(ALL).mask(line) == line


@pytest.fixture(params=["with RE2", "without RE2"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are looked for by RE2 where it is installed."""
    if request.param == "without RE2":
        monkeypatch.setitem(sys.modules, "re2", None)
    else:
        pytest.importorskip("re2", reason="google-re2 is not installed")


@pytest.mark.usefixtures("engine")
def test_every_secret_of_a_line_is_found_and_no_other_line_is_touched() -> None:
    near = [builders.line(user(f"task-{number} sk-short AKIAlong eyJx\r x")) for number in range(3)]
    secret = builders.line(user(" ".join([*SECRETS, f"sk-sk-{ANTHROPIC}", f"aws_secret_key: {'aB3/' * 10}"])))
    masked = Redactor(ALL).mask(b"".join([near[0], secret, near[1], b"\n", secret, near[2]]))
    lines = masked.splitlines(keepends=True)
    assert [lines[0], *lines[2:4], lines[5]] == [near[0], near[1], b"\n", near[2]]
    assert lines[1] == lines[4]
    said = orjson.loads(lines[1])["message"]["content"]
    assert said.split()[0].startswith("[redacted]*")
    assert not any(part in said for secret in SECRETS for part in secret.split("\n"))
    assert "aB3/" not in said


texts = st.lists(
    st.sampled_from([*SECRETS, "\n", '"', "\\", "ü", "😀", " ", "x", "\t", "\\n", "{", "\u2028"]), max_size=8
)


@given(texts, st.booleans(), st.booleans())
def test_masking_keeps_lengths_json_and_everything_else(parts: list[str], is_ascii: bool, is_result: bool) -> None:
    said = " ".join(parts)
    record = tool_result("toolu_1", said, result={"stdout": said}) if is_result else assistant(text(said))
    line = json.dumps(record, ensure_ascii=is_ascii).encode() + b"\n"
    masked = redactor(ALL).mask(line)
    assert len(masked) == len(line)
    back = orjson.loads(masked)
    for name in ("uuid", "timestamp", "sessionId", "type"):
        assert back[name] == record[name]
    assert back["message"].get("usage") == record["message"].get("usage")
    for secret in SECRETS:
        assert secret not in json.dumps(back, ensure_ascii=False).replace("\\n", "\n")
    assert redactor(ALL).mask(masked) == masked


@pytest.mark.slow
def test_what_masking_costs() -> None:
    line = b"".join(builders.line(user("word " * 200)) for _ in range(5000))
    start = time.perf_counter()
    assert redactor(ALL).mask(line) is line
    assert len(line) / (time.perf_counter() - start) > 10e6
