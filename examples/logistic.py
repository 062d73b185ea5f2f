"""Logistic regression: mpirun -n 3 python examples/logistic.py --mode ssp"""

import numpy as np

import psdp

FEATURES, TRAIN, TEST = 8, 8000, 2000
rng = np.random.default_rng(0)
X, W, B = rng.standard_normal((TRAIN + TEST, FEATURES)), rng.standard_normal(FEATURES), 0.5
Y = rng.random(TRAIN + TEST) < 1 / (1 + np.exp(-X @ W - B))


class Logistic(psdp.NumpyTask):
    table = psdp.ParamTable([psdp.ParamSpec("w", (FEATURES,)), psdp.ParamSpec("b", ())])
    measures = ("accuracy",)
    validation_units = TEST

    def __init__(self, config):
        self.units_per_batch = config.run.batch_size

    def batch(self, share, number):
        return share.rows(number, self.units_per_batch, of=TRAIN)

    def validation(self, part, parts):
        yield np.arange(TRAIN + part, TRAIN + TEST, parts)

    def add_gradient(self, weights, gradient, rows):
        x, y = X[rows], Y[rows]
        z = x @ weights["w"] + weights["b"]
        error = 1 / (1 + np.exp(-z)) - y
        gradient["w"] += error @ x / len(rows)
        gradient["b"] += error.mean()
        return np.logaddexp(0, np.where(y, -z, z)).mean()

    def losses(self, weights, rows):
        z, y = X[rows] @ weights["w"] + weights["b"], Y[rows]
        return psdp.Measured(len(y), np.logaddexp(0, np.where(y, -z, z)).sum(), sum((z > 0) == y))


if __name__ == "__main__":
    run = psdp.run(Logistic, optimizer="sgd", lr=2.0, max_steps=400, batch_size=100)
    if run:  # rank 0's
        print("found ", *psdp.load(run)["w"].round(2), psdp.load(run)["b"].round(2))
        print("made of", *W.round(2), B)
