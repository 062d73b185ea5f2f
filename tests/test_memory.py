"""The memory of a host, what control groups of either version grant of it, and what is used."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from test_cores import Machine

from psdp.memory import OwnMemory, Usage, memory_bytes

WHOLE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
PEAK_KB, PAGE_FAULTS = 2, 7
"""Where they stand in what the system tells."""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_tightest_of_nested_groups_counts(machine: Machine) -> None:
    machine.mounts("cg", "/", "cgroup2", "rw").runs_in("0::/user/job 7")
    assert memory_bytes(machine.process) == WHOLE
    machine.holds("cg/user/job 7/memory.max", "max\n").holds("cg/user/memory.max", "4096\n")
    assert memory_bytes(machine.process) == 4096
    machine.holds("cg/memory.max", "2048\n")
    assert memory_bytes(machine.process) == 2048, "a container's own root"


def test_a_limit_of_version_1_is_that_of_the_memory_controller(machine: Machine) -> None:
    machine.mounts("cpu", "/", "cgroup", "rw,cpu").mounts("memory", "/", "cgroup", "rw,memory")
    machine.runs_in("4:memory:/mine", "1:cpu:/other", "0::/")
    machine.holds("memory/other/memory.limit_in_bytes", "1024\n")
    assert memory_bytes(machine.process) == WHOLE
    machine.holds("memory/mine/memory.limit_in_bytes", "4096\n")
    assert memory_bytes(machine.process) == 4096


@pytest.mark.parametrize("text", ["", "much of it", f"{2**63 - 4096}"])
def test_what_is_no_limit_leaves_the_whole_host(machine: Machine, text: str) -> None:
    machine.mounts("cg", "/", "cgroup2", "rw").runs_in("0::/").holds("cg/memory.max", text)
    assert memory_bytes(machine.process) == WHOLE


def test_faults_are_counted_from_then_on_and_the_peak_is_of_all_time() -> None:
    told = [0] * 16
    told[PEAK_KB], told[PAGE_FAULTS] = 7, 100
    memory = OwnMemory(lambda: resource.struct_rusage(told))
    told[PEAK_KB], told[PAGE_FAULTS] = 9, 103
    assert memory.usage() == Usage(peak_bytes=9 * 1024, page_faults=3)


def test_a_process_has_some_of_its_hosts_memory() -> None:
    assert 0 < OwnMemory().usage().peak_bytes < memory_bytes()
