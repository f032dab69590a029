"""A made-up Claude config directory, the same for the same seed: for people without history, for tests."""

from __future__ import annotations

import base64
import math
import os
import random
import re
import string
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import orjson

Record: TypeAlias = dict[str, Any]

BASE62 = string.digits + string.ascii_letters
DAY = timedelta(days=1)

# fmt: off
AREAS = (
    "invoice export", "login redirect", "retry queue", "search index", "webhook handler", "rate limiter",
    "settings page", "CSV import", "session cache", "upload progress bar", "nightly report", "audit log",
    "feature flag loader", "date picker", "health check", "password reset mail", "job scheduler",
)
PROBLEMS = (
    "times out when the list is longer than a page", "shows yesterday's date west of Greenwich",
    "fails on an empty file", "is called twice after a reconnect", "swallows the error and answers 200",
    "leaks a connection for each request", "sorts 10 before 9", "ignores the Accept-Language header",
    "holds the lock while it waits for the network", "breaks when two people save at once",
)
REQUESTS = (  # a title, and the prompt it was made from
    ("Fix {area}", "The {area} {problem}. Find out why and fix it, with a test that fails without the fix."),
    ("Test {area}", "Add a test for the {area}. I believe it {problem}, but nobody has proved it yet."),
    ("Explain {area}", "Explain how the {area} works and where it is called from. No changes yet."),
    ("Refactor {area}", "Refactor the {area} so that it no longer needs the global client."),
    ("Review {area} change", "Review the last commit on this branch, the {area} in particular."),
    ("Repair CI for {area}", "Why is CI red? It looks as if the {area} {problem}."),
    ("Speed up {area}", "The {area} is slow. Profile it first and tell me what dominates."),
    ("Document {area}", "Document the {area} in the README, with one example that really runs."),
    ("Rename {area} settings", "Rename the settings of the {area}; keep the old names for one release."),
)
FOLLOW_UPS = (
    "Looks good, please commit it.", "Run the whole test suite too.", "Can this be simpler?", "Yes, go on.",
    "Also cover the empty case.", "Keep the name of the public function, others call it.",
    "Please open a pull request.", "And what do the docs say about it?", "Undo the last edit, I was wrong.",
)
PROSE = (
    "The {area} {problem}.", "I will read {file} first and then the tests.", "So that is why it {problem}.",
    "`{verb}_{noun}` is called before the {noun} is loaded, so the first request sees an empty one.",
    "The change is small: one condition in {file}, and a test that fails without it.",
    "All {n} tests pass, and the new one fails when I take the fix out again.",
    "There are {n} callers; only the one in {file} passes a {noun} of its own.",
    "It would be safer to {verb} the {noun} inside the transaction.",
    "The naïve version re-reads the {noun} each time — {n} ms instead of 3.",
)
CODE = (
    "", "", "def {verb}_{noun}({noun}: {Noun}, limit: int = {n}) -> list[{Noun}]:",
    '    """{Verb} the {noun}, at most `limit` times."""', "    if {noun} is None:",
    '        raise ValueError("no {noun} to {verb}")', "class {Noun}Store:",
    "    return [{verb}_{noun}(part) for part in {noun}.parts]", "    for {noun} in self.{noun}s:",
    '    log.info("{verb} %s in %d ms", {noun}, {n})', "from app.{noun} import {Noun}, {verb}_{noun}",
    "    assert {verb}_{noun}({Noun}(size={n})) == {n}", "        self._{noun}s[{noun}.id] = {n}  # {area}",
    '    await client.post(f"/api/{noun}s/{{{noun}.id}}", json={{"{verb}": True, "n": {n}}})',
)
OUTPUT = (
    "tests/test_{noun}.py::test_{verb}_{noun}_{n} PASSED", "{file}:{n}:    return {verb}_{noun}({noun})",
    '{file}:{n}: error: Argument 1 to "{verb}_{noun}" has incompatible type "{Noun} | None"',
    "12:04:{n} INFO  {noun}: {verb} took {n} ms", "GET /api/{noun}s/{n}?verb={verb} 200 {n}ms",
    "{hex} {Verb} the {noun} once ({area})", " {file} | {n} ++++++-----", "{n} passed, 1 skipped in {n}.31s",
    "✓ built {noun}-{n}.js in {n} ms",
)
COMMANDS = (
    ("pytest -q", "Run the tests"), ("git status --short", "Show changed files"), ("ruff check .", "Lint"),
    ("git log --oneline -15", "Show recent commits"), ("npm test -- --run", "Run the unit tests"),
    ("git diff --stat main", "Compare with main"), ("mypy --strict src", "Check types"),
    ("curl -s localhost:8000/health", "Ask the server for its health"), ("make build", "Build"),
)
NOUNS = (
    "invoice", "order", "session", "token", "report", "ticket", "sensor", "tile", "upload", "account",
    "batch", "cursor", "payload", "channel", "receipt", "profile", "snapshot", "template", "window", "route",
)
VERBS = (
    "load", "merge", "render", "settle", "parse", "retry", "flush", "validate", "export", "resize",
    "schedule", "encode", "prune", "resolve", "fetch", "archive",
)
PROJECTS = ("harbor-api", "atlas_web", "ledger", "pixel.forge", "weather-station", "dotfiles", *(
    f"{a}-{b}"
    for a in ("amber", "cedar", "delta", "ember", "flint", "grove", "hazel", "iris", "juniper", "lark")
    for b in ("gateway", "console", "worker", "mobile", "schema", "pipeline", "notes", "docs", "infra", "kit")
))
# fmt: on
BRANCHES = ("main", "main", "main", "fix/{noun}-{verb}", "feature/{verb}-{noun}", "sam/{noun}")
AGENT_TYPES = ("Explore", "Explore", "general-purpose", "code-reviewer", "Plan")
SKILLS = ("release-notes", "code-review", "verify")
GITHUB_TOOLS = ("list_issues", "get_pull_request", "search_code", "create_pull_request")


