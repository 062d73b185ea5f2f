"""Which run a checkpoint belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from psdp.checkpoint import run_of


@pytest.mark.parametrize(
    ("checkpoint", "run"),
    [
        ("runs/mine/checkpoints/step-000010", "runs/mine"),
        ("/data/runs/mine/checkpoints/step-000010", "/data/runs/mine"),
        ("checkpoints/step-000010", "."),
        ("copies/step-000010", None),
    ],
)
def test_a_checkpoint_belongs_to_the_run_that_it_lies_in(checkpoint: str, run: str | None) -> None:
    assert run_of(Path(checkpoint)) == (None if run is None else Path(run))


def test_a_checkpoint_named_from_inside_the_run_belongs_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "run" / "checkpoints"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert run_of(Path("step-000010")) == tmp_path / "run"
