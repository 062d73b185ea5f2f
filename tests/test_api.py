"""What ``import psdp`` offers: flags of a program of one's own, and the weights of a checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi import run_job

import psdp
from psdp.api import command_line
from psdp.checkpoint import CheckpointId, CheckpointStore
from psdp.cli import build_parser, given_settings
from psdp.config import OF_LANGUAGE, Config, flag_of
from psdp.errors import CheckpointError, ConfigError
from psdp.task import NumpyTask, Share


class Pairs(NumpyTask):
    """A task that counts pairs."""

    unit = "pair"
    table = psdp.ParamTable([psdp.ParamSpec("w", (2, 3)), psdp.ParamSpec("b", ())])
    units_per_batch = 2

    def __init__(self, config: Config | None = None) -> None:
        pass

    def batch(self, share: Share, number: int) -> Any:
        return number

    def add_gradient(self, weights: Any, gradient: Any, batch: Any) -> float:
        return 0.0


def test_help_shows_what_has_a_meaning_with_the_programs_own_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["mine.py"])
    text = build_parser(command_line(Pairs, {"lr": 0.25})).format_help()
    words = set(text.split())
    assert not {flag_of(name) for name in OF_LANGUAGE} & words
    assert {"--mode", "--batch-size", "--resume", "--servers"} <= words
    for said in ("python mine.py", "pairs a worker takes per step", "(default 0.25)"):
        assert said in " ".join(text.split())


def test_a_task_that_is_made_already_cannot_be_told_its_batch_size() -> None:
    assert given_settings(["--batch-size", "3"], command_line(Pairs, {}))["batch_size"] == 3
    with pytest.raises(ConfigError, match="--batch-size"):
        given_settings(["--batch-size", "3"], command_line(Pairs(), {}))


def test_flags_win_over_the_file_which_wins_over_the_program(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("lr = 2.0\nmax_steps = 5\n")
    line = command_line(Pairs, {"lr": 1.0, "max_steps": 4, "seed": 3})
    given = given_settings(["--config", str(file), "--lr", "3"], line)
    assert given == {"lr": 3.0, "max_steps": 5, "seed": 3}
    file.write_text("n_layer = 2\n")
    with pytest.raises(ConfigError, match="n_layer has no meaning for python "):
        given_settings(["--config", str(file)], line)


@pytest.mark.parametrize("flag", ["--resume", "--replay"])
def test_a_run_that_goes_on_has_the_settings_that_it_had(flag: str) -> None:
    assert flag_of(*given_settings([flag, "there"], command_line(Pairs, {"lr": 1.0}))) == flag


def test_weights_are_loaded_by_name_in_their_shape(tmp_path: Path) -> None:
    flat = np.arange(7, dtype=np.float32)
    store = CheckpointStore(tmp_path, keep=0)
    files = [
        store.write_shard(CheckpointId(3, 3), shard, 2, {"weights": part})
        for shard, part in enumerate((flat[:4], flat[4:]))
    ]
    store.commit(CheckpointId(3, 3), files, {"layout": Pairs.table.index()})
    found = psdp.load(tmp_path)
    assert {name: of.tolist() for name, of in found.items()} == {
        "w": [[0, 1, 2], [3, 4, 5]], "b": 6,
    }  # fmt: skip
    with pytest.raises(CheckpointError, match="there is no such folder"):
        psdp.load(tmp_path / "none")


def test_of_a_run_folder_the_latest_that_is_whole_is_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=0)
    state = {"layout": Pairs.table.index()}
    for at in (CheckpointId(3, 8), CheckpointId(3, 9)):
        file = store.write_shard(at, 0, 1, {"weights": np.full(7, at.version, "f4")})
        folder = store.commit(at, [file], state)
    (folder / file["name"]).unlink()
    with pytest.warns(UserWarning, match="not whole: could not read .*step-000003-v000009") as said:
        assert psdp.load(tmp_path)["b"] == 8
    assert said[0].filename == __file__
    with pytest.raises(CheckpointError, match=r"could not read .*step-000003-v000009"):
        psdp.load(folder)


def test_what_holds_no_named_weights_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=0)
    store.commit(
        CheckpointId(3, 3),
        [store.write_shard(CheckpointId(3, 3), 0, 1, {"weights": np.zeros(2, "f4")})],
        {},
    )
    with pytest.raises(CheckpointError, match="does not say which parameters it holds"):
        psdp.load(tmp_path)


MINE = """
import os, sys
import numpy as np
import psdp

class Mine(psdp.NumpyTask):
    table = psdp.ParamTable([psdp.ParamSpec("w", (5,))])
    units_per_batch = 4
    calls = 0

    def batch(self, share, number):
        return share.rows(number, 4, of=50)

    def add_gradient(self, weights, gradient, rows):
        self.calls += 1
        if self.calls == 5:
            BAD
        gradient["w"] += weights["w"] - 1.0
        return 1.0

run = psdp.run(Mine(), max_steps=20, quiet=True)
print("ended in", run)
"""


@pytest.mark.mpi
@pytest.mark.one_mpi
@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ('raise KeyError("mine")', "KeyError: 'mine'"),
        ('gradient["w"] += np.ones(7)', "could not be broadcast together"),
        ('gradient["w"] = weights["w"] - 1.0', "['w'] is a view of a flat vector: write into it"),
        ("return None", "Mine.add_gradient returned None, expected the mean loss"),
        ('gradient["w"] += np.nan', "sent a gradient with NaN or Inf at step 4"),
        ("os._exit(3)", ""),
    ],
)
def test_a_mistake_in_a_users_own_code_ends_the_job_and_is_shown(
    tmp_path: Path, bad: str, text: str
) -> None:
    ended = run_job(3, MINE.replace("BAD", bad), "--out", "run", cwd=tmp_path, timeout_s=30)
    assert ended.returncode, ended.stdout
    assert text in ended.stdout
    assert "ended in" not in ended.stdout


@pytest.mark.mpi
@pytest.mark.one_mpi
def test_rank_0_is_told_where_the_run_is(tmp_path: Path) -> None:
    ended = run_job(3, MINE.replace("BAD", "pass"), cwd=tmp_path, timeout_s=30)
    assert ended.stdout.count("ended in None") == 2
    assert f"ended in runs{os.sep}" in ended.stdout
