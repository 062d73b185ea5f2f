"""What lm-evaluation-harness is answered: by itself where it is installed, and by its own calls."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from saved_model import checkpoint_of

from psdp.data.tokenizer import ByteTokenizer
from psdp.generation import Sampling, load_trained
from psdp.lm_eval.__main__ import main

QUESTION, ANSWERS = "to be or not", [" to be", " to sleep", " a question"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    checkpoint_of(tmp_path / "run", {}, ByteTokenizer())
    return tmp_path / "run"


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module, with a harness that is no more than what a model is made of."""
    stand_ins = {name: ModuleType(name) for name in ("lm_eval", "lm_eval.api")}
    hook = SimpleNamespace(add_partial=lambda *_: None)
    base = type("LM", (), {"__init__": lambda self: setattr(self, "cache_hook", hook)})
    stand_ins["lm_eval.api.model"] = SimpleNamespace(LM=base)  # type: ignore[assignment]
    register = SimpleNamespace(register_model=lambda name: lambda model: model)
    stand_ins["lm_eval.api.registry"] = register  # type: ignore[assignment]
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "psdp.lm_eval.model", raising=False)
    yield importlib.import_module("psdp.lm_eval.model")
    sys.modules.pop("psdp.lm_eval.model")


def asked(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=args) for args in arguments]


def test_it_answers_as_the_model_scores(adapter: Any, run: Path) -> None:
    model = adapter.TrainedModel(checkpoint=str(run), batch_size="1", threads=1)
    scorer = load_trained(next((run / "checkpoints").glob("step-*")), "cpu").scorer()
    found = model.loglikelihood(asked(*((QUESTION, answer) for answer in ANSWERS)))
    assert found == [scorer.continuation(QUESTION, answer) for answer in ANSWERS]
    assert all(isinstance(greedy, bool) for _, greedy in found)
    assert model.loglikelihood_rolling(asked((QUESTION,))) == [scorer.text(QUESTION)[0]]


def test_it_goes_on_up_to_the_first_of_all_stops(adapter: Any, run: Path) -> None:
    model = adapter.TrainedModel(checkpoint=str(run), threads=1)
    (whole,) = model.generate_until(asked((QUESTION, {"max_gen_toks": 30})))
    assert len(whole) > 4
    assert not whole.startswith(QUESTION)
    stops = [whole[3:5], whole[1:3], "nowhere"]
    how = {"max_gen_toks": 30, "until": stops}
    assert (
        model.generate_until(asked((QUESTION, how), (QUESTION, how)))
        == [whole[: min(whole.find(stop) for stop in stops[:2])]] * 2
    )
    drawn = {"max_gen_toks": 30, "do_sample": True, "temperature": 9.0}
    first, second = model.generate_until(asked((QUESTION, drawn), (QUESTION, drawn)))
    assert first != second
    assert model.generate_until(asked((QUESTION, drawn))) == [first]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, Sampling(0.0)),
        ({"do_sample": False, "temperature": 0.7}, Sampling(0.0)),
        ({"temperature": 0.7}, Sampling(0.7)),
        ({"do_sample": True, "top_k": 5, "top_p": 0.9}, Sampling(1.0, 5, 0.9)),
    ],
    ids=str,
)
def test_a_task_says_how_tokens_are_chosen(
    adapter: Any, how: dict[str, Any], expected: Sampling
) -> None:
    assert adapter.sampling_of(how) == expected


def test_without_the_harness_a_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main() == 2
    error = capsys.readouterr().err
    assert error.endswith("pip install 'psdp[lm-eval]'\n")
    assert error.count("\n") == 1


@pytest.mark.filterwarnings("default")  # of the harness and what it loads
def test_the_harness_runs_a_task_of_its_own_making(run: Path, monkeypatch: Any) -> None:
    harness = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    importlib.import_module("psdp.lm_eval.model")
    rows = [{"question": QUESTION, "choices": ANSWERS, "answer": n} for n in range(3)]
    common = {
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "doc_to_text": "question",
    }
    tasks = [
        common
        | {"task": "choose", "output_type": "multiple_choice", "doc_to_choice": "choices"}
        | {"doc_to_target": "answer", "target_delimiter": ""},
        common
        | {"task": "roll", "output_type": "loglikelihood_rolling", "doc_to_target": "question"}
        | {"doc_to_text": ""},
        common
        | {"task": "write", "output_type": "generate_until", "doc_to_target": "question"}
        | {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 8}},
    ]
    told = harness.simple_evaluate(
        model="psdp", model_args={"checkpoint": str(run), "threads": 1}, tasks=tasks
    )
    scorer = load_trained(next((run / "checkpoints").glob("step-*")), "cpu").scorer()
    scores = [scorer.continuation(QUESTION, answer).log_probability for answer in ANSWERS]
    assert told["results"]["choose"]["acc,none"] == pytest.approx(1 / 3)
    for sample in told["samples"]["choose"]:
        assert [float(answer[0]) for answer in sample["filtered_resps"]] == pytest.approx(scores)
    bits = -scorer.text(QUESTION).log_probability / len(QUESTION) / 0.6931471805599453
    assert told["results"]["roll"]["bits_per_byte,none"] == pytest.approx(bits)
    assert len(told["samples"]["write"]) == 3
