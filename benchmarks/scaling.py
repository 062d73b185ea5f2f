"""How the modes scale from 8 to 4096 workers: closed forms and simulations, for docs/scaling.md.

    python benchmarks/scaling.py [--out docs] [--most 4096]

Draws scaling-modes.png, scaling-servers.png and scaling-local.png into --out, lines by the formulas
of :class:`Cluster` and dots by psdp.simulate, and prints both. Needs matplotlib (pip install
'psdp[report]'). Takes some minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.simulate.costs import Costs, usual_average_s
from psdp.simulate.scenario import Prediction, job_of, predict

_EULER = 0.5772


@dataclass(frozen=True)
class Cluster:
    """A cost model, and what it says on paper. Times in seconds.

    Attributes:
        parameters: of the model, four bytes each.
        step_s: of a worker that nothing slows down.
        jitter: mean of what each step takes longer by chance, exponential, in steps.
        mbps: of each rank's port, both ways.
        apply_s: of an update of all parameters.
        straggler: how many times slower one of the workers is.
        straggler_rank: which; a worker for every number of servers.
    """

    parameters: int = 25_000_000
    step_s: float = 0.5
    jitter: float = 0.1
    latency_s: float = 20e-6
    message_s: float = 20e-6
    mbps: float = 25_000.0
    apply_s: float = 7e-3
    straggler: float = 4.0
    straggler_rank: int = 20

    @property
    def transfer_s(self) -> float:
        """Of a whole vector through a port."""
        return self.parameters * 4 * 8 / (self.mbps * 1e6)

    @property
    def average_s(self) -> float:
        return usual_average_s(self.apply_s)

    @property
    def mean_step_s(self) -> float:
        return self.step_s * (1 + self.jitter)

    def costs(self) -> Costs:
        return Costs(
            step_s=(self.step_s,),
            latency_s=self.latency_s,
            server_message_s=self.message_s,
            worker_message_s=self.message_s,
            apply_s=self.apply_s,
            average_s=self.average_s,
        )

    def slowest_s(self, workers: float) -> float:
        """Return what the slowest of so many steps takes on average: of W exponential draws the
        greatest is the W-th harmonic number, here of any W from 1 on."""
        return self.step_s * (1 + self.jitter * (math.log(workers + 0.5) + _EULER))

    def racing(self, workers: int, servers: int) -> float:
        """Return how many of the workers compete to be last, where their answers leave a port one
        after the other: each begins later, so those before it are the less likely to be."""
        apart = self.transfer_s / servers / (self.step_s * self.jitter)
        return math.expm1(-workers * apart) / math.expm1(-apart)

    def exchange_s(self, workers: int, servers: int, place: int | None = None) -> float:
        """Return what an exchange adds to the step of the worker that is answered at this place,
        by default the last: the vectors before its own through the servers' ports, its own in and
        out of its port too; averaging and the update; messages."""
        before = (workers if place is None else min(place, workers)) - 1
        messages_s = (before + 4) * self.message_s + 2 * self.latency_s
        norms_s = 3 * self.latency_s if servers > 1 else 0.0
        ports_s = before * self.transfer_s / servers + 2 * self.transfer_s
        update_s = (workers * self.average_s + self.apply_s) / servers
        return ports_s + update_s + messages_s + norms_s

    def sync(self, workers: int, servers: int = 1, *, slow: bool = False) -> float:
        """Return steps/s: those of the last to be answered, or of the straggler."""
        racing = self.racing(workers, servers)
        last_s = self.slowest_s(racing) + self.exchange_s(workers, servers)
        if not slow:
            return 1 / last_s
        own_s = self.exchange_s(workers, servers, self.straggler_rank)
        return 1 / max(last_s, self.straggler * self.mean_step_s + own_s)

    def free_exchange_s(self, servers: int) -> float:
        """Return what an exchange takes that meets no other: the first shard comes back while the
        last is on its way."""
        return (1 + 1 / servers) * self.transfer_s + self.apply_s / servers

    def free(self, workers: int, servers: int = 1, *, slow: bool = False) -> float:
        """Return steps/s of async: the workers' own pace, or what ports or servers can do."""
        own_s = self.mean_step_s + self.free_exchange_s(servers)
        own = workers / own_s
        if slow:
            own += 1 / (own_s + (self.straggler - 1) * self.mean_step_s) - 1 / own_s
        served_s = max(self.transfer_s / servers, self.apply_s / servers + 2 * self.message_s)
        return min(own, 1 / served_s) / workers

    def bounded(self, workers: int, servers: int = 1, *, slow: bool = False) -> float:
        """Return steps/s of ssp: async, but no faster than its straggler."""
        pace = 1 / (self.straggler * self.mean_step_s + self.free_exchange_s(servers))
        free = self.free(workers, servers, slow=slow)
        return min(free, pace) if slow else free

    def local(self, workers: int, steps: int, *, slow: bool = False) -> float:
        """Return steps/s of local steps: the slowest of W sums of draws, about normal, then an
        exchange."""
        own_s = steps * (self.mean_step_s + self.apply_s)
        spread_s = self.step_s * self.jitter * math.sqrt(2 * steps * math.log(workers))
        last_s = own_s + spread_s + self.exchange_s(workers, 1)
        if not slow:
            return steps / last_s
        alone_s = steps * (self.straggler * self.mean_step_s + self.apply_s)
        return steps / max(last_s, alone_s + self.exchange_s(workers, 1, self.straggler_rank))

    def ring(self, workers: int, *, slow: bool = False) -> float:
        """Return steps/s of allreduce by a ring."""
        ring_s = 2 * (workers - 1) * (self.transfer_s / workers + self.latency_s)
        slowest_s = self.slowest_s(workers)
        if slow:
            slowest_s = max(slowest_s, self.straggler * self.mean_step_s)
        return 1 / (slowest_s + ring_s + self.apply_s)

    def knee(self, servers: int) -> float:
        """Return the workers of async that fill the servers' ports."""
        own_s = self.mean_step_s + self.free_exchange_s(servers)
        return own_s * servers / self.transfer_s


