"""What a sweep runs: from a spec in TOML to cells, each a job with settings of its own.

    name = "lags"                   # and description, timeout-s (of a cell), target-loss
    [settings]                      # worker flags of all cells, by name
    max-steps = 400
    [grid]                          # every combination is a cell; [[grid]] for several grids
    workers = [2, 4]
    seed = [1, 2, 3]
    straggler = ["none", "last:4"]  # the last worker is 4 times slower; else "RANK:FACTOR,..."
    [[cells]]                       # crossed with the grid: what has a meaning in some modes only
    mode = ["sync", "async"]
    [[cells]]
    mode = "ssp"
    staleness = [1, 4]
    tune = false                    # leaves them out where a spec tunes (see space.py)
    [virtual]                       # cells are jobs of a cluster that one does not have, as by
    step-ms = 50                    # python -m psdp.virtual: its costs, or calibrate = ["RUN"]

"none" leaves a setting that has no default unset. Nothing here starts a job.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from space import NO_TUNING, Tuning, read_tuning

from psdp.cast import check_world
from psdp.cli import read_toml, with_home_folders
from psdp.config import Config, flag_of, settings
from psdp.errors import ConfigError
from psdp.simulate.options import COSTS
from psdp.terminal import path_of, shown
from psdp.virtual import FAILURES, Cluster, check, parse

SHIPPED = Path(__file__).parent / "specs"

TIMEOUT_S = 1800.0
"""How long a cell may take, unless the spec says otherwise."""

_FIELDS = {field.name: field for _, field in settings()}
OWN = ("out", "quiet", "resume", "replay", "profile")
"""Settings that a sweep has no use for, or chooses itself."""

_TOP = (
    *("name", "description", "timeout_s", "target_loss"),
    *("settings", "grid", "cells", "tune", "virtual"),
)

_COSTS = {flag.removeprefix("--") for name, (_, flag, _) in COSTS.items() if name not in FAILURES}
_COSTS |= {"calibrate", "cores", "hosts"}


@dataclass(frozen=True)
class Cell:
    """One job.

    Attributes:
        family: the name of all cells that differ from it in their seed alone.
        given: what the spec says of it, by field name.
        config: the same, resolved.
        tune: whether its family is tuned, if the spec tunes.
        virtual: flags of the costs of a virtual job; None: the job is a real one.
        cluster: what these say.
    """

    name: str
    family: str
    workers: int
    given: Mapping[str, Any]
    config: Config
    tune: bool
    virtual: tuple[str, ...] | None = None
    cluster: Cluster | None = None

    @property
    def ranks(self) -> int:
        return self.workers + self.config.run.servers

    def flags(self) -> list[str]:
        """Return the worker flags that say what is given."""
        return [word for name, value in self.given.items() for word in _flags(name, value)]

    def command(self) -> list[str]:
        """Return what follows ``python -m`` to run it, but for where its results go."""
        if self.virtual is None:
            return ["psdp.launch", "-n", str(self.ranks), *self.flags()]
        return ["psdp.virtual", "--workers", str(self.workers), *self.virtual, *self.flags()]


@dataclass(frozen=True)
class Spec:
    """A sweep. The cells come seed by seed, so that what slows the machine for a while slows all
    modes alike."""

    path: Path
    name: str
    description: str
    timeout_s: float
    target_loss: float | None
    cells: tuple[Cell, ...]
    tuning: Tuning


def find_spec(text: str) -> Path:
    """Return the file that is meant: a path, or the bare name of one that is shipped.

    Raises:
        ConfigError: there is none.
    """
    shipped = SHIPPED / f"{text}.toml"
    for path in (path_of(text, "SPEC"), shipped):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.toml")))
    raise ConfigError(f"{text}: no such file; shipped specs are {names}")


def read_spec(path: Path) -> Spec:
    """Return the sweep that a file describes.

    Raises:
        ConfigError: it cannot be read, or a cell of it cannot be run; names the file and the key.
    """
    content = read_toml(path, str(path))
    try:
        return _spec(path, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _spec(path: Path, content: Mapping[str, Any]) -> Spec:
    top = _spelled(content, "the top of the file")
    for key in top:
        if key not in _TOP:
            known = ", ".join(name.replace("_", "-") for name in _TOP)
            raise ConfigError(
                f"unknown key '{key}'; known are {known}, and worker flags below [settings], "
                "[grid] and [[cells]]"
            )
    name = top.get("name", path.stem)
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]*\w", name):
        raise ConfigError(f"name expects letters, digits, '-', '_' and '.', got {shown(name)}")
    description = top.get("description", "")
    if not isinstance(description, str):
        raise ConfigError(f"description expects text, got {shown(description)}")
    target = top.get("target_loss")
    return Spec(
        path=path,
        name=name,
        description=description,
        timeout_s=_positive("timeout-s", top.get("timeout_s", TIMEOUT_S)),
        target_loss=None if target is None else _positive("target-loss", target),
        cells=tuple(_cells(top)),
        tuning=read_tuning(top["tune"], _spelled) if "tune" in top else NO_TUNING,
    )


def _positive(key: str, value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 < value < float("inf"):
        raise ConfigError(f"{key} expects a number above 0, got {shown(value)}")
    return float(value)


def _cells(top: Mapping[str, Any]) -> list[Cell]:
    common = _section("[settings]", top.get("settings", {}))
    grids = [_section("[grid]", grid) for grid in _tables("grid", top)]
    kinds = [_kind(kind) for kind in _tables("cells", top)]
    virtual = _virtual(top["virtual"]) if "virtual" in top else None
    cells = [
        _cell(common, dict(zip(choices, values, strict=True)), tune, virtual)
        for grid, (kind, tune) in product(grids, kinds)
        for choices in [_disjoint(common, grid, kind)]
        for values in product(*choices.values())
    ]
    if virtual is not None:
        cluster = parse(cells[0].command()[1:]).cluster  # some costs take a while to find
        cells = [replace(cell, cluster=cluster) for cell in cells]
    named: dict[str, Cell] = {}
    for cell in cells:
        if named.setdefault(cell.name, cell) is not cell:
            raise ConfigError(f"two cells are called {cell.name}: the grid holds a value twice")
    jobs: dict[tuple[int, Config], Cell] = {}
    for cell in cells:
        twin = jobs.setdefault((cell.workers, cell.config), cell)
        if twin is not cell:
            raise ConfigError(f"cells {twin.name} and {cell.name} are the same job")
    seeds = list(dict.fromkeys(cell.config.run.seed for cell in cells))
    return sorted(cells, key=lambda cell: seeds.index(cell.config.run.seed))


def _tables(key: str, top: Mapping[str, Any]) -> list[Any]:
    """Return the tables of a key that may be one, several or none."""
    found = top.get(key, {})
    tables = found if isinstance(found, list) else [found]
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{key} expects tables, [{key}] or [[{key}]], got {shown(found)}")
    return tables


def _kind(table: Any) -> tuple[dict[str, Any], bool]:
    """Return the settings of [[cells]], and whether these are tuned."""
    settings = dict(table)
    tune = settings.pop("tune", True)
    if not isinstance(tune, bool):
        raise ConfigError(f"[[cells]]: tune expects true or false, got {shown(tune)}")
    return _section("[[cells]]", settings), tune


def _section(title: str, table: Any) -> dict[str, Any]:
    """Return a section's values by field name.

    Raises:
        ConfigError: it is no table, or a key of it is none that a cell can have.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{title} expects a table, got {shown(table)}")
    section = _spelled(table, title)
    for name in section:
        if name in OWN:
            raise ConfigError(f"{title}: {name} is not for a spec to say")
        if name != "workers" and name not in _FIELDS:
            raise ConfigError(
                f"{title}: unknown setting '{name}'; see python -m psdp.worker --help"
            )
    return section


