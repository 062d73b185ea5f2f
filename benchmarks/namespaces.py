"""Hosts for jobs, on one machine: network namespaces joined by a bridge, each with a host name of
its own. They can be killed, cut off, and slow to reach. Needs root and iproute2."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_NUMBERS = itertools.count()

_AGENT = """#!/bin/sh
# AGENT [options] HOST COMMAND, as ssh is called
while [ "${{1#-}}" != "$1" ]; do shift; done
host=${{1##*.}}; shift
exec ip netns exec {prefix}-$host unshare --uts sh -c "hostname host$host; $*"
"""


class Hosts:
    """So many hosts, within a ``with``; the first is to be mpirun's.

    Args:
        mbps: Mbit/s that the port of each but the first takes, either way; 0: all that come.

    Attributes:
        agent: what starts programs on them as ssh does.
    """

    def __init__(self, count: int, mbps: float = 0.0) -> None:
        self.count = count
        self._mbps = mbps
        self._prefix = f"ps{os.getpid() % 100_000}{next(_NUMBERS) % 100:02d}"
        self._folder = tempfile.TemporaryDirectory(prefix="psdp-agent-")
        self.agent = Path(self._folder.name) / "agent"

    def __enter__(self) -> Hosts:
        self.agent.write_text(_AGENT.format(prefix=self._prefix))
        self.agent.chmod(0o755)
        try:
            bridge = self._prefix
            _ip(f"link add {bridge} type bridge")
            _ip(f"link set {bridge} up")
            for host in range(self.count):
                name, outside = self._name(host), self._link(host)
                _ip(f"netns add {name}")
                _ip(f"link add {outside} type veth peer name eth0 netns {name}")
                _ip(f"link set {outside} master {bridge} up")
                _ip(f"-n {name} addr add {self.address(host)}/24 dev eth0")
                _ip(f"-n {name} link set eth0 up")
                _ip(f"-n {name} link set lo up")
                if self._mbps and host:
                    _limit(["-n", name], "eth0", self._mbps)
                    _limit([], outside, self._mbps)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for host in range(self.count):
            with suppress(OSError, subprocess.CalledProcessError):
                self.kill(host)
                _ip(f"netns del {self._name(host)}")
        with suppress(OSError, subprocess.CalledProcessError):
            _ip(f"link del {self._prefix}")
        self._folder.cleanup()

    def _name(self, host: int) -> str:
        return f"{self._prefix}-{10 + host}"

    def _link(self, host: int) -> str:
        return f"{self._prefix}v{host}"

    def address(self, host: int) -> str:
        return f"10.77.0.{10 + host}"

    def on(self, host: int, command: Sequence[str]) -> list[str]:
        """Return what runs a command on a host."""
        started = f"hostname host{10 + host}; exec {shlex.join(command)}"
        return [
            *("ip", "netns", "exec", self._name(host)),
            *("unshare", "--uts", "sh", "-c", started),
        ]

    def launched(
        self, command: Sequence[str], slots: Sequence[int]
    ) -> tuple[list[str], dict[str, str]]:
        """Return how to run ``python -m psdp.launch ...`` on the first host, with so many slots on
        each of the others from the second on: the command, and its environment."""
        file = self.agent.with_name("hosts")
        lines = (f"{self.address(host)} slots={some}\n" for host, some in enumerate(slots, 1))
        file.write_text("".join(lines))
        words = self.on(0, [*command[:3], "--hostfile", str(file), *command[3:]])
        return words, os.environ | {"OMPI_MCA_plm_ssh_agent": str(self.agent)}

    def processes(self, host: int) -> list[int]:
        """Return the processes of a host."""
        return [int(pid) for pid in _ip(f"netns pids {self._name(host)}").split()]

    def kill(self, host: int) -> None:
        """Kill all processes of a host."""
        for pid in self.processes(host):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut_off(self, host: int) -> None:
        """Let nothing reach a host any more, nor leave it."""
        _ip(f"link set {self._link(host)} down")


def _limit(where: Sequence[str], device: str, mbps: float) -> None:
    """Let a network device send so many Mbit/s and no more."""
    rule = f"qdisc add dev {device} root tbf rate {mbps:g}mbit burst 32kb latency 500ms"
    subprocess.run(["tc", *where, *rule.split()], check=True, capture_output=True)


def why_not() -> str | None:
    """Return why there can be no such hosts here; None if there can."""
    try:
        with Hosts(1) as hosts:
            subprocess.run(hosts.on(0, ["true"]), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return str(getattr(error, "stderr", None) or error).strip()
    return None


def _ip(arguments: str) -> str:
    """
    Raises:
        CalledProcessError: it is not allowed, or not possible.
    """
    ran = subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True)
    return ran.stdout