CLUSTER = Cluster()
STALENESS, LOCAL_STEPS = 4, 16
STEPS = 40
"""Steps of a simulation: a bound of 4 clocks is reached within the first fifth, the warm-up."""

Theory = Callable[[int], float]


@dataclass(frozen=True)
class Line:
    """One line of a plot: a name, the settings of its jobs, and their steps/s by a formula of W."""

    name: str
    settings: dict[str, Any]
    theory: Theory


def lines(slow: bool) -> list[Line]:
    """Return the modes with one server."""
    c = CLUSTER
    local = {"mode": "local", "local_steps": LOCAL_STEPS, "max_steps": 4 * LOCAL_STEPS}
    return [
        Line("async", {"mode": "async"}, lambda w: c.free(w, slow=slow)),
        Line(
            f"ssp, S = {STALENESS}",
            {"mode": "ssp", "staleness": STALENESS},
            lambda w: c.bounded(w, slow=slow),
        ),
        Line("sync", {"mode": "sync"}, lambda w: c.sync(w, slow=slow)),
        Line(f"local, H = {LOCAL_STEPS}", local, lambda w: c.local(w, LOCAL_STEPS, slow=slow)),
        ring_line(slow),
    ]


def ring_line(slow: bool) -> Line:
    """Return the mode without a server."""
    return Line("allreduce", {"mode": "allreduce"}, lambda w: CLUSTER.ring(w, slow=slow))


def server_lines(mode: str) -> list[Line]:
    """Return a mode with more and more servers."""
    theory = {"sync": CLUSTER.sync, "async": CLUSTER.free}[mode]
    found = [
        Line(
            f"{mode}, K = {k}",
            {"mode": mode, "servers": k, "max_steps": 20},
            lambda w, k=k: theory(w, k),  # type: ignore[misc]
        )
        for k in (1, 4, 16)
    ]
    return [*found, ring_line(slow=False)]