@dataclass(frozen=True, slots=True)
class Era:
    """What Claude Code wrote at one time: its versions, its models, and how far its records had come.

    `until` is a share of the history's span, so that a history of any dates shows every era.
    """

    until: float
    versions: tuple[str, ...]
    models: tuple[str, ...]
    agent_models: tuple[str, ...]
    old: bool = False  # a response's first lines carry a placeholder for its output count
    newest: bool = False


HAIKU_4_5, SONNET_4_5 = "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929"
OPUS_4_5 = "claude-opus-4-5-20251101"
OPUS_5, OPUS_5_5, SONNET_5, SONNET_5_5 = (
    "claude-opus-5", "claude-opus-5-5", "claude-sonnet-5", "claude-sonnet-5-5",
)  # fmt: skip
ERAS = (
    Era(0.3, ("2.0.76", "2.1.1", "2.1.5"), (OPUS_4_5, SONNET_4_5), (HAIKU_4_5,), old=True),
    Era(0.5, ("2.1.109", "2.1.123"), ("claude-opus-4-7", SONNET_4_5), (HAIKU_4_5, "claude-sonnet-4-6")),
    Era(0.7, ("2.1.159", "2.1.178"), ("claude-opus-4-8", SONNET_5), (HAIKU_4_5, SONNET_5)),
    Era(0.9, ("2.1.228", "2.1.229"), (OPUS_5, SONNET_5), (HAIKU_4_5,), newest=True),
    Era(1, ("2.1.233", "2.1.237"), (OPUS_5, OPUS_5_5, SONNET_5_5), (HAIKU_4_5,), newest=True),
)


def stamp(at: datetime) -> str:
    """A UTC time as transcripts spell it, `2026-10-01T09:00:00.000Z`."""
    return at.isoformat(timespec="milliseconds")[:23] + "Z"


def milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


