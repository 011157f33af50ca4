"""95 % intervals by resampling patients.

Boxes and images of one patient are not independent, so patients are drawn, with replacement, and
all that belongs to a patient comes with it. The draws are made once and shared by all methods:
the difference of two methods is then a paired one.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).
"""

import numpy as np

from crosseai.evaluation.accuracy import MEANS

__all__ = ["auc", "fold_auc", "intervals", "nan_mean", "percentiles", "resample"]

# At a time, to bound memory.
_COLUMNS = 512
_RESAMPLES = 256


def resample(patients: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each patient is drawn in each resample.

    Parameters
    ----------
    patients, resamples : int
    rng : numpy Generator

    Returns
    -------
    ndarray [resamples, patients] uint16
        Multinomial counts; every row sums to `patients`.
    """
    counts = np.empty((resamples, patients), "uint16")
    for count in counts:
        count[:] = np.bincount(rng.integers(patients, size=patients), minlength=patients)
    return counts


def percentiles(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the 2.5th and 97.5th percentile along the first axis: [R, M] -> [M], [M].

    Rows that are NaN (resamples without a single case) are left out; NaN if none is left.
    """
    there = replicates[~np.isnan(replicates).any(axis=1)]
    if len(there) == 0:
        nothing = np.full(replicates.shape[1], np.nan)
        return nothing, nothing
    low, high = np.quantile(there, [0.025, 0.975], axis=0)
    return low, high


def intervals(
    values: np.ndarray, labels: np.ndarray, patients: np.ndarray, weights: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Intervals of `accuracy.label_means`.

    In each resample a label's figure is the weighted mean of its rows; a mean over labels is over
    the labels that the resample holds.

    Parameters
    ----------
    values : ndarray [n, M] float
        A column a measure. As every figure is linear in it, a column of differences between two
        methods gives the interval of their paired difference.
    labels : ndarray [n] str
    patients : ndarray [n] int
        Column of `weights` that each row belongs to.
    weights : ndarray [R, P] float
        From `resample`.

    Returns
    -------
    dict of str to (ndarray [M], ndarray [M])
        Low and high end; the keys of `label_means`.
    """
    blocks = [
        _intervals(values[:, start : start + _COLUMNS], labels, patients, weights)
        for start in range(0, values.shape[1], _COLUMNS)
    ]
    return {
        label: tuple(np.concatenate([block[label][end] for block in blocks]) for end in (0, 1))
        for label in blocks[0]
    }


def _intervals(
    values: np.ndarray, labels: np.ndarray, patients: np.ndarray, weights: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    result = {}
    total = {name: np.zeros((len(weights), values.shape[1])) for name in MEANS}
    count = {name: np.zeros((len(weights), 1)) for name in MEANS}
    for label in sorted(set(labels)):
        rows = labels == label
        replicates = np.concatenate(
            [
                _weighted_means(values[rows], weights[start : start + _RESAMPLES, patients[rows]])
                for start in range(0, len(weights), _RESAMPLES)
            ]
        )  # [R, M]
        result[label] = percentiles(replicates)
        for name in (name for name, members in MEANS.items() if label in members):
            total[name] += np.nan_to_num(replicates)
            count[name] += ~np.isnan(replicates).any(axis=1, keepdims=True)
    for name in MEANS:
        if count[name].any():
            with np.errstate(invalid="ignore"):
                result[name] = percentiles(total[name] / count[name])
    return result


def _weighted_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means of `values` [n, M] in each resample of `counts` [r, n]; NaN where it drew none."""
    drawn = counts.astype("float64")
    with np.errstate(invalid="ignore"):
        return (drawn @ values) / drawn.sum(axis=1, keepdims=True)


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, once a set of weights.

    The weighted share of pairs of a positive and a negative that are in the right order; a tie
    counts one half (Mann-Whitney).

    Parameters
    ----------
    scores : ndarray [n] float
    positive : ndarray [n] bool
    weights : ndarray [n, R] float
        Not negative.

    Returns
    -------
    ndarray [R] float64
        NaN where all positives or all negatives weigh nothing.
    """
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    ordered = scores[negatives]
    below = np.zeros((len(negatives) + 1, weights.shape[1]))  # weight of the k lowest negatives
    np.cumsum(weights[negatives], axis=0, out=below[1:])
    wins = below[np.searchsorted(ordered, scores[positive], "left")]
    wins += below[np.searchsorted(ordered, scores[positive], "right")]  # 2 x the weight beaten
    with np.errstate(invalid="ignore"):
        right = np.einsum("ir,ir->r", weights[positive], wins) / 2
        return right / (weights[positive].sum(axis=0) * below[-1])


def fold_auc(
    scores: np.ndarray, positive: np.ndarray, folds: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """AUC within each fold, mean over the folds: scores of two models are never compared.

    Parameters
    ----------
    scores : ndarray [n, L] float
    positive : ndarray [n, L] bool
    folds : ndarray [n] int
    weights : ndarray [n, R] float

    Returns
    -------
    ndarray [R, L] float64
        Over the folds that have positives and negatives; NaN where none has.
    """
    result = np.full((len(np.unique(folds)), weights.shape[1], scores.shape[1]), np.nan)
    for k, fold in enumerate(np.unique(folds)):
        rows = folds == fold
        here = weights[rows]
        for label in range(scores.shape[1]):
            result[k, :, label] = auc(scores[rows, label], positive[rows, label], here)
    return nan_mean(result, axis=0)


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN; NaN, without a warning, where nothing is left."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=axis) / (~np.isnan(values)).sum(axis=axis)
