"""Any text can be shown on any terminal, and a path is meant as a shell would have it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from psdp.errors import ConfigError
from psdp.terminal import masked, path_of, run_program, show_any_text, shown


def printed(text: str, **environment: str) -> bytes:
    code = f"from psdp.terminal import show_any_text; show_any_text(); print({text!a}, flush=True)"
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, check=True
    ).stdout


def test_what_a_terminal_does_not_know_is_escaped() -> None:
    assert printed("rün 权", PYTHONIOENCODING="ascii") == b"r\\xfcn \\u6743\n"
    assert printed("rün 权", PYTHONIOENCODING="latin-1") == b"r\xfcn \\u6743\n"
    assert printed("rün 权", PYTHONIOENCODING="utf-8") == "rün 权\n".encode()


def test_bytes_that_are_no_text_are_escaped_too() -> None:
    assert printed(os.fsdecode(b"r\xfcn"), PYTHONIOENCODING="utf-8") == b"r\\udcfcn\n"


def test_a_program_without_stdout_has_nothing_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    show_any_text()


def test_a_tilde_is_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert path_of("~/x", "--out") == Path("/home/me/x")
    assert path_of("~", "--out") == Path("/home/me")


@pytest.mark.parametrize("text", ["a/~/b", "x~", "./~", "~nobody-of-that-name"])
def test_a_tilde_elsewhere_is_one_character_of_a_name(text: str) -> None:
    assert path_of(text, "--out") == Path(text)


def test_a_process_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigError, match=r"^--out ~/x: there is no home folder here"):
        path_of("~/x", "--out")


def test_a_name_that_the_locale_does_not_know_is_named() -> None:
    code = (
        "from psdp.errors import ConfigError\n"
        "from psdp.terminal import path_of\n"
        "try: path_of('r\\xfcn', '--out')\n"
        "except ConfigError as error: print(ascii(str(error)))"
    )
    plain = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | plain,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert "file names are ascii under this locale" in told


def test_a_value_in_a_line_is_cut_where_it_is_long() -> None:
    assert shown("x") == "'x'"
    assert shown("x" * 5000) == f"'{'x' * 76}..."
    assert shown(1 << 20_000) == "a number of thousands of digits"


def test_no_password_in_a_url_is_shown() -> None:
    line = "mpirun -n 3 --checkpoint-to s3://me:secret@bucket/run 'ftp://a:b@c/d?e=f' x@y a:b@c"
    masks = "mpirun -n 3 --checkpoint-to s3://***@bucket/run 'ftp://***@c/d?***' x@y a:b@c"
    assert masked(line) == masks
    assert masked("sftp://me@host/run at 10:30") == "sftp://me@host/run at 10:30"


ENDED = """
import os, signal, sys
# As at a terminal: who starts tests in the background may have them ignore some.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from psdp.terminal import run_program
def work():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    finally:
        print("cleaned up")
sys.exit(run_program("psdp", work))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_asked_to_end_cleans_up(number: signal.Signals) -> None:
    command = [sys.executable, "-c", ENDED, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "cleaned up\n", "")


def test_what_a_program_refuses_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> int:
        raise ConfigError("no")

    assert run_program("psdp", refuse) == 2
    assert capsys.readouterr().err == "psdp: no\n"
    assert run_program("psdp", lambda: 0) == 0


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="--corpus is empty; name a folder"):
        path_of("", "--corpus")
