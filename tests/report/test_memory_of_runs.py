"""What runs had of their hosts' memory, from records that are made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_runs import change_json, write_run

from psdp.report.memory import Memory, together
from psdp.report.runs import read_runs


def memory(folder: Path, *, one: int = 1000, two: int = 1000, **changes: Any) -> Memory | None:
    """Return that of a run of rank 0 and a worker on a host, and another on a second one, with 20
    gradients."""
    path = write_run(folder)
    has = {"processor": "any", "cores": 2}
    machines = {"one": has | {"memory_bytes": one}, "two": has | {"memory_bytes": two}}
    change_json(path / "config.json", hosts=["one", "one", "two"], machines=machines)
    told = {
        "peak_bytes": {"0": 300, "1": 200, "2": 400},
        "page_faults": {"0": 10, "1": 40, "2": 60},
    }
    change_json(path / "summary.json", **told | changes)
    (run,), _ = read_runs([path])
    return run.memory


def test_the_fullest_host_and_the_pages_of_a_gradient_are_told(tmp_path: Path) -> None:
    # 100 of the workers at 20 gradients, and 10 of rank 0 at 10 of both of them.
    found = memory(tmp_path / "a")
    assert found == Memory(6.0, "one", 500, 1000)
    assert found.share == 0.5
    other = memory(tmp_path / "b", two=500)
    assert other == Memory(6.0, "two", 400, 500)
    assert together([found, other]) == Memory(6.0, "two", 400, 500)


def test_of_several_runs_faults_are_the_mean(tmp_path: Path) -> None:
    found = memory(tmp_path / "a")
    none = memory(tmp_path / "b", page_faults={"0": 0, "1": 0, "2": 0})
    assert together([found, none]) == Memory(3.0, "one", 500, 1000)
    assert together([found, None]) is None
    assert together([]) is None


def test_what_was_not_recorded_is_not_made_up(tmp_path: Path) -> None:
    assert memory(tmp_path / "faults", page_faults=None) is None
    older = write_run(tmp_path / "older")
    change_json(older / "summary.json", peak_bytes={"0": 3}, page_faults={"0": 1})
    (run,), _ = read_runs([older])
    assert run.memory is None, "its config.json says nothing of memory"


def test_a_virtual_job_has_none_of_its_own(tmp_path: Path) -> None:
    path, host = write_run(tmp_path / "a"), "virtual"
    machines = {host: {"processor": "any", "cores": 2, "memory_bytes": 9}}
    change_json(path / "config.json", hosts=[host] * 3, machines=machines)
    told = {"0": 1, "1": 1, "2": 1}
    change_json(path / "summary.json", peak_bytes=told, page_faults=told)
    (run,), _ = read_runs([path])
    assert run.memory is None
