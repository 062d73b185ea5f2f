"""What a rank needs of its GPU."""

from __future__ import annotations

from typing import Any

import pytest
from saved_run import SavedRun

from psdp.backend.gpu.backend import GpuBackend
from psdp.backend.gpu.dry_device import DryDevice
from psdp.job import Job
from psdp.startup.device import Needs, copies_of_weights, needs_of


def test_a_gpu_needs_room_for_what_it_rounds(case: SavedRun) -> None:
    needed = []
    for wire in ("float32", "bf16"):
        job = case.job_of(3, wire_dtype=wire)
        needs = needs_of(GpuBackend(DryDevice(), "float32"), job, 1)
        assert needs is not None
        needed.append(needs.needed)
    assert needed[1] - needed[0] == 2 * case.job.table.size


def gpu_needs(job: Job, rank: int) -> Needs:
    needs = needs_of(GpuBackend(DryDevice(), "float32"), job, rank)
    assert needs is not None
    return needs


@pytest.mark.parametrize(
    ("settings", "copies", "vectors"),
    [
        ({}, 3, 1),
        ({"wire_dtype": "bf16"}, 3, 2),
        ({"mode": "local"}, 3, 1),
        ({"mode": "local", "merge": "async"}, 5, 3),
        ({"backup_workers": 1}, 5, 3),
        ({"mode": "ssp"}, 5, 3),
        ({"mode": "async", "lag_compensation": "dc-asgd"}, 8, 7),
    ],
    ids=str,
)
def test_a_server_on_a_gpu_keeps_each_version_that_may_be_read(
    case: SavedRun, settings: dict[str, Any], copies: int, vectors: int
) -> None:
    job = case.job_of(4, **settings)
    assert copies_of_weights(job) == copies
    needs = gpu_needs(job, 0)
    assert (needs.needed, needs.vectors) == (
        16 * job.table.size,
        4 * vectors * job.table.size,
    )
    assert needs.slot == job.codec.bound_bytes(job.table.size)


def test_a_worker_on_a_gpu_needs_more_for_vectors_only_where_they_travel_meanwhile(
    case: SavedRun,
) -> None:
    for given, vectors in (
        ({}, 0), ({"wire_dtype": "bf16"}, 0), ({"overlap": True}, 2),
        ({"overlap": True, "wire_dtype": "bf16"}, 1),
    ):  # fmt: skip
        job = case.job_of(4, **given)
        needs = gpu_needs(job, 1)
        assert (needs.vectors, needs.slot) == (4 * vectors * job.table.size, 0)
