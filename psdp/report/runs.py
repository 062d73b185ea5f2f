"""Run folders, read: what config.json, metrics.jsonl and summary.json say of a run.

A folder that is no finished run is no error here: it is named, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.config import Config
from psdp.errors import ConfigError
from psdp.modes import MODES, Mode
from psdp.records.folder import CONFIG, METRICS, SUMMARY, VIRTUAL
from psdp.records.search import Search
from psdp.report.circumstances import circumstances_of, search_of, task_of
from psdp.report.folders import check_folders, names_of
from psdp.report.lost import FINISHED, LeftOut, Lost, stopped_run
from psdp.report.memory import Memory, memory_of
from psdp.report.points import Evaluation, Point, Unusable, number_of, read_json, read_points

PARTS = ("compute", "push", "wait", "pull")
"""Where a worker's time goes, as a summary tells it (``compute_s``, ...)."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: the folder's, or its path where several have that name.
        settings: as resolved, by field name; of an older psdp, with defaults of what came since.
        task, corpus: what tells them from others.
        unit: what its task counts.
        units_per_batch: of a batch, in that.
        transport: how vectors went: shared, messages or mixed; on GPUs "gpu shared" and so on.
        began_tokens: processed before its last start: times and bytes are of what came after.
        lags: version lags of applied gradients, how many of each.
        gaps: clock gaps with which workers were told to go on, how many of each; None if that was
            not counted.
        parts_s: of each worker, by rank: seconds by part (``PARTS``).
        clocks: of each worker, by rank: gradients accepted; None without train records.
        apply_s: seconds that rank 0 took for its updates; None if that was not measured.
        step_times: as the summary has them; None of a run that did not time its steps.
        memory: what its ranks had of their hosts' memory; None where that was not recorded.
        parameters: of the model; None if that is not known.
        data: the corpus in words.
        circumstances: where and by what it was run, by name.
        virtual: whether its times were simulated.
        costs_error: by which part the costs of a virtual one are off, root mean square; None where
            that is not known.
        search: of which its settings came out best; None of none.
    """

    path: Path
    name: str
    settings: Mapping[str, Any]
    workers: int
    servers: int
    task: str
    corpus: str
    unit: str
    units_per_batch: int
    transport: str
    points: tuple[Point, ...]
    began_tokens: int
    stopped_by: str
    tokens: int
    wall_s: float
    tokens_per_s: float
    val_loss: float | None
    best_val_loss: float | None
    lags: Mapping[int, int]
    gaps: Mapping[int, int] | None
    max_gap: int
    parts_s: Mapping[int, Mapping[str, float]]
    clocks: Mapping[int, int] | None
    dropped: int
    bytes: int
    apply_s: float | None
    step_times: Mapping[str, Any] | None
    memory: Memory | None
    parameters: int | None
    data: str
    circumstances: Mapping[str, str]
    virtual: bool
    costs_error: float | None
    search: Search | None

    @property
    def mode(self) -> str:
        return str(self.settings["mode"])

    @property
    def kind(self) -> Mode:
        """What its mode is."""
        return MODES[self.mode]

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def linked(self) -> bool:
        """Whether vectors went over a link, of its own speed or one that was set."""
        return not self.transport.endswith("shared") or bool(self.settings["link_mbps"])

    @property
    def resumed(self) -> bool:
        return self.began_tokens > 0

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step: one gradient of every worker that is no backup."""
        s = self.settings
        gradients = self.workers - s["backup_workers"]
        return int(self.units_per_batch * s["grad_accum"] * gradients)

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes pushed and pulled a token; None if the last start processed none."""
        own = self.tokens - self.began_tokens
        return self.bytes / own if own else None

    @property
    def bytes_per_step(self) -> float | None:
        per_token = self.bytes_per_token
        return None if per_token is None else per_token * self.tokens_per_step

    @property
    def steps_per_s(self) -> float:
        return self.tokens_per_s / self.tokens_per_step

    @property
    def evaluations(self) -> list[Evaluation]:
        """Evaluations with a finite loss, by tokens."""
        found = [
            Evaluation(point.time_s, point.tokens, point.loss)
            for point in self.points
            if point.kind == "eval" and point.loss is not None
        ]
        return sorted(found, key=lambda evaluation: evaluation.tokens)


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Return the finished runs among some folders, and the others with the reason. A folder that is
    named twice counts once.

    Raises:
        ConfigError: a path is no run folder at all, or no run is finished.
    """
    first: dict[Path, Path] = {}
    for path in folders:
        first.setdefault(path.resolve(), path)
    paths = list(first.values())
    check_folders(paths)
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    run: Run | LeftOut
    for path, name in zip(paths, names_of(paths), strict=True):
        try:
            run = _read(path, name)
        except Unusable as why:
            run = LeftOut(name, str(why))
        if isinstance(run, Run):
            runs.append(run)
        else:
            left_out.append(run)
    if not runs:
        reasons = "".join(f"\n  {run.name}: {run.why}" for run in left_out)
        raise ConfigError(f"none of these runs is finished:{reasons}")
    return runs, left_out


