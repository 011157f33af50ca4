"""How much two boxes, or a mask and a box, overlap.

Boxes are half-open, ``x1, y1, x2, y2`` with ``x1 <= x < x2``: a box of the pixels 0 and 1 is
``0 .. 2`` and no pixel is added to its width.
"""

import numpy as np

__all__ = ["area_inside", "iobb", "iou"]


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


def area_inside(mask: np.ndarray, box: np.ndarray) -> float:
    """Area of a mask inside a box.

    Parameters
    ----------
    mask : ndarray [H, W] bool
        Pixel (x, y) covers ``x .. x + 1`` and ``y .. y + 1``.
    box : array_like [4] float
        Edges between pixels' edges cut pixels: they count by the share that is inside.

    Returns
    -------
    float
        In pixels.
    """
    x1, y1, x2, y2 = np.clip(box, 0, np.tile(mask.shape[::-1], 2))
    columns = np.arange(int(x1), int(np.ceil(x2)))
    rows = np.arange(int(y1), int(np.ceil(y2)))
    across = np.minimum(columns + 1, x2) - np.maximum(columns, x1)  # width inside, [columns]
    down = np.minimum(rows + 1, y2) - np.maximum(rows, y1)  # height inside, [rows]
    crop = mask[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
    return float(down @ crop @ across)


def _area(box: np.ndarray) -> np.ndarray:
    return np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    start = np.maximum(a[..., :2], b[..., :2])
    end = np.minimum(a[..., 2:], b[..., 2:])
    return np.clip(end - start, 0, None).prod(-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(whole.shape), where=part > 0)
