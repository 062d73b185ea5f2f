"""Trials of a sweep that tunes: the same number for every family of cells, kept, and not run again.

DIR/tune/runs/FAMILY-trial=N-seed=S/   the run folder of each trial, without its checkpoints
DIR/tune/trials.json    the settings and losses of all trials, from which the next ones follow
DIR/trials.csv          the same as a table, for a report: a line for each trial
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cell_runs import Outcome, apart, clear, read_record, see_what_is_there, write_record
from cells import Cell, Spec, changed
from space import Space, Tuning, next_settings

from psdp.errors import ConfigError, NumericsError
from psdp.modes import MODES, ONLY_WITH
from psdp.records.search import Search
from psdp.report.measures import loss_after
from psdp.report.runs import Run, read_runs
from psdp.report.tables import Table
from psdp.simulate.scenario import job_of

FINISHED, DIVERGED = "finished", "diverged"

RunCell = Callable[[Cell, Path], Outcome]
"""Runs a cell in a folder of a sweep."""


@dataclass(frozen=True)
class Family:
    """Cells that differ in their seed alone, and so are tuned together.

    Attributes:
        space: what is tuned: settings with a meaning in its mode.
    """

    name: str
    cells: tuple[Cell, ...]
    space: Space

    @property
    def given(self) -> Mapping[str, Any]:
        """What the spec itself says of the settings that are tuned, by default or not."""
        flat = self.cells[0].config.flat()
        return {name: flat[name] for name in self.space}

    def trial(self, number: int, settings: Mapping[str, Any], seed: int) -> Cell:
        """Return the job of a trial with one of its seeds."""
        name = f"{self.name}-trial={number}-seed={seed}"
        return changed(self.cells[0], name, {**settings, "seed": seed})

    def tuned(self, best: Trial) -> list[Cell]:
        """Return its cells with the settings of a trial; of the first, the same cells."""
        if not best.settings:
            return list(self.cells)
        names = self.tuned_names(f"={best.number}")
        pairs = zip(self.cells, names, strict=True)
        return [changed(cell, name, best.settings) for cell, name in pairs]

    def tuned_names(self, which: str = "") -> list[str]:
        """Return what its cells are called with the settings of a trial."""
        mode = self.cells[0].config.run.mode
        return [f"{mode}-tuned{which}{cell.name.removeprefix(mode)}" for cell in self.cells]


def families_of(spec: Spec) -> list[Family]:
    """Return what a spec tunes; nothing if it has no [tune].

    Raises:
        ConfigError: a seed of trials is a cell's; a family has nothing to be tuned, or a setting at
            an end of its range cannot be; a setting has a meaning in no family.
    """
    try:
        return _families(spec.cells, spec.tuning)
    except ConfigError as error:
        raise ConfigError(f"{spec.path}: {error}") from error


def _families(cells: Sequence[Cell], tuning: Tuning) -> list[Family]:
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.config.run.seed in tuning.seeds:
            raise ConfigError(
                f"[tune] seeds has {cell.config.run.seed}, which is that of cell {cell.name}: it "
                "would be judged by what its settings were chosen by"
            )
        if cell.tune and tuning.trials:
            by_name.setdefault(cell.family, []).append(cell)
    found = [_family(name, own, tuning.space) for name, own in by_name.items()]
    for setting in tuning.space:
        if not any(setting in family.space for family in found):
            raise ConfigError(
                f"[tune.settings] {setting.replace('_', '-')} has a meaning in none of the cells "
                "that are tuned"
            )
    return found


def _family(name: str, cells: Sequence[Cell], space: Space) -> Family:
    mode = cells[0].config.run.mode
    meant = {key: values for key, values in space.items() if mode in ONLY_WITH.get(key, MODES)}
    if not cells[0].config.data.val_fraction:
        raise ConfigError(f"cell {name}: with --val-fraction 0 there is no loss to tune by")
    if not meant:
        raise ConfigError(
            f"cell {name}: nothing of [tune.settings] has a meaning in --mode {mode}; say "
            "tune = false"
        )
    for key, values in meant.items():
        for value in values.ends():
            changed(cells[0], f"{name} with {key.replace('_', '-')} {value}", {key: value})
    return Family(name, tuple(cells), meant)


@dataclass(frozen=True)
class Trial:
    """What came of some settings.

    Attributes:
        settings: beside those that the spec gives; none in the first trial, which tries these.
        losses: of each seed; none where one of them diverged.
        loss: their mean, which is what is compared; infinite where one diverged.
        wall_s: mean seconds of a run, without its start.
    """

    number: int
    settings: Mapping[str, Any]
    status: str
    losses: tuple[float, ...]
    wall_s: float | None

    @property
    def loss(self) -> float:
        return fmean(self.losses) if self.losses else math.inf


class Trials:
    """The trials of all families, as they are on disk.

    Args:
        out: the sweep's folder.

    Attributes:
        table: the file that shows them.

    Raises:
        ConfigError: trials that are there are of other settings.
    """

    def __init__(self, families: Sequence[Family], tuning: Tuning, out: Path) -> None:
        self._families = families
        self._tuning = tuning
        self._out = out
        self.table = out / "trials.csv"
        self._path = out / "tune" / "trials.json"
        before = read_record(self._path) or {}
        self._done: dict[str, list[Trial]] = {}
        for family in families:
            about = self._about(family)
            record = before.get(family.name, {"about": about, "trials": []})
            if differences := apart(_flat(record["about"]), _flat(about)):
                raise ConfigError(
                    f"{self._path}: the trials of {family.name} are of other settings than the "
                    f"spec now says: {differences}; choose another --out, or remove "
                    f"{self._path.parent}"
                )
            self._done[family.name] = [
                Trial(**one | {"losses": tuple(one["losses"])}) for one in record["trials"]
            ]

    @property
    def jobs(self) -> int:
        """How many jobs all trials are."""
        return self._tuning.trials * len(self._families) * len(self._tuning.seeds)

    @property
    def jobs_done(self) -> int:
        """How many of these are done."""
        trials = sum(min(self._tuning.trials, len(done)) for done in self._done.values())
        return trials * len(self._tuning.seeds)

    def run(self, run: RunCell, show_progress: Callable[[], None]) -> dict[str, str]:
        """Run all that are not done, trial by trial, so that what slows the machine for a while
        slows all families alike; return why each family failed whose trials did, and which are for
        another call."""
        failed: dict[str, str] = {}
        for folder in ("runs", "logs") if self._families else ():
            (self._out / "tune" / folder).mkdir(parents=True, exist_ok=True)
        for number in range(self._tuning.trials):
            for family in self._families:
                done = self._done[family.name]
                if len(done) > number or family.name in failed:
                    continue
                known = [({**family.given, **trial.settings}, trial.loss) for trial in done]
                settings = next_settings(family.space, known) if known else {}
                trial = self._try(family, number, settings, run)
                if isinstance(trial, str):
                    failed[family.name] = trial
                else:
                    done.append(trial)
                    self._write()
                    show_progress()
        return failed

    def best(self, family: Family) -> Trial | None:
        """Return the trial with the least loss, the first of several; None if there is none, or all
        diverged."""
        done = self._done[family.name][: self._tuning.trials]
        good = [trial for trial in done if trial.status == FINISHED]
        return min(good, key=lambda trial: trial.loss, default=None)

    def search(self, family: Family, best: Trial) -> Search:
        """Return what is to be known of runs that have the settings of a family's best trial."""
        given = self._done[family.name][0].loss
        return Search(
            best={**family.given, **best.settings},
            number=best.number,
            trials=self._tuning.trials,
            seeds=tuple(self._tuning.seeds),
            after_s=self._tuning.after_s,
            loss=best.loss,
            loss_given=given if math.isfinite(given) else None,
        )

    def shown(self) -> list[Table]:
        """Return a table of all trials, the best of each family marked; none without any."""
        lines = list(self._lines())
        if not lines:
            return []
        names = list(self._tuning.space)
        rows = tuple(
            (
                f"{line['family']}, {line['trial']}{' *' if line['best'] else ''}",
                *(_cell(line[name]) for name in names),
                f"{line['loss']:.3f}",
                line["status"],
            )
            for line in lines
        )
        columns = ("trial", *(name.replace("_", "-") for name in names), "loss", "status")
        heading = f"all trials, as in {self.table.name}; * is the best of its family"
        return [Table(heading, columns, rows)]

    def _try(
        self, family: Family, number: int, settings: dict[str, Any], run: RunCell
    ) -> Trial | str:
        """Return a trial, or why it failed."""
        out = self._out / "tune"
        cells = [family.trial(number, settings, seed) for seed in self._tuning.seeds]
        for cell in see_what_is_there(cells, out):
            clear(out / "runs" / cell.name)
            outcome = run(cell, out)
            if outcome.exit_status == NumericsError.exit_code:
                return Trial(number, settings, DIVERGED, (), None)
            if outcome.status != "finished":
                return f"trial {number}: {outcome.why}"
            shutil.rmtree(out / "runs" / cell.name / "checkpoints", ignore_errors=True)
        runs, left_out = read_runs(out / "runs" / cell.name for cell in cells)
        if left_out:
            return f"trial {number}: {left_out[0].why}"
        losses = [self._loss(one) for one in runs]
        wall_s = round(fmean(one.wall_s for one in runs), 3)
        if not all(map(math.isfinite, losses)):
            return Trial(number, settings, DIVERGED, (), wall_s)
        return Trial(number, settings, FINISHED, tuple(losses), wall_s)

    def _loss(self, run: Run) -> float:
        """Return the loss of a run that is compared; infinite if it is none."""
        if run.val_loss is None:
            return math.inf
        if self._tuning.after_s is None:
            return run.val_loss
        found = loss_after(run.evaluations, self._tuning.after_s)
        return math.inf if found is None else found

    def _about(self, family: Family) -> dict[str, Any]:
        """Return what all trials of a family have in common, as JSON has it."""
        cell = family.cells[0]
        settings = {k: v for k, v in cell.config.flat().items() if k != "seed"}
        space = {name: asdict(values) for name, values in family.space.items()}
        compared = {"seeds": self._tuning.seeds, "after_s": self._tuning.after_s}
        about = {"workers": cell.workers, "settings": settings, "space": space, **compared}
        if cell.cluster is not None:
            size = job_of(cell.given, cell.workers).table.size
            about["costs"] = cell.cluster.record(size)
        return json.loads(json.dumps(about))  # type: ignore[no-any-return]

    def _write(self) -> None:
        record = {
            family.name: {
                "about": self._about(family),
                "trials": [asdict(trial) for trial in self._done[family.name]],
            }
            for family in self._families
        }
        write_record(self._path, record)
        with self.table.open("w", encoding="utf-8", newline="") as file:
            lines = list(self._lines())
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)

    def _lines(self) -> Iterator[dict[str, Any]]:
        for family in self._families:
            best, cell = self.best(family), family.cells[0]
            for trial in self._done[family.name]:
                settings = {**family.given, **trial.settings}
                yield {
                    "family": family.name,
                    "mode": cell.config.run.mode,
                    "workers": cell.workers,
                    "trial": trial.number,
                    **{key: settings.get(key) for key in self._tuning.space},
                    "loss": trial.loss,
                    "losses": " ".join(map(str, trial.losses)),
                    "wall_s": trial.wall_s,
                    "status": trial.status,
                    "best": int(trial is best),
                }


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what trials have in common by name, settings and costs beside the rest."""
    rest = {name: value for name, value in about.items() if name not in ("settings", "costs")}
    return {**rest, **about["settings"], **about.get("costs", {})}


def _cell(value: Any) -> str:
    """Return the value of a setting as a table has it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
