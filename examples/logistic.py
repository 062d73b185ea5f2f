"""Logistic regression: mpirun -n 3 python examples/logistic.py --mode ssp"""

import numpy as np

import psdp

TRAIN, TEST, FEATURES = 8000, 2000, 8
rng = np.random.default_rng(0)
X, W, B = rng.standard_normal((TRAIN + TEST, FEATURES)), rng.standard_normal(FEATURES), 0.5
Y = rng.random(TRAIN + TEST) < 1 / (1 + np.exp(-X @ W - B))


class Logistic(psdp.NumpyTask):
    table = psdp.ParamTable([psdp.ParamSpec("w", (FEATURES,)), psdp.ParamSpec("b", ())])
    measures, validation_units = ("accuracy",), TEST

    def __init__(self, config):
        self.units_per_batch = config.run.batch_size

    def batch(self, share, number):
        return share.rows(number, self.units_per_batch, of=TRAIN)

    def validation(self, part, parts):
        yield np.arange(TRAIN + part, TRAIN + TEST, parts)

    def add_gradient(self, weights, gradient, rows):
        error = 1 / (1 + np.exp(-X[rows] @ weights["w"] - weights["b"])) - Y[rows]
        gradient["w"] += error @ X[rows] / len(rows)
        gradient["b"] += error.mean()
        return -np.log(1 - np.abs(error)).mean()

    def losses(self, weights, rows):
        right = 1 - np.abs(1 / (1 + np.exp(-X[rows] @ weights["w"] - weights["b"])) - Y[rows])
        return psdp.Measured(len(rows), -np.log(right).sum(), sum(right > 0.5))


if __name__ == "__main__":
    if run := psdp.run(Logistic, optimizer="sgd", lr=2.0, max_steps=400, batch_size=100):
        found = psdp.load(run)  # on rank 0
        print("found", found["w"].round(2), found["b"].round(2), "of", W.round(2), B)
