"""From a command line to the job's exit status: start, watch, and after a failure start again."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from psdp.errors import PsdpError
from psdp.launch.hosts import may_be_elsewhere
from psdp.launch.mpirun import (
    Host,
    Vendor,
    find_launcher,
    mpirun_command,
    settled,
    this_host,
    vendor_of,
    version_of,
)
from psdp.launch.options import Job, parse
from psdp.launch.ranks import Ranks
from psdp.launch.restarts import Restarts, who_answers
from psdp.launch.supervisor import Outcome, Signals, Supervisor
from psdp.line import VARIABLE
from psdp.terminal import masked, show_any_text


def main(argv: list[str] | None = None) -> int:
    """Run the job that the command line asks for; return its exit status."""
    show_any_text()
    try:
        job = parse(sys.argv[1:] if argv is None else argv)
        launcher = find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath))
        version, host = version_of(launcher), this_host()
        vendor, job = vendor_of(version), settled(job, launcher, version)
        if job.shown_only:
            print(masked(shlex.join(mpirun_command(launcher, vendor, job, host))))
            return 0

        def answers(hosts: Sequence[str]) -> set[str]:
            return who_answers(launcher, vendor, host.root, hosts)

        with closing(Restarts(job, answers, say)) as restarts:
            return run(job, restarts, launcher, vendor, host)
    except PsdpError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:  # before signals are taken
        return 128 + signal.SIGINT


def run(job: Job | None, restarts: Restarts, launcher: Path, vendor: Vendor, host: Host) -> int:
    """Run a job, again after failures if it may be; return the exit status of the last start.

    Raises:
        ConfigError: it cannot be started.
    """
    signals, began_s = Signals(), time.monotonic()
    while job is not None:
        everywhere = may_be_elsewhere(job.hostfile, os.environ)
        ranks = Ranks(signals.selector, began_s, everywhere=everywhere, lease_s=job.lease_s)
        command = mpirun_command(launcher, vendor, job, host)
        if "--quiet" not in job.flags:
            say(masked(shlex.join(command)), as_it_is=True)
        if vendor is Vendor.OPEN_MPI:
            command[1:1] = ["-x", VARIABLE]  # other launchers pass all variables on
        try:
            supervisor = Supervisor(signals, ranks, job.ranks, survives=bool(job.survives))
            outcome = supervisor.run(command)
        finally:
            ranks.close()
        # Of a failed program that has no line, mpirun tells.
        silent = outcome.told is None and (outcome.ranks or outcome.asked is not None)
        if outcome.status and (outcome.lost_at_start or silent):
            say(why(outcome, job.ranks))
        job = None if signals.first is not None else restarts.after(outcome)
    return outcome.status


def why(outcome: Outcome, size: int) -> str:
    """Return what a person should know of a job of so many ranks, none of which has said why it
    ended."""
    text = "the job has failed"
    if outcome.asked is not None:
        text = f"stopped by {signal.Signals(outcome.asked).name}"
    elif outcome.first is not None:
        rank = outcome.first
        if rank.silent_s is not None:
            text += f": {rank} is taken for dead: {rank.why}"
        elif rank.started:
            text += f": {rank} went first"
        else:  # some launchers end the others before these have called
            unheard = ", or one that had not called yet," if len(outcome.ranks) < size else ""
            text += f": {rank}{unheard} went first, before MPI had started"
    elif not outcome.ranks:
        text += ": a rank was killed, or crashed, before any could call"
    if outcome.kept is not None:
        where = f"the newest checkpoint is {outcome.kept}"
        return f"{text}; {where}, go on with --resume {outcome.folder}"
    if outcome.folder is None:
        return f"{text}; the run had not begun yet, and nothing was saved"
    return f"{text}; nothing had been saved yet"


def say(text: str, *, as_it_is: bool = False) -> None:
    """Tell a person a line, if there is still one who reads it."""
    with suppress(OSError):
        print(text if as_it_is else f"psdp.launch: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
