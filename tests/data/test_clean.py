"""Cleaning: what each level takes away, and that nothing makes it fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.data.clean import clean

_PIECES = [*"<>!/[]-&;# \n\t\r\x00a", "<script>", "</script>", "<![", "<!--", "-->"]
markup = st.lists(st.sampled_from(_PIECES)).map("".join)


@given(st.text())
def test_none_changes_nothing(text: str) -> None:
    assert clean(text, "none") == text


@pytest.mark.parametrize(
    ("dirty", "cleaned"),
    [
        ("a\r\nb\rc\u2028d\fe", "a\nb\nc\nd\ne"),
        ("\ufeffa\x00b\x1b[0m\x7f\x9c", "ab[0m"),
        ("a \t  b\t", "a b "),
        ("a \n\t\n  \n\n\nb", "a\n\nb"),
        ("a \x01 b", "a b"),
        ("天　地\n\n玄", "天　地\n\n玄"),
    ],
)
def test_basic_cleans(dirty: str, cleaned: str) -> None:
    assert clean(dirty, "basic") == cleaned


@given(st.text() | st.text("a \t\r\n\x00\x85"))
def test_basic_twice_is_basic_once(text: str) -> None:
    once = clean(text, "basic")
    assert clean(once, "basic") == once


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>one<p>two", "\none\ntwo"),
        ("<b>bo</b>ld <a href='x>y'>link</a>", "bold link"),
        ("a<!-- <p>no</p> -->b", "ab"),
        ("a<script>if (1 < 2) '<p>'</script>b<style>p {}</style>c", "abc"),
        ("a<SCRIPT src=x></SCRIPT>b<br/>c", "ab\nc"),
        ("&lt;tag&gt; &amp; &#22825; &eacute; &nonsense;", "<tag> & 天 é &nonsense;"),
        ("<!DOCTYPE html><?php x ?>a<![CDATA[b]]>c<![foo[ d]>e", "ace"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<ul><li>x</li><li>y</li></ul>\n\n\n", "\n\nx\n\ny\n\n"),
    ],
)
def test_html_leaves_what_a_reader_sees(html: str, text: str) -> None:
    assert clean(html, "html") == text


@given(markup | st.text())
def test_html_never_fails(html: str) -> None:
    clean(html, "html")
