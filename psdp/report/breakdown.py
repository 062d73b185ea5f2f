"""What the time between two gradients of a worker is made of, by what runs measured.

A round is: the mean step, what the slowest step of the round takes beyond it, the server's update,
and the exchange, which is all the rest of the time that workers do not compute. How much longer
steps took than with a core always at hand says how much longer updates took, too, and exchanges in
shared memory: so much of these is for want of cores. Links are as slow with any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psdp.report.runs import Run


@dataclass(frozen=True)
class Breakdown:
    """Seconds of a gradient of every worker, means over some runs; but for ``cores_s``, what they
    would have been with a core always at hand.

    Attributes:
        total_s: as it was.
        cores_s: of that, for want of cores.
        step_s: the mean step.
        behind_s: what the slowest worker's mean step is longer, where all wait for the slowest.
        chance_s: what the slowest step of a round is longer than that worker's mean.
        update_s: the server's averages and updates.
        exchange_s: all else.
        steps_s: of each worker, the mean step.
        varies: the standard deviation of a worker's steps over their mean, the mean of workers.
        exchanged_bytes: of a gradient of every worker, pushed and pulled.
    """

    total_s: float
    cores_s: float
    step_s: float
    behind_s: float
    chance_s: float
    update_s: float
    exchange_s: float
    steps_s: tuple[float, ...]
    varies: float
    exchanged_bytes: float

    @property
    def own_s(self) -> float:
        """What all of it would have taken with a core always at hand."""
        return self.step_s + self.behind_s + self.chance_s + self.update_s + self.exchange_s

    def share(self, part_s: float) -> float:
        """Return a part over what all would have taken with a core always at hand."""
        return part_s / self.own_s


def breakdown_of(runs: Sequence[Run]) -> Breakdown | None:
    """Return that of runs that differ in their seed alone; None if one did not measure it."""
    found = [_of_run(run) for run in runs]
    known = [each for each in found if each is not None]
    if len(known) < len(found) or len({len(each.steps_s) for each in known}) > 1:
        return None

    def mean(name: str) -> Any:
        values = [getattr(each, name) for each in known]
        if name != "steps_s":
            return sum(values) / len(values)
        return tuple(sum(own) / len(own) for own in zip(*values, strict=True))

    return Breakdown(**{name: mean(name) for name in Breakdown.__dataclass_fields__})


def _of_run(run: Run) -> Breakdown | None:
    times, clocks = run.step_times, run.clocks
    # Clocks are of all starts, times of the last; what was dropped is in one of them alone.
    if not times or not clocks or run.apply_s is None or run.resumed or run.dropped:
        return None
    if run.kind.chooses:
        return None  # some of it is of one mode, some of another
    workers = times["workers"]
    if {str(worker) for worker in clocks} != workers.keys() or not all(clocks.values()):
        return None
    each = [workers[str(worker)] for worker in sorted(clocks)]
    steps_s = tuple(own["own_s"] for own in each)
    took_s, step_s = (sum(own[name] for own in each) / len(each) for name in ("mean_s", "own_s"))
    if step_s <= 0:
        return None
    slower = max(1.0, took_s / step_s)
    rounds = times["rounds"]
    slowest_s, slowest_own_s = took_s, step_s
    if rounds:
        slowest_s += rounds["slowest_s"] - rounds["mean_s"]
        slowest_own_s += rounds["slowest_own_s"] - rounds["own_s"]
    idle_s = sum(parts[name] for parts in run.parts_s.values() for name in ("push", "wait", "pull"))
    gradients = sum(clocks.values())
    rest_s = max(0.0, idle_s / gradients - (slowest_s - took_s))
    update_s = run.apply_s / gradients
    # For one in rounds; otherwise for its own, and for those before it, as the server is busy.
    update_s *= run.workers if rounds else max(1.0, run.workers * run.apply_s / run.wall_s)
    update_s = min(rest_s, update_s)
    exchange_s = rest_s - update_s
    if not run.linked:
        exchange_s /= slower
    update_s /= slower
    behind_s = min(max(steps_s) - step_s, slowest_own_s - step_s) if rounds else 0.0
    total_s = max(slowest_s, slowest_own_s) + rest_s
    return Breakdown(
        total_s=total_s,
        cores_s=total_s - slowest_own_s - update_s - exchange_s,
        step_s=step_s,
        behind_s=behind_s,
        chance_s=slowest_own_s - step_s - behind_s,
        update_s=update_s,
        exchange_s=exchange_s,
        steps_s=steps_s,
        varies=sum(own["own_std_s"] / own["own_s"] for own in each if own["own_s"]) / len(each),
        exchanged_bytes=run.bytes * run.workers / gradients,
    )
