"""Boxes that never see the image: the yardstick beside every table.

All three are made from boxes of *other* patients, and so are supervised: patients are dealt into
folds, and the boxes of the other folds make the box of this one. A finding that always sits in
one place is "found" by them with high accuracy.
"""

import numpy as np

from crosseai.evaluation.overlap import iou

__all__ = ["CONTROLS", "control_boxes", "medoid"]

#: Centred, of the label's median width and height; that size, uniformly placed; of the label's
#: boxes the one with the highest mean IoU to the rest.
CONTROLS = ("control-centre", "control-random", "control-prior")


def control_boxes(
    boxes: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    draws: int = 100,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Draw the controls' answer to every ground-truth box.

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

    Returns
    -------
    dict of str to ndarray [n, D, 4] float64
        One box (`D` = 1) for `control-centre` and `control-prior`, `draws` boxes for
        `control-random`, all inside the image, in the units of `boxes`; NaN where the label has
        no box in the other folds.
    """
    rng = np.random.default_rng(seed)
    names, patient = np.unique(patients, return_inverse=True)
    fold = rng.permutation(len(names))[patient] % folds  # [n]
    place = rng.random((len(boxes), draws, 2))  # 0 = left or top edge, 1 = right or bottom
    depth = {"control-centre": 1, "control-random": draws, "control-prior": 1}
    result = {name: np.full((len(boxes), depth[name], 4), np.nan) for name in CONTROLS}
    for label in np.unique(labels):
        for k in np.unique(fold):
            here = (labels == label) & (fold == k)
            others = boxes[(labels == label) & (fold != k)]
            if len(others) == 0:
                continue
            size = np.median(others[:, 2:] - others[:, :2], axis=0)  # w, h
            start = place[here] * (1 - size)
            result["control-centre"][here] = np.concatenate([0.5 - size / 2, 0.5 + size / 2])
            result["control-random"][here] = np.concatenate([start, start + size], axis=-1)
            result["control-prior"][here] = medoid(others)
    return result


def medoid(boxes: np.ndarray) -> np.ndarray:
    """Of `boxes` [K, 4] the one [4] with the highest mean IoU to the rest; the first of equals."""
    mutual = iou(boxes[:, None], boxes[None])  # [K, K]
    return boxes[mutual.sum(axis=1).round(9).argmax()]
