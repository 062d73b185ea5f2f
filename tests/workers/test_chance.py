"""Generators of single steps, against those that NumPy seeds one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from psdp.workers.chance import AT_ONCE, Chance, states

WORDS = st.integers(0, 2**32 - 1)


@given(st.lists(WORDS, max_size=6), st.lists(WORDS, min_size=1, max_size=4))
def test_states_of_many_steps_are_those_of_numpy(words: list[int], last: list[int]) -> None:
    for own, state in zip(last, states(words, np.array(last, np.uint32)), strict=True):
        wanted = np.random.SeedSequence([*words, own]).generate_state(4, np.uint64)
        np.testing.assert_array_equal(state, wanted)


@given(st.integers(0, 2**70), WORDS, st.lists(st.integers(0, 3 * AT_ONCE), max_size=4))
def test_any_step_may_come_after_any_other(seed: int, number: int, steps: list[int]) -> None:
    chance = Chance(seed, number)
    for step in [*steps, 2**32 - 1]:
        wanted = np.random.default_rng((seed, number, step))
        assert list(chance.at(step).random(3)) == list(wanted.random(3))
