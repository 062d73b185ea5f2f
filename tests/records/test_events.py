"""Events are chained by hashes, so that damage to their file shows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from psdp.errors import CheckpointError, ReplayError
from psdp.protocol import Leave, Move, Pull, Push, Stop, Switch, Work
from psdp.records.events import Happened, Seal, events_file, read_lines, read_record
from psdp.records.record import Record
from psdp.records.replay import Replay

WORK = Work(clock=0, version=7, units=16, loss=2.5, sum_of_squares=0.1, step_s=0.25, busy_s=0.125)
EVENTS = [Pull(1), Pull(2), Push(1, 0, WORK), Move(2, 3), Switch("ssp"), Leave(2), Stop()]


def nobody_else() -> None:
    pass


def write_record(folder: Path) -> Record:
    record = Record(events_file(folder, 7), 7, nobody_else, now=lambda: 1.5)
    record.begin({"version": 7})
    for event in EVENTS:
        record.note(Happened(event), 7)
    return record


def test_each_line_ends_with_the_hash_of_the_one_before_and_of_itself(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    lines = (tmp_path / "events-000007.jsonl").read_text().splitlines()
    before = ""
    for line in lines:
        body, digest = line[:-37], line[-34:-2]
        assert digest == hashlib.sha256((before + body).encode()).hexdigest()[:32]
        assert json.loads(line)[-1] == digest
        before = digest
    assert json.loads(lines[0])[:-1] == ["start", {"version": 7}]
    assert json.loads(lines[3])[:-1] == ["push", 1, 0, 7, 1, 0.25, 2.5, 0.1, 1.5, 0.125, 0.0]
    first = json.loads(lines[0])[-1]
    assert record.seal == Seal("events-000007.jsonl", first, len(lines), before)
    assert Seal.from_record(record.seal.record()) == record.seal


def test_what_was_written_is_read(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    events = read_record(record.path)
    kinds = [type(happened.event) for happened in events.happened]
    assert kinds == [type(event) for event in EVENTS]
    assert events.seal == record.seal
    assert events.numbers == [2, 3, 4, 5, 6, 7, 8]


def test_a_seal_is_that_of_the_event_that_made_a_version(tmp_path: Path) -> None:
    record = Record(events_file(tmp_path, 7), 7, nobody_else)
    record.begin({"version": 7})
    assert record.seal_of(7).line == 1
    record.note(Happened(Pull(1)), 8)
    record.note(Happened(Pull(2)), 9)
    assert (record.seal_of(7).line, record.seal_of(8).line, record.seal_of(9).line) == (1, 2, 3)
    record.forget(9)
    assert record.seal_of(9) == record.seal


def test_damage_shows_at_its_line(tmp_path: Path) -> None:
    path = write_record(tmp_path).path
    lines = path.read_text().splitlines(keepends=True)
    changed = [lines[3].replace("2.5", "2.4")]
    for damaged, where in (
        (lines[:3] + changed + lines[4:], 4),
        (lines[:3] + lines[4:], 4),
        ([*lines[:3], lines[4], lines[3], *lines[5:]], 4),
        ([*lines[:4], lines[3], *lines[4:]], 5),
        ([lines[0].replace("7", "8"), *lines[1:]], 1),
    ):
        path.write_text("".join(damaged))
        with pytest.raises(ReplayError, match=rf"events-000007\.jsonl, line {where} is damaged"):
            Replay(path)
        wrong = [line.number for line in read_lines(path) if not line.follows]
        assert wrong[0] == where
    path.write_text("".join(lines[1:]))
    with pytest.raises(ReplayError, match="line 1 is no event"):
        Replay(path)


def test_a_line_that_was_cut_off_with_its_run_is_no_damage(tmp_path: Path) -> None:
    path = write_record(tmp_path).path
    whole = path.read_text()
    for cut in (1, 2, 20, len(whole.splitlines()[-1])):
        path.write_text(whole[:-cut])
        assert [type(it.event) for it in read_record(path).happened] == [
            type(event) for event in EVENTS[:-1]
        ]


def test_a_record_that_is_shorter_than_its_summary_says_is_refused(tmp_path: Path) -> None:
    record = write_record(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"events": record.seal.record()}))
    Replay(record.path)
    whole = record.path.read_text()
    for cut in (5, 36 + len('["stop"') + 2):
        record.path.write_text(whole[:-cut])
        with pytest.raises(ReplayError, match=r"has 7 whole lines.*says that there were 8"):
            Replay(record.path)


def test_the_record_of_an_earlier_version_has_no_hashes(tmp_path: Path) -> None:
    path = events_file(tmp_path, 0)
    path.write_text('["pull", 1]\n["stop"]\n["pu')
    events = read_record(path)
    assert [it.event for it in events.happened] == [Pull(1), Stop()]
    assert events.seal is None
    path.write_text('["pull", 1]\n[]\n["stop"]\n')
    with pytest.raises(ReplayError, match="line 2 is no event"):
        read_record(path)


def test_a_folder_that_is_another_jobs_is_not_written(tmp_path: Path) -> None:
    def another() -> None:
        raise CheckpointError("another job has it")

    with pytest.raises(CheckpointError, match="another job has it"):
        Record(events_file(tmp_path, 0), 0, another).begin({"version": 0})
