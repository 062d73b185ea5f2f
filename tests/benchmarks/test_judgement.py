"""What the turns of sides come to, and the tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from judgement import floor_row, judge, judge_scaling, largest_difference, row, scaling_row


@dataclass
class Ran:
    seconds: list[float]
    losses: list[float] = field(default_factory=lambda: [4.0, 3.0])
    facts: dict[str, Any] = field(default_factory=dict)
    peak_bytes: int = 100_000_000


def sides(**changes: Ran) -> dict[str, Ran]:
    return {
        "psdp": Ran([0.1, 0.2, 0.1], facts={"kernels": "compiled"}),
        "eager": Ran([0.12, 0.24, 0.12], [4.0, 3.00001], peak_bytes=300_000_000),
        "compile": Ran([0.11, 0.22, 0.11]),
        "products": Ran([0.08, 0.16, 0.08], facts={"flops": 8e9, "by": "NumPy"}),
    } | changes


def test_ratios_are_taken_within_a_round_before_their_median() -> None:
    # A machine that is at half its speed in one round changes no ratio.
    result = judge("nano", sides(), None)
    assert {peer: str(ratio) for peer, ratio in result.ratios.items()} == {
        "eager": "1.200 (1.200 .. 1.200)",
        "compile": "1.100 (1.100 .. 1.100)",
    }
    assert str(result.over_products) == "1.250 (1.250 .. 1.250)"


def test_the_headline_is_the_ratio_to_the_faster_peer() -> None:
    assert judge("nano", sides(), None).peer == "compile"
    result = judge("nano", sides(compile=Ran([0.3, 0.3, 0.3])), None)
    assert (result.peer, result.ratio.value) == ("eager", pytest.approx(1.2))


def test_throughput_and_arithmetic_are_medians_over_the_rounds() -> None:
    result = judge("nano", sides(), None)
    assert result.tokens_per_s["psdp"] == pytest.approx(12 * 64 / 0.1)
    assert result.gflops == {"psdp": pytest.approx(80), "products": pytest.approx(100)}
    assert result.memory_ratio == pytest.approx(3)


def test_losses_are_compared_with_both_peers_while_rounding_errors_are_small() -> None:
    assert judge("nano", sides(), None).largest_loss_difference == pytest.approx(1e-5)
    late = [1.0] * 20
    assert largest_difference([*late, 2.0], [*late, 3.0]) == 0


def test_the_tables_show_a_size_in_a_line() -> None:
    result = judge("nano", sides(), None)
    assert row(result).split() == [
        *("nano", "7680", "6400", "6982", "1.100", "(1.100", "..", "1.100)", "compile", "1.0e-05")
    ]
    assert floor_row(result).split() == [
        *("nano", "100.0", "80.0", "1.250", "(1.250", "..", "1.250)", "80.0", "100.0", "NumPy"),
        *("100", "300", "100", "3.00"),
    ]


def test_without_compiled_pytorch_the_table_says_why() -> None:
    ran = sides()
    del ran["compile"]
    result = judge("nano", ran, "no C++ compiler")
    first, second = row(result).splitlines()
    assert "none" in first
    assert "1.200" in first
    assert second.split() == ["no", "torch.compile:", "no", "C++", "compiler"]
    assert "none" in floor_row(result)


def test_the_speed_up_of_threads_is_taken_within_a_round() -> None:
    one = Ran([0.2, 0.4, 0.2])
    two = Ran([0.1, 0.2, 0.1], facts={"kernels": "compiled"})
    assert scaling_row(judge_scaling("nano", 2, one, two)).split() == [
        *("nano", "3840", "2", "7680", "2.000", "(2.000", "..", "2.000)")
    ]
