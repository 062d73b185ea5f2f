"""What [tune] says, and what is tried next: a function of what was tried."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from cells import read_spec
from space import Choice, Range, Space, next_settings
from trials import Family, Trial, families_of

from psdp.errors import ConfigError

SPEC = """
settings = {{workers = 2, {settings}}}
grid = {{mode = ["sync", "local"], seed = [1, 2]}}
[tune]
trials = 3
seeds = [11, 12]
[tune.settings]
{ranges}
"""
RANGES = "lr = {low = 1e-3, high = 1e-2, log = true}\nouter-lr = {low = 0.5, high = 2}"


def families(folder: Path, ranges: str = RANGES, settings: str = "lr = 2e-3") -> list[Family]:
    (folder / "mine.toml").write_text(SPEC.format(ranges=ranges, settings=settings))
    return families_of(read_spec(folder / "mine.toml"))


def test_cells_that_differ_in_their_seed_are_tuned_together_in_what_has_a_meaning(
    tmp_path: Path,
) -> None:
    sync, local = families(tmp_path)
    assert [family.name for family in (sync, local)] == ["sync", "local"]
    assert sync.space == {"lr": Range(1e-3, 1e-2, log=True)}
    assert local.space == {**sync.space, "outer_lr": Range(0.5, 2, log=False)}
    assert local.given == {"lr": 2e-3, "outer_lr": 1.0}
    tuned = local.tuned(Trial(3, {"lr": 3e-3, "outer_lr": 0.7}, "finished", (2.0,), 1.0))
    assert [cell.name for cell in tuned] == ["local-tuned=3-seed=1", "local-tuned=3-seed=2"]
    assert [cell.config.run.seed for cell in tuned] == [1, 2]
    assert {cell.config.optim.outer_lr for cell in tuned} == {0.7}
    trial = sync.trial(2, {"lr": 3e-3}, 12)
    assert (trial.name, trial.config.run.seed) == ("sync-trial=2-seed=12", 12)
    assert "--lr=0.003" in trial.flags()


def test_some_cells_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "settings = {workers = 2}\ngrid = {seed = 1}\n"
        "[[cells]]\nmode = 'sync'\n[[cells]]\nmode = 'allreduce'\ntune = false\n"
        "[tune]\ntrials = 1\nseeds = [2]\n[tune.settings]\nbeta1 = [0.5, 0.9]"
    )
    assert [family.name for family in families_of(read_spec(path))] == ["sync"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials = 3", "", "trials expects a number of at least 1, got None"),
        ("trials = 3", "trials = true", "trials expects a number"),
        ("seeds = [11, 12]", "seeds = 11", "seeds expects a list"),
        ("seeds = [11, 12]", "seeds = [11, 11]", "seeds has one twice"),
        ("seeds = [11, 12]", "seeds = [2, 3]", "seeds has 2, which is that of cell sync-seed=2"),
        ("trials = 3", "trials = 3\nafter-s = 0", "after-s expects a number above 0"),
        ("trials = 3", "trials = 3\ntrial = 3", "unknown key 'trial'"),
        ("[tune.settings]", "[tune.ranges]", "unknown key 'ranges'"),
        (RANGES, "", r"\[tune.settings\] expects settings with ranges"),
        (RANGES, "warp = [1, 2]", "warp: unknown setting"),
        (RANGES, "batch-size = [1, 2]", "batch-size cannot be tuned: it changes what is compared"),
        (RANGES, "eval-batches = [1, 10]", "eval-batches cannot be tuned: .* how that is measured"),
        (RANGES, "log-every = [1, 10]", "log-every cannot be tuned"),
        (RANGES, "early-stop-patience = [0, 1]", "early-stop-patience cannot be tuned"),
        (RANGES, "backup-workers = [0, 1]", "backup-workers cannot be tuned"),
        (RANGES, "seed = [1, 2]", "seed cannot be tuned"),
        (RANGES, "lr = [1e-3]", "lr expects at least two values"),
        (RANGES, "lr = 1e-3", "lr expects a list of values, or {low = X"),
        (RANGES, "lr = {low = 1}", "lr expects a list of values, or {low = X"),
        (RANGES, "lr = {low = 2, high = 1}", "lr expects low below high"),
        (RANGES, "lr = {low = 0, high = 1, log = true}", "log = true or false, true with low"),
        (RANGES, "warmup-steps = {low = 0.5, high = 1}", "warmup-steps expects low below high"),
        (RANGES, "optimizer = {low = 1, high = 2}", "optimizer is no number"),
        (RANGES, "beta1 = {low = 0.5, high = 1.5}", "cell sync with beta1 1.5: --beta1"),
        (RANGES, "outer-lr = {low = 1, high = 2}", "cell sync: nothing of .* in --mode sync"),
        (RANGES, f"{RANGES}\nstaleness = [1, 2]", "staleness has a meaning in none of the cells"),
        ("lr = 2e-3", "val-fraction = 0", "with --val-fraction 0 there is no loss"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = SPEC.format(ranges=RANGES, settings="lr = 2e-3")
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        families_of(read_spec(tmp_path / "mine.toml"))
    assert str(tmp_path / "mine.toml") in str(caught.value)


WIDE: Space = {
    "lr": Range(1e-4, 1e-1, log=True),
    "warmup_steps": Range(0, 40, log=False),
    "beta1": Choice((0.0, 0.5, 0.9)),
}
GIVEN = {"lr": 1e-3, "warmup_steps": 10, "beta1": 0.9}


def search(trials: int) -> list[tuple[dict[str, Any], float]]:
    """Return what is tried, with a loss that is least at 0.01, at no warm-up, at 0.5."""
    done: list[tuple[dict[str, Any], float]] = []
    for number in range(trials):
        settings = next_settings(WIDE, done) if number else GIVEN
        far = abs(math.log10(settings["lr"]) + 2) + abs(settings["beta1"] - 0.5)
        loss = math.inf if settings["lr"] > 0.05 else far + settings["warmup_steps"] / 100
        done.append((settings, loss))
    return done


def test_what_is_tried_follows_from_what_was() -> None:
    pytest.importorskip("optuna")
    done = search(12)
    assert search(12) == done
    assert next_settings(WIDE, done[:7]) == done[7][0]
    for settings, _ in done:
        assert all(WIDE[name].holds(value) for name, value in settings.items())
        assert isinstance(settings["warmup_steps"], int)
        assert settings["lr"] == float(f"{settings['lr']:.3g}")


def test_what_lies_outside_tells_nothing() -> None:
    pytest.importorskip("optuna")
    outside = [(GIVEN | {"beta1": 0.7}, 1.0), (GIVEN | {"warmup_steps": None}, 2.0)]
    assert all(WIDE[name].holds(value) for name, value in next_settings(WIDE, outside).items())


def test_random_trials_are_the_same_in_all_families() -> None:
    pytest.importorskip("optuna")
    assert next_settings(WIDE, [(GIVEN, 2.0)]) == next_settings(WIDE, [(GIVEN, 3.0)])


def test_a_search_finds_what_is_better() -> None:
    pytest.importorskip("optuna")
    losses = [loss for _, loss in search(30)]
    assert min(losses[15:]) < min(losses[:4])
    assert min(losses) < 0.3
