"""How fast one GPU trains: psdp against the same GPT in PyTorch (torch.compile, bfloat16 autocast,
flash attention, fused AdamW), with the libraries that are installed (cuDNN, cuBLASLt) and with its
own kernels alone, and psdp's jobs on it.

    python benchmarks/gpu.py [--sizes gpt2 baby] [--rounds 15] [--json FILE] [--no-jobs]
                             [--shakespeare tinyshakespeare.txt]

A step is forward, backward, gradient clipping and AdamW. All sides start from the same weights and
see the same batches; each lives in a process of its own, and they take turns (turns.py). Then one
worker, and two, train the largest of the sizes as a job on this GPU; given the text, one trains
nanoGPT's setting for a GPU to its best validation loss. Model FLOPs are 6 a parameter
that multiplies and 12 L C T for attention, a token (arXiv:2204.02311, appendix B), over the card's
dense bfloat16 peak.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from intervals import Median, median
from session import run_session
from training import (
    BF16_LOSS_TOLERANCE,
    COMPARED_STEPS,
    OPTIM,
    SEED,
    PsdpTrainer,
    Side,
    Size,
    batches,
)
from turns import Runner, SideFailed, take_turns

from psdp.backend import make_backend
from psdp.config import ModelConfig
from psdp.errors import ConfigError
from psdp.nn.transformer import parameter_table
from psdp.params import Array

SIZES = {
    "gpt2": Size(ModelConfig(12, 12, 768, 1024), vocab_size=50304, batch_size=16, steps=10),
    "baby": Size(ModelConfig(6, 6, 384, 256), vocab_size=65, batch_size=64, steps=50),
}
ROUNDS = 15
JOB_STEPS, JOB_TIMEOUT_S = 60, 900.0
SHAKESPEARE = {
    "tokenizer": "char",
    "n-layer": 6,
    "n-head": 6,
    "n-embd": 384,
    "block-size": 256,
    "batch-size": 64,
    "max-steps": 5000,
    "dropout": 0.2,
    "lr": 1e-3,
    "min-lr": 1e-4,
    "lr-schedule": "cosine",
    "warmup-steps": 100,
    "beta1": 0.9,
    "beta2": 0.99,
    "weight-decay": 0.1,
    "grad-clip": 1,
    "eval-every": 250,
    "eval-batches": 0,
}
"""nanoGPT's setting of tiny Shakespeare for a GPU."""

