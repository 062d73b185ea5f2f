"""What trackers of experiments are told, and that none of them ends a run."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from psdp.errors import ConfigError
from psdp.records.tracking import Tracking, make_tracker

CONFIG = {"settings": {"mode": "sync"}}
TRAIN = {"kind": "train", "time_s": 1.5, "tokens": 96, "version": 3, "loss": 2.5, "lr": 0.1}
EVAL = {"kind": "eval", "time_s": 2.5, "tokens": 128, "version": 4, "val_loss": 2.25, "best": True}
MOVE = {"kind": "move", "time_s": 3.5, "tokens": 128, "version": 4, "worker": 2, "to": 3}
SAMPLE = {"kind": "sample", "time_s": 3.5, "tokens": 128, "version": 4, "text": "to be\nor not"}
SUMMARY = {"steps": 4, "stopped_by": "budget"}


def follow(name: str, run: Path) -> list[str]:
    """Have a tracker hear of a run; return what is said."""
    said: list[str] = []
    tracking = Tracking([name], lambda record: record["tokens"] // 32, said.append)
    tracking.begin(run, CONFIG)
    for record in (TRAIN, EVAL, MOVE, SAMPLE):
        tracking.record(record)
    tracking.end(SUMMARY)
    return said


def test_tensorboard_reads_back_what_was_recorded(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert follow("tensorboard", tmp_path) == []
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    assert read == {
        "train/tokens": [(3, 96)],
        "train/loss": [(3, 2.5)],
        "train/lr": [(3, pytest.approx(0.1))],
        "eval/tokens": [(4, 128)],
        "eval/val_loss": [(4, 2.25)],
    }
    texts = set(events.Tags()["tensors"])
    assert texts == {f"{name}/text_summary" for name in ("config", "move", "sample", "summary")}
    (sample,) = events.Tensors("sample/text_summary")
    assert sample.tensor_proto.string_val == [b"```\nto be\nor not\n```"]


def test_weights_and_biases_is_told_by_its_own_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    run = SimpleNamespace(
        log=lambda told, step: calls.append((step, told)),
        summary=SimpleNamespace(update=calls.append),
        finish=lambda: calls.append("finish"),  # type: ignore[arg-type]
    )

    def init(**given: Any) -> Any:
        calls.append(("init", given))
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert follow("wandb", tmp_path / "run") == []
    given = {"project": "mine", "dir": str(tmp_path / "run"), "name": "run", "config": CONFIG}
    assert calls == [
        ("init", given),
        (3, {"train/tokens": 96, "train/loss": 2.5, "train/lr": 0.1}),
        (4, {"eval/tokens": 128, "eval/val_loss": 2.25}),
        (4, {"move/tokens": 128, "move/worker": 2, "move/to": 3}),
        (4, {"sample/tokens": 128, "sample": "to be\nor not"}),
        SUMMARY,
        "finish",
    ]


def test_one_that_fails_is_told_of_once_and_hears_no_more(tmp_path: Path) -> None:
    from trackers import Fails

    Fails.told.clear()
    said: list[str] = []
    tracking = Tracking(["trackers:Fails"], lambda _: 0, said.append)
    tracking.begin(tmp_path, CONFIG)
    for _ in range(5):
        tracking.record(TRAIN)
    tracking.end(SUMMARY)
    assert said == [
        "--track trackers:Fails has failed (OSError: the network is down); the run goes on without "
        "it"
    ]
    assert len(Fails.told) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mlflow", "--track mlflow: expected tensorboard, wandb or MODULE:CLASS"),
        ("trackers:Useless", "--track trackers:Useless: it has no begin, record, end"),
        ("trackers:Unmade", r"it cannot be made \(PermissionError: no key\)"),
        ("nowhere_to_be_found:X", r"it cannot be made \(ModuleNotFoundError: No module named"),
        ("trackers:", "expected tensorboard, wandb or MODULE:CLASS"),
    ],
)
def test_what_is_none_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_tracker(name)


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_what_is_missing_is_named_with_its_cure(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs {module}: pip install 'psdp\[{name}\]'"):
        make_tracker(name)


def test_infinite_numbers_are_left_to_the_tracker() -> None:
    from psdp.records.tracking import numbers

    assert dict(numbers(TRAIN | {"loss": None, "lr": math.inf})) == {"tokens": 96, "lr": math.inf}
