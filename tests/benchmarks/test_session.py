"""Nothing of a command outlives its session."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from session import run_session

# Starts a process in a group of its own, as Open MPI does with ranks; writes its number down.
PARENT = """
import subprocess, sys, time
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code], process_group=0)
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(float(sys.argv[2]))
"""


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> None:
    while is_alive(pid):  # pytest's timeout bounds it
        time.sleep(0.01)


def test_the_status_and_all_output_come_back() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr, flush=True); sys.exit(3)"
    ended = run_session([sys.executable, "-uc", code], timeout_s=30)
    assert (ended.status, ended.output) == (3, "out\nerr\n")


def test_a_status_of_none_says_that_the_time_was_over() -> None:
    ended = run_session([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)
    assert ended.status is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("lasts", "status"), [("0", 0), ("60", None)])
def test_children_are_ended_after_the_command_and_after_its_time(
    tmp_path: Path, lasts: str, status: int | None
) -> None:
    note = tmp_path / "pid"
    ended = run_session([sys.executable, "-c", PARENT, str(note), lasts], timeout_s=3)
    assert ended.status == status, ended.output
    wait_until_gone(int(note.read_text()))