PEAKS = {"H100 PCIe": 756e12, "H100": 989.4e12, "H200": 989.4e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 FLOP/s by a part of the card's name, the first that fits."""


@dataclass(frozen=True)
class Speed:
    """psdp, psdp with its own kernels alone, and PyTorch on one size.

    ``ratio`` is of the tokens/s of the first and the last, ``libraries`` of the first two,
    ``memory`` of the first's peak and the last's.
    """

    size: str
    kernels: dict[str, str]
    tokens_per_s: dict[str, float]
    ratio: Median
    libraries: Median
    utilisation: dict[str, float]
    peak_bytes: dict[str, int]
    memory: float
    largest_loss_difference: float


@dataclass(frozen=True)
class Agreement:
    """One float32 step on the GPU against NumPy's: relative differences."""

    size: str
    loss: float
    gradient: float


@dataclass(frozen=True)
class Jobs:
    """Jobs of one worker and of two on one GPU; ``exchange`` is the share of a worker's time that
    goes into push and pull, waiting for the server included, in sync."""

    tokens_per_s: dict[int, float]
    kept: float
    exchange: float


def psdp_side(size: Size, kernels: str = "auto") -> Side:
    trainer = PsdpTrainer(size, "bf16", device="gpu", kernels=kernels)
    pool = trainer.backend.xp.get_default_memory_pool()
    return Side(trainer.step, {"kernels": trainer.backend.kernels}, peak=pool.total_bytes)


def torch_side(size: Size) -> Side:
    import torch
    from gpt_torch import make_gpt, make_step

    torch.set_float32_matmul_precision("high")
    model = make_gpt(size.model, size.vocab_size, SEED).cuda()
    step = make_step(torch.compile(model, dynamic=False), OPTIM, "bf16", "cuda")
    return Side(step, {"torch": torch.__version__}, peak=torch.cuda.max_memory_reserved)


def flops_per_token(size: Size) -> float:
    """Return the model FLOPs of a token's forward and backward pass."""
    model = size.model
    table = parameter_table(model, size.vocab_size)
    head = size.vocab_size * model.n_embd
    multiplying = sum(spec.size for spec in table.specs if spec.matrix) + head
    return 6.0 * multiplying + 12.0 * model.n_layer * model.n_embd * model.block_size


def peak_of(card: str) -> float | None:
    """Return the dense bfloat16 FLOP/s of a card, None where they are not known."""
    return next(
        (peak for part, peak in PEAKS.items() if all(w in card for w in part.split())), None
    )


def measure(name: str, rounds: int, card: str) -> Speed:
    """
    Raises:
        SideFailed: one of the two cannot run.
    """
    size, runners = SIZES[name], {}
    sides: dict[str, Callable[[Size], Side]] = {
        "psdp": psdp_side,
        "own": partial(psdp_side, kernels="compiled"),
        "compile": torch_side,
    }
    for side, make in sides.items():
        print(f"{name}: starting {side}", file=sys.stderr, flush=True)
        runner = Runner(partial(make, size), size, os.sched_getaffinity(0))
        runner.warm_up()
        runners[side] = runner
    take_turns(list(runners.values()), rounds, size.steps)
    for runner in runners.values():
        runner.stop()
    return judge(name, runners, card)


def judge(name: str, ran: dict[str, Any], card: str) -> Speed:
    """Return what the turns of a size came to; ratios are taken within a round."""
    ours, own, theirs = ran["psdp"], ran["own"], ran["compile"]
    tokens = SIZES[name].tokens_per_step
    rates = {side: tokens / statistics.median(of.seconds) for side, of in ran.items()}
    peak, flops = peak_of(card), flops_per_token(SIZES[name])
    losses = [np.array(of.losses[:COMPARED_STEPS]) for of in (ours, own, theirs)]
    return Speed(
        size=name,
        kernels={side: of.facts["kernels"] for side, of in (("psdp", ours), ("own", own))},
        tokens_per_s=rates,
        ratio=median(np.divide(theirs.seconds, ours.seconds)),
        libraries=median(np.divide(own.seconds, ours.seconds)),
        utilisation={side: rate * flops / peak for side, rate in rates.items()} if peak else {},
        peak_bytes={side: of.peak_bytes for side, of in ran.items()},
        memory=ours.peak_bytes / theirs.peak_bytes,
        largest_loss_difference=max(float(np.abs(of - losses[2]).max()) for of in losses),
    )


def agree(name: str) -> Agreement:
    """Compare one float32 step on the GPU with NumPy's, on the same weights and a small batch."""
    whole = SIZES[name]
    size = Size(whole.model, whole.vocab_size, batch_size=1, steps=1)
    tokens, targets = next(batches(size))
    gradients: list[Array] = []
    losses = []
    for device in ("gpu", "cpu"):
        trainer = PsdpTrainer(size, device=device, threads=len(os.sched_getaffinity(0)))
        gradients.append(trainer.backend.on_host(trainer.gradient(tokens, targets)))
        losses.append(trainer.loss())
    difference = np.linalg.norm(gradients[0] - gradients[1]) / np.linalg.norm(gradients[1])
    return Agreement(name, abs(losses[0] - losses[1]) / losses[1], float(difference))


def run_jobs(name: str) -> Jobs:
    """Train a size as jobs of one worker and of two.

    Raises:
        SideFailed: a job failed.
    """
    size = SIZES[name]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.bin"
        text = np.concatenate([next(batches(size))[0].reshape(-1) for _ in range(40)])
        text.astype(np.uint16).tofile(corpus)
        summaries = {count: run_job(size, corpus, Path(folder), count) for count in (1, 2)}
    rates = {count: float(summary["tokens_per_s"]) for count, summary in summaries.items()}
    return Jobs(rates, rates[2] / rates[1], exchange_of(summaries[1]))


def run_job(size: Size, corpus: Path, folder: Path, workers: int) -> dict[str, Any]:
    model, rest = size.model, ["--val-fraction", "0", "--eval-every", "0"]
    shape = {
        "n-layer": model.n_layer,
        "n-head": model.n_head,
        "n-embd": model.n_embd,
        "block-size": model.block_size,
        "batch-size": size.batch_size,
        "vocab-size": size.vocab_size,
        "max-steps": JOB_STEPS,
    }
    return launch(corpus, folder / f"run-{workers}", workers, shape, rest)


def learn(corpus: Path) -> float:
    """Train nanoGPT's setting for a GPU; return the best loss over the whole validation split.

    Raises:
        SideFailed: the job failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        summary = launch(corpus, Path(folder) / "run", 1, SHAKESPEARE, [])
    return float(summary["best_val_loss"])


def launch(
    corpus: Path, out: Path, workers: int, settings: Mapping[str, Any], rest: Sequence[str]
) -> dict[str, Any]:
    """Run a job on this GPU; return its summary."""
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [
        *(sys.executable, "-m", "psdp.launch", "-n", str(workers + 1), "--out", str(out)),
        *("--corpus", str(corpus), "--device", "gpu", "--precision", "bf16"),
        *("--server-device", "gpu", "--quiet"),
        *(*flags, *rest),
    ]
    ended = run_session(command, timeout_s=JOB_TIMEOUT_S)
    if ended.status != 0:
        raise SideFailed(f"the job of {workers} worker(s) failed", ended.output)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def exchange_of(summary: dict[str, Any]) -> float:
    """Return the share of the workers' time in which they did not compute."""
    spent = {
        part: sum(summary[part].values()) for part in ("compute_s", "push_s", "wait_s", "pull_s")
    }
    return float(1 - spent["compute_s"] / sum(spent.values()))


def table(speeds: list[Speed]) -> str:
    sides = ("psdp", "own", "compile")
    heads = [f"{'':6}", *(f"{side:>12}" for side in sides)]
    heads += [f"  {'psdp over compile':26}{'psdp over own':26}{'MFU':>22}{'memory':>8}"]
    lines = ["".join(heads)]
    for speed in speeds:
        used = [f"{speed.utilisation.get(side, float('nan')):.1%}" for side in sides]
        lines.append(
            "".join([f"{speed.size:6}", *(f"{speed.tokens_per_s[side]:12,.0f}" for side in sides)])
            + f"  {speed.ratio!s:26}{speed.libraries!s:26}{' / '.join(used):>22}{speed.memory:8.2f}"
        )
    lines += [f"{speed.size}: psdp is {speed.kernels['psdp']}" for speed in speeds]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Return the options.

    Raises:
        SystemExit: ``--help``, or an option that cannot be.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, metavar="N", default=ROUNDS)
    parser.add_argument("--jobs", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--shakespeare", type=Path, metavar="FILE", help="tiny Shakespeare")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.shakespeare and not options.shakespeare.is_file():
        parser.error(f"--shakespeare: there is no file {options.shakespeare}")
    return options


def main() -> int:
    options = parse()
    try:
        backend = make_backend("gpu", "float32", kernels="compiled")
    except ConfigError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return error.exit_code
    card = backend.device.name  # type: ignore[attr-defined]
    print(card)
    speeds, agreements, jobs, best_loss = [], [], None, None
    try:
        for name in options.sizes:
            speeds.append(measure(name, options.rounds, card))
            agreements.append(agree(name))
        print(table(speeds))
        for found in agreements:
            print(
                f"{found.size}: float32 step against NumPy's: loss {found.loss:.1e}, gradient "
                f"{found.gradient:.1e} (relative)"
            )
        if options.jobs:
            jobs = run_jobs(options.sizes[0])
            print(
                f"{options.sizes[0]} as a job: {jobs.tokens_per_s[1]:,.0f} tokens/s with 1 worker, "
                f"{jobs.tokens_per_s[2]:,.0f} with 2 ({jobs.kept:.3f}); push and pull take "
                f"{jobs.exchange:.1%} of a step"
            )
        if options.shakespeare:
            best_loss = learn(options.shakespeare)
            print(f"nanoGPT's setting: best validation loss {best_loss:.3f}")
    except SideFailed as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 1
    if options.json:
        record = {"card": card, "speeds": [*map(asdict, speeds)], "jobs": jobs and asdict(jobs)}
        record["agreements"] = [*map(asdict, agreements)]
        record["best_val_loss"] = best_loss
        Path(options.json).write_text(json.dumps(record, indent=2))
    apart = [s.size for s in speeds if not s.largest_loss_difference < BF16_LOSS_TOLERANCE]
    if apart:
        print(
            f"losses differ by {BF16_LOSS_TOLERANCE} or more: {', '.join(apart)}", file=sys.stderr
        )
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
