"""Texts that a model makes while it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs import TINY, Training, train
from losses import die_with, told
from processors import needs_bf16

from psdp.errors import ConfigError, NumericsError, PsdpError
from psdp.transport import messages as m

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
MODES: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "async"},
    {"mode": "local", "local_steps": 2},
    {"mode": "allreduce"},
]


def of_text(folder: Path, **settings: Any) -> Training:
    file = folder.parent / "text.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(TEXT)
    how: dict[str, Any] = {"corpus": [str(file)], "vocab_size": None, "val_fraction": 0.2}
    how |= {"eval_every": 2, "eval_batches": 1, "max_steps": 8, "workers": 2}
    return train(folder, **how | settings)


SAMPLES: dict[str, Any] = {"sample_every": 4, "sample_prompt": "the ", "sample_tokens": 12}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_they_are_recorded_where_they_are_due_and_change_nothing(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    run = of_text(tmp_path / "run", **SAMPLES, **mode)
    samples = run.metrics("sample")
    assert [sample["tokens"] // run.job.units_per_step for sample in samples] == [0, 4, 8]
    assert all(sample["text"].startswith("the ") for sample in samples)
    assert len({sample["text"] for sample in samples}) == 3
    evaluated = [record["version"] for record in run.metrics("eval")]
    assert {sample["version"] for sample in samples} <= {*evaluated}
    if mode["mode"] != "async":  # whose bits are never the same twice
        plain = of_text(tmp_path / "plain", **mode)
        assert plain.metrics("sample") == []
        assert told(run) == told(plain)


def test_the_last_weights_make_one_too_and_it_is_the_same_again(tmp_path: Path) -> None:
    texts = []
    for servers in (1, 2):
        run = of_text(tmp_path / f"{servers}", servers=servers, **SAMPLES, max_steps=5)
        samples = run.metrics("sample")
        assert [sample["version"] for sample in samples] == [0, 4, 5]
        texts.append([sample["text"] for sample in samples])
    assert texts[0] == texts[1]


def test_a_long_one_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = SAMPLES | {"sample_tokens": 300}
    whole = of_text(tmp_path / "whole", **how)
    monkeypatch.setattr("psdp.workers.sampling.PART", 7)
    parts = of_text(tmp_path / "parts", **how)
    assert [s["text"] for s in parts.metrics("sample")] == [
        s["text"] for s in whole.metrics("sample")
    ]


def test_who_is_lost_over_one_leaves_it_to_another(tmp_path: Path) -> None:
    run = of_text(
        tmp_path / "run",
        mode="async",
        prepare=lambda run: die_with(run, 1, m.Evaluated, 3),
        **SAMPLES,
    )
    samples = run.metrics("sample")
    assert samples[-1]["tokens"] == run.job.units
    assert all(len(sample["text"].encode()) <= 4 * (4 + 12) for sample in samples)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=needs_bf16)])
def test_compiled_kernels_make_them_in_any_precision(tmp_path: Path, precision: str) -> None:
    how = {"dtype": "float32", "kernels": "auto", "precision": precision, "ema": 0.5}
    run = of_text(tmp_path / "run", **SAMPLES, **how)
    assert len(run.metrics("sample")) == 3


def test_it_is_said_in_what_a_terminal_bears(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_text(tmp_path / "run", quiet=False, **SAMPLES | {"sample_prompt": "a\x1b[2Jb"})
    said = capsys.readouterr().out
    assert "sample:\na\\x1b[2Jb" in said
    assert "\x1b" not in said


def test_weights_that_have_diverged_make_none_and_end_nothing(tmp_path: Path) -> None:
    def spoil(run: Training) -> None:
        def sample(*_: Any) -> Iterator[str]:
            yield "the"
            raise NumericsError("the model's logits hold NaN or Inf")

        for number in range(2):
            run.worker(number).job.task.sample = sample  # type: ignore[method-assign]

    run = of_text(tmp_path / "run", prepare=spoil, **SAMPLES)
    assert run.metrics("sample") == []
    assert run.summary["stopped_by"] == "budget"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"vocab_size": TINY["vocab_size"]}, "the corpus is of bare token ids; name their token"),
        (
            {"sample_every": 3},
            "--sample-every 3 needs evaluations at these steps: got --eval-every",
        ),
        (
            {"eval_every": 0},
            "--sample-every 4 needs evaluations at these steps: got --eval-every 0",
        ),
        ({"val_fraction": 0.0}, "needs evaluations at these steps"),
        ({"tokenizer": "char", "sample_prompt": "Ж"}, "Ж"),
    ],
    ids=["ids", "steps", "none", "no validation", "prompt"],
)
def test_what_cannot_be_is_refused_in_a_line(
    tmp_path: Path, settings: dict[str, Any], why: str
) -> None:
    if "vocab_size" in settings:
        with pytest.raises(ConfigError, match=why):
            train(tmp_path / "run", eval_every=2, **SAMPLES)
        return
    with pytest.raises(PsdpError) as refusal:
        of_text(tmp_path / "run", **SAMPLES | settings)
    assert why in str(refusal.value)
    assert "\n" not in str(refusal.value)
