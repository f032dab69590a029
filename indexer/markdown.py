"""Markdown as HTML that does nothing: for texts of transcripts on a page."""

from __future__ import annotations

from functools import cache

from .output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from markdown_it import MarkdownIt

# Others have no meaning outside the folder that they were written in, or would run.
_SCHEMES = ("https://", "http://", "mailto:")


def to_html(text: str) -> str:
    """HTML of a text whose own HTML is shown as it is written, with no images: they would be fetched.

    Headings are paragraphs of the class `heading`, because the page has its own.
    """
    return str(_parser().render(printable(text, one_line=False)))


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    parser.disable("image")
    parser.validateLink = lambda url: url.lower().startswith(_SCHEMES)  # type: ignore[method-assign]
    parser.add_render_rule("link_open", _link)
    parser.add_render_rule("heading_open", _heading)
    parser.add_render_rule("heading_close", _heading)
    # What may be wider than the page scrolls for itself, also by keyboard.
    parser.add_render_rule("table_open", lambda *_: '<div class="wide" tabindex="0"><table>')
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    parser.add_render_rule("th_open", _cell)
    parser.add_render_rule("td_open", _cell)
    return parser


def _link(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    tokens[place].attrSet("rel", "noreferrer noopener")
    return str(renderer.renderToken(tokens, place, options, env))


def _heading(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    token.tag = "p"
    if token.nesting == 1:
        token.attrSet("class", "heading")
    return str(renderer.renderToken(tokens, place, options, env))


def _cell(renderer: Any, tokens: Sequence[Any], place: int, options: Any, env: Any) -> str:
    # A style of its own no page allows.
    if align := tokens[place].attrs.pop("style", None):
        tokens[place].attrSet("class", align.removeprefix("text-align:"))
    return str(renderer.renderToken(tokens, place, options, env))
