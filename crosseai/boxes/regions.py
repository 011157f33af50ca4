"""Masks of maps: their regions, outlines, agreement and run-length codes.

Boxes are x1, y1, x2, y2, half-open, in pixels of the map; points lie in the frame of pixel edges,
where pixel (x, y) covers [x, x + 1] x [y, y + 1].
"""

import numpy as np
from pycocotools import mask as coco
from skimage.filters import gaussian
from skimage.measure import find_contours, label, regionprops

from crosseai.errors import InputError

__all__ = [
    "SHARES_OF",
    "above_base",
    "agreement",
    "checked",
    "decode",
    "encode",
    "largest_region",
    "mask_of",
    "outline",
    "peak",
    "region_boxes",
    "smooth",
]

#: What a threshold may be a share of.
SHARES_OF = ("maximum", "span", "one")


def checked(map: np.ndarray) -> np.ndarray:
    """Give the map as float32 [H, W].

    Raises
    ------
    InputError
        If it is not two-dimensional, has no pixel, or holds NaN or infinity.
    """
    values = np.ascontiguousarray(map, "float32")
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"a map of shape {values.shape}: give one map, [height, width]")
    if not np.isfinite(values).all():
        raise InputError("a map with NaN or infinite values has no maximum to compare with")
    return values


def smooth(map: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` pixels over a map, the border repeated; 0 leaves the map as it is.

    Parameters
    ----------
    map : ndarray [H, W] float32
    sigma : float

    Returns
    -------
    ndarray [H, W] float32

    Raises
    ------
    InputError
        If `sigma` is negative.
    """
    if sigma < 0:
        raise InputError(f"smoothing {sigma}: must not be negative")
    return gaussian(map, sigma, preserve_range=True) if sigma else map


def above_base(map: np.ndarray, threshold_of: str) -> np.ndarray:
    """Give a map as its threshold sees it: from its own minimum up for `span`, else as it is.

    Parameters
    ----------
    map : ndarray [H, W] float
    threshold_of : {"maximum", "span", "one"}

    Returns
    -------
    ndarray [H, W] float
    """
    return map - map.min() if threshold_of == "span" else map


def mask_of(map: np.ndarray, threshold: float, threshold_of: str = "maximum") -> np.ndarray:
    """Pixels strictly above a threshold.

    Parameters
    ----------
    map : ndarray [H, W] float
    threshold : float
        In [0, 1).
    threshold_of : {"maximum", "span", "one"}
        What it is a share of: the map's maximum; the way from its minimum to its maximum, counted
        from the minimum; one, so that it is the value itself, as for probabilities.

    Returns
    -------
    ndarray [H, W] bool
        Empty where, for `maximum`, no value is positive and, for `span`, all are equal.

    Raises
    ------
    InputError
        If the threshold is out of range, what it is a share of is unknown, or the map is not
        two-dimensional and finite.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"threshold {threshold}: must be a share, 0 <= share < 1")
    if threshold_of not in SHARES_OF:
        raise InputError(f"threshold_of {threshold_of!r}: choose one of {', '.join(SHARES_OF)}")
    values = above_base(checked(map), threshold_of)
    whole = np.float64(1 if threshold_of == "one" else values.max())  # compares in float64
    return values > threshold * whole if whole > 0 else np.zeros(values.shape, bool)


def region_boxes(map: np.ndarray, threshold: float, threshold_of: str = "maximum") -> np.ndarray:
    """Box around each 8-connected region of the mask.

    Parameters
    ----------
    map : ndarray [H, W] float
    threshold, threshold_of : float, str
        As `mask_of`.

    Returns
    -------
    ndarray [K, 4] int64
        The region of most pixels first; equal ones in the order of their first pixel, by rows.
    """
    labels = label(mask_of(map, threshold, threshold_of), connectivity=2)
    boxes = np.array([region.bbox for region in regionprops(labels)], "int64").reshape(-1, 4)
    order = np.argsort(-_sizes(labels), kind="stable")
    return boxes[order][:, [1, 0, 3, 2]]  # rows and columns to x and y


def largest_region(mask: np.ndarray) -> np.ndarray:
    """Keep the 8-connected region of most pixels; of equal ones the first by rows.

    Parameters
    ----------
    mask : ndarray [H, W] bool

    Returns
    -------
    ndarray [H, W] bool
        Empty where the mask is.
    """
    labels = label(mask, connectivity=2)
    sizes = _sizes(labels)
    return labels == 1 + sizes.argmax() if sizes.size else np.zeros(labels.shape, bool)


def _sizes(labels: np.ndarray) -> np.ndarray:
    """Pixels of the regions 1, 2, ... of a label image."""
    return np.bincount(labels.ravel())[1:]


def outline(mask: np.ndarray, box: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Contours of the mask inside a box, holes included.

    Parameters
    ----------
    mask : ndarray [H, W] bool
    box : (x1, y1, x2, y2) of int

    Returns
    -------
    list of ndarray [2 * points] float64
        One polygon a contour: x0, y0, x1, y1, ..., the first point not repeated. What touches the
        border of the box is closed along it. Pixels that touch by a corner share a contour.
    """
    x1, y1, x2, y2 = box
    crop = np.pad(np.asarray(mask[y1:y2, x1:x2], "float32"), 1)  # zeros around close every contour
    contours = find_contours(crop, 0.5, fully_connected="high")  # [points, (row, column)]
    # A pixel's centre is 0.5 from its edges, and the padding moved it by 1.
    origin = np.array([x1 - 0.5, y1 - 0.5])
    return [(contour[:-1, ::-1] + origin).ravel() for contour in contours]


def agreement(
    heatmap: np.ndarray,
    gradient: np.ndarray,
    box: tuple[int, int, int, int],
    threshold: float,
    threshold_of: str = "maximum",
) -> float:
    """IoU, inside a box, of the masks of two maps.

    Parameters
    ----------
    heatmap, gradient : ndarray [H, W] float
    box : (x1, y1, x2, y2) of int
    threshold, threshold_of : float, str
        As `mask_of`: by each map's own maximum or span, over the whole map.

    Returns
    -------
    float
        In [0, 1]; NaN where neither mask has a pixel in the box.
    """
    x1, y1, x2, y2 = box
    a = mask_of(heatmap, threshold, threshold_of)[y1:y2, x1:x2]
    b = mask_of(gradient, threshold, threshold_of)[y1:y2, x1:x2]
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else float("nan")


def encode(mask: np.ndarray) -> str:
    """Compressed run-length code of a mask, as COCO's annotations have it in `counts`.

    Parameters
    ----------
    mask : ndarray [H, W] bool

    Returns
    -------
    str
        ASCII.
    """
    return coco.encode(np.asfortranarray(mask, "uint8"))["counts"].decode("ascii")


def decode(code: str, height: int, width: int) -> np.ndarray:
    """Mask, bool [height, width], of a run-length code that `encode` made."""
    return coco.decode({"size": [height, width], "counts": code.encode("ascii")}).astype(bool)


def peak(map: np.ndarray) -> tuple[float, float]:
    """Centre (x, y) of the pixel with the largest value, the first by rows where several have it.

    Parameters
    ----------
    map : ndarray [H, W] float

    Returns
    -------
    (float, float)
        In the frame of pixel edges: 0.5, 0.5 for the first pixel.
    """
    row, column = np.unravel_index(np.argmax(map), np.shape(map))
    return float(column) + 0.5, float(row) + 0.5
