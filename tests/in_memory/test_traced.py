"""Jobs whose ranks note what they do when, and what is drawn of that."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from jobs import train
from losses import die_with

from psdp.errors import ConfigError
from psdp.trace import draw, main, read_spans
from psdp.transport import messages as m

MODES: list[dict[str, Any]] = [
    {"mode": "sync", "servers": 2},
    {"mode": "async", "virtual_workers": 4},
    {"mode": "local", "local_steps": 3},
    {"mode": "allreduce"},
]
COMMON: dict[str, Any] = {"workers": 2, "max_steps": 6, "eval_every": 3, "trace": True}


def drawn(run: Path) -> list[dict[str, Any]]:
    draw(run, run / "trace.json")
    events: list[dict[str, Any]] = json.loads((run / "trace.json").read_text())["traceEvents"]
    return events


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_all_that_ranks_do_is_drawn_and_nothing_twice(tmp_path: Path, mode: dict[str, Any]) -> None:
    run = train(tmp_path / "run", **COMMON, **mode)
    events = drawn(run.folder)
    spans = [event for event in events if event["ph"] == "X"]
    counts = Counter(span["name"] for span in spans)
    steps = sum(span["args"]["steps"] for span in spans if span["name"] == "compute")
    assert steps == sum(run.progress.clocks.values())
    if run.job.mode.served:
        assert counts["update"] == run.progress.version * len(run.job.servers)
    answered = [span for span in spans if span["name"] == "pull" and span["args"]["gradients"]]
    assert counts["send"] == len(answered)
    assert counts["save"] >= len(run.job.servers)
    assert {"evaluate", "wait", "copy"} <= counts.keys()
    by_thread: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for span in spans:
        by_thread[span["tid"]].append(span)
    for own in by_thread.values():
        for before, after in pairwise(own):
            assert before["ts"] + before["dur"] <= after["ts"] + 1, (before, after)


@pytest.mark.parametrize("mode", MODES[:3], ids=str)
def test_an_arrow_goes_from_each_push_to_its_update_to_its_answer(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    run = train(tmp_path / "run", **COMMON, **mode)
    events = drawn(run.folder)
    flows: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            flows[event["id"]].append(event)
    spans = read_spans(run.folder, 9)
    pushed = {gradient for span in spans if span.kind == "push" for gradient in span.gradients}
    assert len(flows) == len(pushed)
    for flow in flows.values():
        phases = "".join(event["ph"] for event in flow)
        assert phases == "s" + "t" * len(run.job.servers) + "f"
        times = [event["ts"] for event in flow]
        assert times == sorted(times)


def test_who_is_lost_leaves_what_it_did_and_a_spare_has_a_line_of_its_own(tmp_path: Path) -> None:
    run = train(
        *(tmp_path / "run",),
        prepare=lambda run: die_with(run, 1, m.Gradient, 3),
        **COMMON | {"workers": 3, "max_steps": 12, "spares": 1},
    )
    ranks = {span.rank for span in read_spans(run.folder, 4) if span.kind == "compute"}
    assert ranks >= {1, 2}
    path = run.folder / "trace" / "rank-0001.jsonl"
    path.write_text(path.read_text() + '["compute", 1')
    assert drawn(run.folder)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"rank-0001\.jsonl:\d+ is no span"):
        drawn(run.folder)


def test_a_run_without_spans_is_told_how_to_get_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "run", workers=1)
    assert main([str(run.folder)]) == 2
    assert "a run that was made with --trace" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "name the folder of a run" in capsys.readouterr().err


def test_spans_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    run = train(tmp_path / "run", workers=1, trace=True)
    path = run.folder / "trace" / "rank-0001.jsonl"
    path.write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match=r"rank-0001\.jsonl cannot be read"):
        drawn(run.folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"rank-0001\.jsonl cannot be read"):
        drawn(run.folder)
