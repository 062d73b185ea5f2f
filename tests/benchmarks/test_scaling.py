"""The formulas of docs/scaling.md against simulations of the same jobs."""

from __future__ import annotations

import pytest
from scaling import CLUSTER, lines, local_lines, server_lines, simulate

LINES = {
    f"{line.name}, straggler {slow}": (line, slow) for slow in (False, True) for line in lines(slow)
}
LINES |= {line.name: (line, False) for mode in ("sync", "async") for line in server_lines(mode)}
LINES |= {line.name: (line, False) for line in local_lines(slow=False)}


@pytest.mark.parametrize("name", LINES)
def test_paper_and_simulation_agree(name: str) -> None:
    line, slow = LINES[name]
    for workers in (8, 48):
        simulated = simulate(line.settings, workers, slow).steps_per_s
        near = 0.06 if line.settings["mode"] == "sync" and not slow else 0.1
        assert line.theory(workers) == pytest.approx(simulated, rel=near), workers


def test_the_knee_is_where_ports_are_full() -> None:
    knee = CLUSTER.knee(4)
    below, beyond = CLUSTER.free(int(0.9 * knee), 4), CLUSTER.free(int(1.5 * knee), 4)
    assert below == CLUSTER.free(8, 4), "a worker's own pace"
    assert beyond == pytest.approx(4 / CLUSTER.transfer_s / int(1.5 * knee))
