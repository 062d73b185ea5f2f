"""What a person sees: a bar on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psdp.records import console
from psdp.records.console import Console, open_terminal

RECORD: dict[str, Any] = {
    "tokens": 2000,
    "loss": 2.34567,
    "lr": 0.001,
    "tokens_per_s": 1000.0,
    "version_lag": 0.25,
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "open_terminal", lambda: None)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "open_terminal", lambda: sys.stderr)


@pytest.mark.usefixtures("plain")
def test_without_a_terminal_progress_is_lines_on_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = Console(12_000, 0, name="tokens", quiet=False)
    shown.say("hello")
    shown.advance(2000, 2.3, 0.0)
    shown.progress(RECORD, step=10)
    shown.close()
    assert capsys.readouterr() == (
        "hello\nstep     10  loss 2.3457  lr 1.00e-03  1,000 tokens/s  lag 0.2  10 s left\n",
        "",
    )


@pytest.mark.usefixtures("plain")
def test_the_first_record_of_all_has_no_speed_and_no_division_by_zero(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console(12_000, 0, name="tokens", quiet=False).progress(RECORD | {"tokens_per_s": 0.0}, step=1)
    assert "0 tokens/s" in capsys.readouterr().out


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_there_is_a_bar_on_stderr_and_words_on_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = Console(10_000, 4000, name="tokens", quiet=False)
    shown.say("hello")
    shown.advance(2000, 2.3456, 0.5)
    shown.progress(RECORD, step=10)
    shown.close()
    out, err = capsys.readouterr()
    assert out == "hello\n"
    assert "4.00k/10.0k" in err, "a resumed run begins where it was"
    assert "6.00k/10.0k" in err
    assert "loss=2.346" in err
    assert "lag=0.5" in err


@pytest.mark.parametrize("where", ["plain", "terminal"])
def test_quiet_is_silent_everywhere(
    where: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    request.getfixturevalue(where)
    shown = Console(10_000, 0, name="tokens", quiet=True)
    shown.say("hello")
    shown.advance(2000, 2.3, 0.5)
    shown.progress(RECORD, step=10)
    shown.close()
    assert capsys.readouterr() == ("", "")


ASK = "from psdp.records.console import open_terminal; print(open_terminal() is not None)"


@pytest.fixture
def tty() -> Iterator[int]:
    outer, inner = pty.openpty()
    yield inner
    os.close(outer)
    os.close(inner)


def ask_below(launcher: Path, stderr: int) -> str:
    """Ask in a process whose own stderr is a pipe, as a rank's is, started by ``launcher``."""
    launcher.write_text(f"#!/bin/sh\n{sys.executable} -c '{ASK}' 2>&1 | cat\n")
    launcher.chmod(0o755)
    return subprocess.run(
        [launcher], stdout=subprocess.PIPE, stderr=stderr, text=True, check=True
    ).stdout


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc is missing")
@pytest.mark.parametrize(
    ("name", "watched"),
    [("mpirun", True), ("mpiexec.hydra", True), ("prterun", True), ("nohup", False)],
)
def test_the_terminal_of_the_launcher_counts_as_ours(
    name: str, watched: bool, tmp_path: Path, tty: int
) -> None:
    assert ask_below(tmp_path / name, tty) == f"{watched}\n"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc is missing")
def test_a_launcher_whose_output_goes_to_a_file_is_not_watched(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as log:
        assert ask_below(tmp_path / "mpirun", log.fileno()) == "False\n"


def drawn_below(launcher: Path, **environment: str) -> bytes:
    """Return what a bar looks like on the terminal of a launcher, to which its ranks' output does
    not go."""
    outer, inner = pty.openpty()
    draw = (
        "from psdp.records.console import Console; "
        "shown = Console(10, 0, name='tokens', quiet=False); "
        "shown.advance(5, 2.0, 0.0); shown.close()"
    )
    launcher.write_text(f'#!/bin/sh\n{sys.executable} -c "{draw}" 2>&1 | cat >/dev/null\n')
    launcher.chmod(0o755)
    subprocess.run([launcher], stderr=inner, check=True, env=os.environ | environment)
    os.close(inner)
    drawn = os.read(outer, 10_000)
    os.close(outer)
    return drawn


def test_the_bar_is_drawn_on_the_launchers_terminal_itself(tmp_path: Path) -> None:
    assert "5.00/10.0" in drawn_below(tmp_path / "mpirun").decode()


def test_a_process_without_stderr_has_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert open_terminal() is None


def test_the_bar_is_drawn_in_what_the_terminal_knows(tmp_path: Path) -> None:
    assert drawn_below(tmp_path / "mpirun", PYTHONIOENCODING="ascii").isascii()


def test_our_own_terminal_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert open_terminal() is sys.stderr