def local_lines(slow: bool) -> list[Line]:
    """Return more and more local steps."""
    return [
        Line(
            f"H = {h}",
            {"mode": "local", "local_steps": h, "max_steps": max(20, 4 * h)},
            lambda w, h=h: CLUSTER.local(w, h, slow=slow),  # type: ignore[misc]
        )
        for h in (1, 4, 16, 64)
    ]


def simulate(settings: dict[str, Any], workers: int, slow: bool) -> Prediction:
    """Simulate a job on the cluster."""
    rank = min(CLUSTER.straggler_rank, workers)
    straggler = {"straggler": f"{rank}:{CLUSTER.straggler:g}"} if slow else {}
    whole = {
        "max_steps": STEPS,
        "jitter": f"exponential:{CLUSTER.jitter:g}",
        "link_mbps": CLUSTER.mbps,
        **straggler,
        **settings,
    }
    return predict(job_of(whole, workers, CLUSTER.parameters), CLUSTER.costs())


def draw(
    pyplot: Any, path: Path, panels: Sequence[tuple[str, list[Line], bool, Sequence[int]]]
) -> None:
    """Draw panels (title, lines, whether with a straggler, workers) side by side: speed-up over
    one worker without a server, against workers."""
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4.5), sharey=True)
    for axis, (title, found, slow, counts) in zip(axes, panels, strict=True):
        names = f"{'W':>6}{'speed-up':>10}{'formula':>9}{'wait':>8}{'lag':>8}{'95 %':>7}{'gap':>6}"
        print(f"\n{path.name}: {title}\n{'':16}{names}", flush=True)
        axis.plot(counts, counts, color="0.8", label="ideal")
        for number, line in enumerate(found):
            paper = [w * line.theory(w) * CLUSTER.mean_step_s for w in counts]
            axis.plot(counts, paper, color=f"C{number}", label=line.name)
            dots = []
            for w, formula in zip(counts, paper, strict=True):
                prediction = simulate(line.settings, w, slow)
                dots.append(prediction.speed_up or math.nan)
                print(
                    f"{line.name:16}{w:6}{dots[-1]:10.1f}{formula:9.1f}{prediction.waiting:8.1%}"
                    f"{prediction.lag_mean:8.1f}{prediction.lag_p95:7}{prediction.max_clock_gap:6}",
                    flush=True,
                )
            axis.plot(counts, dots, "o", color=f"C{number}", markersize=4)
        axis.set(title=title, xlabel="workers", xscale="log", yscale="log")
        axis.set_xscale("log", base=2)
        axis.legend(fontsize=8)
        axis.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel("speed-up over one worker alone")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", metavar="DIR", default="docs", help="default docs")
    parser.add_argument("--most", type=int, metavar="W", default=4096, help="default 4096 workers")
    options = parser.parse_args()
    out = Path(options.out)
    if options.most < 8:
        parser.error(f"--most must be at least 8, got {options.most}")
    if not out.is_dir():
        parser.error(f"--out {out} is no folder; make it first")
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is missing: pip install 'psdp[report]'", file=sys.stderr)
        return 2
    matplotlib.use("agg")
    from matplotlib import pyplot

    counts = [8 << n for n in range(10) if 8 << n <= options.most]
    some = [w for w in counts if w in (8, 32, 128, 512, 2048, 4096)]
    print(
        f"{CLUSTER}\ntransfer {1e3 * CLUSTER.transfer_s:.1f} ms; async fills the ports with "
        + ", ".join(f"{CLUSTER.knee(k):.0f} workers at K = {k}" for k in (1, 4, 16))
    )
    straggler = f"jitter, and one worker {CLUSTER.straggler:g} times slower"
    draw(
        pyplot,
        out / "scaling-modes.png",
        [("jitter", lines(False), False, counts), (straggler, lines(True), True, counts)],
    )
    draw(
        pyplot,
        out / "scaling-servers.png",
        [(mode, server_lines(mode), False, some) for mode in ("sync", "async")],
    )
    draw(
        pyplot,
        out / "scaling-local.png",
        [("jitter", local_lines(False), False, some), (straggler, local_lines(True), True, some)],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
