"""Virtual time, cores and ports, against what can be worked out by hand."""

from __future__ import annotations

import pytest

from psdp.simulate.clock import Clock, Cores, Network, Process
from psdp.transport.link import LinkSpeed


def test_actions_come_in_the_order_of_their_times_then_of_asking() -> None:
    clock, seen = Clock(), []
    clock.after(2.0, lambda: seen.append(("late", clock.now_s)))
    clock.after(1.0, lambda: seen.append(("first", clock.now_s)))
    clock.after(1.0, lambda: clock.after(0.5, lambda: seen.append(("nested", clock.now_s))))
    clock.run()
    assert seen == [("first", 1.0), ("nested", 1.5), ("late", 2.0)]


def test_after_a_stop_nothing_more_happens() -> None:
    clock, seen = Clock(), []
    clock.after(1.0, clock.stop, 2.0)
    clock.after(1.5, seen.append, "in time")
    clock.after(2.0, seen.append, "too late")
    clock.run()
    assert seen == ["in time"]
    assert clock.now_s == 2.0


def ends(cores: int | None, busy_s: list[float], slice_s: float = 1.0) -> list[float]:
    """Return when each of some ranks that begin together is done."""
    clock = Clock()
    pool = Cores(clock, cores, slice_s)
    done = [0.0] * len(busy_s)
    for number, seconds in enumerate(busy_s):

        def then(number: int = number) -> None:
            done[number] = clock.now_s

        pool.process().run(seconds, then)
    clock.run()
    return done


def test_who_has_a_core_of_its_own_waits_for_nobody() -> None:
    assert ends(None, [3.0, 1.0, 2.0]) == [3.0, 1.0, 2.0]
    assert ends(3, [3.0, 1.0, 2.0]) == pytest.approx([3.0, 1.0, 2.0])


def test_cores_are_shared_by_turns() -> None:
    # One core: a b c, a c, a
    assert ends(1, [3.0, 1.0, 2.0]) == pytest.approx([6.0, 2.0, 5.0])
    # Slices that are longer than the work: one after the other.
    assert ends(1, [3.0, 1.0, 2.0], slice_s=9.0) == pytest.approx([3.0, 4.0, 6.0])
    # Two cores: a c a c, and b alone, since who waits is not moved
    assert ends(2, [2.0, 1.0, 2.0]) == pytest.approx([3.0, 1.0, 4.0])


def test_who_wakes_takes_the_core_with_the_shortest_queue() -> None:
    clock, done = Clock(), {}
    pool = Cores(clock, 2, slice_s=9.0)
    for name, start_s, busy_s in (("a", 0.0, 5.0), ("b", 0.0, 2.0), ("c", 1.0, 3.0)):
        process = pool.process()

        def wake(process: Process = process, name: str = name, busy_s: float = busy_s) -> None:
            process.run(busy_s, lambda: done.setdefault(name, clock.now_s))

        clock.after(start_s, wake)
    idle = pool.process()
    clock.after(2.5, lambda: idle.run(1.0, lambda: done.setdefault("d", clock.now_s)))
    clock.run()
    # c waits for a, though b is done first; d finds the other core idle.
    assert done == {"b": 2.0, "d": 3.5, "a": 5.0, "c": 8.0}


def test_a_process_does_one_thing_after_the_other_and_keeps_its_core_meanwhile() -> None:
    clock, seen = Clock(), []
    pool = Cores(clock, 1, slice_s=5.0)
    first, other = pool.process(), pool.process()

    def note(name: str) -> None:
        seen.append((name, clock.now_s))

    def again() -> None:
        note("first")
        first.run(1.0, lambda: note("again"))

    first.run(2.0, again)
    other.run(1.0, lambda: note("other"))
    first.run(1.0, lambda: note("second"))
    clock.run()
    assert seen == [("first", 2.0), ("second", 3.0), ("again", 4.0), ("other", 5.0)]


def arrivals(latency_s: float, sends: list[tuple[int, int, int]]) -> list[float]:
    """Return when messages (source, target, bytes) that are all sent at once have arrived, over
    ports of 100 bytes/s."""
    clock, done = Clock(), [0.0] * len(sends)
    network = Network(clock, 4, latency_s, LinkSpeed(8e-4))
    for number, (source, target, size) in enumerate(sends):

        def then(number: int = number) -> None:
            done[number] = clock.now_s

        network.send(source, target, size, then)
    clock.run()
    return done


def test_a_message_takes_its_latency_and_its_bytes() -> None:
    assert arrivals(0.25, [(0, 1, 200)]) == [2.25]
    assert arrivals(0.25, [(0, 1, 0)]) == [0.25]


def test_a_port_sends_one_after_the_other() -> None:
    assert arrivals(0.0, [(0, 1, 100), (0, 2, 100)]) == [1.0, 2.0]


def test_a_word_does_not_wait_for_vectors() -> None:
    assert arrivals(0.5, [(0, 1, 300), (2, 1, 300), (0, 1, 0)]) == [3.5, 6.5, 0.5]


def test_a_port_receives_one_after_the_other() -> None:
    assert arrivals(0.0, [(1, 0, 100), (2, 0, 100), (3, 0, 200)]) == [1.0, 2.0, 4.0]


def test_both_directions_and_other_ports_are_free() -> None:
    assert arrivals(0.0, [(0, 1, 100), (1, 0, 100), (2, 3, 100)]) == [1.0, 1.0, 1.0]
