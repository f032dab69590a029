"""What Claude wrote, as HTML: whatever it is, it is laid out and does nothing."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.markdown import to_html

TAGS = set("p h5 br a em strong s code pre ul ol li blockquote hr div table thead tbody tr th td".split())
ATTRIBUTES = {"href", "rel", "title", "class", "tabindex", "start"}
PIECES = (
    "[", "]", "(", ")", "<", ">", "!", "`", "```", "~~~", "*", "_", "|", "---", "#", "- ", "1. ", "> ", "\n", "\n\n",
    " ", '"', "'", "=", "&", ";", "&lt;", "&#106;", "&#x202e;", "&#27;", "\\", "javascript:", "data:text/html,",
    "https://", "//x.org/", "mailto:", "script", "img src=x onerror=alert(1)", "style", "\x1b[31m", "\u202e",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n", "[x]: javascript:a\n", "word",
)  # fmt: skip


class Parsed(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=40).map("".join))
def test_nothing_in_a_text_becomes_more_than_its_layout(text: str) -> None:
    html = to_html(text, "h5")
    assert not any(character in html for character in "\x1b\u202e")
    for tag, attributes in Parsed(html).tags:
        assert tag in TAGS
        assert attributes.keys() <= ATTRIBUTES
        if tag == "a":
            assert str(attributes["href"]).lower().startswith(("https://", "http://", "mailto:"))
            assert attributes["rel"] == "noreferrer noopener"


@pytest.mark.parametrize(
    "text", ["[src/app.py](src/app.py)", "[x](javascript:alert(1))", "![x](https://x.org/x.png)", "<b>x</b>", "&"]
)
def test_what_is_not_laid_out_is_still_there_to_be_read(text: str) -> None:
    found = Parsed(to_html(text, "h5"))
    assert "img" not in [tag for tag, _ in found.tags]
    assert found.text.strip() in (text, "!x")


def test_lines_stay_lines_and_headings_are_none_of_the_pages() -> None:
    assert to_html("# Plan\nfirst\nsecond", "h5") == "<h5>Plan</h5>\n<p>first<br />\nsecond</p>\n"
