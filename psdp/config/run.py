"""Settings of a run: its mode, its budget, where it computes, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass

from psdp.fields import AUTO, setting
from psdp.modes import ModeConfig
from psdp.wire import CODECS


@dataclass(frozen=True)
class RunConfig(ModeConfig):
    """The mode, the budget, and what is kept."""

    balance: str = setting(
        "static",
        "static: each worker has its share of the batches of an epoch; dynamic: the server deals "
        "them out one by one, so that fast workers take more (with --partition random)",
        choices=("static", "dynamic"),
    )
    straggler: str | None = setting(
        None,
        "slow workers down on purpose: each step of RANK takes FACTOR times as long; with @FROM-TO "
        "those steps of it, or with @FROMs-TOs in those seconds of the run (TO may be left out)",
        metavar="RANK:FACTOR[@FROM-TO][,...]",
    )
    jitter: str | None = setting(
        None,
        "slow every worker's steps by chance: bernoulli:P:FACTOR, uniform:LOW:HIGH, "
        "exponential:MEAN (of the extra time) or pareto:ALPHA, in multiples of the step; "
        "factors of several are multiplied; none: not at all",
        metavar="DIST[,...]",
    )
    link_mbps: float = setting(
        0.0, "delay what a rank sends as a link of so many megabits/s would (0: not)", low=0
    )
    slow_link: str | None = setting(
        None,
        "let the links of --link-mbps be FACTOR times slower in those seconds of the run (TO may "
        "be left out)",
        metavar="FACTOR@FROMs-TOs[,...]",
    )
    servers: int = setting(1, "ranks 0..K-1 hold one shard of the parameters each", low=1)
    standby: bool = setting(
        False,
        "the last K ranks hold the shards too, each the same as one of the servers, and take over "
        "when a server is lost, rank 0 included (on an MPI that survives failures)",
    )
    virtual_workers: int | None = setting(
        None,
        "workers to which data, dropout and the order of sums belong, whatever ranks compute for "
        "them, one or several each; ranks beyond them are spare (default: as many as ranks that "
        "compute at the first start)",
        low=1,
        metavar="V",
    )
    spares: int | None = setting(
        None,
        "the last R of the ranks that work wait, at next to no cost, to take the place of ranks "
        "that are lost (default: those beyond --virtual-workers)",
        low=0,
        metavar="R",
    )
    max_steps: int = setting(
        1000,
        "budget; in tokens: max-steps x workers x batch-size x grad-accum x block-size",
        low=1,
    )
    batch_size: int = setting(12, "sequences a worker takes per step", low=1)
    grad_accum: int = setting(1, "batches whose gradients are added before a push", low=1)
    eval_every: int = setting(250, "steps between evaluations (0: at the end only)", low=0)
    eval_batches: int = setting(
        40,
        "batches of 12 sequences that an evaluation takes, whatever --batch-size is, spread evenly "
        "over the validation split (0: the whole split)",
        low=0,
    )
    sample_every: int = setting(
        0,
        "steps between texts that the model makes, for a person to read; a multiple of "
        "--eval-every (0: none)",
        low=0,
    )
    sample_prompt: str | None = setting(
        None, "what these texts begin with (default nothing: a text begins)", metavar="TEXT"
    )
    sample_tokens: int = setting(100, "tokens that are added to it", low=1)
    early_stop_patience: int = setting(
        0, "evaluations without a better validation loss before stopping (0: never)", low=0
    )
    out: str | None = setting(None, "run folder (default runs/<time>-<mode>)", metavar="DIR")
    checkpoint_every: int = setting(
        500, "steps between checkpoints (0: the best and the last only)", low=0
    )
    keep_checkpoints: int = setting(3, "latest checkpoints kept beside the best (0: all)", low=0)
    checkpoint_to: str | None = setting(
        None,
        "copy whole checkpoints to a place elsewhere, such as s3://bucket/mine, in the background",
        metavar="URL",
    )
    resume: str | None = setting(
        None,
        "run folder, whose latest whole checkpoint is gone on from, or a checkpoint; or the URL of "
        "copies, the newest of which is fetched into --out first",
        metavar="DIR",
    )
    init_from: str | None = setting(
        None,
        "begin with the weights, the shape and the tokenizer of a run (its latest whole "
        "checkpoint), of a checkpoint, or of a folder of Hugging Face's",
        metavar="DIR",
    )
    raw_weights: bool = setting(
        False,
        "with --init-from: the weights themselves, where that run has averaged them (--ema)",
    )
    record: bool = setting(
        False, "write the order of events to the run folder, for --replay; small, append-only"
    )
    replay: str | None = setting(
        None,
        "run folder of a recorded run: take its settings and its order of events, and so end with "
        "its weights, bit for bit",
        metavar="DIR",
    )
    seed: int = setting(1337, "of the weights, the order of the data and dropout", low=0)
    threads: int = setting(
        0,
        "threads that a rank computes with (0: cores that the node, or its container, grants / its "
        "ranks)",
        low=0,
        below=1025,
    )
    transport: str = setting(
        AUTO,
        "vectors between ranks of one host: in shared memory where possible (auto), there or not "
        "at all (shared), or as MPI messages",
        choices=(AUTO, "shared", "messages"),
    )
    device: str = setting(
        "cpu",
        "where workers compute: auto is a GPU for each rank that finds one",
        choices=(AUTO, "cpu", "gpu"),
    )
    server_device: str = setting(
        "cpu",
        "where servers keep the optimizer's vectors and update; on GPUs, like the workers', "
        "vectors stay there on their way, where CUDA IPC or a CUDA-aware MPI takes them",
        choices=("cpu", "gpu"),
    )
    kernels: str = setting(
        AUTO,
        "compiled: psdp's own alone; numpy: NumPy's (on a CPU); auto: the fastest installed, on a "
        "GPU cuDNN and cuBLASLt among them",
        choices=(AUTO, "compiled", "numpy"),
    )
    precision: str = setting(
        "float32",
        "of the workers' products; bf16 rounds operands to bfloat16 (tf32, on a GPU, to TF32) and "
        "sums in float32",
        choices=("float32", "tf32", "bf16"),
    )
    dtype: str = setting("float32", "of weights and gradients", choices=("float32", "float64"))
    wire_dtype: str | None = setting(
        None,
        "of what workers push: "
        + "; ".join(f"{codec.name}, {codec.help}" for codec in CODECS.values())
        + " (default as --dtype)",
        choices=tuple(CODECS),
    )
    log_every: int = setting(10, "steps between lines of metrics", low=1)
    max_failures: int | None = setting(
        None,
        "ranks that may fail while the job goes on, spare ones without work not counted; one more "
        "ends it, saved (default half of those that work, but 3)",
        low=0,
    )
    max_time: str | None = setting(
        None,
        "end saved within so long, counted from the job's start, for python -m psdp.launch to "
        "exit with 75: 90 (seconds), 30m, 1h30m, 01:30:00",
        metavar="TIME",
    )
    trace: bool = setting(
        False, "write down what each rank does when, for python -m psdp.trace to draw"
    )
    track: tuple[str, ...] = setting(
        (),
        "tell trackers of experiments what is recorded: tensorboard, wandb, or a class of one's "
        "own as MODULE:CLASS",
        metavar="NAME",
    )
    profile: bool = setting(False, "measure where a step's time goes; a table at the end")
    quiet: bool = setting(False, "print nothing but errors")
