"""A job under the launcher: its exit status is 0 if it has finished, and in no other case."""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from session import run_session

from psdp.launch.hosts import addresses
from psdp.launch.ranks import Ranks
from psdp.launch.supervisor import exit_status
from psdp.line import VARIABLE, Line, encoded, open_line
from psdp.signals import ENDING


@pytest.mark.parametrize(
    ("mpirun", "told", "asked", "broken", "spoke", "status"),
    [
        (0, 0, None, False, True, 0),  # finished
        (0, 0, 15, False, True, 0),  # finished before it could be asked to end
        (1, 0, None, False, True, 1),  # finished, but a rank failed at its end
        (0, None, 2, False, True, 130),  # MPICH after two Ctrl-C
        (1, 143, 15, False, True, 143),  # Open MPI says 1 of every signal
        (75, 75, 10, False, True, 75),
        (1, None, 1, False, True, 75),  # there was nothing to save yet
        (137, None, None, False, True, 137),
        (0, None, None, False, True, 5),  # rank 0 is gone without a word
        (143, None, None, True, False, 5),  # a rank ended before MPI's start
        (0, None, None, False, False, 0),  # a program that has no line: mpirun's word
        (42, None, None, False, False, 42),
        (0, None, 15, False, False, 143),
    ],
)
def test_the_exit_status(
    mpirun: int, told: int | None, asked: int | None, broken: bool, spoke: bool, status: int
) -> None:
    assert exit_status(mpirun, told, asked=asked, broken=broken, spoke=spoke) == status


def test_a_job_that_has_survived_failures_has_finished_if_rank_0_says_so() -> None:
    how = {"asked": None, "broken": False, "spoke": True, "survived": True}
    assert exit_status(3, 0, **how) == 0  # type: ignore[arg-type]
    assert exit_status(0, 5, **how) == 5  # type: ignore[arg-type]
    assert exit_status(0, None, **how) == 5  # type: ignore[arg-type]


STOPPED_AT_ITS_END = """
import os, signal, sys, time
from psdp.line import open_line

lines = [open_line(os.environ | {"OMPI_COMM_WORLD_RANK": str(rank)}) for rank in range(2)]
for line in lines:
    line.started()
lines[0].training("run")

def wake(*_):  # as ranks do, which an mpirun of Open MPI wakes before it ends them
    lines[1].ended(0)
    sys.exit(1)

signal.signal(signal.SIGTERM, wake)
lines[0].ended(0)
time.sleep(60)
"""
LAUNCHER = """
import sys, time
from psdp.launch import supervisor
from psdp.launch.ranks import Ranks

supervisor.BROKEN_S = supervisor.LEAVING_S = 0.5
signals = supervisor.Signals()
ranks = Ranks(signals.selector, time.monotonic(), everywhere=False)
job = supervisor.Supervisor(signals, ranks, 2, survives="--dies" not in sys.argv)
outcome = job.run([sys.executable, "-c", sys.argv[1]])
print(outcome.first)
sys.exit(outcome.status)
"""


KILLED = """
import os, signal, tempfile
os.mkdir(os.path.join(tempfile.gettempdir(), f"ompi.{os.getpid()}"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_mpirun_that_is_killed_leaves_no_files(tmp_path: Path) -> None:
    variables = os.environ | {"TMPDIR": str(tmp_path)}
    ended = run_session([sys.executable, "-c", LAUNCHER, KILLED], timeout_s=20, env=variables)
    assert ended.status == 137, ended.output
    assert list(tmp_path.iterdir()) == []


LEFT_WITHOUT_WHO_LEADS = """
import os, threading
from psdp.line import open_line

environment = os.environ | {"OMPI_COMM_WORLD_RANK": "0"}
declared = threading.Event()
other = open_line(os.environ | {"OMPI_COMM_WORLD_RANK": "1"})
other.started()
other.declare = lambda rank: rank == 0 and declared.set()
if not os.fork():
    leader = open_line(environment)
    leader.started()
    leader.training("run")
    os._exit(3)
declared.wait()
"""

KILLED_BESIDE_ONE_THAT_IS_SLOW_TO_GO = """
import os, signal, sys, time
from psdp.line import open_line

for rank in range(2):
    if not os.fork():
        open_line(os.environ | {"OMPI_COMM_WORLD_RANK": str(rank)}).started()
        if rank:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
