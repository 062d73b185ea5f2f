"""How near the ranks of runs came to the end of their hosts' memory, and how often they waited for
a page from a disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Memory:
    """What the ranks of a run had of it.

    Attributes:
        faults: pages from a disk that a worker waited for at each of its gradients, on the average,
            with those that rank 0 waited for in the time of a gradient of every worker.
        host: on which the ranks came nearest to the end.
        peak_bytes: that these had at most; what they share counts for each of them.
        whole_bytes: of that host, or its container.
    """

    faults: float
    host: str
    peak_bytes: int
    whole_bytes: int

    @property
    def share(self) -> float:
        """Of the host's memory, what the ranks had at most."""
        return self.peak_bytes / self.whole_bytes


def memory_of(
    config: Mapping[str, Any], summary: Mapping[str, Any], gradients: int
) -> Memory | None:
    """Return that of a run of so many gradients; None of one that did not record it.

    Args:
        config, summary: as the run folder has them.
    """
    machines, faults = config.get("machines", {}), summary.get("page_faults")
    if not faults or not gradients or not all("memory_bytes" in one for one in machines.values()):
        return None
    peaks: Counter[str] = Counter()
    for rank, peak_bytes in summary["peak_bytes"].items():
        peaks[str(config["hosts"][int(rank)])] += int(peak_bytes)
    whole = {host: int(machines[host]["memory_bytes"]) for host in peaks}
    fullest = max(peaks, key=lambda host: peaks[host] / whole[host])
    of_workers = sum(faults[rank] for rank in summary["compute_s"])
    of_server = sum(faults.values()) - of_workers
    each = (of_workers + of_server * int(summary["workers"])) / gradients
    return Memory(each, fullest, peaks[fullest], whole[fullest])


def together(found: Sequence[Memory | None]) -> Memory | None:
    """Return that of several runs, which had this; None if one did not record it: the mean of their
    faults, and the fullest host of all."""
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found):
        return None
    fullest = max(known, key=lambda each: each.share)
    faults = sum(each.faults for each in known) / len(known)
    return Memory(faults, fullest.host, fullest.peak_bytes, fullest.whole_bytes)
