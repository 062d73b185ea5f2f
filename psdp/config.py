"""Every setting of a run: one frozen dataclass a topic, validated once at the edge.

The command line and ``--config FILE.toml`` are both derived from the fields below (see cli.py);
what is added here appears there. Nothing here reads a file, a clock or an environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any

from psdp.errors import ConfigError
from psdp.handicap import parse_jitter, parse_stragglers


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    below: float | None = None,
    metavar: str | None = None,
) -> Any:
    """A field with what the parser and the validator need: bounds are low <= x < below."""
    bounds = {"low": low, "below": below}
    return field(
        default=default, metadata={"help": help, "choices": choices, "metavar": metavar, **bounds}
    )


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Transformer (decoder-only, pre-norm, tied embeddings)."""

    n_layer: int = setting(4, "Transformer blocks", low=1)
    n_head: int = setting(4, "attention heads; must divide --n-embd", low=1)
    n_embd: int = setting(128, "width of the residual stream", low=1)
    block_size: int = setting(64, "tokens a sequence", low=1)
    dropout: float = setting(0.0, "probability of dropping an activation", low=0, below=1)
    bias: bool = setting(True, "biases in linear layers and layer norms")
    activation: str = setting("gelu", "of the MLP", choices=("gelu", "relu"))
    position: str = setting(
        "learned", "position encoding", choices=("learned", "sinusoidal", "rotary")
    )
    init: str = setting("xavier", "initial weights", choices=("normal", "xavier"))


