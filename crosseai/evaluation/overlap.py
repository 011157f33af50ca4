"""How much two boxes overlap.

Boxes are half-open, ``x1, y1, x2, y2`` with ``x1 <= x < x2``: a box of the pixels 0 and 1 is
``0 .. 2`` and no pixel is added to its width.
"""

import numpy as np

__all__ = ["iobb", "iou"]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union.

    Parameters
    ----------
    a, b : array_like [..., 4] float
        Boxes ``x1, y1, x2, y2``; their leading axes broadcast.

    Returns
    -------
    ndarray [...] float64
        In [0, 1]; 0 where a box is empty or NaN.
    """
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    intersection = _intersection(a, b)
    return _ratio(intersection, _area(a) + _area(b) - intersection)


def iobb(detected: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over the area of the detected box: T(IoBB) of Wang et al. 2017.

    Not symmetric: a detected box inside the true one scores 1, however small it is.

    Parameters
    ----------
    detected, truth : array_like [..., 4] float
        Boxes ``x1, y1, x2, y2``; their leading axes broadcast. The first is the detected one.

    Returns
    -------
    ndarray [...] float64
        In [0, 1]; 0 where a box is empty or NaN.
    """
    detected, truth = np.asarray(detected, "float64"), np.asarray(truth, "float64")
    return _ratio(_intersection(detected, truth), _area(detected))


def _area(box: np.ndarray) -> np.ndarray:
    return np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    start = np.maximum(a[..., :2], b[..., :2])
    end = np.minimum(a[..., 2:], b[..., 2:])
    return np.clip(end - start, 0, None).prod(-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(whole.shape), where=part > 0)
