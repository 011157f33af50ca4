"""The intervals of the whole Table 1: NIH's 984 boxes, five methods, three controls."""

import numpy as np
from measure import Line, paired, write

from crosseai.evaluation import accuracy, bootstrap
from crosseai.labels import CHESTX_RAY8

BOXES, PATIENTS, RESAMPLES = 984, 726, 2000
METHODS, CONTROLS, PROTOCOLS = 5, 3, 3
ROUNDS = 7


def main() -> None:
    """Measure, print and write."""
    rng = np.random.default_rng(0)
    scored = len(accuracy.CRITERIA) * len(accuracy.THRESHOLDS)
    columns = scored * (METHODS * PROTOCOLS + CONTROLS)
    compared = scored * ((METHODS - 1) * PROTOCOLS + CONTROLS)  # with the fifth
    hits = (rng.random((BOXES, columns)) < 0.4).astype("float64")
    differences = hits[:, rng.integers(columns, size=compared)] - hits[:, :1]
    values = np.concatenate([hits, differences], axis=1)
    labels = rng.choice(CHESTX_RAY8, BOXES)
    patients = rng.integers(PATIENTS, size=BOXES)

    def intervals() -> None:
        weights = bootstrap.resample(PATIENTS, RESAMPLES, np.random.default_rng(0))
        bootstrap.intervals(values, labels, patients, weights)

    seconds = paired({"intervals": intervals}, ROUNDS)
    write(
        "bootstrap",
        [
            Line("intervals of Table 1", np.median(seconds["intervals"]), "s", at_most=2),
            Line("figures with an interval", values.shape[1] * 10),
        ],
        seconds,
    )


if __name__ == "__main__":
    main()
