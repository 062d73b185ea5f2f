"""The floors of the house: imports go downward, or sideways inside one folder, never round."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import psdp

ROOT = Path(psdp.__file__).parent

# From the ground up. A unit is a file of psdp/ or a folder of it.
FLOORS = (
    ("control_groups", "errors", "processes", "signals"),
    ("line",),
    ("appearing", "cores", "memory", "terminal"),
    ("arguments", "fields", "intervals"),
    ("architectures", "modes"),
    ("protocol", "params"),
    ("backend",),
    ("optim", "wire"),
    ("config",),
    ("data", "transport"),
    ("task",),
    ("cast",),
    ("job",),
    ("policies", "records"),
    ("nn", "checkpoint"),
    ("generation",),
    ("huggingface", "language"),
    ("gguf", "servers", "workers"),
    ("startup",),
    ("rank", "cli"),
    ("mpi_rank",),
    (
        *("api", "audit", "worker", "evaluate", "export", "generate", "launch"),
        *("lm_eval", "report", "simulate", "tokenize", "trace"),
    ),
    ("virtual",),
)
LEVEL = {unit: level for level, units in enumerate(FLOORS) for unit in units}

# What computes with nothing but its arguments. No clock, file, environment, thread or chance.
PURE = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "math",
    "statistics",
}
PURE |= {"operator", "typing"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text("utf-8")) for path in ROOT.rglob("*.py")}


def imports(module: str) -> Iterator[str]:
    """Yield the full names of what a module imports, inside functions too."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative imports hide where a name comes from"
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in TREES else node.module


def own_imports(module: str) -> set[str]:
    """Return the modules of psdp that a module imports, the bare package apart: a version only."""
    return {name for name in imports(module) if name.startswith("psdp.")}


def unit_of(module: str) -> str:
    return module.split(".")[1]


def top_level_names(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


def who_imports(package: str) -> set[str]:
    return {module for module in TREES if package in top_level_names(module)}


MODULES = sorted(TREES.keys() - {"psdp"})


def test_the_walk_sees_the_house() -> None:
    assert len(MODULES) > 40
    assert "psdp.backend.cpu.compiled" in own_imports("psdp.backend"), "imports inside try"


def loaded_by(module: str) -> set[str]:
    """Return the names of all modules that a Python has loaded once it has loaded this one."""
    code = f"import sys, {module}; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(said.stdout.split())


def test_the_package_itself_imports_nothing() -> None:
    loaded = loaded_by("psdp")
    assert not {name for name in loaded if name.startswith("psdp.")}
    assert not loaded & {"numpy", "mpi4py"}


@pytest.mark.parametrize(
    ("start", "later"),
    [
        ("psdp.launch.__main__", {"numpy", "asyncio", "psdp.config"}),
        ("psdp.startup.roles, psdp.cli", {"tqdm", "tomllib", "html.parser", "fsspec"}),
        ("psdp.virtual, psdp.audit.replaying", {"mpi4py"}),
    ],
)
def test_what_is_slow_to_load_waits_until_it_is_needed(start: str, later: set[str]) -> None:
    # Every rank of every job pays for it.
    assert not loaded_by(start) & later


def test_every_name_that_the_package_offers_is_there() -> None:
    for name in psdp.__all__:
        assert getattr(psdp, name).__name__ == name
    with pytest.raises(AttributeError, match="'psdp' has no attribute 'nothing'"):
        _ = psdp.nothing


@pytest.mark.parametrize("unit", sorted({unit_of(module) for module in MODULES}))
def test_every_unit_has_a_floor(unit: str) -> None:
    assert unit in LEVEL, f"psdp/{unit} is new: give it a place in FLOORS"


def test_no_floor_names_what_does_not_exist() -> None:
    assert LEVEL.keys() == {unit_of(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward_or_sideways_in_one_folder(module: str) -> None:
    unit = unit_of(module)
    upward = {
        name
        for name in own_imports(module)
        if unit_of(name) != unit and LEVEL[unit_of(name)] >= LEVEL[unit]
    }
    assert not upward


def test_no_module_imports_itself_through_others() -> None:
    # A package's __init__ collects its files; a file that imports its package would go in a circle.
    graph = {module: own_imports(module) for module in MODULES}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which shows the circle


@pytest.mark.parametrize("module", [name for name in MODULES if unit_of(name) == "protocol"])
def test_the_protocol_is_pure(module: str) -> None:
    own = {name for name in own_imports(module) if unit_of(name) != "protocol"}
    assert own <= {"psdp.errors", "psdp.modes"}
    assert top_level_names(module) - {"psdp"} <= PURE
    called = {node.id for node in ast.walk(TREES[module]) if isinstance(node, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


def test_mpi4py_is_imported_in_one_file() -> None:
    assert who_imports("mpi4py") == {"psdp.transport.mpi.library"}


def test_cupy_is_imported_in_one_file() -> None:
    assert who_imports("cupy") == {"psdp.backend.gpu.cupy_device"}
    for library in ("cuda", "cudnn", "nvmath"):
        assert who_imports(library) == {"psdp.backend.gpu.cupy_device"}


@pytest.mark.parametrize("package", ["pickle", "marshal", "shelve", "dill", "cloudpickle"])
def test_nothing_is_pickled(package: str) -> None:
    assert who_imports(package) == set()


@pytest.mark.parametrize("package", ["torch", "jax", "tensorflow"])
def test_no_framework_is_in_the_way(package: str) -> None:
    assert who_imports(package) == set()


def test_everything_else_is_a_stated_dependency() -> None:
    stated = {"numpy", "msgpack", "safetensors", "threadpoolctl", "tqdm", "mpi4py", "cupy"}
    stated |= {"cuda", "cudnn", "nvmath"}  # cuda.pathfinder comes with CuPy
    stated |= {"jinja2", "matplotlib"}  # reports
    stated |= {"fsspec"}  # copies elsewhere
    stated |= {"lm_eval"}  # which asks for psdp's adapter itself
    used = set().union(*map(top_level_names, TREES)) - {"psdp"} - sys.stdlib_module_names
    assert used == stated


@pytest.mark.parametrize(
    "start", ["export", "generate", "launch.__main__", "cli", "report.__main__", "tokenize"]
)
def test_mpi_is_not_needed_for(start: str) -> None:
    reached, ahead = set(), [f"psdp.{start}"]
    while ahead:
        module = ahead.pop()
        if module not in reached:
            reached.add(module)
            # Importing psdp.a.b runs psdp/a/__init__.py first.
            packages = {name.rpartition(".")[0] for name in own_imports(module)} - {"psdp"}
            ahead += (own_imports(module) | packages) & TREES.keys()
    assert "psdp.transport.mpi.library" not in reached
