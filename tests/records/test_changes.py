"""What a run has told of how it chose its modes, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from psdp.protocol import Choice, Forecast
from psdp.records.changes import Stayed, read_choices

FIRST, SECOND, THIRD = (
    Choice(mode, f"why {mode}", (Forecast("sync", 2.0, True, 1.0, 2.0),), 1.3)
    for mode in ("ssp", "local", "async")
)


def write(run: Path, *lines: dict[str, Any], modes: Any = (), choice: Any = None) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "summary.json").write_text(json.dumps({"modes": modes, "choice": choice}))


def change(version: int, choice: Choice) -> dict[str, Any]:
    return {"kind": "mode", "time_s": 1.0, "version": version, **choice.record()}


def test_each_start_has_its_own_changes(tmp_path: Path) -> None:
    resumed = {"kind": "resume", "version": 20}
    lines = (change(5, FIRST), change(30, SECOND), resumed, {"kind": "eval"}, change(25, THIRD))
    write(tmp_path, *lines)
    assert read_choices(tmp_path, 0) == ([FIRST, SECOND], None)
    assert read_choices(tmp_path, 20) == ([THIRD], None)
    write(tmp_path, *lines, resumed)
    assert read_choices(tmp_path, 20) == ([], None), "the later start took its place"


def test_that_it_stayed_is_told_where_that_came_last(tmp_path: Path) -> None:
    modes = [{"version": 5, "mode": "ssp"}]
    write(tmp_path, change(5, FIRST), modes=modes, choice={"version": 9, **FIRST.record()})
    assert read_choices(tmp_path, 0) == ([FIRST], Stayed(9, FIRST))
    later = {"kind": "resume", "version": 7}
    write(tmp_path, change(5, FIRST), later, modes=[], choice={"version": 9, **FIRST.record()})
    assert read_choices(tmp_path, 0) == ([FIRST], None)
    assert read_choices(tmp_path, 7) == ([], Stayed(9, FIRST))
    write(tmp_path, change(5, FIRST), modes=modes, choice={"version": 5, **FIRST.record()})
    assert read_choices(tmp_path, 0) == ([FIRST], None)


def test_what_is_not_told_is_not_made_up(tmp_path: Path) -> None:
    assert read_choices(tmp_path, 0) == ([], None)
    write(tmp_path, {"kind": "mode", "version": 5, "mode": "ssp", "reason": "as recorded"})
    assert read_choices(tmp_path, 0) == ([None], None)
    (tmp_path / "summary.json").unlink()
    assert read_choices(tmp_path, 0) == ([None], None)
    (tmp_path / "metrics.jsonl").write_text('{"kind": "mo')
    assert read_choices(tmp_path, 0) == ([], None)
