"""Boxes that never see the image: the yardstick beside every table.

All three are made from boxes of *other* patients, and so are supervised: patients are dealt into
folds, and the boxes of the other folds make the box of this one. A finding that always sits in
one place is "found" by them with high accuracy.
"""

from collections.abc import Iterator

import numpy as np

from crosseai.evaluation.overlap import iou

__all__ = ["CONTROLS", "control_boxes", "medoid"]

#: Centred, of the label's median width and height; that size, uniformly placed; of the label's
#: boxes the one with the highest mean IoU to the rest.
CONTROLS = ("control-centre", "control-random", "control-prior")

_ROWS = 100  # boxes at a time, to bound memory


def control_boxes(
    boxes: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    draws: int = 100,
    folds: int = 5,
    seed: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Draw the controls' answer to every ground-truth box, to some boxes at a time.

    Parameters
    ----------
    boxes : ndarray [n, 4] float
        Ground truth, ``x1, y1, x2, y2`` as shares of the image's width and height.
    labels, patients : ndarray [n] str
    draws : int
        Placements of `control-random`, each image its own.
    folds : int
        Parts into which the patients are dealt.
    seed : int

    Yields
    ------
    dict of str to ndarray [m, D, 4] float64
        For the next `m` boxes. One box (`D` = 1) for `control-centre` and `control-prior`,
        `draws` boxes for `control-random`, all inside the image, in the units of `boxes`; NaN
        where the label has no box in the other folds.
    """
    rng = np.random.default_rng(seed)
    names, patient = np.unique(patients, return_inverse=True)
    fold = rng.permutation(len(names))[patient] % folds  # [n]
    size = np.full((len(boxes), 2), np.nan)  # w, h
    prior = np.full((len(boxes), 4), np.nan)
    for label in np.unique(labels):
        for k in np.unique(fold):
            here = (labels == label) & (fold == k)
            others = boxes[(labels == label) & (fold != k)]
            if len(others):
                size[here] = np.median(others[:, 2:] - others[:, :2], axis=0)
                prior[here] = medoid(others)
    for start in range(0, len(boxes), _ROWS):
        rows = slice(start, start + _ROWS)
        half, free = size[rows] / 2, 1 - size[rows, None]  # [m, 2], [m, 1, 2]
        place = rng.random((len(half), draws, 2))  # 0 = left or top edge, 1 = right or bottom
        corner = place * free
        yield {
            "control-centre": np.concatenate([0.5 - half, 0.5 + half], axis=-1)[:, None],
            "control-random": np.concatenate([corner, corner + size[rows, None]], axis=-1),
            "control-prior": prior[rows, None],
        }


def medoid(boxes: np.ndarray) -> np.ndarray:
    """Of `boxes` [K, 4] the one [4] with the highest mean IoU to the rest; the first of equals."""
    sums = [
        iou(boxes[start : start + _ROWS, None], boxes[None]).sum(axis=1)  # [m, K] -> [m]
        for start in range(0, len(boxes), _ROWS)
    ]
    return boxes[np.concatenate(sums).round(9).argmax()]