def _spelled(table: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return a table with its keys as field names."""
    spelled: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in spelled:
            raise ConfigError(f"{title}: {key} is given twice")
        spelled[name] = value
    return spelled


def _disjoint(
    common: Mapping[str, Any], grid: Mapping[str, Any], kind: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """Return the values of each key that vary over cells.

    Raises:
        ConfigError: a key stands in two sections, or has no value.
    """
    for name in [*common, *grid]:
        if name in kind or (name in common and name in grid):
            raise ConfigError(
                f"{name.replace('_', '-')} stands in two of [settings], [grid] and [[cells]]; say "
                "it once"
            )
    choices = {
        name: list(value) if isinstance(value, list) else [value]
        for name, value in [*grid.items(), *kind.items()]
    }
    for name, values in choices.items():
        if not values:
            raise ConfigError(f"{name.replace('_', '-')} has an empty list of values")
    return choices


def _virtual(table: Any) -> tuple[str, ...]:
    """Return the flags that say what a virtual job costs."""
    if not isinstance(table, dict):
        raise ConfigError(f"[virtual] expects a table, got {shown(table)}")
    words: list[str] = []
    for key, value in table.items():
        if key not in _COSTS:
            raise ConfigError(f"[virtual]: unknown cost '{key}'; see python -m psdp.virtual --help")
        words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return tuple(words)


def _cell(
    common: Mapping[str, Any],
    choice: Mapping[str, Any],
    tune: bool,
    virtual: tuple[str, ...] | None,
) -> Cell:
    name = _name(common, choice)
    family = _name(common, {key: value for key, value in choice.items() if key != "seed"})
    given = {**common, **choice}
    workers = given.pop("workers", None)
    try:
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise ConfigError(f"workers expects a number of at least 1, got {shown(workers)}")
        last = given.get("servers", 1), workers
        given = {name: _meant(name, value, last) for name, value in given.items()}
        given = {name: value for name, value in given.items() if value is not None}
        given = with_home_folders(given)
        cell = Cell(name, family, workers, given, _checked(given, workers), tune)
        return cell if virtual is None else _made_virtual(cell, virtual)
    except ConfigError as error:
        raise ConfigError(f"cell {name}: {error}") from error


def _made_virtual(cell: Cell, virtual: tuple[str, ...]) -> Cell:
    """Return a cell as a virtual job, which is recorded.

    Raises:
        ConfigError: it cannot be one.
    """
    check(cell.given, cell.workers)
    given = {**cell.given, "record": True}
    return replace(cell, given=given, config=_checked(given, cell.workers), virtual=virtual)


def changed(cell: Cell, name: str, settings: Mapping[str, Any]) -> Cell:
    """Return a cell with another name and other settings.

    Raises:
        ConfigError: it cannot be.
    """
    given = {**cell.given, **settings}
    try:
        return replace(cell, name=name, given=given, config=_checked(given, cell.workers))
    except ConfigError as error:
        raise ConfigError(f"cell {name}: {error}") from error


def _checked(given: Mapping[str, Any], workers: int) -> Config:
    """Return the settings of a job of so many workers, resolved."""
    config = Config.from_flat(given).resolved()
    check_world(config, workers + config.run.servers)
    _check_corpus(config)
    return config


def _check_corpus(config: Config) -> None:
    """
    Raises:
        ConfigError: a path of the corpus is not there.
    """
    paths = () if config.data.corpus == Config().data.corpus else config.data.corpus
    for path in paths:
        if not Path(path).exists():
            raise ConfigError(f"corpus {path} does not exist (looked from {Path.cwd()})")


def _name(common: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
    """Return a name made of all that may vary, so that it stays when a spec grows."""
    mode = choice.get("mode", common.get("mode", Config().run.mode))
    varied = [(name, value) for name, value in choice.items() if name not in ("mode", "seed")]
    varied += [("seed", choice["seed"])] if "seed" in choice else []
    parts = [str(mode), *(f"{name.replace('_', '-')}={value}" for name, value in varied)]
    return "-".join(re.sub(r"[^\w.=-]+", "_", part).strip("_") for part in parts)


def _meant(name: str, value: Any, last: tuple[Any, int]) -> Any:
    """Return the value of a setting, None where it is to have none; ``last``: the servers and
    workers."""
    if value == "none" and str(_FIELDS[name].type).endswith("| None"):
        return None
    if name in ("corpus", "val_corpus") and isinstance(value, str):
        return [value]
    if name == "straggler":
        if not isinstance(value, str):
            expected = '"RANK:FACTOR[,...]", where RANK may be "last"'
            raise ConfigError(f"straggler expects {expected}, got {shown(value)}")
        servers, workers = last
        rank = servers + workers - 1 if isinstance(servers, int) else 0  # which is refused
        return re.sub(r"\blast:", f"{rank}:", value)
    return value


def _flags(name: str, value: Any) -> Iterator[str]:
    match value:
        case True:
            yield flag_of(name)
        case False:
            # A switch that is off by default has no flag to switch it off.
            if _FIELDS[name].default:
                yield f"--no-{flag_of(name).removeprefix('--')}"
        case list() | tuple():
            yield from (flag_of(name), *value)
        case _:
            yield f"{flag_of(name)}={value}"
