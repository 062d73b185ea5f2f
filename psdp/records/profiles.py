"""profile.json: where the time of each rank went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psdp.job import Job
from psdp.records.console import Console
from psdp.records.folder import RunFolder
from psdp.records.profile import Profile


def write_profiles(
    job: Job,
    profiles: Mapping[int, Profile],
    kernels: Sequence[str | None],
    folder: RunFolder,
    console: Console,
) -> None:
    """Write the profiles of ranks; show rank 0's and that of the first rank that works.

    Args:
        kernels: of each rank, by name.
    """
    precision, servers = job.config.run.precision, job.servers
    record = {
        str(rank): {
            "role": "server" if rank in servers else "worker",
            "kernels": kernels[rank],
            **profiles[rank].record(),
        }
        for rank in sorted(profiles)
    }
    folder.write_profile({"precision": precision, "ranks": record})
    for rank in (job.worker_ranks[0], servers[0]):
        if rank in profiles:
            profile, of = profiles[rank], record[str(rank)]
            console.say(
                f"where the time of {of['role']} {rank} went, {of['kernels']} kernels, "
                f"{precision} products, {profile.steps} steps:\n{profile.table()}"
            )
