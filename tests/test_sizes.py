"""Walls stand where they are needed: files, functions and classes are as long as one can read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import psdp

ROOT = Path(psdp.__file__).parent
FILE, FUNCTION, CLASS = 350, 60, 250

SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in ROOT.rglob("*.py")
}


def too_long(source: str) -> Iterator[str]:
    """Yield the functions and classes of a source that are longer than they may be."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                most = FUNCTION
            case ast.ClassDef():
                most = CLASS
            case _:
                continue
        assert node.end_lineno is not None
        lines = node.end_lineno - node.lineno + 1
        if lines > most:
            yield f"{node.name} has {lines} lines, {most} at most"


@pytest.mark.parametrize("file", sorted(SOURCES))
def test_nothing_is_longer_than_one_can_read(file: str) -> None:
    lines = SOURCES[file].count("\n")
    assert lines <= FILE, f"psdp/{file} has {lines} lines, {FILE} at most"
    assert list(too_long(SOURCES[file])) == []


def test_what_is_too_long_is_found() -> None:
    body = "    pass\n" * FUNCTION
    assert list(too_long(f"def f():\n{body}")) == ["f has 61 lines, 60 at most"]
    assert list(too_long(f"def f():\n{body[9:]}")) == []
    assert list(too_long("class C:\n" + "    x = 1\n" * CLASS)) == ["C has 251 lines, 250 at most"]
