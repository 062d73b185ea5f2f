"""What the turns of a size's sides come to, and the tables that show it. Nothing here measures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from intervals import Median, median
from training import COMPARED_STEPS, SIZES

PEERS = ("eager", "compile")


class Ran(Protocol):
    """What is known of a side after its turns; see :class:`turns.Runner`."""

    facts: dict[str, Any]
    seconds: list[float]
    losses: list[float]
    peak_bytes: int


@dataclass(frozen=True)
class Result:
    """Medians over the rounds of a size; a ratio above 1 says that psdp is faster, or smaller.

    Attributes:
        kernels: psdp's.
        compile_missing: why compiled PyTorch took no part; None where it did.
        step_s: seconds of a step in each round, of each side.
        tokens_per_s: of each side that trains.
        ratios: psdp's tokens/s over those of eager and compiled PyTorch.
        peer: the faster of the two by its median.
        ratio: psdp's tokens/s over those of the peer.
        over_products: psdp's step over its products alone.
        products_by: what the products ran with.
        gflops: GFLOP/s of psdp's step and of its products, both for what the step needs.
        peak_bytes: of each side's process.
        memory_ratio: eager PyTorch's peak over psdp's.
    """

    size: str
    rounds: int
    kernels: str
    compile_missing: str | None
    step_s: dict[str, list[float]]
    tokens_per_s: dict[str, float]
    ratios: dict[str, Median]
    peer: str
    ratio: Median
    over_products: Median
    products_by: str
    gflops: dict[str, float]
    peak_bytes: dict[str, int]
    memory_ratio: float
    largest_loss_difference: float


def judge(name: str, ran: Mapping[str, Ran], compile_missing: str | None) -> Result:
    """Return what the sides of a size came to: psdp, eager, products, and compile if it took part.

    Ratios are taken within a round, where what slowed one slowed the other, before their median.
    """
    ours, products = ran["psdp"], ran["products"]
    peers = [peer for peer in PEERS if peer in ran]
    middle = {side: statistics.median(of.seconds) for side, of in ran.items()}
    ratios = {peer: median(np.divide(ran[peer].seconds, ours.seconds)) for peer in peers}
    peer = min(peers, key=lambda peer: middle[peer])
    flops, tokens = products.facts["flops"], SIZES[name].tokens_per_step
    return Result(
        size=name,
        rounds=len(ours.seconds),
        kernels=ours.facts["kernels"],
        compile_missing=compile_missing,
        step_s={side: of.seconds for side, of in ran.items()},
        tokens_per_s={side: tokens / middle[side] for side in ("psdp", *peers)},
        ratios=ratios,
        peer=peer,
        ratio=ratios[peer],
        over_products=median(np.divide(ours.seconds, products.seconds)),
        products_by=products.facts["by"],
        gflops={side: flops / middle[side] / 1e9 for side in ("psdp", "products")},
        peak_bytes={side: of.peak_bytes for side, of in ran.items()},
        memory_ratio=ran["eager"].peak_bytes / ours.peak_bytes,
        largest_loss_difference=max(
            largest_difference(ours.losses, ran[peer].losses) for peer in peers
        ),
    )


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how far the losses of the first steps are apart at most."""
    first = slice(COMPARED_STEPS)
    return float(np.abs(np.subtract(ours[first], theirs[first])).max())


HEADER = (
    f"{'size':7}{'psdp tok/s':>11}{'eager':>9}{'compile':>9}  {'psdp / the faster (95 %)':34}"
    f"{'loss diff':>9}"
)


def row(result: Result) -> str:
    """Return the line of a size: psdp against PyTorch."""
    speeds = result.tokens_per_s
    compiled = f"{speeds['compile']:.0f}" if "compile" in speeds else "none"
    line = (
        f"{result.size:7}{speeds['psdp']:11.0f}{speeds['eager']:9.0f}{compiled:>9}  "
        f"{f'{result.ratio} {result.peer}':34}{result.largest_loss_difference:9.1e}"
    )
    if result.compile_missing is not None:
        line += f"\n       no torch.compile: {result.compile_missing}"
    return line


FLOOR_HEADER = (
    f"{'size':7}{'step ms':>9}{'products':>9}  {'step / products (95 %)':24}{'GFLOP/s':>8}"
    f"{'products':>9}  {'products by':20}{'psdp MB':>8}{'eager':>7}{'compile':>8}{'ratio':>7}"
)


def floor_row(result: Result) -> str:
    """Return the line of a size: psdp's step against its products, and what memory the sides took
    (the ratio is eager PyTorch's over psdp's)."""
    ms = {side: 1e3 * statistics.median(seconds) for side, seconds in result.step_s.items()}
    mb = {side: f"{peak / 1e6:.0f}" for side, peak in result.peak_bytes.items()}
    return (
        f"{result.size:7}{ms['psdp']:9.1f}{ms['products']:9.1f}  {result.over_products!s:24}"
        f"{result.gflops['psdp']:8.1f}{result.gflops['products']:9.1f}  {result.products_by:20}"
        f"{mb['psdp']:>8}{mb['eager']:>7}{mb.get('compile', 'none'):>8}{result.memory_ratio:7.2f}"
    )


@dataclass(frozen=True)
class Scaling:
    """How psdp gains by threads: medians over the rounds of a size."""

    size: str
    rounds: int
    kernels: str
    threads: int
    step_s: dict[int, list[float]]
    tokens_per_s: dict[int, float]
    speedup: Median


def judge_scaling(name: str, threads: int, one: Ran, many: Ran) -> Scaling:
    """Return what psdp with one thread and with ``threads`` came to."""
    seconds = {1: one.seconds, threads: many.seconds}
    tokens = SIZES[name].tokens_per_step
    return Scaling(
        size=name,
        rounds=len(one.seconds),
        kernels=many.facts["kernels"],
        threads=threads,
        step_s=seconds,
        tokens_per_s={count: tokens / statistics.median(of) for count, of in seconds.items()},
        speedup=median(np.divide(one.seconds, many.seconds)),
    )


SCALING_HEADER = f"{'size':7}{'1 thread tok/s':>15}{'threads':>9}{'tok/s':>9}  speed-up (95 %)"


def scaling_row(result: Scaling) -> str:
    """Return the line of a size."""
    return (
        f"{result.size:7}{result.tokens_per_s[1]:15.0f}{result.threads:9}"
        f"{result.tokens_per_s[result.threads]:9.0f}  {result.speedup}"
    )
