"""Real MPI jobs for tests: started by psdp.launch, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = "psdp_test_job"


def run_job(
    n: int, code_or_module: str, *args: str, timeout_s: float = 60, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module, or the code of one (any text of several lines), on ``n`` ranks of this
    Python's MPI, in the folder ``cwd``; return its exit status and output, stderr included.

    The job has its own session. Whatever of it is alive after ``timeout_s`` is killed, and the
    test fails with what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="psdp-mpi-") as folder:
        module = code_or_module
        if "\n" in code_or_module:
            module = CODE
            (Path(folder) / f"{CODE}.py").write_text(code_or_module)
        paths = [folder, str(ROOT), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "psdp.launch", "-n", str(n), "--module", module, *args]
        output = Path(folder) / "output"
        with output.open("wb") as file:
            # Ranks that compute on several threads each would only slow one another.
            job = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=cwd,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
            )
            try:
                code = job.wait(timeout_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_session(job)
        text = output.read_text(errors="replace")
    if code is None:
        pytest.fail(
            f"{module} on {n} ranks was still running after {timeout_s} s; it said:\n{text}"
        )
    return subprocess.CompletedProcess(command, code, text)


def end_session(job: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the launcher to end its ranks, then kill what is left of its session; with SIGKILL, all
    of it at once."""
    if number == signal.SIGKILL:
        for pid in _members(job.pid):
            os.kill(pid, number)
    if job.poll() is None:
        job.send_signal(number)
        try:
            job.wait(3)
        except subprocess.TimeoutExpired:
            job.kill()
    # Open MPI gives every rank a process group of its own; the session they keep.
    deadline = time.monotonic() + 2
    while (left := _members(job.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.wait()


def _members(session: int) -> list[int]:
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