class Size(NamedTuple):
    """A log-normal length that ends at `most`."""

    median: float
    sigma: float
    most: int

    def draw(self, rng: random.Random) -> int:
        return min(int(rng.lognormvariate(math.log(self.median), self.sigma)) + 1, self.most)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the invented texts are, in characters."""

    prose: Size
    thinking: Size
    output: Size
    pool: int


SMALL = Sizes(
    prose=Size(140, 0.6, 2_000), thinking=Size(200, 0.7, 4_000), output=Size(260, 0.8, 8_000), pool=60_000
)  # fmt: skip
SESSION = Size(15, 0.8, 150)  # records


class Pool:
    """Lines to cut passages from; a passage starts and ends at a line's edge."""

    def __init__(self, lines: Iterator[str], size: int) -> None:
        taken: list[str] = []
        while size > 0:
            taken.append(next(lines))
            size -= len(taken[-1]) + 1
        self.text = "\n".join(taken)

    def passage(self, rng: random.Random, size: int) -> str:
        text = self.text * (size // len(self.text) + 2) if size * 2 > len(self.text) else self.text
        start = text.rfind("\n", 0, rng.randrange(len(text) - size)) + 1
        end = text.find("\n", start + size)
        return text[start : end if end > 0 else None]


class Author:
    """Every random choice of a history: ids, texts, lengths, moments."""

    def __init__(self, seed: int, sizes: Sizes, first: datetime, until: datetime) -> None:
        self.rng = random.Random(seed)
        self.sizes, self.first, self.until = sizes, first, until
        self.tools: Mapping[Tool, float] = TOOLS
        self.prose, self.code, self.output = (
            Pool(self.lines(templates), sizes.pool) for templates in (PROSE, CODE, OUTPUT)
        )

    def lines(self, templates: Sequence[str]) -> Iterator[str]:
        while True:
            yield self.fill(self.rng.choice(templates))

    def fill(self, template: str) -> str:
        noun, verb, number = self.rng.choice(NOUNS), self.rng.choice(VERBS), self.rng.getrandbits(28)
        return template.format(
            noun=noun, Noun=noun.title(), verb=verb, Verb=verb.title(), n=number % 97 + 2,
            hex=f"{number:07x}", area=self.rng.choice(AREAS), problem=self.rng.choice(PROBLEMS),
            file=self.path(),
        )  # fmt: skip

    def path(self) -> str:
        return f"src/{self.rng.choice(NOUNS)}/{self.rng.choice(VERBS)}.{self.rng.choice(('py', 'ts', 'rs'))}"

    def phrase(self, size: Size) -> str:
        return self.prose.passage(self.rng, size.draw(self.rng)).replace("\n", " ")

    def source(self) -> str:
        return self.code.passage(self.rng, self.sizes.output.draw(self.rng))

    def printed(self) -> str:
        return self.output.passage(self.rng, self.sizes.output.draw(self.rng))

    def tokens(self, median: int) -> int:
        return Size(median, 1.0, 60_000).draw(self.rng)

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def token(self, prefix: str, length: int) -> str:
        return prefix + "".join(self.rng.choices(BASE62, k=length))

    def era(self, at: datetime) -> Era:
        share = (at - self.first) / (self.until - self.first)
        return next((era for era in ERAS if share < era.until), ERAS[-1])


class Call(NamedTuple):
    """A tool call and its answer: what the model reads (`content`), what Claude Code keeps (`result`)."""

    id: str
    name: str
    arguments: Record
    content: str | list[Record]
    result: Any
    seconds: float
    attribution: Mapping[str, str]


Tool: TypeAlias = Callable[["Transcript"], Call]


def bash(t: Transcript) -> Call:
    command, description = t.rng.choice(COMMANDS)
    output = t.author.printed()
    result = {"stdout": output, "stderr": "", "interrupted": False, "isImage": False}
    arguments = {"command": command, "description": description}
    return t.call("Bash", arguments, output, result, t.rng.expovariate(1 / 6))


def read(t: Transcript) -> Call:
    path, text = t.file(), t.author.source()
    lines = text.split("\n")
    numbered = "\n".join(f"{n}\t{line}" for n, line in enumerate(lines, 1))
    count = len(lines)
    file = {"filePath": path, "content": text, "numLines": count, "startLine": 1, "totalLines": count}
    return t.call("Read", {"file_path": path}, numbered, {"type": "text", "file": file})


def edit(t: Transcript) -> Call:
    path = t.file()
    old, new = (t.author.code.passage(t.rng, t.rng.randint(60, 400)) for _ in range(2))
    start, removed, added = t.rng.randint(1, 300), old.split("\n"), new.split("\n")
    hunk = {
        "oldStart": start, "oldLines": len(removed), "newStart": start, "newLines": len(added),
        "lines": [f"-{line}" for line in removed] + [f"+{line}" for line in added],
    }  # fmt: skip
    result = {
        "filePath": path, "oldString": old, "newString": new, "originalFile": t.author.source(),
        "structuredPatch": [hunk], "userModified": False, "replaceAll": False,
    }  # fmt: skip
    arguments = {"replace_all": False, "file_path": path, "old_string": old, "new_string": new}
    return t.call("Edit", arguments, f"The file {path} has been updated successfully.", result)


def write(t: Transcript) -> Call:
    path, text = t.file(), t.author.source()
    result: Record = {"type": "create", "filePath": path, "content": text, "originalFile": None}
    arguments = {"file_path": path, "content": text}
    return t.call("Write", arguments, f"File created successfully at: {path}", result)


def grep(t: Transcript) -> Call:
    files = sorted(t.file() for _ in range(t.rng.randint(1, 30)))
    result = {"mode": "files_with_matches", "filenames": files, "numFiles": len(files)}
    arguments = {"pattern": t.author.fill(r"{verb}_{noun}\("), "output_mode": "files_with_matches"}
    return t.call("Grep", arguments, f"Found {len(files)} files\n" + "\n".join(files), result)


def glob(t: Transcript) -> Call:
    files = sorted(t.file() for _ in range(t.rng.randint(1, 12)))
    result = {"filenames": files, "durationMs": 31, "numFiles": len(files), "truncated": False}
    return t.call("Glob", {"pattern": t.author.fill("src/{noun}/**/*.py")}, "\n".join(files), result)


def web_search(t: Transcript) -> Call:
    query, seconds = t.author.fill("how to {verb} a {noun} safely"), t.rng.uniform(4, 20)
    text = f'Web search results for query: "{query}"\n\n' + t.author.phrase(t.author.sizes.output)
    hit = {"title": t.author.fill("{Verb} a {noun}: a guide"), "url": "https://docs.example.org/guide"}
    results = [{"tool_use_id": t.author.token("srvtoolu_01", 22), "content": [hit]}, text]
    result = {"query": query, "results": results, "durationSeconds": seconds}
    if not t.era.old:
        result["searchCount"] = t.rng.randint(1, 3)
    return t.call("WebSearch", {"query": query}, text, result, seconds)


def skill(t: Transcript) -> Call:
    name = t.rng.choice(SKILLS)
    result, attribution = {"success": True, "commandName": name}, {"attributionSkill": name}
    return t.call("Skill", {"skill": name}, f"Launching skill: {name}", result, 0.1, attribution)


def github(t: Transcript) -> Call:
    tool, repository, number = t.rng.choice(GITHUB_TOOLS), f"example/{t.project.name}", t.rng.randint(20, 400)
    if tool == "create_pull_request":
        url = f"https://github.com/{repository}/pull/{number}"
        t.pull_request = {"prNumber": number, "prUrl": url, "prRepository": repository}
    title = t.author.fill("{Verb} the {noun}")
    content = [{"type": "text", "text": f'{{"number":{number},"title":"{title}","state":"open"}}'}]
    attribution = {"attributionMcpServer": "github", "attributionMcpTool": tool}
    return t.call(f"mcp__github__{tool}", {"repository": repository}, content, content, 2, attribution)


TOOLS: Mapping[Tool, float] = {
    bash: 46, read: 20, edit: 18, grep: 5, glob: 2, write: 3, web_search: 1.5, skill: 0.7, github: 1.5,
}  # fmt: skip


class Project(NamedTuple):
    name: str
    cwd: str


class Response(NamedTuple):
    """One API response, before it is split into lines: each of them repeats the same input side."""

    id: str
    request: str
    input: int
    cache_write: int
    cache_read: int
    output: int
    stop: str | None


@dataclass(slots=True)
class Transcript:
    """One file in the making: whose it is, when it is, and the record it would go on from."""

    author: Author
    project: Project
    session: str
    cwd: str
    branch: str
    model: str
    era: Era
    version: str
    now: datetime
    agent_type: str = ""  # of a subagent
    marks: Record = field(default_factory=dict)  # what every record says beside the usual
    meta: Record = field(default_factory=dict)
    parent: str | None = None
    records: list[Record] = field(default_factory=list)
    prompts: list[Record] = field(default_factory=list)
    agents: list[int] = field(default_factory=list)  # sizes of the subagents still to be called
    children: list[Transcript] = field(default_factory=list)
    title: str = ""
    pull_request: Record = field(default_factory=dict)
    cached: int = 0  # tokens of this conversation that the API has seen
    unsent: int = 0
    answered: datetime | None = None

    @property
    def rng(self) -> random.Random:
        return self.author.rng

    def file(self) -> str:
        return f"{self.cwd}/{self.author.path()}"

    def call(
        self, name: str, arguments: Record, content: str | list[Record], result: Any,
        seconds: float = 0.3, attribution: Mapping[str, str] = {},
    ) -> Call:  # fmt: skip
        return Call(self.author.token("toolu_01", 22), name, arguments, content, result, seconds, attribution)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(milliseconds=int(seconds * 1000) + 1)

    def chain(self, body: Record, after: str | None = None) -> str:
        """Append a record that has a place in the conversation, and return its uuid."""
        record = {"parentUuid": after or self.parent, "isSidechain": bool(self.agent_type), **body}
        self.parent = self.author.uuid()
        record |= {
            "uuid": self.parent, "timestamp": stamp(self.now), "userType": "external", "entrypoint": "cli",
            "cwd": self.cwd, "sessionId": self.session, "version": self.version, "gitBranch": self.branch,
            **self.marks,
        }  # fmt: skip
        if self.era.old:
            del record["entrypoint"]
        self.records.append(record)
        return self.parent

    def note(self, kind: str, **fields: Any) -> None:
        """Append one of the lines that stand outside the chain: no uuid, often no time."""
        self.records.append({"type": kind, **fields, "sessionId": self.session})

    def attach(self, kind: str, **fields: Any) -> None:
        self.chain({"attachment": {"type": kind, **fields}, "type": "attachment"})

    def prompt(self, text: str) -> None:
        body: Record = {"type": "user", "message": {"role": "user", "content": text}}
        if not self.agent_type:
            told = {"display": text, "pastedContents": {}, "timestamp": milliseconds(self.now)}
            self.prompts.append({**told, "project": self.cwd, "sessionId": self.session})
            if not self.era.old:
                body |= {"promptId": self.author.uuid(), "permissionMode": "acceptEdits"}
            if self.era.newest:
                body |= {"origin": {"kind": "human"}, "promptSource": "typed"}
        self.chain(body)

    def respond(self, text: str, calls: Sequence[Call] = ()) -> None:
        """One response of one line per block, and the answers to its tool calls."""
        response = self.response("tool_use" if calls else "end_turn")
        blocks: list[tuple[Record, Call | None]] = [(self.tool_use(call), call) for call in calls]
        if text:
            blocks.insert(0, ({"type": "text", "text": text}, None))
        if self.rng.random() < 0.6:
            blocks.insert(0, (self.thinking(), None))
        # Answers may stand between the lines of their response: a fast tool ends while the next call streams.
        eager = self.rng.random() < 0.5
        pending: list[tuple[Call, str]] = []
        for n, (block, call) in enumerate(blocks, 1):
            self.wait(self.rng.uniform(0.3, 5))
            line = self.line(response, block, call, last=n == len(blocks))
            if call:
                pending.append((call, line))
            if eager or n == len(blocks):
                self.answer(pending)

    def response(self, stop: str) -> Response:
        rng, tokens = self.rng, self.author.tokens
        read, write = self.cached, self.unsent + tokens(150)
        if self.answered is None or self.now - self.answered > timedelta(hours=1):
            # The cache has expired: all but the system prompt is written again.
            read, write = 14_000, write + max(self.cached - 14_000, 0) + tokens(9_000)
        output = tokens(240)
        # Some old responses never got their final count, and so no stop reason either.
        if self.era.old and rng.random() < 0.05:
            output, stop = rng.randint(1, 8), ""
        self.cached, self.unsent, self.answered = read + write, output, self.now
        request, message = self.author.token("req_011C", 20), self.author.token("msg_01", 22)
        return Response(message, request, rng.choice((1, 2, 3, 4, 8)), write, read, output, stop or None)

    def thinking(self) -> Record:
        # Newer versions keep the signature only.
        text = "" if self.era.newest else self.author.phrase(self.author.sizes.thinking)
        size = self.author.sizes.thinking.draw(self.rng) if self.era.newest else 180
        signature = base64.b64encode(self.rng.randbytes(size)).decode()
        return {"type": "thinking", "thinking": text, "signature": signature}

    def tool_use(self, call: Call) -> Record:
        block: Record = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
        return block if self.era.old else {**block, "caller": {"type": "direct"}}

    def line(self, response: Response, block: Record, call: Call | None, *, last: bool) -> str:
        # Subagents' files still show the output count growing in versions whose main files no longer do.
        final = last or not (self.era.old or self.agent_type)
        message: Record = {
            "model": self.model, "id": response.id, "type": "message", "role": "assistant",
            "content": [block], "stop_reason": response.stop if final else None, "stop_sequence": None,
            "usage": self.usage(response, final),
        }  # fmt: skip
        body: Record = {"message": message, "requestId": response.request, "type": "assistant"}
        if not self.era.old:
            message["stop_details"] = None
        if self.era.newest:
            body |= {"effort": "high"} | dict(call.attribution if call else {})
        if self.era.newest and self.agent_type:
            body["attributionAgent"] = self.agent_type
        return self.chain(body)

    def usage(self, response: Response, final: bool) -> Record:
        # A main session's cache lasts an hour, a subagent's five minutes; so did everything's at first.
        brief = response.cache_write if self.era.old or self.agent_type else 0
        split = {
            "ephemeral_5m_input_tokens": brief,
            "ephemeral_1h_input_tokens": response.cache_write - brief,
        }
        counts: Record = {
            "input_tokens": response.input,
            "cache_creation_input_tokens": response.cache_write,
            "cache_read_input_tokens": response.cache_read,
            "output_tokens": response.output if final else min(response.output, self.rng.randint(1, 8)),
            "cache_creation": split,
        }
        usage = {**counts, "service_tier": "standard"}
        if self.era.old:
            return usage
        usage["inference_geo"] = "not_available"
        if final:
            usage["server_tool_use"] = {"web_search_requests": 0, "web_fetch_requests": 0}
            usage |= {"iterations": [{**counts, "type": "message"}], "speed": "standard"}
        if final and self.era.newest:
            usage["output_tokens_details"] = {"thinking_tokens": response.output // 3}
        return usage

    def answer(self, pending: list[tuple[Call, str]]) -> None:
        while pending:
            call, line = pending.pop(0)
            self.wait(call.seconds)
            block: Record = {"tool_use_id": call.id, "type": "tool_result", "content": call.content}
            result = call.result
            if call.name in ("Bash", "Edit", "Read") and self.rng.random() < 0.04:
                text = f"Exit code 1\n{self.author.output.passage(self.rng, 200)}"
                block |= {"content": text, "is_error": True}
                result = f"Error: {text}"
            self.unsent += self.author.tokens(900)
            body = {"type": "user", "message": {"role": "user", "content": [block]}, "toolUseResult": result}
            self.chain({**body, "sourceToolAssistantUUID": line}, after=line)

    def refuse(self) -> None:
        """An API error as Claude Code writes it: a made-up response of no model, no request, no tokens."""
        message = {
            "id": self.author.uuid(), "model": "<synthetic>", "type": "message", "role": "assistant",
            "content": [{"type": "text", "text": "API Error: 529 Overloaded"}],
            "stop_reason": "stop_sequence", "usage": {"input_tokens": 0, "output_tokens": 0},
        }  # fmt: skip
        self.chain({"message": message, "type": "assistant", "isApiErrorMessage": True})

    def step(self, target: int) -> None:
        """A response that calls one tool, or two at once, and their answers."""
        if self.agents and (len(self.records) >= target or self.rng.random() < 0.3):
            calls = [self.delegate(self.agents.pop())]
        else:
            tools, weights = zip(*self.author.tools.items(), strict=True)
            picked = self.rng.choices(tools, weights, k=2 if self.rng.random() < 0.12 else 1)
            calls = [tool(self) for tool in picked]
        self.respond(self.author.phrase(self.author.sizes.prose) if self.rng.random() < 0.7 else "", calls)

    def delegate(self, size: int) -> Call:
        """Run a subagent in a transcript of its own, and make the call whose answer is its report."""
        prompt, kind = self.author.fill(self.rng.choice(REQUESTS)[1]), self.rng.choice(AGENT_TYPES)
        digits = 6 if self.era.old else 16
        agent = f"a{self.rng.getrandbits(4 * digits):0{digits}x}"
        model, start = self.rng.choice(self.era.agent_models), self.now + timedelta(seconds=30)
        child = Transcript(
            self.author, self.project, self.session, self.cwd, self.branch, model, self.era, self.version,
            start, kind, {"agentId": agent},
        )  # fmt: skip
        report = child.work(prompt, size)
        self.children.append(child)
        content, seconds = [{"type": "text", "text": report}], (child.now - self.now).total_seconds() + 1
        result = {
            "status": "completed", "prompt": prompt, "agentId": agent, "agentType": kind,
            "content": content, "totalDurationMs": int(seconds * 1000), "totalTokens": child.cached,
            "usage": child.records[-1]["message"]["usage"],
            "toolStats": {"readCount": 2, "searchCount": 0},
        }  # fmt: skip
        description = prompt.split(".")[0][:40]
        arguments = {"subagent_type": kind, "description": description, "prompt": prompt}
        call = self.call("Task" if self.era.old else "Agent", arguments, content, result, seconds)
        child.meta = {"agentType": kind, "description": description, "toolUseId": call.id, "spawnDepth": 1}
        return call

    def work(self, prompt: str, size: int) -> str:
        """A subagent's whole transcript: its prompt, its steps, its report."""
        self.prompt(prompt)
        while len(self.records) < size - 2:
            self.step(size)
        report = self.author.phrase(self.author.sizes.output)
        self.respond(report)
        return report

    def converse(self, size: int) -> None:
        """Add turns until the transcript has grown by about `size` records and called its subagents."""
        target = len(self.records) + size
        if not self.era.old:
            self.open()
        while len(self.records) < target or self.agents:
            self.turn(target)

    def open(self) -> None:
        self.note("permission-mode", permissionMode="acceptEdits")
        self.note("mode", mode="normal")
        if self.parent is None:
            names = [f"mcp__github__{tool}" for tool in GITHUB_TOOLS]
            self.attach("deferred_tools_delta", addedNames=names, addedLines=names, removedNames=[])
            size = self.author.sizes.output
            listing = "\n".join(f"- {name}: {self.author.phrase(size)}" for name in SKILLS)
            self.attach("skill_listing", content=listing, skillCount=len(SKILLS), isInitial=True)

    def turn(self, target: int) -> None:
        began = self.now
        self.ask()
        self.step(target)
        while len(self.records) < target - 4 and self.rng.random() > 0.09:
            self.step(target)
        self.respond(self.author.phrase(self.author.sizes.prose))
        self.close(began)

    def ask(self) -> None:
        text = self.rng.choice(FOLLOW_UPS)
        if not self.title or self.rng.random() < 0.3:
            title, request = self.rng.choice(REQUESTS)
            area = self.rng.choice(AREAS)
            self.title = title.format(area=area)
            text = request.format(area=area, problem=self.rng.choice(PROBLEMS))
        if self.rng.random() < 0.04:
            self.note("queue-operation", operation="enqueue", timestamp=stamp(self.now), content=text)
            self.note("queue-operation", operation="dequeue", timestamp=stamp(self.now))
        self.prompt(text)
        snapshot: Record = {"messageId": self.parent, "trackedFileBackups": {}, "timestamp": stamp(self.now)}
        body = {"type": "file-history-snapshot", "messageId": self.parent, "snapshot": snapshot}
        self.records.append({**body, "isSnapshotUpdate": False})
        if not self.era.old and self.rng.random() < 0.6:
            self.attach("task_reminder", content=[], itemCount=0)
        if self.rng.random() < 0.015:
            self.refuse()

    def close(self, began: datetime) -> None:
        elapsed = int((self.now - began).total_seconds() * 1000)
        self.chain({"type": "system", "subtype": "turn_duration", "durationMs": elapsed, "isMeta": False})
        if self.pull_request:
            self.note("pr-link", **self.pull_request, timestamp=stamp(self.now))
            self.pull_request = {}
        if not self.era.old:
            self.note("last-prompt", lastPrompt=self.prompts[-1]["display"], leafUuid=self.parent)
            self.note("ai-title", aiTitle=self.title)
        self.wait(self.rng.expovariate(1 / 120))
        if self.cached > 150_000 or self.rng.random() < 0.01:
            self.compact()

    def compact(self) -> None:
        full, leaf = self.cached > 150_000, self.parent
        # The boundary has no parent: from here on the conversation is a forest.
        self.parent = None
        self.chain({
            "type": "system", "subtype": "compact_boundary", "content": "Conversation compacted",
            "level": "info", "logicalParentUuid": leaf,
            "compactMetadata": {"trigger": "auto" if full else "manual", "preTokens": self.cached},
        })  # fmt: skip
        text = "This session is being continued from another. " + self.author.phrase(Size(1_200, 0.3, 9_000))
        body = {"type": "user", "message": {"role": "user", "content": text}}
        self.chain({**body, "isVisibleInTranscriptOnly": True, "isCompactSummary": True})
        self.cached, self.unsent = 14_000, self.author.tokens(8_000)

    def resume(self, at: datetime, size: int) -> None:
        """Go on in the same file at a later time, perhaps under a newer version of Claude Code."""
        self.now, self.era = max(at.astimezone(UTC), self.now), self.author.era(at)
        self.version = self.rng.choice(self.era.versions)
        self.converse(size)

    def fork(self, size: int) -> Transcript:
        """Another session that begins as a copy of this one: same ids and times, its own sessionId."""
        marks: Record = {"sessionKind": "bg"} if self.era.newest and self.rng.random() < 0.5 else {}
        copied = {"sessionId": self.author.uuid(), **marks}
        kept = [{**record, **copied} for record in self.records if "uuid" in record][: size * 4 // 5]
        fork = Transcript(
            self.author, self.project, copied["sessionId"], self.cwd, self.branch, self.model, self.era,
            self.version, self.now + timedelta(minutes=5), marks=marks, parent=kept[-1]["uuid"], records=kept,
            cached=self.cached,
        )  # fmt: skip
        fork.converse(size - len(kept))
        return fork


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written: transcripts, their records, their bytes."""

    files: int
    records: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A session to be written, with everything that hangs on it; sizes are in records."""

    project: Project
    start: datetime
    size: int
    agents: tuple[int, ...] = ()
    worktree: str = ""
    workflow: bool = False
    resumed: datetime | None = None
    fork: int = 0


class History:
    """Writes the sessions of one author under a Claude config directory."""

    def __init__(self, directory: Path, author: Author) -> None:
        self.directory, self.author = directory, author
        self.files = self.records = self.bytes = 0
        self.prompts: list[Record] = []

    def write(self, plan: Plan) -> None:
        """Write a session, its subagents and its fork, unless they end after the history does."""
        main = self.begin(plan)
        main.converse(plan.size)
        if plan.resumed:
            main.resume(plan.resumed, plan.size // 2 + 4)
        sessions = [main, main.fork(plan.fork)] if plan.fork else [main]
        if sessions[-1].now >= self.author.until:
            return
        for session in sessions:
            self.save(self.path(session), session)
            self.prompts += session.prompts
        for child in main.children:
            self.save_agent(main, child, plan.workflow)

    def begin(self, plan: Plan) -> Transcript:
        author, rng, (_, cwd) = self.author, self.author.rng, plan.project
        branch = author.fill(rng.choice(BRANCHES))
        if plan.worktree:
            cwd, branch = f"{cwd}/.claude/worktrees/{plan.worktree}", f"worktree-{plan.worktree}"
        era = author.era(plan.start)
        model, version = rng.choice((era.models[0], *era.models)), rng.choice(era.versions)
        start = plan.start.astimezone(UTC)
        main = Transcript(author, plan.project, author.uuid(), cwd, branch, model, era, version, start)
        main.agents += plan.agents
        return main

    def path(self, main: Transcript) -> Path:
        # Lossy, as in the real thing: `/`, `.`, `_` and `-` all become `-`.
        return self.directory / "projects" / re.sub(r"[^a-zA-Z0-9]", "-", main.cwd) / f"{main.session}.jsonl"

    def save_agent(self, main: Transcript, child: Transcript, workflow: bool) -> None:
        home, name = self.path(main), f"agent-{child.marks['agentId']}"
        if child.era.old:  # the oldest layout: beside the session, with no description of it
            self.save(home.with_name(f"{name}.jsonl"), child)
            return
        folder = home.with_suffix("") / "subagents"
        if workflow:
            folder = folder / "workflows" / f"wf_{main.session[:8]}"
        self.save(folder / f"{name}.jsonl", child)
        (folder / f"{name}.meta.json").write_bytes(orjson.dumps(child.meta))

    def save(self, path: Path, transcript: Transcript) -> None:
        data = self.encode([orjson.dumps(record) for record in transcript.records])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        last = next(record["timestamp"] for record in reversed(transcript.records) if "timestamp" in record)
        ended = milliseconds(datetime.fromisoformat(last)) * 1_000_000
        os.utime(path, ns=(ended, ended))
        self.files, self.bytes = self.files + 1, self.bytes + len(data)
        self.records += len(transcript.records)

    def encode(self, lines: list[bytes]) -> bytes:
        return b"\n".join(lines) + b"\n"

    def save_settings(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        prompts = sorted(self.prompts, key=lambda prompt: int(prompt["timestamp"]))
        lines = [orjson.dumps(prompt) + b"\n" for prompt in prompts]
        (self.directory / "history.jsonl").write_bytes(b"".join(lines))
        (self.directory / "settings.json").write_bytes(orjson.dumps({"cleanupPeriodDays": 30}))


def make_project(n: int) -> Project:
    round_, at = divmod(n, len(PROJECTS))
    name = PROJECTS[at] + (f"-{round_ + 1}" if round_ else "")
    return Project(name, f"/home/sam/code/{name}")


def write_history(
    directory: Path, *, until: datetime, days: int, projects: int, sessions_per_day: float, seed: int
) -> Summary:
    """Write a made-up Claude config directory of `days` days that ends before `until`.

    Working hours and weekends are those of `until`'s time zone, or of the system's if it has none.
    """
    until = until if until.tzinfo else until.astimezone()
    author = Author(seed, SMALL, until - days * DAY, until)
    history = History(directory, author)
    history.prompts += forgotten(author)
    for plan in plans(author, days, [make_project(n) for n in range(projects)], sessions_per_day):
        history.write(plan)
    history.save_settings()
    return Summary(history.files, history.records, history.bytes)


def plans(author: Author, days: int, projects: list[Project], sessions_per_day: float) -> Iterator[Plan]:
    weights = [1 / n for n in range(1, len(projects) + 1)]
    for day in range(days + 1):
        date = author.first + day * DAY
        # Five working days and a quiet weekend that average to one.
        expected = sessions_per_day * (0.25 if date.weekday() >= 5 else 1.3) * author.rng.uniform(0.5, 1.5)
        for project in author.rng.choices(projects, weights, k=int(expected + author.rng.random())):
            yield plan_session(author, project, date)


def plan_session(author: Author, project: Project, date: datetime) -> Plan:
    rng = author.rng
    hour = rng.choice((rng.triangular(8, 13, 10), rng.triangular(13, 19, 15), rng.triangular(13, 23, 16)))
    start = date.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(seconds=int(hour * 3600))
    size = max(SESSION.draw(rng), 6)
    agents = tuple(rng.randint(5, 14) for _ in range(rng.randint(1, 3))) if rng.random() < 0.25 else ()
    return Plan(
        project, start, size, agents,
        worktree=author.fill("{verb}-{noun}") if rng.random() < 0.07 else "",
        workflow=len(agents) > 1 and rng.random() < 0.3,
        resumed=start + rng.randint(1, 3) * DAY if rng.random() < 0.08 else None,
        fork=size + 10 if rng.random() < 0.04 else 0,
    )  # fmt: skip


def forgotten(author: Author) -> Iterator[Record]:
    """Prompts of sessions whose transcripts Claude Code has cleaned up: history.jsonl outlives them."""
    for day in range(40, 0, -2):
        text, at = author.fill(author.rng.choice(REQUESTS)[1]), milliseconds(author.first - day * DAY)
        told = {"display": text, "pastedContents": {}, "timestamp": at}
        yield {**told, "project": make_project(day % 5).cwd, "sessionId": author.uuid()}
