"""From a spec to cells: every combination that has a meaning, and errors before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from cell_runs import differences_of
from cells import SHIPPED, Spec, find_spec, read_spec
from trials import families_of

from psdp.cli import given_settings
from psdp.config import Config
from psdp.errors import ConfigError


def spec(folder: Path, text: str) -> Spec:
    path = folder / "mine.toml"
    path.write_text(text)
    return read_spec(path)


def names(folder: Path, text: str) -> list[str]:
    return [cell.name for cell in spec(folder, text).cells]


def test_every_combination_is_a_cell_and_seeds_take_turns(tmp_path: Path) -> None:
    text = """
        [grid]
        workers = [2, 4]
        seed = [7, 3]
        [[cells]]
        mode = ["sync", "async"]
        [[cells]]
        mode = "ssp"
        staleness = [1, 4]
    """
    of_a_seed = [
        *("sync-workers=2", "async-workers=2", "sync-workers=4", "async-workers=4"),
        *("ssp-workers=2-staleness=1", "ssp-workers=2-staleness=4"),
        *("ssp-workers=4-staleness=1", "ssp-workers=4-staleness=4"),
    ]
    expected = [f"{name}-seed={seed}" for seed in (7, 3) for name in of_a_seed]
    assert names(tmp_path, text) == expected


def test_a_name_stays_when_the_spec_grows(tmp_path: Path) -> None:
    small = names(tmp_path, "grid = {workers = 2, mode = 'ssp', staleness = 1, seed = 1}")
    large = names(tmp_path, "grid = {workers = 2, mode = 'ssp', staleness = [1, 2], seed = [1, 2]}")
    assert small == ["ssp-workers=2-staleness=1-seed=1"]
    assert set(small) < set(large)


def test_cells_may_be_jobs_of_a_cluster_that_one_does_not_have(tmp_path: Path) -> None:
    (cell,) = spec(
        tmp_path, "settings = {workers = 9, mode = 'ssp'}\n[virtual]\nstep-ms = 5\ncores = 4"
    ).cells
    assert cell.config.run.record
    words = ("psdp.virtual", "--workers", "9", "--step-ms", "5", "--cores", "4")
    assert tuple(cell.command()) == (*words, "--mode=ssp", "--record")
    (real,) = spec(tmp_path, "settings = {workers = 9, mode = 'ssp'}").cells
    assert real.command() == ["psdp.launch", "-n", "10", "--mode=ssp"]


def test_runs_of_another_cluster_are_told_from_those_of_a_cell(tmp_path: Path) -> None:
    text = "settings = {workers = 2}\n"
    (cell,) = spec(tmp_path, f"{text}[virtual]\nstep-ms = 20").cells
    (same,) = spec(tmp_path, f"{text}[virtual]\nstep-ms = 20\nlatency-us = 20").cells
    (other,) = spec(tmp_path, f"{text}[virtual]\nstep-ms = 200\ncores = 2").cells
    (real,) = spec(tmp_path, text).cells
    assert cell.cluster is not None
    costs = cell.cluster.record(1000)
    config = {"settings": cell.config.flat(), "workers": 2, "parameters": 1000, "costs": costs}
    assert differences_of(config, cell) == differences_of(config, same) == ""
    assert differences_of(config, other) == "cores None, now 2; step-ms 20.0, now 200.0"
    assert "step-ms 20.0, now None" in differences_of(config, real)
    assert "step-ms None, now 20.0" in differences_of(config | {"costs": {}}, cell)


def test_several_grids_are_crossed_with_the_cells_each(tmp_path: Path) -> None:
    text = """
        settings = {workers = 2}
        [[grid]]
        straggler = ["none", "last:4"]
        [[grid]]
        jitter = "uniform:4:4,bernoulli:0.1:4"
        [[cells]]
        mode = ["sync", "async"]
    """
    found = spec(tmp_path, text)
    slowed = [(cell.config.run.straggler, cell.config.run.jitter) for cell in found.cells]
    assert slowed == [
        *[(None, None)] * 2,
        *[("2:4", None)] * 2,
        *[(None, "uniform:4:4,bernoulli:0.1:4")] * 2,
    ]
    assert found.cells[-1].name == "async-jitter=uniform_4_4_bernoulli_0.1_4"


def test_the_last_worker_may_be_slowed_whatever_its_rank_is(tmp_path: Path) -> None:
    text = (
        "settings = {servers = 2}\n"
        "grid = {workers = 3, straggler = ['last:2.5', '2:4', '2:4,last:3', 'none']}"
    )
    cells = spec(tmp_path, text).cells
    assert [cell.config.run.straggler for cell in cells] == ["4:2.5", "2:4", "2:4,4:3", None]
    assert {cell.ranks for cell in cells} == {5}


def test_the_top_of_the_file_and_its_defaults(tmp_path: Path) -> None:
    plain = spec(tmp_path, "grid = {workers = 2}")
    assert (plain.name, plain.timeout_s, plain.target_loss) == ("mine", 1800.0, None)
    assert [cell.name for cell in plain.cells] == ["sync-workers=2"]
    full = spec(
        tmp_path,
        'name = "full"\ndescription = "All."\ntimeout-s = 5\ntarget-loss = 2\nsettings.workers = 1',
    )
    assert (full.name, full.description, full.timeout_s, full.target_loss) == ("full", "All.", 5, 2)


@pytest.mark.parametrize(
    "settings",
    [
        "mode = 'ssp'\nstaleness = 3\nlr = 1e-4",
        "bias = false\ncorpus = ['/', '/dev']\nrecord = true",
        "bias = true\ncorpus = '/'\nrecord = false",
        "straggler = 'last:4'\njitter = 'none'",
    ],
)
def test_the_flags_of_a_cell_make_its_settings(tmp_path: Path, settings: str) -> None:
    (cell,) = spec(tmp_path, f"[settings]\nworkers = 2\n{settings}").cells
    given = given_settings(cell.flags())
    assert Config.from_flat(given).resolved() == cell.config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid = {workers = 2", "is not TOML"),
        ("grids = {workers = 2}", "unknown key 'grids'"),
        ("seed = [1]\ngrid = {workers = 2}", "unknown key 'seed'.*worker flags below"),
        ("grid = {workers = 2, moode = 'sync'}", r"\[grid\]: unknown setting 'moode'"),
        ("settings = {warp = 9}\ngrid = {workers = 2}", r"\[settings\]: unknown setting 'warp'"),
        ("cells = [{warp = 9}]\ngrid = {workers = 2}", r"\[\[cells\]\]: unknown setting 'warp'"),
        ("grid = {workers = 2, out = 'x'}", "out is not for a spec to say"),
        ("grid = {workers = 2}\nsettings = {workers = 2}", "workers stands in two of"),
        ("grid = {workers = 2, mode = 'ssp'}\ncells = [{mode = 'sync'}]", "mode stands in two of"),
        ("grid = {workers = 2, local-steps = 1, local_steps = 1}", "local_steps is given twice"),
        ("grid = {workers = 2, seed = []}", "seed has an empty list"),
        ("grid = {workers = 2}\nvirtual = 3", r"\[virtual\] expects a table, got 3"),
        ("grid = {workers = 2}\nvirtual = {lr = 3}", r"\[virtual\]: unknown cost 'lr'"),
        ("grid = {workers = 2}\nvirtual = {mtbf-s = 3}", "unknown cost 'mtbf-s'"),
        ("grid = {workers = 2}\nvirtual = {cores = 0}", "expected whole numbers from 1 on"),
        ("grid = {workers = 2, mode = 'allreduce'}\nvirtual = {}", "a virtual job needs --mode"),
        (
            "settings = {workers = 2, spares = 1}\nvirtual = {}",
            "--spares does not go with a virtual",
        ),
        (
            "settings = {workers = 2, virtual-workers = 4}\nvirtual = {}",
            "--virtual-workers 4 does not go with a virtual job of 2",
        ),
        ("grid = {workers = 2, seed = [1, 1]}", "two cells are called sync-workers=2-seed=1"),
        ("grid = {workers = 2, straggler = ['last:4', '2:4']}", "cells .* and .* are the same job"),
        ("grid = {seed = 1}", "cell sync-seed=1: workers expects a number of at least 1, got None"),
        ("grid = {workers = 0}", "workers expects a number of at least 1, got 0"),
        ("grid = {workers = true}", "workers expects a number"),
        ("grid = {workers = 2, mode = 'psychic'}", "cell psychic-workers=2: --mode expects one of"),
        ("grid = {workers = 2, staleness = 4}", "cell .*: --staleness 4 has a meaning with"),
        ("grid = {workers = 2, lr = 'fast'}", "--lr expects float"),
        ("grid = {workers = 2, backup-workers = 2}", "--backup-workers 2 leaves no gradient"),
        ("grid = {workers = 2, straggler = '9:4'}", "--straggler names rank 9"),
        ("grid = {workers = 2, straggler = 'last:0.5'}", "--straggler expects finite factors"),
        ("grid = {workers = 2, straggler = 9}", 'straggler expects "RANK:FACTOR.*"last", got 9'),
        ("settings.corpus = 'gone.txt'\ngrid = {workers = 2}", "corpus gone.txt does not exist"),
        ("grid = 3", "grid expects tables"),
        ("grid = []", "grid expects tables"),
        ("settings = 3\ngrid = {workers = 2}", r"\[settings\] expects a table"),
        ("name = 3\ngrid = {workers = 2}", "name expects letters"),
        ("name = '../up'\ngrid = {workers = 2}", "name expects letters"),
        ("description = 3\ngrid = {workers = 2}", "description expects text"),
        ("timeout-s = 0\ngrid = {workers = 2}", "timeout-s expects a number above 0"),
        ("timeout-s = true\ngrid = {workers = 2}", "timeout-s expects a number above 0"),
        ("target-loss = nan\ngrid = {workers = 2}", "target-loss expects a number above 0"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        spec(tmp_path, text)
    assert str(tmp_path / "mine.toml") in str(caught.value)


def test_paths_of_a_cell_are_those_that_its_run_will_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_text("text")
    (cell,) = spec(tmp_path, '[settings]\nworkers = 2\ncorpus = ["~/a", "/"]\n').cells
    assert cell.config.data.corpus == (f"{tmp_path}/a", "/")
    assert f"{tmp_path}/a" in cell.flags()


def test_a_spec_is_found_by_path_or_shipped_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stragglers"
    path.write_text("")
    assert find_spec(str(path)) == path
    monkeypatch.setenv("HOME", str(path.parent))
    assert find_spec(f"~/{path.name}") == path
    assert find_spec("stragglers") == SHIPPED / "stragglers.toml"
    with pytest.raises(ConfigError, match="gone: no such file; shipped specs are defaults, "):
        find_spec("gone")


def test_the_shipped_comparison_of_modes_is_fair() -> None:
    found = read_spec(find_spec("sync_vs_async"))
    of_modes = [cell.config.flat() | {"mode": "", "seed": 0} for cell in found.cells]
    apart = {name for one in of_modes for name in one if one[name] != of_modes[0][name]}
    assert apart == {"staleness", "wire_dtype"}, "what has a meaning in some modes alone"
    assert [family.cells[0].config.run.mode for family in families_of(found)] == [
        *("sync", "async", "ssp")
    ]


def test_the_defaults_are_tuned_for_all_workers_at_equal_tokens_in_virtual_time() -> None:
    found = read_spec(find_spec("defaults"))
    assert all(cell.virtual is not None for cell in found.cells)
    assert {cell.config.run.max_steps * cell.workers for cell in found.cells} == {640}
    kinds = {(cell.config.run.mode, cell.config.run.merge) for cell in found.cells}
    assert len(found.cells) == len(kinds) * 3 * 2 * 5
    tuned = [family.cells[0] for family in families_of(found)]
    assert {(cell.config.run.mode, cell.config.run.merge) for cell in tuned} == kinds


def test_what_wins_back_what_more_workers_lose_is_compared_at_equal_tokens() -> None:
    found = read_spec(find_spec("more_workers"))
    assert all(cell.virtual is not None for cell in found.cells)
    runs = [(cell.config.run, cell.workers) for cell in found.cells]
    assert {run.max_steps * run.batch_size * workers for run, workers in runs} == {640 * 8}


@pytest.mark.parametrize("name", ["sync_vs_async", "stragglers", "staleness", "local_steps"])
def test_shipped_specs_have_the_baselines_and_three_seeds(name: str) -> None:
    found = read_spec(find_spec(name))
    assert found.name == name
    assert {"sync", "allreduce"} < {cell.config.run.mode for cell in found.cells}
    assert len({cell.config.run.seed for cell in found.cells}) >= 3