os.wait()
time.sleep(1)
sys.exit(9)
"""


def test_a_job_of_which_a_rank_is_stopped_at_its_end_has_finished() -> None:
    command = [sys.executable, "-c", LAUNCHER, STOPPED_AT_ITS_END]
    ended = run_session(command, timeout_s=30)
    assert ended.status == 0, ended.output


def test_ranks_that_are_left_without_who_leads_see_that_it_is_gone() -> None:
    command = [sys.executable, "-c", LAUNCHER, LEFT_WITHOUT_WHO_LEADS]
    ended = run_session(command, timeout_s=30)
    assert ended.status == 5, ended.output


def test_ranks_that_wait_for_one_another_when_nobody_can_lead_do_not_keep_the_job() -> None:
    waiting = LEFT_WITHOUT_WHO_LEADS.replace("declared.wait()", "__import__('time').sleep(60)")
    ended = run_session([sys.executable, "-c", LAUNCHER, waiting], timeout_s=30)
    assert ended.status == 5, ended.output
    assert ended.output == f"rank 0 on {socket.gethostname()}\n"


def test_who_was_killed_went_first_though_another_on_this_host_is_slow_to_go() -> None:
    command = [sys.executable, "-c", LAUNCHER, KILLED_BESIDE_ONE_THAT_IS_SLOW_TO_GO, "--dies"]
    ended = run_session(command, timeout_s=30)
    assert ended.status == 9, ended.output
    assert f"rank 1 on {socket.gethostname()}\n" in ended.output


def test_ranks_that_call_all_at_once_are_heard_at_once() -> None:
    there = Listening()
    token, port, address = there.ranks.environment[VARIABLE].split()
    called = [socket.create_connection((address, int(port))) for _ in range(50)]
    for rank, connection in enumerate(called):
        hello = {"token": token, "rank": rank, "host": "here", "pid": 0}
        connection.sendall(encoded(hello))
    for _ in range(2):  # turns of the launcher's loop, which has other things to do
        for key, _ in there.selector.select(0.1):
            key.data()
    assert len(there.ranks.known) == 50
    for connection in called:
        connection.close()
    there.ranks.close()


def test_looking_for_processes_takes_a_fifth_of_the_time_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there, looks = Listening(), list[float]()

    def slow(_parent: int) -> list[int]:
        looks.append(there.clock_s)
        there.clock_s += 1
        return []

    monkeypatch.setattr("psdp.launch.ranks.descendants", slow)
    there.call(0).close()
    for _ in range(100):
        there.ranks.seek(1, 2)
        there.clock_s += 0.25
    assert looks == [60 + 5 * n for n in range(7)]
    there.ranks.close()


def test_ranks_go_in_the_order_in_which_they_went_whatever_they_had_said() -> None:
    there = Listening()
    talkative, silent = there.call(1), there.call(2)
    talkative.sendall(encoded({"beat": True}) * 1000)
    talkative.close()
    silent.close()
    there.hear()
    assert [rank.rank for rank in there.ranks.left] == [1, 2]
    there.ranks.close()


@pytest.mark.parametrize("asked", ENDING)
def test_who_was_asked_to_end_is_not_said_to_have_finished(asked: int) -> None:
    assert exit_status(0, None, asked=asked, broken=False, spoke=True) != 0


class Listening:
    """Ranks whose words are heard when a test looks."""

    def __init__(self, lease_s: float = 0.0) -> None:
        self.selector = selectors.DefaultSelector()
        self.clock_s = 60.0
        self.ranks = Ranks(
            self.selector, 0.0, everywhere=False, lease_s=lease_s, now=lambda: self.clock_s
        )
        self.fenced: list[int] = []

    def hear(self) -> None:
        while ready := self.selector.select(0.1):
            for key, _ in ready:
                key.data()

    def call(self, rank: int, host: str = "here", pid: int = 0) -> socket.socket:
        """Return the connection of a rank that has called."""
        token, port, address = self.ranks.environment[VARIABLE].split()
        called = socket.create_connection((address, int(port)))
        hello = {"token": token, "rank": rank, "host": host, "pid": pid}
        called.sendall(json.dumps(hello).encode() + b"\n")
        self.hear()
        return called

    def line(self, rank: int, host: str = "here", pid: int = 0) -> Line:
        """Return the line of a rank that has called."""
        called = self.call(rank, host, pid)
        welcome = json.loads(called.makefile("rb", buffering=0).readline())
        return Line(called, welcome["age_s"], fence=lambda: self.fenced.append(rank))

    def until(self, true: Callable[[], object]) -> None:
        """Hear ranks until something holds."""
        deadline_s = time.monotonic() + 10
        while not true():
            assert time.monotonic() < deadline_s, "never"
            self.hear()


def test_a_rank_tells_how_far_it_is_and_is_asked_to_end() -> None:
    there = Listening()
    line = there.line(0)
    assert time.monotonic() - line.began_s >= 60
    assert line.asked() is None
    assert not there.ranks.ask_to_end(10), "the run has not begun"
    line.started()
    line.training("/runs/x")
    there.hear()
    assert there.ranks.folder == "/runs/x"
    assert there.ranks.ask_to_end(10)
    there.until(lambda: line.asked() == 10)
    with there.call(3):
        pass
    there.hear()
    assert there.ranks.tell_of(there.ranks.left[0])
    gone: list[tuple[int, str]] = []
    there.until(lambda: gone or gone.extend(line.gone()))
    assert (gone, line.gone()) == ([(3, "its process has ended")], [])
    assert line.over() is None
    line.ended(75)
    there.until(lambda: line.over() == 75)
    assert there.ranks.status == 75
    there.ranks.close()


def test_rank_0_has_the_last_word_and_failures_the_one_before() -> None:
    there = Listening()
    for rank, status in ((2, 0), (1, 3)):
        with there.call(rank) as called:
            called.sendall(encoded({"ended": status}))
        there.hear()
    assert there.ranks.status == 3
    there.line(0).ended(0)
    there.until(lambda: there.ranks.status == 0)
    there.ranks.close()


def test_who_stands_by_has_heard_how_the_run_ended_though_the_leader_says_nothing() -> None:
    there = Listening()
    lines = [there.line(rank) for rank in range(3)]
    lines[0].training("/runs/x")
    lines[2].stands_by()
    lines[1].ended(0)
    there.until(lambda: there.ranks.known[1].status == 0)
    assert not there.ranks.finished, "a worker may end before the run does"
    lines[2].ended(0)
    there.until(lambda: lines[1].over() == 0)
    assert (there.ranks.finished, there.ranks.status) == (True, 0)
    there.ranks.close()


def test_a_rank_that_is_silent_is_declared_dead_killed_on_its_host_and_fenced() -> None:
    there = Listening(lease_s=30)
    lines = {rank: there.line(rank, host) for rank, host in enumerate(["one", "one", "two", "two"])}
    for line in lines.values():
        line.started()
    lines[0].training("/runs/x")
    declared: list[int] = []
    lines[0].declare = declared.append
    there.hear()
    for _ in range(31):
        there.ranks.judge()
        there.clock_s += 1
        for rank in (0, 1, 2):
            lines[rank].started()  # any word is a sign of life
        there.hear()
    there.ranks.judge()
    assert [rank.rank for rank in there.ranks.left] == [3]
    there.ranks.fence(there.ranks.left[0])
    there.until(lambda: declared == [3] and there.fenced == [3])
    there.ranks.close()


def test_a_rank_ends_itself_where_the_launcher_is_out_of_reach() -> None:
    there, fenced = Listening(lease_s=1.5), threading.Event()
    called = there.call(0)
    called.recv(100)
    line = Line(called, 0.0, 1.5, fenced.set)
    line.started()
    there.until(lambda: there.ranks.known[0].started)
    assert not fenced.is_set()
    there.ranks.close()
    assert fenced.wait(10)


def test_a_rank_whose_main_thread_does_nothing_gives_no_sign_of_life() -> None:
    rank, launcher = socket.socketpair()
    lives = threading.Event()
    Line(rank, 0.0, 0.5, lambda: None, lives.is_set)
    with launcher:
        launcher.settimeout(0.3)
        with pytest.raises(TimeoutError):
            launcher.recv(1)
        lives.set()
        launcher.settimeout(10)
        assert launcher.recv(100) == encoded({"beat": True})


@pytest.mark.parametrize(
    "word", [b"GET / HTTP/1.0\r\n\r\n", b'{"token": "no", "rank": 0}\n', b"7\n"]
)
def test_a_stranger_is_no_rank(word: bytes) -> None:
    there = Listening()
    _, port, address = there.ranks.environment[VARIABLE].split()
    with socket.create_connection((address, int(port))) as stranger:
        stranger.sendall(word)
        there.hear()
        assert stranger.recv(1) == b"", "it is hung up on"
    assert there.ranks.known == {}
    there.ranks.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {VARIABLE: "token 1 127.0.0.1"},
        {VARIABLE: "token 1 127.0.0.1", "PMI_RANK": "0"},
        {VARIABLE: "token", "PMI_RANK": "0"},
    ],
)
def test_a_rank_runs_as_well_without_a_launcher(environment: dict[str, str]) -> None:
    line = open_line(environment)
    line.started()
    line.ended(0)
    assert line.asked() is None


def test_a_host_knows_an_address_of_its_own() -> None:
    assert addresses()[-1].startswith("127.")
