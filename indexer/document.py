"""A conversation as a document: Markdown, and HTML that needs nothing else and runs nothing."""

from __future__ import annotations

import re
from html import escape

from .output import counted, dumps, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Row = dict[str, Any]

# Long results are for those who open them: a page of a gigabyte opens nowhere.
MOST = 20_000
GONE = "No longer kept."
_ABOUT = {
    "compact_summary": "Summary of what came before",
    "compact_boundary": "Compacted",
    "interruption": "Interrupted",
    "api_error": "The API answered with an error",
    "away_summary": "While you were away",
}
_RELATIONS = {"fork": "a fork of", "continued": "goes on from"}


def about(step: Row) -> str:
    """What a note tells of."""
    return _ABOUT.get(step["about"], "Note")


def spent(row: Row) -> str:
    """Tokens and cost in words."""
    from .tables import tokens

    words = [f"{tokens(row['total_tokens'])} tokens"] if row["total_tokens"] else []
    if row["cost_usd"]:
        words.append(f"${row['cost_usd']:,.2f}" if row["cost_usd"] >= 0.005 else "<$0.01")
    if row["unpriced_tokens"]:
        words.append(f"{tokens(row['unpriced_tokens'])} of them unpriced")
    return ", ".join(words)


def told_missing(found: Row) -> list[str]:
    """What the conversation lacks, and why, a line each."""
    reasons = {
        "deleted": "is gone", "rewritten": "was rewritten", "on another machine": "is on another machine",
        "forgotten": "is not looked at, because the session was forgotten",
    }  # fmt: skip
    return [
        f"{counted(item['records'], 'record')} not shown: the transcript {item['file']}"
        f" {reasons.get(item['reason'], 'cannot be read: ' + item['reason'])}"
        for item in found["missing"]
    ]


def facts(found: Row, when: Callable[[str], str]) -> list[tuple[str, str]]:
    """What stands above a conversation."""
    lines = [("Session", found["session_id"]), ("Project", found["project"] or "unknown")]
    if found["first_at"]:
        lines.append(("Time", f"{when(found['first_at'])} to {when(found['last_at'])}"))
    used = spent(found)
    lines.append(("Used", f"{counted(found['turn_count'], 'turn')}{', ' if used else ''}{used}"))
    lines += [("From", f"{_RELATIONS[item['relation']]} {_titled(item)}") for item in found["parents"]]
    lines += [("Then", f"{_titled(item)}, {_RELATIONS[item['relation']]} it") for item in found["children"]]
    if found["resume"]:
        gone = "" if found["has_transcript"] else " (its transcript is gone: bring it back first)"
        lines.append(("Resume", found["resume"] + gone))
    return lines


def _titled(session: Row) -> str:
    title = " ".join((session["title"] or "").split())
    return f"{session['session_id']} ({title[:60]})" if title else str(session["session_id"])


def given(step: Row) -> str:
    """A tool's input as text: its only text, else all of it as JSON."""
    value = step["input"]
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), str):
        return str(next(iter(value.values())))
    return dumps(value, indent=True) if value is not None else GONE


def returned(step: Row) -> str:
    """A tool's result as text, cut where it is very long."""
    text = step["text"]
    if text is None:
        return GONE if step["is_missing"] else "No result was written."
    return text if len(text) <= MOST else f"{text[:MOST]}\n… {len(text) - MOST:,} more characters"


# Markdown


def markdown(found: Row, when: Callable[[str], str], thinking: bool = False) -> str:
    """A conversation as Markdown."""
    lines = [f"# {_line(found['title'] or 'Untitled session')}", ""]
    lines += [f"- {name}: {_line(text)}" for name, text in facts(found, when)]
    for turn in found["turns"]:
        used = spent(turn)
        lines += ["", f"## {turn['number']}. {when(turn['at'])}{f' ({used})' if used else ''}"]
        if turn["prompt"]:
            lines += ["", *(f"> {line}" for line in _text(turn["prompt"]).splitlines())]
        for step in turn["steps"]:
            lines += _markdown(step, thinking)
    lines += [f"\n{line}" for line in told_missing(found)]
    return printable("\n".join(lines), one_line=False) + "\n"


def _markdown(step: Row, thinking: bool) -> Iterator[str]:
    kind = step["kind"]
    if kind == "answer":
        yield from ("", _text(step))
    elif kind == "thinking":
        if thinking and step["text"] != "":
            yield from ("", "<details><summary>Thinking</summary>", "", _text(step), "", "</details>")
    elif kind == "prompt":
        yield ""
        yield from (f"> {line}" for line in _text(step).splitlines())
    elif kind == "note":
        yield from ("", f"<details><summary>{about(step)}</summary>", "", _text(step), "", "</details>")
    elif kind == "agent":
        yield from _markdown_agent(step, thinking)
    else:
        yield from ("", f"<details><summary>{escape(_called(step))}</summary>", "")
        yield from (_fenced(given(step)), "", _fenced(returned(step)), "")
        for agent in step["agents"]:
            yield from _markdown_agent(agent, thinking)
        yield from ("", "</details>")


