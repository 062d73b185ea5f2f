"""What stands between mpirun and the daemon of another host: it passes on what they say, and lets
mpirun believe in a daemon that is lost, but in none that has left or never came."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from psdp.launch.mpirun import relaying
from psdp.launch.relay import agent_of

pytestmark = pytest.mark.timeout(30)

AGENT = """
import os, re, signal, socket, sys, time
host, command = sys.argv[-2:]
assert (host, "tcp6" in command, command.count("tcp://")) == ("other", False, 2), sys.argv
port, again = re.findall(r"tcp://127.0.0.1:([0-9]+):8", command)
assert port == again
def connected():
    daemon = socket.create_connection(("127.0.0.1", int(port)))
    daemon.sendall(b"%d here" % os.getpid())
    return daemon
"""


class Mpirun:
    """What mpirun is to a relay: it listens, and has started it.

    Args:
        body: of an agent that has become the daemon.
    """

    def __init__(self, folder: Path, body: str) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(20)
        script = folder / "agent.py"
        script.write_text(AGENT + body)
        where = f'"ns@0.0;tcp://127.0.0.1:{self.listener.getsockname()[1]}:8;tcp6://[::1]:7:64"'
        command = f"prted --prtemca prte_hnp_uri {where} --prtemca prte_parent_uri {where}"
        agent = quote(f"nowhere-to-be-found : {sys.executable} {script}", safe="")
        self.relay = subprocess.Popen(
            [sys.executable, "-m", "psdp.launch.relay", agent, "-q", "other", command],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.connections: list[socket.socket] = []
        self.daemon = 0

    def accept(self) -> socket.socket:
        """Return the connection of the daemon, which has said who it is."""
        connection, _ = self.listener.accept()
        connection.settimeout(20)
        self.connections.append(connection)
        self.daemon = int(connection.recv(100).split()[0])
        return connection

    def said(self) -> str:
        """Return a line of what the agent has said."""
        assert self.relay.stderr is not None
        return self.relay.stderr.readline()

    def close(self) -> None:
        for connection in (self.listener, *self.connections):
            connection.close()
        self.relay.kill()
        self.relay.communicate()
        if self.daemon:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.daemon, signal.SIGKILL)


def ends(pid: int, timeout_s: float = 20) -> bool:
    """Say whether a process ends within so long."""
    deadline_s = time.monotonic() + timeout_s
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Mpirun]]:
    started: list[Mpirun] = []

    def begin(body: str) -> Mpirun:
        started.append(Mpirun(tmp_path, body))
        return started[-1]

    yield begin
    for mpirun in started:
        mpirun.close()


def test_what_both_say_is_passed_on_and_a_daemon_that_leaves_is_seen_to(
    start: Callable[[str], Mpirun],
) -> None:
    mpirun = start("daemon = connected(); assert daemon.recv(9) == b'work'; daemon.sendall(b'ok')")
    connection = mpirun.accept()
    connection.sendall(b"work")
    assert connection.recv(9) == b"ok"
    assert connection.recv(9) == b""
    assert mpirun.relay.wait(20) == 0


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(255)"])
def test_a_daemon_that_is_lost_seems_to_be_there_until_mpirun_ends(
    start: Callable[[str], Mpirun], end: str
) -> None:
    mpirun = start(f"daemon = connected(); daemon.recv(9); {end}")
    connection = mpirun.accept()
    connection.sendall(b"work")
    connection.settimeout(1.0)
    with pytest.raises(TimeoutError):
        connection.recv(9)
    connection.sendall(b"more")
    assert mpirun.relay.poll() is None
    connection.close()
    assert mpirun.relay.wait(20) == 0


def test_a_start_that_fails_has_the_agents_message_and_status(
    start: Callable[[str], Mpirun],
) -> None:
    mpirun = start("print('ssh: no route to host', file=sys.stderr); sys.exit(255)")
    assert mpirun.relay.wait(20) == 255
    assert mpirun.said() == "ssh: no route to host\n"


def test_with_mpirun_the_daemon_is_ended(start: Callable[[str], Mpirun]) -> None:
    mpirun = start("daemon = connected(); time.sleep(60)")
    mpirun.accept().close()
    assert mpirun.relay.wait(20) == 0
    assert ends(mpirun.daemon)


def test_an_agent_that_is_asked_to_end_before_it_has_connected_ends(
    start: Callable[[str], Mpirun],
) -> None:
    mpirun = start("print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)")
    agent = int(mpirun.said())
    mpirun.relay.terminate()
    assert mpirun.relay.wait(20) == 0
    assert ends(agent)


def test_a_persons_own_agent_comes_below() -> None:
    assert relaying({}) == f"{sys.executable} -m psdp.launch.relay ssh%20%3A%20rsh"
    own = relaying({"OMPI_MCA_plm_ssh_agent": "/a/way -p 22"})
    assert own == f"{sys.executable} -m psdp.launch.relay %2Fa%2Fway%20-p%2022"


def test_there_is_none_where_mpirun_could_not_read_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/with blanks/python")
    assert relaying({}) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere-to-be-found : sh -c", ["sh", "-c"]),
        ("nowhere-to-be-found -v", ["nowhere-to-be-found", "-v"]),
    ],
)
def test_of_several_agents_the_first_that_is_there_is_taken(text: str, words: list[str]) -> None:
    assert agent_of(text) == words


def test_ssh_is_asked_for_no_windows(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("")
    ssh.chmod(0o755)
    assert agent_of(f"{ssh} -p 22") == [str(ssh), "-p", "22", "-x"]
