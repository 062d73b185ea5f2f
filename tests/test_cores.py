"""The cores that this process may use, and the time that control groups of either version grant."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from psdp.cores import cpu_quota, own_cores, processor_name


class Machine:
    """What /proc/self tells of control groups, with their file systems below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.process, self._mounts = folder / "self", folder / "sys fs"
        self.process.mkdir()
        self._mountinfo: list[str] = []

    def runs_in(self, *groups: str) -> Machine:
        (self.process / "cgroup").write_text("".join(f"{group}\n" for group in groups))
        return self

    def mounts(self, name: str, root: str, kind: str, options: str) -> Machine:
        folder = str(self._mounts / name).replace(" ", r"\040")
        self._mountinfo.append(f"31 23 0:28 {root} {folder} rw shared:9 - {kind} {kind} {options}")
        (self.process / "mountinfo").write_text("\n".join(self._mountinfo) + "\n")
        (self._mounts / name).mkdir(parents=True)
        return self

    def holds(self, path: str, text: str) -> Machine:
        file = self._mounts / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return self

    def limits(self, path: str, quota: int, period: int = 100_000) -> Machine:
        """Version 1 says a limit in two files."""
        self.holds(f"{path}/cpu.cfs_quota_us", f"{quota}\n")
        return self.holds(f"{path}/cpu.cfs_period_us", f"{period}\n")

    def quota(self) -> float | None:
        return cpu_quota(self.process)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path).mounts("proc", "/", "proc", "rw")


@pytest.fixture
def unified(machine: Machine) -> Machine:
    return machine.mounts("cg", "/", "cgroup2", "rw,nsdelegate").runs_in("0::/user/job 7")


@pytest.fixture
def version_1(machine: Machine) -> Machine:
    machine.mounts("memory", "/", "cgroup", "rw,memory").mounts("cpu", "/", "cgroup", "rw,cpu")
    return machine.runs_in("9:name=systemd:/", "4:memory:/other", "1:cpu,cpuacct:/docker/7", "0::/")


def test_own_cores_are_those_of_the_affinity_mask() -> None:
    assert own_cores() == sorted(os.sched_getaffinity(0))


def test_a_quota_of_version_2_is_seen_and_may_be_a_fraction(unified: Machine) -> None:
    assert unified.holds("cg/user/job 7/cpu.max", "150000 100000\n").quota() == 1.5


def test_the_tightest_of_nested_groups_counts(unified: Machine) -> None:
    unified.holds("cg/user/job 7/cpu.max", "max 100000\n").holds("cg/user/cpu.max", "50000 20000\n")
    assert unified.quota() == 2.5
    assert unified.holds("cg/cpu.max", "100000 100000\n").quota() == 1, "a container's own root"


def test_max_is_no_limit(unified: Machine) -> None:
    assert unified.holds("cg/user/job 7/cpu.max", "max 100000\n").quota() is None


def test_a_quota_of_version_1_is_seen(version_1: Machine) -> None:
    assert version_1.limits("cpu/docker/7", 300_000).quota() == 3
    assert version_1.limits("cpu/docker", 100_000, 50_000).quota() == 2
    assert version_1.limits("memory/other", 100_000).quota() == 2, "of the memory controller"


def test_minus_1_is_no_limit(version_1: Machine) -> None:
    assert version_1.limits("cpu/docker/7", -1).limits("cpu", -1).quota() is None


@pytest.mark.parametrize("path", ["/docker/7", "/../other", "/elsewhere"])
def test_a_container_that_is_shown_its_own_group_as_the_root_sees_its_limit(
    machine: Machine, path: str
) -> None:
    machine.mounts("cpu", "/docker/7", "cgroup", "rw,cpu,cpuacct").runs_in(f"1:cpuacct,cpu:{path}")
    assert machine.limits("cpu", 250_000).quota() == 2.5


@pytest.mark.parametrize("text", ["", "much of it", "100000 0", "0 100000", "1 2 3"])
def test_what_cannot_be_understood_limits_nothing(unified: Machine, text: str) -> None:
    assert unified.holds("cg/user/job 7/cpu.max", text).quota() is None


def test_where_nothing_is_told_nothing_is_limited(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


def test_a_processor_has_the_name_that_the_system_gives_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A fast one @ 3 GHz\nmodel name\t: B\n")
    assert processor_name(cpuinfo) == "A fast one @ 3 GHz"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: \n")
    assert processor_name(cpuinfo) == platform.machine()
    assert processor_name(tmp_path / "gone") == platform.machine()
