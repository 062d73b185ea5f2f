"""Whatever is changed in the records of a run contradicts something, and that is said."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from audit.recorded import chained, change, contradictions, expect_proved, lines_of, record, seal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psdp.audit.auditing import Audit
from psdp.errors import ReplayError
from psdp.records.replay import Replay

pytestmark = pytest.mark.timeout(110)

RUNS: dict[str, dict[str, Any]] = {
    "rounds": {"mode": "sync"},
    "backups": {"mode": "sync", "backup_workers": 1},
    "arrivals": {"mode": "async", "balance": "dynamic"},
    "bounded": {"mode": "ssp", "staleness": 1},
    "alone": {"mode": "local", "local_steps": 4},
    "elastic": {"mode": "easgd", "local_steps": 2},
}
EVENTS = "events-000000.jsonl"


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    record(folder, **RUNS[request.param])
    expect_proved(folder)
    return folder


@contextmanager
def tampered(run: Path) -> Iterator[Path]:
    """Yield a copy of a run, of which the text files are one's own."""
    copy = run.with_name("tampered")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    yield copy


def pick(data: st.DataObject, lines: list[str], kind: str) -> int:
    """Return the index of a line of this kind."""
    fitting = [index for index, line in enumerate(lines) if f'"{kind}"' in line]
    return data.draw(st.sampled_from(fitting))


def another(data: st.DataObject, value: Any) -> Any:
    """Return another number."""
    if isinstance(value, int):
        return data.draw(st.integers(-3, 60).filter(lambda other: other != value))
    return value * data.draw(st.sampled_from([0.5, 1.0 + 2.0**-50, -1.0, 3.0])) or 0.125


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_to_events_is_found_by_the_audit_and_by_a_replay(
    run: Path, data: st.DataObject
) -> None:
    with tampered(run) as copy:
        path = copy / EVENTS
        lines = lines_of(path)
        index = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["remove", "swap", "repeat", "change", "cut", "insert"])):
            case "remove":
                del lines[index]
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1).filter(lambda n: n != index))
                lines[index], lines[other] = lines[other], lines[index]
            case "repeat":
                lines.insert(index, lines[index])
            case "change":
                at = data.draw(st.integers(0, len(lines[index]) - 2))
                new = data.draw(st.sampled_from("0123456789abcdef").filter(
                    lambda digit: digit != lines[index][at]
                ))  # fmt: skip
                lines[index] = lines[index][:at] + new + lines[index][at + 1 :]
            case "cut":
                del lines[index:]
            case "insert":
                lines.insert(index, '["pull", 1, "0123456789abcdef0123456789abcdef"]\n')
        path.write_text("".join(lines))
        assert contradictions(copy)
        with pytest.raises(ReplayError, match=r"is damaged|is no event"):
            Replay(path)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_who_chains_forged_events_again_is_found_without_the_hashes_of_checkpoints(
    run: Path, data: st.DataObject
) -> None:
    """By what the events come to: nobody is asked but the policy, metrics and the summary."""
    with tampered(run) as copy:
        shutil.rmtree(copy / "checkpoints")
        lines = lines_of(copy / EVENTS)
        kind = data.draw(st.sampled_from(["push", "pull"]))
        index = pick(data, lines, kind)
        content = json.loads(lines[index])
        if kind == "pull" or data.draw(st.booleans()):
            if kind == "pull":  # one that makes no difference is none that a forger needs
                index = pick(data, lines, "push")
            del lines[index]
        else:
            # Times, and what a worker used, are measured: nothing else tells of them, nor of what
            # was too late: its version and its loss are in no update.
            own = [1, 2, 4] if "backups" in str(run) else [1, 2, 3, 4, 6]
            field = data.draw(st.sampled_from(own))
            content[field] = another(data, content[field])
            lines[index] = json.dumps(content) + "\n"
        (copy / EVENTS).write_text("".join(chained(lines)))
        seal(copy)
        assert contradictions(copy)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_change_of_the_metrics_is_found(run: Path, data: st.DataObject) -> None:
    with tampered(run) as copy:
        path = copy / "metrics.jsonl"
        lines = lines_of(path)
        kind = data.draw(st.sampled_from(["train", "eval"]))
        index = pick(data, lines, kind)
        content = json.loads(lines[index])
        if kind == "train" and data.draw(st.booleans()):
            del lines[index]
        else:
            names = ["tokens", "version"]
            names += ["loss", "lr", "version_lag"] if kind == "train" else ["perplexity"]
            name = data.draw(st.sampled_from(names))
            content[name] = another(data, content[name])
            lines[index] = json.dumps(content) + "\n"
        path.write_text("".join(lines))
        assert any(" at " in text for text in contradictions(copy))


