"""Of what a run is, and where and by what it was made, as its folder tells: its task, machines, or
what they would cost, MPI, versions, a search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psdp.records.search import SEARCH, Search, search_from
from psdp.report.points import read_json

UNKNOWN = "not recorded"
"""What an older run says of what it did not write down."""

SOFTWARE = {"psdp": "psdp", "mpi": "MPI", "python": "Python", "numpy": "NumPy"}
"""The versions that a report shows, and what it calls them."""


def circumstances_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return them in words, by name, of a run's config.json."""
    versions, costs = config.get("versions", {}), config.get("costs")
    return {
        "machine": _machines(config) if costs is None else _virtual(costs),
        "threads used": _each(config.get("threads")),
        "kernels used": _each(config.get("kernels")),
        "vectors": str(config.get("transport", UNKNOWN)),
        **{name: str(versions.get(key, UNKNOWN)) for key, name in SOFTWARE.items()},
    }


def _machines(config: Mapping[str, Any]) -> str:
    """Return the hosts, with their processors and cores where these are known."""
    hosts, machines = config.get("hosts"), config.get("machines", {})
    if not hosts:
        return UNKNOWN
    found = []
    for host in dict.fromkeys(hosts):
        text = str(host)
        if host in machines:
            cores = machines[host]["cores"]
            text += f" ({machines[host]['processor']}, {cores:g} core{'s' if cores != 1 else ''})"
        found.append(text)
    return ", ".join(found)


def _virtual(costs: Mapping[str, Any]) -> str:
    """Return the cluster of a virtual job, by those of its costs that are any."""
    said = [f"{name.replace('_', '-')} {_cost(value)}" for name, value in costs.items() if value]
    return f"a virtual cluster ({', '.join(said)})"


def _cost(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else " ".join(map(str, value))


def _each(of_ranks: Any) -> str:
    """Return what the ranks have; of several values all."""
    return " and ".join(dict.fromkeys(map(str, of_ranks))) if of_ranks else UNKNOWN


def task_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return what tells the task of a run, by its config.json, from others, and its corpus."""
    if "task" not in config:
        return "language", str(config["corpus"]["sha256"])[:12]
    task = config["task"]
    about = [f"{key} {value}" for key, value in sorted(task["about"].items())]
    return " ".join([task["name"], *about]), "none"


def search_of(path: Path, settings: Mapping[str, Any]) -> Search | None:
    """Return the search that the settings of a run came from, unless they were changed since."""
    if not (path / SEARCH).exists():
        return None
    search = search_from(read_json(path / SEARCH))
    return search if search.is_of(settings) else None
