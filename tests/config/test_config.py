"""Settings: every bound is kept, every contradiction is named, and what is left out is filled."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from psdp.config import (
    Config,
    ModelConfig,
    base_type,
    flag_of,
    kv_heads,
    mlp_width,
    rotary_dims,
    settings,
)
from psdp.config.presets import PRESETS
from psdp.errors import ConfigError
from psdp.modes import MODES
from psdp.optim import OPTIMIZERS, Optimizer

FIELDS = {field.name: field for _, field in settings()}
NUMBERS = [name for name, field in FIELDS.items() if base_type(field) in ("int", "float")]
CHOICES = [name for name, field in FIELDS.items() if field.metadata["choices"]]

# What else has to be set for the least and the largest value of a setting to be allowed.
COMPANIONS: dict[str, dict[str, Any]] = {
    "precision": {"device": "gpu"},
    "staleness": {"mode": "ssp"},
    "lag_compensation": {"mode": "async"},
    "local_steps": {"mode": "local"},
    "merge": {"mode": "local"},
    "outer_optimizer": {"mode": "local"},
    "outer_lr": {"mode": "local"},
    "outer_momentum": {"mode": "local", "outer_optimizer": "nesterov"},
    "elastic_rate": {"mode": "easgd"},
    "n_embd": {"n_head": 1},
    "rope_theta": {"position": "rotary"},
    "rotary_dims": {"position": "rotary"},
    "lr": {"min_lr": 0.0},
}


def resolved(**values: Any) -> Config:
    return Config.from_flat(values).resolved()


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        resolved(**values)
    return str(refused.value)


def test_the_defaults_are_a_run() -> None:
    config = Config().resolved()
    assert (config.run.mode, config.run.servers, config.data.corpus) == ("sync", 1, ("stdlib",))
    assert config.resolved() == config, "resolving again changes nothing"


def test_names_of_settings_are_unique_over_all_groups() -> None:
    names = [field.name for _, field in settings()]
    assert len(names) == len(set(names))


def test_a_setting_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().run.max_steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_least_value_and_keeps_it(name: str) -> None:
    low = FIELDS[name].metadata["low"]
    assert low is not None, "a number without a bound lets negative sizes through"
    least = float(low) if base_type(FIELDS[name]) == "float" else low
    others = COMPANIONS.get(name, {})
    assert resolved(**{name: least}, **others)
    assert refusal(**{name: least - 1}, **others).startswith(
        f"{flag_of(name)} must be at least {low}, got {least - 1}"
    )


@pytest.mark.parametrize(
    "name", [name for name in NUMBERS if FIELDS[name].metadata["below"] is not None]
)
def test_a_number_with_a_limit_stays_below_it(name: str) -> None:
    below = FIELDS[name].metadata["below"]
    whole = base_type(FIELDS[name]) == "int"
    limit = below if whole else float(below)
    given = COMPANIONS.get(name, {}) | {name: limit - (1 if whole else 1e-9)}
    assert resolved(**given)
    assert refusal(**{name: limit}) == f"{flag_of(name)} must be below {below}, got {limit}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [n for n in NUMBERS if base_type(FIELDS[n]) == "float"])
def test_no_number_is_nan_or_infinite(name: str, value: float) -> None:
    assert refusal(**{name: value}).startswith(flag_of(name))


@pytest.mark.parametrize("name", ["out", "resume"])
def test_a_folder_has_a_name(name: str) -> None:
    assert refusal(**{name: ""}) == f"--{name} is empty; name a folder, or drop it"


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_those_that_are_listed(name: str) -> None:
    for choice in FIELDS[name].metadata["choices"]:
        given = COMPANIONS.get(name, {}) | {name: choice}
        assert getattr(group_of(resolved(**given), name), name) == choice
    message = refusal(**{name: "perhaps"})
    assert message.startswith(f"{flag_of(name)} expects one of ")
    assert message.endswith("got 'perhaps'")


def group_of(config: Config, name: str) -> Any:
    return getattr(config, next(group for group, field in settings() if field.name == name))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_embd": 30, "n_head": 4}, "--n-embd 30 is not divisible by --n-head 4"),
        (
            {"n_embd": 12, "n_head": 4, "position": "rotary"},
            "--position rotary .* an even head size, .* got --n-embd 12 / --n-head 4 = 3",
        ),
        ({"n_kv_head": 3}, "--n-head 4 is not divisible by --n-kv-head 3"),
        (
            {"rope_theta": 500.0},
            "--rope-theta 500.0 has a meaning with --position rotary only, got",
        ),
        ({"rotary_dims": 8}, "--rotary-dims 8 has a meaning with --position rotary only, got"),
        ({"position": "rotary", "rotary_dims": 34}, "--rotary-dims 34 is more .* --n-head 4 = 32"),
        ({"position": "rotary", "rotary_dims": 7}, "an even --rotary-dims, got .* --rotary-dims 7"),
        (
            {"staleness": 2},
            "--staleness 2 has a meaning with --mode ssp or auto only, got --mode sync",
        ),
        ({"staleness": 0, "mode": "async"}, "--staleness 0 .* got --mode async"),
        ({"backup_workers": 1, "mode": "ssp"}, "--backup-workers 1 .* --mode sync only"),
        (
            {"local_steps": 4},
            "--local-steps 4 .* --mode local, easgd or auto only, got --mode sync",
        ),
        ({"outer_lr": 0.0, "mode": "easgd"}, "--outer-lr 0.0 .* --mode local or auto only"),
        ({"servers": 2, "mode": "allreduce"}, "--servers 2 .* sync, .* got --mode allreduce"),
        ({"record": True, "mode": "allreduce"}, "--record True .* got --mode allreduce"),
        ({"replay": "x", "mode": "allreduce"}, "--replay x .* got --mode allreduce"),
        ({"backup_workers": 1, "mode": "allreduce"}, "--backup-workers 1 .* --mode sync only"),
        ({"staleness": 1, "mode": "allreduce"}, "--staleness 1 .* --mode ssp or auto only"),
        (
            {"mode": "local", "merge": "async", "outer_momentum": 0.5},
            "--outer-momentum 0.5 .* momentum or nesterov only, got average",
        ),
        (
            {"wire_dtype": "bf16", "mode": "allreduce"},
            "--wire-dtype bf16 has a meaning with --mode sync, .* got --mode allreduce; drop one",
        ),
        (
            {"wire_dtype": "bf16", "dtype": "float64"},
            "--wire-dtype bf16 needs float32 gradients, got --dtype float64; drop one of the two",
        ),
        ({"wire_dtype": "float32", "dtype": "float64"}, "--wire-dtype float32 needs float32"),
        ({"min_lr": 0.1, "lr": 0.01}, "--min-lr 0.1 is above --lr 0.01"),
        ({"early_stop_patience": 2, "eval_every": 0}, "--early-stop-patience 2 .* --eval-every 0"),
        (
            {"early_stop_patience": 2, "val_fraction": 0.0},
            "--early-stop-patience 2 .* --val-fraction 0.0",
        ),
        ({"corpus": ["stdlib", "a.txt"]}, "--corpus takes 'stdlib' alone or paths, not both"),
        ({"val_corpus": ["a"], "val_fraction": 0.2}, "--val-corpus has a validation of its"),
    ],
)
def test_a_contradiction_names_both_sides(values: dict[str, Any], message: str) -> None:
    assert re.search(message, refusal(**values))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_layer", 2.0, "int"),
        ("n_layer", "2", "int"),
        ("n_layer", True, "int"),
        ("n_layer", None, "int"),
        ("lr", "1e-3", "float"),
        ("lr", False, "float"),
        ("bias", 1, "bool"),
        ("bias", "yes", "bool"),
        ("mode", 3, "str"),
        ("mode", ["sync"], "str"),
        ("out", 3, "str"),
        ("corpus", "a.txt", "a list of paths"),
        ("corpus", [], "a list of paths"),
        ("corpus", ["a.txt", 3], "a list of paths"),
        ("vocab_size", 256.0, "int"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Config.from_flat({name: value})
    assert str(refused.value) == f"{flag_of(name)} expects {expected}, got {value!r}"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'layers'; see .* --help"):
        Config.from_flat({"layers": 3})


def test_an_integer_is_a_number_too_and_none_where_it_means_by_default() -> None:
    config = resolved(lr=1, weight_decay=0, vocab_size=None, out=None)
    assert (config.optim.lr, config.optim.min_lr) == (1, 0.1)


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ({"lr": 0.5}, "min_lr", 0.05),
        ({"lr": 0.5, "min_lr": 0.5}, "min_lr", 0.5),
        ({"max_steps": 1000}, "warmup_steps", 50),
        ({"max_steps": 100_000}, "warmup_steps", 100),
        ({"max_steps": 1}, "warmup_steps", 0),
        ({"warmup_steps": 7}, "warmup_steps", 7),
        ({"mode": "ssp"}, "staleness", 4),
        ({"mode": "ssp", "staleness": 0}, "staleness", 0),
        ({"mode": "async"}, "staleness", None),
        ({"mode": "local"}, "local_steps", 50),
        ({"mode": "local"}, "outer_optimizer", "nesterov"),
        ({"mode": "local"}, "outer_momentum", 0.65),
        ({"mode": "local", "merge": "async"}, "local_steps", 8),
        ({"mode": "local", "merge": "async"}, "outer_lr", None),
        ({"mode": "local", "merge": "async", "outer_lr": 1.0}, "outer_lr", 1.0),
        ({"mode": "local", "merge": "async", "outer_optimizer": "nesterov"}, "outer_lr", 1.0),
        ({"mode": "local", "outer_optimizer": "average"}, "outer_lr", 1.0),
        ({"mode": "local", "merge": "async"}, "outer_optimizer", "average"),
        ({"mode": "local", "merge": "async"}, "outer_momentum", None),
        ({"mode": "local", "outer_optimizer": "momentum"}, "outer_momentum", 0.5),
        ({"mode": "local"}, "outer_lr", 1.0),
        ({"mode": "local", "outer_lr": 0.0}, "outer_lr", 0.0),
        ({"mode": "easgd"}, "local_steps", 8),
        ({"mode": "sync"}, "local_steps", None),
        ({"mode": "sync"}, "wire_dtype", "float32"),
        ({"mode": "auto", "wire_dtype": "bf16"}, "wire_dtype", "bf16"),
        ({"dtype": "float64"}, "wire_dtype", None),
        ({"mode": "allreduce"}, "wire_dtype", None),
    ],
)
def test_what_depends_on_other_settings_is_filled(
    given: dict[str, Any], name: str, expected: Any
) -> None:
    got = getattr(group_of(resolved(**given), name), name)
    assert got == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize(
    ("given", "in_rounds"),
    [
        *[({"mode": mode}, True) for mode in ("sync", "local", "allreduce")],
        *[({"mode": mode}, False) for mode in ("async", "ssp", "easgd")],
        ({"mode": "local", "merge": "async"}, False),
        ({"mode": "local", "merge": "sync"}, True),
    ],
)
def test_whether_updates_wait_for_all_workers(given: dict[str, Any], in_rounds: bool) -> None:
    config = resolved(**given)
    assert config.mode is MODES[given["mode"]]
    assert config.in_rounds is in_rounds


def test_settings_survive_json() -> None:
    config = resolved(mode="ssp", corpus=["a", "b"], lr=0.1, bias=False, out="runs/x")
    assert Config.from_flat(json.loads(json.dumps(config.flat()))) == config
    assert list(config.flat()) == list(FIELDS), "in the order of --help"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (512, 4, None)),
        ({"mlp_width": 100, "n_kv_head": 2, "position": "rotary"}, (100, 2, 32)),
        ({"n_embd": 768, "activation": "swiglu"}, (2048, 4, None)),
        ({"activation": "geglu", "position": "rotary", "rotary_dims": 8}, (352, 4, 8)),
    ],
)
def test_what_a_model_leaves_out_follows_from_the_rest(
    given: dict[str, Any], expected: tuple[int, int, int | None]
) -> None:
    model = resolved(**given).model
    assert (mlp_width(model), kv_heads(model), rotary_dims(model)) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_what_is_not_said(preset: str) -> None:
    config = resolved(preset=preset, n_layer=2, norm_eps=0.5)
    flat = config.flat()
    assert flat.items() >= (PRESETS[preset] | {"n_layer": 2, "norm_eps": 0.5}).items()
    assert Config.from_flat(flat) == config
    assert Config.from_flat({**flat, "preset": None}).model == replace(config.model, preset=None)


def test_presets_say_the_same_settings_and_leave_out_sizes_and_what_they_do_without() -> None:
    names = {frozenset(preset) for preset in PRESETS.values()}
    (said,) = names
    sizes = {"n_layer", "n_head", "n_embd", "block_size", "n_kv_head", "mlp_width", "rotary_dims"}
    left_out = {"dropout", "architecture", "preset", "rope_theta"}
    assert said == {f.name for f in fields(ModelConfig)} - sizes - left_out


def test_an_unknown_preset_is_refused_with_those_that_are_known() -> None:
    assert refusal(preset="gpt5").startswith("--preset expects one of gpt2, llama, nanochat")


def test_what_a_value_was_called_is_read_as_what_it_is_called() -> None:
    assert Config.from_flat({"norm": "layer"}).resolved() == Config().resolved()


def test_only_one_deck_can_be_dealt_out() -> None:
    for partition in ("hash", "contiguous"):
        text = refusal(balance="dynamic", partition=partition)
        assert f"needs --partition random, got --partition {partition}" in text
    assert resolved(balance="dynamic").run.balance == "dynamic"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"backup_workers": 1}, "--backup-workers 1: every gradient would come a version late"),
        ({"balance": "dynamic"}, "--balance dynamic: a gradient is begun before"),
        ({"mode": "async", "lag_compensation": "dc-asgd"}, "--lag-compensation dc-asgd: the serv"),
        ({"mode": "local"}, "--overlap True has a meaning with --mode sync, async or ssp only"),
    ],
)
def test_what_overlap_does_not_go_with_is_refused(other: dict[str, Any], reason: str) -> None:
    assert reason in refusal(overlap=True, **other)


# What an update rule says of itself


@pytest.mark.parametrize("rule", list(OPTIMIZERS.values()), ids=lambda rule: rule.name)
def test_what_is_left_out_is_the_rules_own_and_is_written_down(rule: type[Optimizer]) -> None:
    assert {"lr", "weight_decay"} <= rule.defaults.keys()
    flat = Config.from_flat({"optimizer": rule.name}).resolved().flat()
    assert rule.defaults.items() <= flat.items()
    assert flat["min_lr"] == flat["lr"] / 10
    given = {"lr": 0.25, "weight_decay": 0.5, "optimizer": rule.name}
    assert given.items() <= Config.from_flat(given).resolved().flat().items()


def test_weight_decay_is_off_where_it_would_join_the_gradient() -> None:
    usual = {"adamw": 0.1, "adam": 0.0, "sgd": 0.0, "momentum": 0.0, "adagrad": 0.0}
    for name, decay in usual.items():
        assert Config.from_flat({"optimizer": name}).resolved().optim.weight_decay == decay


def test_settings_of_rules_are_flags_and_one_name_is_one_setting() -> None:
    names = [f.name for _, f in settings()]
    assert len(set(names)) == len(names)
    seen: dict[str, Any] = {}
    for rule in OPTIMIZERS.values():
        for f in fields(rule.settings_type):
            if f.metadata:
                assert f.name in names
                assert seen.setdefault(f.name, (f.type, f.default, f.metadata)) == (
                    f.type, f.default, f.metadata,
                )  # fmt: skip


def test_settings_can_be_handed_to_another_process() -> None:
    config = resolved(n_layer=2)
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 (our own bytes)
