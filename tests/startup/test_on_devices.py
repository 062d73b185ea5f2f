"""Vectors stay on GPUs where they can."""

from __future__ import annotations

from dataclasses import replace

from saved_run import SavedRun

from psdp.startup.device import Needs
from psdp.startup.on_devices import lack_of_room


def test_vectors_stay_on_gpus_that_have_room_for_them(case: SavedRun) -> None:
    job = case.job_of(3)

    def lack(shared: set[tuple[int, int]], free: int) -> str | None:
        server = Needs("A", free, 2**40, 2**30, "", vectors=2**30, slot=2**29)
        worker = Needs("A", 2**40, 2**40, 2**30, "", vectors=0, slot=0)
        needs = [server, worker, replace(worker, free=2**30)]
        return lack_of_room(job, needs, ["a", "a", "b"], frozenset(shared))

    assert lack({(0, 1), (0, 2)}, 3 * 2**30) is None
    assert lack({(0, 1)}, 3 * 2**30) == (
        "A on a would have to hold 3.50 GiB, and has 3.00 GiB free"
    )
    assert lack({(0, 1)}, 7 * 2**29) is None
