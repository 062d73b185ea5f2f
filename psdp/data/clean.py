"""Cleaning of text before it is tokenised. Strings in, strings out; nothing here opens a file."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# C0 but tab and newline, DEL, C1, and the byte order mark.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_BLANKS = re.compile("[ \t]+")
_EMPTY_LINES = re.compile("\n{3,}")

_UNSEEN = frozenset({"script", "style"})
# fmt: off
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd",
    "details", "dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html", "li", "main",
    "nav", "ol", "option", "p", "pre", "section", "select", "summary", "table", "tbody", "td",
    "tfoot", "th", "thead", "title", "tr", "ul",
})
# fmt: on


def clean(text: str, level: str) -> str:
    """Return ``text`` cleaned to ``level``; cleaning twice changes nothing more, but for ``html``.

    none: unchanged. basic: every line end is a newline, control characters are gone, a run of
    blanks is one space, none ends a line, and at most one empty line stands between two others.
    html: tags, comments and the contents of script and style are gone, entities are characters,
    block elements are lines of their own; then basic.
    """
    if level == "none":
        return text
    if level == "html":
        text = _without_markup(text)
    text = _LINE_ENDS.sub("\n", text)
    text = _CONTROL.sub("", text)
    text = _BLANKS.sub(" ", text).replace(" \n", "\n")
    return _EMPTY_LINES.sub("\n\n", text)


def _without_markup(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.pieces)


class _Text(HTMLParser):
    """Collects in ``pieces`` what a reader would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # These two hold no elements, so a flag is enough and a lost end tag cannot be miscounted.
        self._unseen = tag in _UNSEEN
        self._break_line(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._break_line(tag)

    def handle_endtag(self, tag: str) -> None:
        self._unseen = False
        self._break_line(tag)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.pieces.append(data)

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        # HTML has no marked sections; the base class fails on one that it does not know.
        return self.parse_bogus_comment(i, report)

    def _break_line(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.pieces.append("\n")
