"""The line that a run begins with: what it is, where, and how."""

from __future__ import annotations

from psdp import __version__
from psdp.config import RunConfig
from psdp.job import Job
from psdp.startup.ready import Ready
from psdp.startup.resume import describe_changes, who_begins_afresh

_HOST = " nor the host of mpirun"
_NOR = ", but not without the host of mpirun"


def describe(ready: Ready, survives: bool, lease_s: float | None) -> str:
    """Return the line that a run begins with.

    Args:
        survives: the MPI goes on when a rank is lost.
        lease_s: for which psdp.launch lets a rank be silent, 0 if for ever; None without it.
    """
    job, config = ready.job, ready.job.config
    assert ready.links is not None, "who leads from the start describes"
    kernels = " and ".join(sorted({ready.kernels[rank] or "" for rank in job.computing}))
    text = (
        f"psdp {__version__}: {config.run.mode}, {len(job.servers)} server(s), "
        f"{_workers_of(job)}, {job.table.size:,} parameters, {ready.links.describe()}"
        f"{', gradients by MPI Allreduce' if job.reduces else ''}"
        f"{f', pushed {job.codec.said}' if job.codec.said else ''}, "
        f"{kernels} kernels; "
        f"{job.task.description or job.task.called()}; "
        f"{job.units:,} {job.units_name} to train on; "
        f"{_losses(ready, survives)}{_silence(lease_s)}; "
        f"results in {ready.folder.path}"
    )
    if ready.elsewhere is not None:
        text += f"\ncheckpoints are copied to {ready.elsewhere.url}"
    slow = slowed(config.run)
    if slow:
        text += f"\nSLOWED DOWN ON PURPOSE: {slow}"
    if ready.manifest is not None:
        text += f"\ngoing on from {ready.manifest.folder}"
        told = describe_changes(job, ready.manifest), who_begins_afresh(job, ready.manifest)
        text += "".join(f"\n{line}" for line in told if line is not None)
    elif config.run.init_from is not None:
        text += f"\nbeginning with the weights of {config.run.init_from}"
    return text


def _losses(ready: Ready, survives: bool) -> str:
    """Return what becomes of the job when it loses a rank."""
    if not (survives and ready.job.bears_losses):
        return "a rank that dies ends the job (--restarts N: to go on from its newest checkpoint)"
    host = _HOST if len(set(ready.hosts)) > 1 else ""
    if ready.job.stands_by:
        pairs = ", ".join(f"{other} for {own}" for own, other in ready.job.holders)
        then = ", and then a spare rank" if ready.job.spares else ""
        said = f"rank {pairs} stands by{then}"
        return f"a rank that dies: the job goes on{_NOR if host else ''}; {said}"
    return f"a rank that dies: the job goes on, but not without a server{host}"


def _silence(lease_s: float | None) -> str:
    if lease_s is None:
        return ", and without psdp.launch one that hangs is not noticed"
    return f", and one that is silent for {lease_s:g} s counts as dead" if lease_s else ""


def _workers_of(job: Job) -> str:
    ranks, spares = len(job.computing), len(job.spares)
    text = f"{len(job.workers)} worker(s)"
    text += "" if ranks == len(job.workers) else f" on {ranks} rank(s)"
    return f"{text}, {spares} spare rank(s)" if spares else text


def slowed(run: RunConfig) -> str:
    """Return what slows this run down on purpose; nothing if nothing does."""
    slow = []
    if run.straggler is not None:
        slow.append(f"stragglers {run.straggler} (rank:factor)")
    if run.jitter is not None:
        slow.append(f"every step by {run.jitter}")
    if run.link_mbps:
        slow.append(f"links of {run.link_mbps:g} Mbit/s")
    if run.slow_link is not None:
        slow.append(f"these by {run.slow_link} (factor@time)")
    return ", ".join(slow)
