"""Cleaning of text before it is tokenised. Text in, text out; nothing here opens a file."""

from __future__ import annotations

import re

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# C0 but tab and newline, DEL, C1, and the byte order mark.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_BLANKS = re.compile("[ \t]{2,}|\t")  # not the single spaces, of which a text is full
_EMPTY_LINES = re.compile("\n{3,}")


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
        from psdp.data.markup import without_markup  # few corpora need the parser

        text = without_markup(text)
    text = _LINE_ENDS.sub("\n", text)
    text = _CONTROL.sub("", text)
    text = _BLANKS.sub(" ", text).replace(" \n", "\n")
    return _EMPTY_LINES.sub("\n\n", text)


def cleaned(utf8: bytes, level: str) -> bytes:
    """Return a text in UTF-8 cleaned to ``level``; see :func:`clean`."""
    return utf8 if level == "none" else clean(utf8.decode("utf-8"), level).encode("utf-8")
