"""Who is taken for dead: whoever is silent for a lease of the launcher's own waking time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from psdp.launch.leases import START_S, STEP_S, Leases

LEASE_S = 30.0


class Clock:
    """Leases of 30 s, and a clock that a test moves by hand."""

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self.now_s = 5.0
        self.leases = Leases(lease_s, lambda: self.now_s)

    def pass_time(self, seconds: float) -> dict[int, float]:
        """Let the launcher be awake for so long; return who is taken for dead."""
        found: dict[int, float] = {}
        while seconds > 0:
            self.now_s += min(seconds, 0.25)
            seconds -= 0.25
            found |= self.leases.expired()
        return found


def test_a_rank_that_is_silent_for_a_lease_is_dead_and_told_of_once() -> None:
    clock = Clock()
    clock.leases.heard(1, starting=False)
    clock.leases.heard(2, starting=False)
    assert clock.pass_time(20) == {}
    clock.leases.heard(2, starting=False)
    assert clock.pass_time(11) == {1: LEASE_S}
    assert clock.pass_time(20) == {2: LEASE_S}
    assert clock.pass_time(100) == {}


def test_mpi_may_take_its_time_to_start() -> None:
    clock = Clock()
    clock.leases.heard(1, starting=True)
    assert clock.pass_time(START_S) == {}
    assert clock.pass_time(1) == {1: START_S}


def test_who_has_ended_and_a_job_without_leases_are_not_judged() -> None:
    clock, without = Clock(), Clock(lease_s=0)
    clock.leases.heard(1, starting=False)
    clock.leases.forget(1)
    without.leases.heard(1, starting=False)
    assert clock.pass_time(100) == without.pass_time(100) == {}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("beats"), st.integers(1, 3)),
            st.tuples(st.just("stopped"), st.floats(0, 1e6)),
            st.tuples(st.just("awake"), st.floats(0, 40)),
        ),
        max_size=40,
    )
)
def test_nobody_is_blamed_for_what_the_launcher_slept_through(
    events: list[tuple[str, float]],
) -> None:
    """A rank is dead if and only if it was silent for a lease in which the launcher was awake,
    where a sleep counts as one step at most."""
    clock = Clock()
    silent_s = dict.fromkeys((1, 2, 3), 0.0)
    dead: set[int] = set()
    for rank in silent_s:
        clock.leases.heard(rank, starting=False)
    for what, how in events:
        found: dict[int, float] = {}
        if what == "beats" and how not in dead:
            clock.leases.heard(int(how), starting=False)
            silent_s[int(how)] = 0.0
        elif what == "stopped":
            clock.now_s += how
            found = clock.leases.expired()
            silent_s = {rank: s + min(how, STEP_S) for rank, s in silent_s.items()}
        elif what == "awake":
            found = clock.pass_time(how)
            silent_s = {rank: s + how for rank, s in silent_s.items()}
        assert not dead & found.keys()
        dead |= found.keys()
        for rank, seconds in silent_s.items():
            if abs(seconds - LEASE_S) > 1e-3:  # where rounding cannot decide
                assert (rank in dead) == (seconds > LEASE_S)
