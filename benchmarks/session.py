"""Commands in sessions of their own, of which nothing is left behind; MPI jobs above all."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TERM_S, KILL_S = 3.0, 2.0
"""How long a command may take to end when asked to, and its children after it."""


@dataclass(frozen=True)
class Ended:
    """What a command left: its exit status, None if its time was over, and all it printed."""

    status: int | None
    output: str


def run_session(
    command: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Ended:
    """Run a command to its end; return what it left.

    Whatever of its session is alive after it, after ``timeout_s``, or when an exception (Ctrl-C)
    ends the wait, is killed.
    """
    with tempfile.TemporaryFile() as output:
        job = start_session(command, output, env=env, cwd=cwd)
        status: int | None = None
        try:
            status = job.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_session(job)
        output.seek(0)
        return Ended(status, output.read().decode(errors="replace"))


def start_session(
    command: Sequence[str],
    output: IO[bytes] | int,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; all that it prints goes to ``output``."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=env,
        cwd=cwd,
    )


def end_session(job: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the command to end, as an MPI launcher then ends its ranks, and kill what is left of its
    session; with SIGKILL, all of it at once."""
    if number == signal.SIGKILL:
        for pid in members(job.pid):
            os.kill(pid, number)
    if job.poll() is None:
        job.send_signal(number)
        try:
            job.wait(TERM_S)
        except subprocess.TimeoutExpired:
            job.kill()
    # Open MPI gives every rank a process group of its own; the session they keep.
    deadline = time.monotonic() + KILL_S
    while (left := members(job.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.wait()


def members(session: int) -> list[int]:
    """Return the processes of a session that are not merely waiting to be reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name) state ppid pgrp session ...; the name may hold blanks and brackets
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(of) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found
