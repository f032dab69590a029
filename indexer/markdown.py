"""Markdown of transcripts as HTML that does nothing: no markup of its own, nothing fetched, nothing run."""

from __future__ import annotations

import re
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML

from .output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.token import Token
    from markdown_it.utils import EnvType, OptionsDict

# Others have no meaning outside the folder that they were written in, or would run: they stay as they were typed.
_LINKED = re.compile("https?://|mailto:", re.IGNORECASE)


def to_html(text: str, heading: str) -> str:
    """HTML of a text, its control characters escaped; its headings are all of that element, to fit below the page's."""
    # Not before: a character may be written as an entity.
    return printable(str(_parser().render(text, {"heading": heading})), one_line=False)


@cache
def _parser() -> MarkdownIt:
    # Lines stay lines, as on Claude Code's terminal. Images would be fetched.
    options = {"html": False, "breaks": True}
    parser = _Parser("commonmark", options, renderer_cls=_Renderer).enable(["table", "strikethrough"])
    return parser.disable("image")


class _Parser(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return _LINKED.match(url) is not None


class _Renderer(RendererHTML):
    """Each method is a rule, called by the name of a token."""

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"<{env['heading']}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"</{env['heading']}>\n"

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        tokens[idx].attrSet("rel", "noreferrer noopener")
        return self.renderToken(tokens, idx, options, env)

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        # What is wider than the page scrolls for itself, also by keyboard.
        return '<div class="wide" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        # It comes as a style, which no page of ours allows.
        if align := tokens[idx].attrs.pop("style", None):
            tokens[idx].attrSet("class", str(align).removeprefix("text-align:"))
        return self.renderToken(tokens, idx, options, env)

    td_open = th_open