@dataclass(frozen=True)
class DataConfig:
    """The corpus and how it reaches the workers."""

    corpus: tuple[str, ...] = setting(
        ("stdlib",),
        "'stdlib' (the Python standard library's own source), or text files, folders, or one "
        "tokenised .npy/.bin",
        metavar="PATH",
    )
    tokenizer: str = setting("byte", "unit of text", choices=("byte", "char"))
    vocab_size: int | None = setting(
        None, "tokens in the vocabulary of a tokenised corpus (default 256)", low=1
    )
    clean: str = setting(
        "none",
        "basic: control characters and runs of blanks; html: tags too",
        choices=("none", "basic", "html"),
    )
    val_fraction: float = setting(
        0.1, "last part of the corpus, kept for validation", low=0, below=1
    )
    partition: str = setting(
        "random",
        "how windows of the corpus are dealt to workers",
        choices=("contiguous", "random", "hash"),
    )


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, which runs on the servers, and its schedule, which advances with tokens."""

    optimizer: str = setting(
        "adamw", "update rule", choices=("sgd", "momentum", "adagrad", "adam", "adamw")
    )
    lr: float = setting(1e-3, "highest learning rate", low=0)
    min_lr: float | None = setting(None, "where a decay ends (default lr / 10)", low=0)
    lr_schedule: str = setting(
        "cosine",
        "shape after the warm-up",
        choices=("constant", "linear", "cosine", "inverse-sqrt"),
    )
    warmup_steps: int | None = setting(
        None, "steps of linear warm-up (default a twentieth of --max-steps, at most 100)", low=0
    )
    beta1: float | None = setting(
        None,
        "decay of Adam's first moment (default 0.5, with --mode sync or allreduce 0.9)",
        low=0,
        below=1,
    )
    beta2: float = setting(0.99, "decay of Adam's second moment", low=0, below=1)
    momentum: float = setting(0.9, "of the momentum optimizer", low=0, below=1)
    weight_decay: float = setting(0.1, "on matrices; decoupled in adamw, l2 elsewhere", low=0)
    l1: float = setting(0.0, "l1 penalty on matrices", low=0)
    grad_clip: float = setting(1.0, "largest global gradient norm (0: no limit)", low=0)
    grad_clip_value: float = setting(0.0, "largest gradient element (0: no limit)", low=0)
    lag_compensation: str = setting(
        "none",
        "with --mode async or ssp, of a gradient that is L versions late: inverse divides the "
        "learning rate by L, dc-asgd corrects the gradient by how far the weights have moved",
        choices=("none", "inverse", "dc-asgd"),
    )
    outer_optimizer: str | None = setting(
        None,
        "with --mode local: what the server does with what workers changed (default nesterov, or "
        "average with --merge async)",
        choices=("average", "momentum", "nesterov"),
    )
    outer_lr: float | None = setting(
        None,
        "learning rate of the outer optimizer (default 1; to average with --merge async 2, or 1 "
        "for a lone worker)",
        low=0,
    )
    outer_momentum: float | None = setting(
        None,
        "of the outer optimizer (default 0.5 with momentum, 0.65 with nesterov)",
        low=0,
        below=1,
    )
    elastic_rate: float | None = setting(
        None,
        "with --mode easgd: how far server and worker move towards one another at an exchange "
        "(default 0.9 / workers)",
        low=0,
        below=1,
    )


@dataclass(frozen=True)
class RunConfig:
    """The mode, the budget, and what is kept."""

    mode: str = setting(
        "sync",
        "sync, async, ssp: when a gradient is answered; local: workers train alone for some steps, "
        "then their weights are averaged; easgd: they keep weights of their own that the server's "
        "draw together; allreduce: they reduce gradients among themselves by MPI, as sync without "
        "a server in the way; auto: sync, ssp or local, whichever is seen to be fastest",
        choices=("sync", "async", "ssp", "local", "easgd", "allreduce", "auto"),
    )
    local_steps: int | None = setting(
        None,
        "with --mode local, easgd or auto: steps between exchanges (default 50, 8 and 16; 8 with "
        "--merge async)",
        low=1,
    )
    merge: str | None = setting(
        None,
        "with --mode local: sync averages all workers at once, async merges each as it comes "
        "(default sync)",
        choices=("sync", "async"),
    )
    staleness: int | None = setting(
        None,
        "clocks that a worker may be ahead of the slowest, with --mode ssp or auto (default 4)",
        low=0,
    )
    backup_workers: int = setting(
        0, "with --mode sync: gradients of each step that are not waited for, and dropped", low=0
    )
    overlap: bool = setting(
        False,
        "with --mode sync, async or ssp: compute the next gradient while the last one and its "
        "answer travel, on weights that are one exchange older",
    )
    balance: str = setting(
        "static",
        "static: each worker has its share of the batches of an epoch; dynamic: the server deals "
        "them out one by one, so that fast workers take more (with --partition random)",
        choices=("static", "dynamic"),
    )
    straggler: str | None = setting(
        None,
        "slow workers down on purpose: each step of RANK takes FACTOR times as long",
        metavar="RANK:FACTOR[,...]",
    )
    jitter: str | None = setting(
        None,
        "slow every worker's steps by chance: bernoulli:P:FACTOR, uniform:LOW:HIGH, "
        "exponential:MEAN (of the extra time) or pareto:ALPHA, in multiples of the step; "
        "factors of several are multiplied",
        metavar="DIST[,...]",
    )
    link_mbps: float = setting(
        0.0, "delay what a rank sends as a link of so many megabits/s would (0: not)", low=0
    )
    servers: int = setting(1, "ranks 0..K-1 hold one shard of the parameters each", low=1)
    max_steps: int = setting(
        1000,
        "budget; in tokens: max-steps x workers x batch-size x grad-accum x block-size",
        low=1,
    )
    batch_size: int = setting(12, "sequences a worker takes per step", low=1)
    grad_accum: int = setting(1, "batches whose gradients are added before a push", low=1)
    eval_every: int = setting(250, "steps between evaluations (0: at the end only)", low=0)
    eval_batches: int = setting(
        40, "validation batches an evaluation takes (0: the whole validation split)", low=0
    )
    early_stop_patience: int = setting(
        0, "evaluations without a better validation loss before stopping (0: never)", low=0
    )
    out: str | None = setting(None, "run folder (default runs/<time>-<mode>)", metavar="DIR")
    checkpoint_every: int = setting(
        500, "steps between checkpoints (0: the best and the last only)", low=0
    )
    keep_checkpoints: int = setting(3, "latest checkpoints kept beside the best (0: all)", low=0)
    resume: str | None = setting(None, "run folder or checkpoint to go on from", metavar="DIR")
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
        0, "threads that a rank computes with (0: cores of the node / its ranks)", low=0, below=1025
    )
    transport: str = setting(
        "auto",
        "vectors between ranks of one host: in shared memory where possible (auto), there or not "
        "at all (shared), or as MPI messages",
        choices=("auto", "shared", "messages"),
    )
    device: str = setting(
        "cpu",
        "where workers compute: auto is a GPU for each rank that finds one",
        choices=("auto", "cpu", "gpu"),
    )
    server_device: str = setting(
        "cpu",
        "where servers keep the optimizer's vectors and update; on GPUs, like the workers', "
        "vectors stay there on their way, where CUDA IPC or a CUDA-aware MPI takes them",
        choices=("cpu", "gpu"),
    )
    kernels: str = setting(
        "auto",
        "compiled: psdp's own alone; numpy: NumPy's (on a CPU); auto: the fastest installed, on a "
        "GPU cuDNN and cuBLASLt among them",
        choices=("auto", "compiled", "numpy"),
    )
    precision: str = setting(
        "float32",
        "of the workers' products; bf16 rounds their factors to bfloat16 (tf32, on a GPU, to TF32) "
        "and sums in float32",
        choices=("float32", "tf32", "bf16"),
    )
    dtype: str = setting("float32", "of weights and gradients", choices=("float32", "float64"))
    wire_dtype: str | None = setting(
        None,
        "of what workers push; bf16 rounds it to bfloat16, half the bytes (default as --dtype)",
        choices=("float32", "bf16"),
    )
    log_every: int = setting(10, "steps between lines of metrics", low=1)
    profile: bool = setting(False, "measure where a step's time goes; a table at the end")
    quiet: bool = setting(False, "print nothing but errors")


_WITH_BF16 = {("float32", "auto"), ("float32", "compiled")}


@dataclass(frozen=True)
class Config:
    """All settings of one run. ``Config().resolved()`` is a sensible run on two cores."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()

    @classmethod
    def from_flat(cls, values: dict[str, Any]) -> Config:
        """Build from ``{field name: value}``; a name that is missing keeps its default.

        Raises:
            ConfigError: a name is unknown or a value has the wrong type.
        """
        known = {f.name: group for group, f in settings()}
        for name, value in values.items():
            if name not in known:
                raise ConfigError(f"unknown setting '{name}'; see python -m psdp.worker --help")
            _check_type(name, value)
        values = {name: _plain(name, value) for name, value in values.items()}
        groups = {
            group.name: group.type_(**{k: v for k, v in values.items() if known[k] == group.name})
            for group in _GROUPS
        }
        return cls(**groups)

    def flat(self) -> dict[str, Any]:
        """Return ``{field name: value}`` with plain JSON types, in the order of the fields."""
        flat: dict[str, Any] = {}
        for group in asdict(self).values():
            flat.update(group)
        flat["corpus"] = list(flat["corpus"])
        return flat

    def resolved(self) -> Config:
        """Validate and fill the defaults that depend on other settings.

        Raises:
            ConfigError: a value is out of range or contradicts another; the text names the flag.
        """
        for group, f in settings():
            _check_bounds(f, getattr(getattr(self, group), f.name))
        model, data, optim, run = self.model, self.data, self.optim, self.run
        if model.n_embd % model.n_head:
            raise ConfigError(
                f"--n-embd {model.n_embd} is not divisible by --n-head {model.n_head}"
            )
        if model.position == "rotary" and model.n_embd // model.n_head % 2:
            raise ConfigError(
                f"--position rotary turns pairs of channels and needs an even head size, got "
                f"--n-embd {model.n_embd} / --n-head {model.n_head} = "
                f"{model.n_embd // model.n_head}"
            )
        _check_mode(optim, run)
        if run.mode in ("ssp", "auto") and run.staleness is None:
            run = replace(run, staleness=4)
        if run.server_device == "gpu" and run.mode in ("auto", "allreduce"):
            raise ConfigError(
                f"--server-device gpu does not go with --mode {run.mode}, where servers have two "
                "optimizers, or none; drop one of the two"
            )
        optim, run = _resolve_local(optim, run)
        _check_overlap(optim, run)
        if run.balance == "dynamic" and data.partition != "random":
            raise ConfigError(
                f"--balance dynamic deals all windows out to all workers and needs --partition "
                f"random, got --partition {data.partition}; drop one of the two"
            )
        parse_stragglers(run.straggler)
        parse_jitter(run.jitter)
        if run.precision != "float32" and (run.dtype, run.kernels) not in _WITH_BF16:
            raise ConfigError(
                f"--precision {run.precision} needs float32 weights and no --kernels numpy, got "
                f"--dtype {run.dtype} --kernels {run.kernels}"
            )
        if run.precision == "tf32" and run.device == "cpu":
            raise ConfigError(
                "--precision tf32 is for --device gpu, got --device cpu; drop one of the two"
            )
        run = _resolve_wire(run)
        if optim.min_lr is None:
            optim = replace(optim, min_lr=optim.lr / 10)
        elif optim.min_lr > optim.lr:
            raise ConfigError(f"--min-lr {optim.min_lr} is above --lr {optim.lr}")
        if optim.beta1 is None:
            # Stale gradients act like momentum of their own (Mitliagkas et al. 2016,
            # arXiv:1605.09774), and outer optimizers have some; without either, more is better.
            # Measured at 2, 4 and 8 workers: README, results.
            optim = replace(optim, beta1=0.9 if run.mode in ("sync", "allreduce") else 0.5)
        if optim.warmup_steps is None:
            optim = replace(optim, warmup_steps=min(100, run.max_steps // 20))
        if run.early_stop_patience and not (run.eval_every and data.val_fraction):
            raise ConfigError(
                f"--early-stop-patience {run.early_stop_patience} needs evaluations on the way: "
                f"got --eval-every {run.eval_every} and --val-fraction {data.val_fraction}"
            )
        if "stdlib" in data.corpus and len(data.corpus) > 1:
            raise ConfigError("--corpus takes 'stdlib' alone or paths, not both")
        return Config(model, data, optim, run)


_SERVED = ("sync", "async", "ssp", "local", "easgd", "auto")
"""The modes in which gradients, or what became of them, go to servers, in an order of its own."""

ONLY_WITH = {
    "servers": _SERVED,
    "record": _SERVED,
    "replay": _SERVED,
    "wire_dtype": _SERVED,
    "staleness": ("ssp", "auto"),
    "lag_compensation": ("async", "ssp"),
    "backup_workers": ("sync",),
    "overlap": ("sync", "async", "ssp"),
    "balance": _SERVED,
    "local_steps": ("local", "easgd", "auto"),
    "merge": ("local",),
    "outer_optimizer": ("local", "auto"),
    "outer_lr": ("local", "auto"),
    "outer_momentum": ("local", "auto"),
    "elastic_rate": ("easgd",),
}
"""The modes in which a setting has a meaning, where that is not all."""


def _check_mode(optim: OptimConfig, run: RunConfig) -> None:
    """
    Raises:
        ConfigError: a setting is given that has no meaning in this mode.
    """
    for name, modes in ONLY_WITH.items():
        value, default = getattr(run, name, getattr(optim, name, None)), _field(name).default
        if value != default and run.mode not in modes:
            raise ConfigError(
                f"{flag_of(name)} {value} has a meaning with --mode {either(modes)} only, got "
                f"--mode {run.mode}; drop one of the two"
            )


def _check_overlap(optim: OptimConfig, run: RunConfig) -> None:
    """
    Raises:
        ConfigError: --overlap is given with what it cannot go with.
    """
    if not run.overlap:
        return
    if run.backup_workers:
        other = f"--backup-workers {run.backup_workers}"
        reason = "every gradient would come a version late, and be dropped"
    elif run.balance == "dynamic":
        other = "--balance dynamic"
        reason = "a gradient is begun before the server has dealt its batch"
    elif optim.lag_compensation == "dc-asgd":
        other = "--lag-compensation dc-asgd"
        reason = "the server has no copy of the weights that it was computed on"
    else:
        return
    raise ConfigError(f"--overlap does not go with {other}: {reason}; drop one of the two")


def _resolve_wire(run: RunConfig) -> RunConfig:
    """Fill the default of what is pushed, where something is and there is a choice.

    Raises:
        ConfigError: a choice is made where there is none.
    """
    if run.dtype == "float32":
        wire = run.wire_dtype or "float32"
        return replace(run, wire_dtype=wire) if run.mode in ONLY_WITH["wire_dtype"] else run
    if run.wire_dtype is not None:
        raise ConfigError(
            f"--wire-dtype {run.wire_dtype} needs float32 gradients, got --dtype {run.dtype}; drop "
            "one of the two"
        )
    return run


def _resolve_local(optim: OptimConfig, run: RunConfig) -> tuple[OptimConfig, RunConfig]:
    """Fill the defaults of the modes in which workers have steps of their own.

    Raises:
        ConfigError: a setting of momentum is given for an outer optimizer without.
    """
    if run.mode == "easgd":
        run = replace(run, local_steps=run.local_steps or 8)
    if run.mode == "auto":
        run = replace(run, local_steps=run.local_steps or 16)
    if run.mode == "local":
        merge = run.merge or "sync"
        steps = run.local_steps or (8 if merge == "async" else 50)
        run = replace(run, local_steps=steps, merge=merge)
    if run.mode in ("local", "auto"):
        # Measured (README, results): momentum makes up for the averaging, at 2 and 4 workers, but
        # not where workers are merged one by one.
        usual = "average" if run.merge == "async" else "nesterov"
        kind = optim.outer_optimizer or usual
        momentum = optim.outer_momentum
        if kind == "average" and momentum is not None:
            raise ConfigError(
                f"--outer-momentum {momentum} has a meaning with --outer-optimizer momentum or "
                "nesterov only, got average; drop one of the two"
            )
        if kind != "average" and momentum is None:
            momentum = {"momentum": 0.5, "nesterov": 0.65}[kind]
        lr = optim.outer_lr
        if lr is None and (kind, run.merge) != ("average", "async"):
            lr = 1.0  # else it depends on the number of workers
        optim = replace(optim, outer_optimizer=kind, outer_lr=lr, outer_momentum=momentum)
    return optim, run


@dataclass(frozen=True)
class _Group:
    name: str
    type_: Any


_GROUPS = (
    _Group("model", ModelConfig),
    _Group("data", DataConfig),
    _Group("optim", OptimConfig),
    _Group("run", RunConfig),
)


def settings() -> Iterator[tuple[str, Field[Any]]]:
    """Yield (group name, dataclass field) of every setting, in the order of ``--help``."""
    for group in _GROUPS:
        for f in fields(group.type_):
            yield group.name, f


def either(names: Sequence[str]) -> str:
    """Return these names as a sentence has them: a, b or c."""
    return " or ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def flag_of(name: str) -> str:
    """Return the command-line spelling of a field name."""
    return "--" + name.replace("_", "-")


def base_type(f: Field[Any]) -> str:
    """Return the field's plain type as text: ``int | None`` is ``int``."""
    return str(f.type).removesuffix(" | None")


def _field(name: str) -> Field[Any]:
    return next(f for _, f in settings() if f.name == name)


def _plain(name: str, value: Any) -> Any:
    """Return a value of the right type in the form that the dataclasses hold."""
    if isinstance(value, list):
        return tuple(value)
    if value is not None and base_type(_field(name)) == "float":
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{flag_of(name)} is beyond a float") from error
    return value


def _check_type(name: str, value: Any) -> None:
    f = _field(name)
    expected = base_type(f)
    if value is None and str(f.type).endswith("| None"):
        return
    good = {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "tuple[str, ...]": isinstance(value, tuple | list)
        and len(value) > 0
        and all(isinstance(item, str) for item in value),
    }[expected]
    if not good:
        expected = {"tuple[str, ...]": "a list of paths"}.get(expected, expected)
        raise ConfigError(f"{flag_of(name)} expects {expected}, got {value!r}")


def _check_bounds(f: Field[Any], value: Any) -> None:
    if value is None:
        return
    flag, limits = flag_of(f.name), f.metadata
    if limits["choices"] and value not in limits["choices"]:
        raise ConfigError(f"{flag} expects one of {', '.join(limits['choices'])}, got {value!r}")
    # Written so that NaN fails every bound.
    if limits["low"] is not None and not value >= limits["low"]:
        raise ConfigError(f"{flag} must be at least {limits['low']}, got {value}")
    if limits["below"] is not None and not value < limits["below"]:
        raise ConfigError(f"{flag} must be below {limits['below']}, got {value}")
    if isinstance(value, int) and value >= 1 << 63:
        raise ConfigError(f"{flag} must be below 2^63, got {value}")
    if value == "":
        raise ConfigError(f"{flag} is empty; name a folder, or drop it")
    if isinstance(value, float) and value == float("inf"):
        raise ConfigError(f"{flag} must be finite, got {value}")
