"""Spans that cannot be written are told of once, and are all that is lost."""

from __future__ import annotations

import json
import resource
from pathlib import Path

from psdp.records.timeline import FOLDER, WrittenTimeline, timeline_file
from psdp.trace import read_spans

RANK = 3


def timeline(run: Path, told: list[str]) -> WrittenTimeline:
    return WrittenTimeline(run, RANK, told.append, now=lambda: 1.0, wall=lambda: 11.0)


def test_a_span_is_a_line_that_is_there_at_once(tmp_path: Path) -> None:
    told: list[str] = []
    timeline(tmp_path, told).note("push", 1.5, 2.0, [(1, 4)], host="größer")
    (line,) = timeline_file(tmp_path, RANK).read_text().splitlines()
    assert json.loads(line) == ["push", 11500000, 12000000, False, [[1, 4]], {"host": "größer"}]
    assert not told


def test_half_a_line_of_a_start_before_is_cut_off(tmp_path: Path) -> None:
    for kind in ("push", "pull"):
        timeline(tmp_path, []).note(kind, 1.5, 2.0)
        path = timeline_file(tmp_path, RANK)
        path.write_text(path.read_text() + '["compute", 1')
    assert [span.kind for span in read_spans(tmp_path, RANK + 1)] == ["push", "pull"]


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / FOLDER).touch()
    told: list[str] = []
    timeline(tmp_path, told).note("push", 1.5, 2.0)
    (text,) = told
    assert "cannot be written" in text


def test_a_disk_that_is_full_is_told_of_once_and_what_it_had_room_for_is_drawn(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    noting = timeline(tmp_path, told)
    noting.note("push", 1.5, 2.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = timeline_file(tmp_path, RANK).stat().st_size + 5
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        noting.note("wait", 2.0, 3.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    noting.note("pull", 3.0, 4.0)
    path = timeline_file(tmp_path, RANK)
    assert told == [
        f"--trace: {path} cannot be written (No space left on device); the run goes on without "
        "what this rank does from now on"
    ]
    assert [span.kind for span in read_spans(tmp_path, RANK + 1)] == ["push"]
