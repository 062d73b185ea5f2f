"""Between a person and psdp: any text on any terminal, any value in a line, any path as typed."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from pathlib import Path

from psdp.errors import ConfigError


def show_any_text(errors: str = "backslashreplace") -> None:
    """Have stdout show what its encoding lacks, by escapes or as ``errors`` says; stderr does.

    A terminal need not know every character, and a path may hold bytes that are no text at all.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=errors)


def nobody_reads() -> int:
    """Return the exit status of a program whose reader has had enough (``| head -1``), and drop
    what stdout still holds, which must not be tried again, loudly, at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def shown(value: object) -> str:
    """Return a value as a line has it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"  # which Python does not write out
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


_LONG = 80


def harmless(text: str) -> str:
    """Return a text with an escape for each character that would have a terminal do something, but
    for newlines and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def masked(text: str) -> str:
    """Return a text in which no URL has the name and the password of a user, or options."""
    text = _OPTIONS.sub(r"\1?***", text)
    return _USER.sub("//***@", text)


_USER = re.compile(r"//[^/\s@'\"]*:[^/\s@'\"]*@")
_OPTIONS = re.compile(r"(\w://[^\s?'\"]*)\?[^\s'\"]*")


def path_of(text: str, flag: str) -> Path:
    """Return the path that a person means; see :func:`at_home`."""
    return Path(at_home(text, flag))


def at_home(text: str, flag: str) -> str:
    """Return a path in which a leading ``~`` is a home folder, as a shell would have put it.

    Raises:
        ConfigError: this process has no home folder, or this locale no such file name.
    """
    path = os.path.expanduser(text)
    if path == "~" or path.startswith("~/"):
        raise ConfigError(f"{flag} {text}: there is no home folder here; write the path out")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigError(
            f"{flag} {text}: file names are {sys.getfilesystemencoding()} under this locale, which "
            "lacks a character of it; set LC_ALL=C.UTF-8"
        ) from None
    return path