def _read(path: Path, name: str) -> Run | Lost:
    config = read_json(path / CONFIG)
    if not (path / SUMMARY).is_file():
        raise Unusable(f"unfinished: it has no {SUMMARY} (it runs still, or was killed)")
    summary = read_json(path / SUMMARY)
    try:
        stopped_by = summary["stopped_by"]
        units = f"{_unit_of(config)}s"
        if stopped_by not in FINISHED:
            return stopped_run(path, name, config, stopped_by, f"{summary[units]} {units}")
        points, began = read_points(path / METRICS, units)
        return _run(path, name, config, summary, points, began)
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise Unusable(f"damaged, or not of this version of psdp: {what}") from error


def _run(
    path: Path,
    name: str,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    points: tuple[Point, ...],
    began_tokens: int,
) -> Run:
    # Where time is virtual, ranks did not take it.
    virtual = {*config.get("hosts", ())} == {VIRTUAL}
    ranks = [] if virtual else sorted(int(rank) for rank in summary["compute_s"])
    trained = [point.record["clocks"] for point in points if point.kind == "train"]
    clocks = {int(worker): int(n) for worker, n in trained[-1].items()} if trained else None
    gap = summary.get("clock_gap")
    unit, resolved = _unit_of(config), Config.from_flat(config["settings"]).resolved()
    task, corpus = task_of(config)
    # Of a text, older runs do not say it.
    sequences = resolved.run.batch_size * resolved.model.block_size
    return Run(
        path=path,
        name=name,
        settings=resolved.flat(),
        workers=int(summary["workers"]),
        servers=int(summary["servers"]),
        task=task,
        corpus=corpus,
        unit=unit,
        units_per_batch=int(config.get("units_per_batch", sequences)),
        transport=str(summary["transport"]),
        points=points,
        began_tokens=began_tokens,
        stopped_by=str(summary["stopped_by"]),
        tokens=int(summary[f"{unit}s"]),
        wall_s=float(summary["wall_s"]),
        tokens_per_s=float(summary[f"{unit}s_per_s"]),
        val_loss=number_of(summary["val_loss"]),
        best_val_loss=number_of(summary["best_val_loss"]),
        lags=_histogram(summary["version_lag"]["histogram"]),
        gaps=None if gap is None else _histogram(gap["histogram"]),
        max_gap=int(summary["max_clock_gap"]),
        parts_s={
            rank: {part: float(summary[f"{part}_s"][str(rank)]) for part in PARTS} for rank in ranks
        },
        clocks=clocks,
        dropped=sum(summary["dropped"].values()),
        bytes=int(summary["bytes_pushed"]) + int(summary["bytes_pulled"]),
        # Older runs do not tell what follows.
        apply_s=number_of(summary.get("apply_s")),
        step_times=None if virtual else summary.get("step_times"),
        memory=None if virtual else memory_of(config, summary, sum((clocks or {}).values())),
        parameters=config.get("parameters"),
        data=str(config.get("corpus", {}).get("description", "not recorded")),
        circumstances=circumstances_of(config),
        virtual=virtual,
        costs_error=number_of(config.get("costs", {}).get("calibrate_error")),
        search=search_of(path, resolved.flat()),
    )


def _unit_of(config: Mapping[str, Any]) -> str:
    return str(config.get("unit", "token"))


def _histogram(record: Mapping[str, int]) -> dict[int, int]:
    return {int(number): int(count) for number, count in record.items()}
