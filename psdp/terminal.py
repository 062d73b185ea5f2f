"""Between a person and psdp: any text on any terminal, any value in a line, any path as typed."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from psdp.errors import ConfigError, PsdpError
from psdp.signals import heeded


def show_any_text(errors: str = "backslashreplace") -> None:
    """Have stdout show what its encoding lacks, by escapes or as ``errors`` says; stderr does.

    A terminal need not know every character, and a path may hold bytes that are no text at all.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=errors)


def voice_of(rank: int) -> Callable[[str], None]:
    """Return what prints a line on stderr that says which rank it is from."""

    def say(text: str) -> None:
        print(f"psdp: rank {rank}: {text}", file=sys.stderr, flush=True)

    return say


def run_program(name: str, work: Callable[[], int]) -> int:
    """Return the exit status of a program: what ``work`` returns, or that of what ends it, which is
    told in a line."""
    show_any_text()
    try:
        with _ends_by_signals():
            status = work()
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
    except BrokenPipeError:
        return nobody_reads()
    except PsdpError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


@contextmanager
def _ends_by_signals() -> Iterator[None]:
    """Have this process end as by ``sys.exit`` where a signal would end it at once: what it writes
    is cleaned up."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    plain = [number for number in heeded() if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        plain = []
    for number in plain:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in plain:
            signal.signal(number, signal.SIG_DFL)


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
        ConfigError: it is empty, as of a variable that is not set; or this process has no home
            folder, or this locale no such file name.
    """
    if not text:
        raise ConfigError(f"{flag} is empty; name a folder, or drop it")
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
