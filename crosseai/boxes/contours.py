"""Boxes as SCALP's published code draws them: contours of the coloured heatmap, and their unions.

That code colours the map (jet), keeps where the red channel is at least 0.95, scales the rest to
0 ... 155, colours again, turns grey and takes what is above 127. All that is kept passes these
later steps and all that is not fails them (its grey is 14), so the band of the red channel alone
decides. Jet's red rises from 0 at 0.375 to 1 at 0.625, stays, and falls from 0.875 on to 0.5 at 1:
the band leaves out the peak of the map.

A. Jaiswal et al., "SCALP: Supervised Contrastive Learning for Cardiopulmonary Disease
Classification and Localization in Chest X-rays using Patient Metadata", ICDM 2021.
"""

import numpy as np

from crosseai.boxes.regions import above_base, checked, outline

__all__ = ["contour_boxes"]

_RED = 0.95  # least value of the red channel that is kept
_POINTS = 20  # a contour has more points than this
_CONTOURS = 20  # of more, the largest: unions grow with the fourth power of their number


def contour_boxes(map: np.ndarray) -> np.ndarray:
    """Boxes around the contours of a map's red band, and around their unions.

    Every contour with more than 20 points counts, that of a hole too; points are where it turns.
    The union of every pair of boxes joins them, and then of every pair of all these: in effect of
    up to four contours.

    Parameters
    ----------
    map : ndarray [H, W] float
        Scaled to its own minimum and maximum. The published code enlarges to 1024 x 1024.

    Returns
    -------
    ndarray [K, 4] int64
        x1, y1, x2, y2, half-open, no box twice: the largest first, then the topmost, leftmost,
        wider. Of more than 20 contours those with the largest boxes count, so K is at most 6195.

    Raises
    ------
    InputError
        If the map is not two-dimensional and finite.
    """
    band = _red_band(checked(map))
    polygons = [polygon.reshape(-1, 2) for polygon in outline(band, (0, 0, *band.shape[::-1]))]
    boxes = [[*p.min(axis=0), *p.max(axis=0)] for p in polygons if _turns(p) > _POINTS]
    boxes = _largest_first(np.array(boxes, "int64").reshape(-1, 4))[:_CONTOURS]
    return _largest_first(_with_unions(_with_unions(boxes)))


def _red_band(map: np.ndarray) -> np.ndarray:
    """Where jet's red channel is at least 0.95: bool [H, W]."""
    values = above_base(map, "span")
    largest = values.max()
    share = values / largest if largest > 0 else values  # 0 ... 1
    return np.minimum(4 * share - 1.5, 4.5 - 4 * share) >= _RED


def _turns(points: np.ndarray) -> int:
    """Count where a closed polygon [points, 2] changes its direction."""
    steps = points - np.roll(points, 1, axis=0)
    return np.count_nonzero((steps != np.roll(steps, 1, axis=0)).any(axis=1))


def _with_unions(boxes: np.ndarray) -> np.ndarray:
    """Give the boxes and the union of every pair, none twice: [K, 4]."""
    a, b = np.triu_indices(len(boxes))  # a box with itself is that box
    start = np.minimum(boxes[a, :2], boxes[b, :2])
    end = np.maximum(boxes[a, 2:], boxes[b, 2:])
    return np.unique(np.concatenate([start, end], axis=1), axis=0)


def _largest_first(boxes: np.ndarray) -> np.ndarray:
    """Sort by area, then top, left, width."""
    x1, y1, x2, y2 = boxes.T
    return boxes[np.lexsort((y2, x1, y1, -(x2 - x1) * (y2 - y1)))]
