"""Starting a job again after a failure, from its newest checkpoint, with the hosts left."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from psdp.errors import ConfigError, DataError, ReplayError
from psdp.launch.mpirun import Vendor, agent_in
from psdp.launch.options import Job, host_in, hosts_in
from psdp.launch.supervisor import Outcome
from psdp.signals import TRY_AGAIN

PROBE_S = 20.0
"""How long a host may take to start a program that does nothing."""
STARTS = 3
"""How often a job that loses a rank before its run has begun is started once more."""

_IN_VAIN = (0, TRY_AGAIN, *(kind.exit_code for kind in (ConfigError, DataError, ReplayError)))
"""Exit statuses after which the same command would lead to the same end."""


class Restarts:
    """Says what to start after a failure.

    Args:
        job: as it was asked for.
        answers: returns those of some hosts that start programs.
        say: tells a person a line.
    """

    def __init__(
        self,
        job: Job,
        answers: Callable[[Sequence[str]], set[str]],
        say: Callable[[str], None],
    ) -> None:
        self._job = self._started = job
        self._answers = answers
        self._say = say
        self._left, self._starts_left = job.restarts, STARTS
        self._last: tuple[int, Path | None] | None = None
        self._hosts: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Remove the hostfile that this has written, if it has."""
        if self._hosts is not None:
            self._hosts.cleanup()

    def after(self, outcome: Outcome) -> Job | None:
        """Return the job to start next, None if it is not to be started again."""
        if outcome.lost_at_start and self._starts_left > 0:
            self._starts_left -= 1
            job = self._on_what_is_left()
            if job is not None:
                self._say("a rank was lost before the run had begun: starting once more")
                self._started = job
                return job
        if self._left == 0 or outcome.status in _IN_VAIN:
            return None
        kept = outcome.kept
        failed = f"failed with exit status {outcome.status}"
        if self._last == (outcome.status, kept):
            self._say(f"{failed} again, with nothing new saved since; giving up")
            return None
        self._last = outcome.status, kept
        job = self._on_what_is_left()
        if job is None:
            self._say(f"{failed}, and no host of --hostfile {self._job.hostfile} answers")
            return None
        self._left -= 1
        origin = "the beginning"
        if kept is not None and outcome.folder is not None:
            origin = str(kept)
            job = replace(job, flags=(*job.flags, "--resume", outcome.folder))
        elif outcome.folder is not None:
            origin += _out_of_the_way(Path(outcome.folder))
        self._say(f"{failed}; starting again from {origin}, {self._left} more left after this")
        self._started = job
        return job

    def _on_what_is_left(self) -> Job | None:
        """Return the job on the hosts that answer, None if there are none."""
        if self._job.hostfile is None:
            return self._job
        lines = Path(self._job.hostfile).read_text("utf-8").splitlines()
        hosts = hosts_in(self._job.hostfile)
        there = self._answers(hosts)
        missing = [host for host in hosts if host not in there]
        if not missing or not there:
            return self._job if there else None
        self._say(f"without {', '.join(missing)}, which starts no programs any more")
        self._hosts = self._hosts or tempfile.TemporaryDirectory(prefix="psdp-hosts-")
        file = Path(self._hosts.name) / "hosts"
        file.write_text("".join(f"{line}\n" for line in lines if host_in(line) in there))
        return replace(self._job, hostfile=str(file), crowded=True)


def who_answers(
    launcher: Path, vendor: Vendor, root: bool, hosts: Sequence[str], timeout_s: float = PROBE_S
) -> set[str]:
    """Return the hosts on which an mpirun can start a program."""
    own = ["--allow-run-as-root"] if root and vendor is Vendor.OPEN_MPI else []
    if vendor is Vendor.OPEN_MPI and (agent := agent_in(os.environ)) is not None:
        own += ["--prtemca", "plm_ssh_agent", agent]
    word = "-hosts" if vendor is Vendor.HYDRA else "--host"
    probes = {
        host: subprocess.Popen(
            [str(launcher), *own, word, host, "-n", "1", "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for host in hosts
    }
    deadline_s = time.monotonic() + timeout_s
    there = set()
    for host, probe in probes.items():
        try:
            if probe.wait(max(0.0, deadline_s - time.monotonic())) == 0:
                there.add(host)
        except subprocess.TimeoutExpired:
            probe.kill()
            probe.wait()
    return there


def _out_of_the_way(folder: Path) -> str:
    """Keep what a start that has saved nothing left, where the next one does not find it; return
    how to say so."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}-failed-{number}")).exists():
        number += 1
    try:
        os.rename(folder, aside)
    except OSError:
        return ""
    return f" (it had saved nothing yet; its records are in {aside})"
