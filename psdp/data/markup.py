"""What is text in HTML."""

from __future__ import annotations

from html.parser import HTMLParser

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


def without_markup(html: str) -> str:
    """Return what a reader would see, with the line ends of block elements."""
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
