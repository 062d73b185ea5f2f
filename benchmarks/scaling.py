"""How the modes scale from 8 to 4096 workers: closed forms and simulations.

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

    def slowest_s(self, workers: int, slow: bool) -> float:
        """Return what the slowest of so many steps takes on average: of W exponential draws the
        greatest is the W-th harmonic number."""
        harmonic = math.fsum(1 / n for n in range(1, workers + 1))
        all_s = self.step_s * (1 + self.jitter * harmonic)
        return max(all_s, self.straggler * self.mean_step_s) if slow else all_s

    def exchange_s(self, workers: int, servers: int) -> float:
        """Return what an exchange of all workers at once adds: every vector through the servers'
        ports, one of them in and out of its worker's port too; averaging, the update, messages."""
        messages_s = (workers + 2) * self.message_s + 2 * self.latency_s
        norms_s = 3 * self.latency_s if servers > 1 else 0.0
        ports_s = (workers - 1) * self.transfer_s / servers + 2 * self.transfer_s
        update_s = (workers * self.average_s + self.apply_s) / servers
        return ports_s + update_s + messages_s + norms_s

    def sync(self, workers: int, servers: int = 1, *, slow: bool = False) -> float:
        """Return steps/s."""
        return 1 / (self.slowest_s(workers, slow) + self.exchange_s(workers, servers))

    def free(self, workers: int, servers: int = 1, *, slow: bool = False) -> float:
        """Return steps/s of async: the workers' own pace, or what ports or servers can do."""
        own_s = self.mean_step_s + 2 * self.transfer_s + self.apply_s / servers
        own = workers / own_s
        if slow:
            own += 1 / (own_s + (self.straggler - 1) * self.mean_step_s) - 1 / own_s
        server_s = max(self.transfer_s, self.apply_s) / servers + 2 * self.message_s * (
            servers == 1
        )
        return min(own, 1 / max(self.transfer_s / servers, server_s)) / workers

    def bounded(self, workers: int, servers: int = 1, *, slow: bool = False) -> float:
        """Return steps/s of ssp: async, but no faster than its straggler."""
        pace = 1 / (self.straggler * self.mean_step_s + 2 * self.transfer_s + self.apply_s)
        free = self.free(workers, servers, slow=slow)
        return min(free, pace) if slow else free

    def local(self, workers: int, steps: int, *, slow: bool = False) -> float:
        """Return steps/s of local steps: the slowest of W sums of draws, about normal, then an
        exchange."""
        own_s = steps * (self.mean_step_s + self.apply_s)
        spread_s = self.step_s * self.jitter * math.sqrt(2 * steps * math.log(max(workers, 2)))
        slowest_s = own_s + spread_s
        if slow:
            alone_s = steps * (self.straggler * self.mean_step_s + self.apply_s)
            slowest_s = max(slowest_s, alone_s)
        return steps / (slowest_s + self.exchange_s(workers, 1))

    def ring(self, workers: int, *, slow: bool = False) -> float:
        """Return steps/s of synchronous training with ring all-reduce in place of servers."""
        links_s = 2 * (workers - 1) * (self.transfer_s / workers + self.latency_s)
        return 1 / (self.slowest_s(workers, slow) + links_s + self.apply_s)

    def knee(self, servers: int) -> float:
        """Return the workers of async that fill the servers' ports."""
        own_s = self.mean_step_s + 2 * self.transfer_s + self.apply_s / servers
        return own_s * servers / self.transfer_s


CLUSTER = Cluster()
STALENESS, LOCAL_STEPS = 4, 16
STEPS = 40
"""Steps of a simulation: a bound of 4 clocks is reached within the first fifth, the warm-up."""

Theory = Callable[[int], float]


@dataclass(frozen=True)
class Line:
    """One line of a plot: a name, its settings (none where nothing is simulated), its formula."""

    name: str
    settings: dict[str, Any] | None
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
        Line("ring all-reduce (formula)", None, lambda w: c.ring(w, slow=slow)),
    ]


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
    return [*found, Line("ring all-reduce (formula)", None, CLUSTER.ring)]


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
        print(f"\n{path.name}: {title}\n{'':28}{'W':>6}{'speed-up':>10}{'formula':>9}", flush=True)
        axis.plot(counts, counts, color="0.8", label="ideal")
        for number, line in enumerate(found):
            colour = f"C{number}" if line.settings is not None else "0.4"
            style = "-" if line.settings is not None else "--"
            paper = [w * line.theory(w) * CLUSTER.mean_step_s for w in counts]
            axis.plot(counts, paper, style, color=colour, label=line.name)
            dots = []
            for w, formula in zip(counts, paper, strict=True):
                if line.settings is not None:
                    prediction = simulate(line.settings, w, slow)
                    dots.append(w * prediction.steps_per_s * CLUSTER.mean_step_s)
                    extra = (
                        f"  wait {prediction.waiting:6.1%}  lag {prediction.lag_mean:7.1f}, "
                        f"95 % {prediction.lag_p95}, gap {prediction.max_clock_gap}"
                    )
                    print(f"{line.name:28}{w:6}{dots[-1]:10.1f}{formula:9.1f}{extra}", flush=True)
                else:
                    print(f"{line.name:28}{w:6}{'':10}{formula:9.1f}", flush=True)
            if dots:
                axis.plot(counts, dots, "o", color=colour, markersize=4)
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