def test_bits_per_byte_follow_from_the_loss(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox, 狐狸.\n" * 100)
    own = {"corpus": [str(text)], "vocab_size": None, "val_fraction": 0.2, "tokenizer": "char"}
    recorded = record(tmp_path / "run", **own)
    assert contradictions(recorded.folder) == []
    path = recorded.folder / "metrics.jsonl"
    lines = lines_of(path)
    last = max(number for number, line in enumerate(lines) if '"eval"' in line)
    told = json.loads(lines[last])
    lines[last] = json.dumps(told | {"bits_per_byte": told["bits_per_byte"] * 1.001}) + "\n"
    path.write_text("".join(lines))
    (found,) = contradictions(recorded.folder)
    assert "bits_per_byte is" in found


NUMBERS = ["tokens", "version", "steps", "workers", "moves", "max_clock_gap", "best_val_loss"]
NUMBERS += ["val_loss", "failures"]


@pytest.mark.parametrize("name", [*NUMBERS, "dropped", "version_lag", "weights_sha256", "modes"])
def test_a_change_of_the_summary_is_found(run: Path, name: str) -> None:
    with tampered(run) as copy:
        path = copy / "summary.json"
        told = json.loads(path.read_text())[name]
        change(path, **{name: told + 1 if name in NUMBERS else {"1": 77}})
        (text, *_) = contradictions(copy)
        assert str(path) in text


def forge_manifests(run: Path, forge: Callable[[dict[str, Any]], None]) -> None:
    """Change what manifests say, each with a digest that fits."""
    for path in (run / "checkpoints").glob("step-*/checkpoint.json"):
        body = json.loads(path.read_text())
        del body["digest"]
        forge(body)
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(body | {"digest": digest}))


@pytest.mark.parametrize("name", ["version", "tokens", "clocks", "events", "settings"])
def test_a_forged_manifest_is_found(run: Path, name: str) -> None:
    def forge(body: dict[str, Any]) -> None:
        told = body["state"][name]
        other = {**told, "hash": "0" * 32, "lr": 7.0, "1": 99} if name not in (
            "version", "tokens",
        ) else told + 1  # fmt: skip
        body["state"][name] = other

    with tampered(run) as copy:
        forge_manifests(copy, lambda body: None)
        expect_proved(copy)
        forge_manifests(copy, forge)
        assert any("checkpoint.json" in text for text in contradictions(copy))


def test_a_flipped_bit_of_any_vector_is_found(run: Path) -> None:
    with tampered(run) as copy:
        for path in sorted((copy / "checkpoints").glob("step-*/*.safetensors"))[:4]:
            whole = path.read_bytes()
            content = bytearray(whole)
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            assert any(f"{path} is damaged" in text for text in contradictions(copy))
            path.write_bytes(whole)


def test_other_settings_are_found(run: Path) -> None:
    with tampered(run) as copy:
        path = copy / "config.json"
        config = json.loads(path.read_text())
        change(path, settings=config["settings"] | {"seed": 5})
        (text,) = contradictions(copy)
        assert "seed is 5, the events are of a run with 1337" in text


@pytest.mark.parametrize("what", [EVENTS, "metrics.jsonl", "checkpoints/best.json"])
def test_what_is_gone_is_missed(run: Path, what: str) -> None:
    with tampered(run) as copy:
        (copy / what).unlink()
        if what.endswith("best.json"):
            expect = "best"
            (copy / what).write_text('{"checkpoint": "step-000099-v000099"}')
        else:
            expect = "updates"
        assert any(f": {expect}: " in text for text in contradictions(copy))


def test_only_who_computes_again_finds_a_forged_norm(run: Path) -> None:
    """With all hashes made to fit, no other number tells of the norm of one gradient of several."""
    with tampered(run) as copy:
        lines = lines_of(copy / EVENTS)
        index = next(n for n, line in enumerate(lines) if '"push"' in line)
        content = json.loads(lines[index])
        content[7] *= 1 + 2.0**-40
        lines[index] = json.dumps(content) + "\n"
        lines = chained(lines)
        (copy / EVENTS).write_text("".join(lines))
        seal(copy)
        hashes = [json.loads(line)[-1] for line in lines]

        def forge(body: dict[str, Any]) -> None:
            told = body["state"]["events"]
            told |= {"start": hashes[0], "hash": hashes[told["line"] - 1]}

        forge_manifests(copy, forge)
        audit = Audit(copy)
        if audit.check().contradicted:
            return  # a train record of one gradient alone has its norm
        audit.recompute(100, seed=0)
        texts = [str(finding) for finding in audit.findings.all if "CONTRADICTED" in str(finding)]
        assert any("the replay diverges at line" in text for text in texts)


@pytest.fixture(scope="module")
def unrecorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unrecorded") / "run"
    record(folder, mode="ssp", staleness=1, record=False)
    assert not contradictions(folder)
    return folder


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_of_a_run_without_events_units_and_clocks_must_agree(
    unrecorded: Path, data: st.DataObject
) -> None:
    with tampered(unrecorded) as copy:
        path = copy / "metrics.jsonl"
        lines = lines_of(path)
        index = pick(data, lines, "train")
        content = json.loads(lines[index])
        name = data.draw(st.sampled_from(["tokens", "clocks"]))
        if name == "clocks":
            worker = data.draw(st.sampled_from(["1", "2", "3"]))
            content[name][worker] = another(data, content[name][worker])
        else:
            content[name] = another(data, content[name])
        lines[index] = json.dumps(content) + "\n"
        path.write_text("".join(lines))
        assert any(f" at {path}:{index + 1}" in text for text in contradictions(copy))


@pytest.mark.parametrize("name", ["tokens", "version", "steps", "moves", "val_loss"])
def test_its_summary_too(unrecorded: Path, name: str) -> None:
    with tampered(unrecorded) as copy:
        told = json.loads((copy / "summary.json").read_text())[name]
        change(copy / "summary.json", **{name: told + 1})
        assert contradictions(copy)