def _markdown_agent(agent: Row, thinking: bool) -> Iterator[str]:
    yield from ("", f"<details><summary>{escape(named(agent))}</summary>")
    for step in agent["steps"]:
        yield from _markdown(step, thinking)
    yield from ("", "</details>")


def named(agent: Row) -> str:
    """A subagent in words."""
    used = spent(agent)
    about = f": {agent['description']}" if agent["description"] else ""
    return f"Subagent {agent['type'] or agent['agent'] or ''}".strip() + about + (f" ({used})" if used else "")


def _called(step: Row) -> str:
    failed = " failed" if step["is_error"] else ""
    return f"{step['name']} {_line(step['subject'] or '')[:120]}".strip() + failed


def _text(step: Row) -> str:
    text = GONE if step["text"] is None else step["text"]
    return str(text) + (f"\n[{step['images']} attached]" if step.get("images") else "")


def _line(text: str) -> str:
    return " ".join(text.split())


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any within it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"


# HTML

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }}
h2 {{ font-size: .9rem; font-weight: normal; opacity: .7; margin: 2.5rem 0 .5rem; border-top: 1px solid #8886; }}
h2 {{ padding-top: .5rem; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; opacity: .8; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
.prompt {{ background: #8882; border-radius: .5rem; padding: .6rem 1rem; }}
.prompt {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.failed > summary {{ color: #c33; }}
details {{ margin: .4rem 0; padding-left: .6rem; border-left: 2px solid #8884; }}
summary {{ cursor: pointer; overflow-wrap: anywhere; }}
pre {{ overflow-x: auto; background: #8881; padding: .6rem; border-radius: .3rem; font-size: .85rem; }}
table {{ border-collapse: collapse; }}
td, th {{ border: 1px solid #8886; padding: .2rem .5rem; }}
.wide {{ overflow-x: auto; }}
h3 {{ font-size: 1rem; margin: 1rem 0 .3rem; }}
.right {{ text-align: right; }}
.center {{ text-align: center; }}
.gone {{ opacity: .7; }}
</style>
</head>
<body>
<h1>{title}</h1>
<dl>{facts}</dl>
{body}
</body>
</html>
"""


def html(found: Row, when: Callable[[str], str], thinking: bool = False) -> str:
    """A conversation as one page: nothing in it is fetched, and nothing of a transcript is taken for markup."""
    parts = []
    for turn in found["turns"]:
        used = spent(turn)
        parts.append(f"<h2>{turn['number']}. {_shown(when(turn['at']))}{f' · {used}' if used else ''}</h2>")
        if turn["prompt"]:
            parts.append(f'<div class="prompt">{_shown(_text(turn["prompt"]))}</div>')
        parts += [part for step in turn["steps"] for part in _html(step, thinking)]
    parts += [f'<p class="gone">{_shown(line)}</p>' for line in told_missing(found)]
    rows = "".join(f"<dt>{name}</dt><dd>{_shown(text)}</dd>" for name, text in facts(found, when))
    return _PAGE.format(title=_shown(_line(found["title"] or "Untitled session")), facts=rows, body="\n".join(parts))


def _html(step: Row, thinking: bool) -> Iterator[str]:
    kind = step["kind"]
    if kind == "answer":
        yield _rendered(step)
    elif kind == "thinking":
        if thinking and step["text"] != "":
            yield f"<details><summary>Thinking</summary>{_rendered(step)}</details>"
    elif kind == "prompt":
        yield f'<div class="prompt">{_shown(_text(step))}</div>'
    elif kind == "note":
        yield f"<details><summary>{about(step)}</summary>{_rendered(step)}</details>"
    elif kind == "agent":
        yield from _html_agent(step, thinking)
    else:
        failed = ' class="failed"' if step["is_error"] else ""
        yield f"<details{failed}><summary>{_shown(_called(step))}</summary>"
        yield f"<pre>{_shown(given(step))}</pre><pre>{_shown(returned(step))}</pre>"
        for agent in step["agents"]:
            yield from _html_agent(agent, thinking)
        yield "</details>"


def _rendered(step: Row) -> str:
    from .markdown import to_html

    return to_html(_text(step), "h3")


def _html_agent(agent: Row, thinking: bool) -> Iterator[str]:
    yield f"<details><summary>{_shown(named(agent))}</summary>"
    for step in agent["steps"]:
        yield from _html(step, thinking)
    yield "</details>"


def _shown(text: str) -> str:
    return escape(printable(text, one_line=False))
