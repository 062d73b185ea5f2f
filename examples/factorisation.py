"""Matrix factorisation: mpirun -n 3 python examples/factorisation.py --mode async

Ratings, of which some are known, are explained as products of a vector a user and one an item
(Koren et al. 2009). A batch touches a few rows only; its gradient travels whole all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import psdp

USERS, ITEMS, FACTORS, NOISE = 300, 200, 4, 0.1
KNOWN, TEST = 12_000, 3_000
RIDGE = 0.02
"""Penalty on the vectors that a rating is made of, for each of its appearances."""

rng = np.random.default_rng(0)
TRUE_USERS = rng.standard_normal((USERS, FACTORS)) / FACTORS**0.25
TRUE_ITEMS = rng.standard_normal((ITEMS, FACTORS)) / FACTORS**0.25
CELLS = rng.permutation(USERS * ITEMS)[: KNOWN + TEST]
USER, ITEM = CELLS // ITEMS, CELLS % ITEMS
RATING = (TRUE_USERS[USER] * TRUE_ITEMS[ITEM]).sum(1) + NOISE * rng.standard_normal(len(CELLS))

Views = Mapping[str, Any]


class Factorisation(psdp.NumpyTask):
    """Ratings (N,) by user and item; the loss is half the squared error."""

    unit = "rating"
    table = psdp.ParamTable(
        [
            psdp.ParamSpec("users", (USERS, FACTORS), psdp.Init("normal", 0.5)),
            psdp.ParamSpec("items", (ITEMS, FACTORS), psdp.Init("normal", 0.5)),
        ]
    )
    validation_units = TEST

    def __init__(self, config: psdp.Config) -> None:
        self.units_per_batch = config.run.batch_size

    def batch(self, share: psdp.Share, number: int) -> Any:
        return share.rows(number, self.units_per_batch, of=KNOWN)

    def validation(self, part: int, parts: int) -> Iterator[Any]:
        yield np.arange(KNOWN + part, KNOWN + TEST, parts)

    def add_gradient(self, weights: Views, gradient: Views, rows: Any) -> float:
        users, items = weights["users"][USER[rows]], weights["items"][ITEM[rows]]
        error = (users * items).sum(1) - RATING[rows]
        of_users = error[:, None] * items + RIDGE * users
        of_items = error[:, None] * users + RIDGE * items
        np.add.at(gradient["users"], USER[rows], of_users / len(rows))
        np.add.at(gradient["items"], ITEM[rows], of_items / len(rows))
        penalty = RIDGE * ((users**2).sum() + (items**2).sum())
        return float((error @ error + penalty) / 2 / len(rows))

    def losses(self, weights: Views, rows: Any) -> psdp.Measured:
        error = (weights["users"][USER[rows]] * weights["items"][ITEM[rows]]).sum(1) - RATING[rows]
        return psdp.Measured(len(rows), float(error @ error) / 2)


def held_out_error(users: Any, items: Any) -> float:
    """Return the root of the mean squared error on ratings that were not trained on."""
    error = (users[USER[KNOWN:]] * items[ITEM[KNOWN:]]).sum(1) - RATING[KNOWN:]
    return float(np.sqrt(np.mean(error**2)))


if __name__ == "__main__":
    run = psdp.run(Factorisation, optimizer="adam", lr=0.02, max_steps=2000, batch_size=100)
    if run:  # rank 0's
        print(f"test error {held_out_error(**psdp.load(run)):.4f}; the noise is {NOISE}")
