"""What is counted of the boxes found, one row a ground-truth box.

A method's answer to a ground-truth box is an array ``[n, D, 4]`` of `D` boxes that stand for it
with equal weight: one box for a method, all draws for a random control. A missing box is NaN and
counts as a miss. Every measure is a number a ground-truth box; a label's figure is their mean.
"""

import numpy as np

from crosseai.evaluation.overlap import area_inside, iobb, iou
from crosseai.labels import CHESTX_RAY8, TABLE_1

__all__ = [
    "CRITERIA",
    "MEANS",
    "THRESHOLDS",
    "best",
    "false_positives",
    "hits",
    "label_means",
    "overlaps",
    "pointing",
    "region_overlaps",
]

#: Criterion -> function of (detected, truth).
CRITERIA = {"IoU": iou, "IoBB": iobb}

#: T of the T(IoU) and T(IoBB) accuracies.
THRESHOLDS = tuple(round(0.1 * k, 1) for k in range(1, 8))

#: The means over labels: Table 1's six, and all eight that carry boxes.
MEANS = {"Mean": TABLE_1, "Mean8": CHESTX_RAY8}


def overlaps(detected: np.ndarray, truth: np.ndarray, criterion: str) -> np.ndarray:
    """Overlap of each detected box with its ground-truth box.

    Parameters
    ----------
    detected : ndarray [n, D, 4] float
        NaN where there is no box.
    truth : ndarray [n, 4] float
    criterion : {"IoU", "IoBB"}

    Returns
    -------
    ndarray [n, D] float64
        In [0, 1], 0 where there is no box. Rounded to nine digits, so that an overlap that is
        exactly T on paper reaches T whatever the order of the sums was.
    """
    return CRITERIA[criterion](detected, truth[:, None]).round(9)


def region_overlaps(region: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Overlap of a region of any shape with a ground-truth box (protocol `region`).

    Parameters
    ----------
    region : ndarray [H, W] bool
    truth : ndarray [4] float
        In pixels of the region.

    Returns
    -------
    dict of str to float
        For each of `CRITERIA`, as `overlaps`; 0 for an empty region.
    """
    inside, area = area_inside(region, truth), np.count_nonzero(region)
    union = area + (truth[2] - truth[0]) * (truth[3] - truth[1]) - inside
    shares = {"IoU": inside / union, "IoBB": inside / max(area, 1)}
    return {criterion: round(share, 9) for criterion, share in shares.items()}


def best(overlap: np.ndarray) -> np.ndarray:
    """Take the best of all candidates (protocol `oracle`): [n, K] -> [n, 1]."""
    return overlap.max(axis=1, keepdims=True, initial=0)


def hits(overlap: np.ndarray) -> np.ndarray:
    """Share of the `D` boxes whose overlap is at least T, for every T: [n, D] -> [n, T]."""
    return np.stack([(overlap >= T).mean(axis=1) for T in THRESHOLDS], axis=1)


def false_positives(overlap: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """How many of the `D` boxes are there and overlap less than T, for every T.

    The mean over ground-truth boxes is AFP, the average number of false positives (Wang et al.
    2017): a method that draws no box where it is unsure has fewer.

    Parameters
    ----------
    overlap : ndarray [n, D] float
    detected : ndarray [n, D, 4] float

    Returns
    -------
    ndarray [n, T] int64
    """
    there = ~np.isnan(detected).any(axis=-1)  # [n, D]
    return np.stack([(there & (overlap < T)).sum(axis=1) for T in THRESHOLDS], axis=1)


def pointing(peaks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pointing game: share of the `D` peaks inside the ground-truth box.

    Parameters
    ----------
    peaks : ndarray [n, D, 2] float
        x, y; NaN, where a map has no peak, counts as a miss.
    truth : ndarray [n, 4] float

    Returns
    -------
    ndarray [n] float64
    """
    inside = (peaks >= truth[:, None, :2]) & (peaks < truth[:, None, 2:])  # [n, D, 2]
    return inside.all(axis=-1).mean(axis=1)


def label_means(values: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Mean of each label's rows, and `MEANS`: the means of the labels' means.

    Parameters
    ----------
    values : ndarray [n, M] float
    labels : ndarray [n] str

    Returns
    -------
    dict of str to ndarray [M]
        Sorted by label, the means last; a label without rows is absent, and a mean is over the
        labels that are there.
    """
    means = {label: values[labels == label].mean(axis=0) for label in sorted(set(labels))}
    for name, members in MEANS.items():
        if present := [means[label] for label in members if label in means]:
            means[name] = np.mean(present, axis=0)
    return means
