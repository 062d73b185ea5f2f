"""The table of parameters: one order, one offset each, and everything else derived from them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.config import ModelConfig
from psdp.errors import ConfigError
from psdp.nn.transformer import parameter_table
from psdp.params import Init, ParamSpec, ParamTable, Part

ZEROS, ONES = Init("zeros"), Init("ones")
GAIN = ParamSpec("gain", (4,), ONES, decay=False)
MATRIX = ParamSpec("matrix", (3, 4), Init("normal", 0.02), decay=True)
BIAS = ParamSpec("bias", (3,), ZEROS, decay=False)
TABLE = ParamTable([GAIN, MATRIX, BIAS])


def test_decayed_parameters_lie_in_front_and_the_order_is_kept_otherwise() -> None:
    assert [spec.name for spec in TABLE.specs] == ["matrix", "gain", "bias"]
    assert TABLE.offsets == {"matrix": 0, "gain": 12, "bias": 16}
    assert (TABLE.size, TABLE.decayed_size) == (19, 12)


def test_a_name_may_occur_once_only() -> None:
    with pytest.raises(ConfigError, match="two parameters have the name 'gain'"):
        ParamTable([GAIN, MATRIX, GAIN])


def test_what_is_no_shape_and_no_first_value_is_refused() -> None:
    for shape in (5, [3, 4], ("3",)):
        with pytest.raises(ConfigError, match="parameter 'w': expected a shape such as"):
            ParamSpec("w", shape)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Init is one of zeros, ones, normal, uniform, got 'one'"):
        Init("one")  # type: ignore[arg-type]


def test_views_are_the_flat_vector_itself() -> None:
    flat = np.zeros(TABLE.size)
    views = TABLE.views(flat)
    views["matrix"][...] = 1
    views["gain"][...] = 2
    views["bias"] += 3
    assert flat.tolist() == [1] * 12 + [2] * 4 + [3] * 3
    assert {name: view.shape for name, view in views.items()} == {
        "matrix": (3, 4),
        "gain": (4,),
        "bias": (3,),
    }
    assert all(np.shares_memory(view, flat) for view in views.values())


def test_a_vector_of_another_size_has_no_views() -> None:
    with pytest.raises(AssertionError):
        TABLE.views(np.zeros(TABLE.size + 1))


def never(spec: ParamSpec) -> bool:
    return False


@given(st.integers(1, 3_000_000), st.integers(1, 40))
def test_parts_cover_the_vector_once_in_order_and_differ_by_a_block_at_most(
    size: int, count: int
) -> None:
    table = ParamTable([ParamSpec("w", (size,), ZEROS, decay=True)])
    parts = table.parts(count)
    assert [parts[0].span.start, parts[-1].span.stop] == [0, size]
    assert all(a.span.stop == b.span.start for a, b in pairwise(parts))
    assert all(part.span.stop % table.block_size == 0 for part in parts[:-1])
    assert all(abs(part.size - size / count) <= table.block_size for part in parts)
    assert table.block_size <= max(1, min(8192, size / 128))
    assert table.block_size.bit_count() == 1


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.booleans()), min_size=1),
    st.integers(1, 9),
)
def test_what_is_needed_whole_is_in_one_part_and_all_else_shares_evenly(
    shapes: list[tuple[int, int, bool]], count: int
) -> None:
    table = ParamTable(
        ParamSpec(f"w{i}", (rows, columns), ZEROS, decay=i % 3 > 0, embedding=not matrix)
        for i, (rows, columns, matrix) in enumerate(shapes)
    )
    parts = table.parts(count, lambda spec: spec.matrix)
    assert [i for part in parts for i in part.span] == list(range(table.size))
    largest = max([spec.size for spec in table.specs if spec.matrix], default=0)
    for part in parts:
        assert abs(part.size - table.size / count) <= max(largest, table.block_size)
        for piece in part.pieces:
            length = piece.span.stop - piece.span.start
            assert not piece.spec.matrix or (piece.first, length) == (0, piece.spec.size)


@given(st.integers(1, 9), st.booleans())
def test_the_pieces_of_all_parts_are_the_parameters(count: int, whole: bool) -> None:
    needs_whole = (lambda spec: spec.matrix) if whole else never
    found: dict[str, list[int]] = {spec.name: [] for spec in TABLE.specs}
    for part in TABLE.parts(count, needs_whole):
        for piece in part.pieces:
            length = piece.span.stop - piece.span.start
            offset = TABLE.offsets[piece.spec.name] + piece.first
            assert offset == part.span.start + piece.span.start
            found[piece.spec.name] += range(piece.first, piece.first + length)
        decayed = sum(
            piece.span.stop - piece.span.start for piece in part.pieces if piece.spec.decay
        )
        assert part.decayed_size == decayed
    assert found == {spec.name: list(range(spec.size)) for spec in TABLE.specs}


@given(st.integers(1, 5), st.integers(2, 9), st.booleans(), st.integers(0, 99))
def test_blocks_are_the_same_wherever_the_vector_is_cut(
    rows: int, count: int, whole: bool, seed: int
) -> None:
    table = ParamTable(
        ParamSpec(f"w{i}", (rows * 17, 30 + i), ZEROS, decay=True, embedding=i == 1)
        for i in range(4)
    )
    needs_whole = (lambda spec: spec.matrix) if whole else never

    def blocks(part: Part) -> list[tuple[int, int]]:
        return [
            (part.span.start + start, part.span.start + min(start + part.block_size, run.stop))
            for run in part.runs
            for start in range(run.start, run.stop, part.block_size)
        ]

    apart = [block for part in table.parts(count, needs_whole) for block in blocks(part)]
    assert apart == blocks(table.parts(1, needs_whole)[0])


def test_initial_weights_depend_on_the_seed_alone() -> None:
    weights = TABLE.initial(3, "float32")
    assert weights.dtype == np.float32
    assert np.array_equal(weights, TABLE.initial(3, "float32"))
    other = TABLE.views(TABLE.initial(4, "float32"))
    assert not np.any(TABLE.views(weights)["matrix"] == other["matrix"])


def test_a_precision_changes_the_rounding_and_nothing_else() -> None:
    assert np.array_equal(TABLE.initial(3, "float32"), TABLE.initial(3, "float64").astype("f4"))


def test_initial_weights_follow_their_kind() -> None:
    specs = [
        ParamSpec("zeros", (5,), ZEROS, decay=False),
        ParamSpec("ones", (5,), ONES, decay=False),
        ParamSpec("normal", (200, 500), Init("normal", 0.02), decay=True),
        ParamSpec("uniform", (200, 500), Init("uniform", 0.5), decay=True),
    ]
    table = ParamTable(specs)
    views = table.views(table.initial(0, "float64"))
    assert not views["zeros"].any()
    assert (views["ones"] == 1).all()
    normal, uniform = views["normal"], views["uniform"]
    # 100 000 samples: the mean and the std are within 5 standard errors.
    assert abs(normal.mean()) < 5 * 0.02 / np.sqrt(normal.size)
    assert abs(normal.std() / 0.02 - 1) < 5 / np.sqrt(2 * normal.size)
    assert np.abs(uniform).max() <= 0.5
    assert abs(uniform.std() / (0.5 / np.sqrt(3)) - 1) < 0.02
    correlation = np.corrcoef(normal.ravel(), uniform.ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(normal.size), "each parameter has a stream of its own"


def test_the_index_is_json_and_recognises_its_table_alone() -> None:
    index = json.loads(json.dumps(TABLE.index()))
    assert index[1] == {"name": "gain", "shape": [4], "offset": 12}
    assert TABLE.same_layout(index)
    assert TABLE.same_layout(iter(index))
    assert not TABLE.same_layout(index[:-1])
    assert not TABLE.same_layout([])
    assert not ParamTable([GAIN, MATRIX]).same_layout(index)
    assert not ParamTable([BIAS, MATRIX, GAIN]).same_layout(index)


def test_the_size_of_the_default_model_is_the_sum_of_its_matrices() -> None:
    config = ModelConfig()
    width, layers = config.n_embd, config.n_layer
    block = 12 * width**2 + 9 * width + 4 * width  # matrices, their biases, two layer norms
    expected = (256 + config.block_size) * width + layers * block + 2 * width
    assert parameter_table(config, 256).size == expected
    matrices = (256 + config.block_size) * width + layers * 12 * width**2
    assert parameter_table(config, 256).decayed_size == matrices
