"""Algorithm 1 of the CrossEAI paper: the best box of a map, by maximal rectangles that grow.

The steps in order: the mask of the map, the maximal all-ones rectangles of the mask, their growth
ring by ring, the choice of the best. Everything is linear in the number of pixels: a stack over
row histograms finds the rectangles, summed-area tables give every ring and mean in four look-ups.

Sums are exact, so that equal means are equal numbers and ties are true ties: a float32 value above
threshold * maximum is a whole multiple of a power of two, and float64 holds the sum of N of them
without rounding as long as N / threshold <= 2**29 (a 224 x 224 map: any threshold from 0.0001 up).
With a threshold of the span the map is summed from its minimum up, so the same holds; with the
value itself as threshold, it holds as long as N * maximum / threshold <= 2**29.
"""

import numpy as np
from numba import njit

from crosseai.boxes.regions import above_base, checked, mask_of, smooth
from crosseai.errors import InputError

__all__ = ["find_box", "find_boxes", "maximal_rectangles"]


def find_box(map: np.ndarray, threshold: float = 0.35, **settings) -> tuple[int, ...] | None:
    """Best box of a map: the first of `find_boxes`.

    Parameters
    ----------
    map : ndarray [H, W] float
    threshold : float
    **settings
        As `find_boxes`.

    Returns
    -------
    (x1, y1, x2, y2) of int, or None
        Half-open, in pixels of the map. None where the mask is empty.
    """
    boxes, _ = find_boxes(map, threshold, **settings | {"ranks": 1})
    return tuple(boxes[0].tolist()) if len(boxes) else None


def find_boxes(
    map: np.ndarray,
    threshold: float = 0.35,
    candidates: int | None = 50,
    smoothing: float = 0.0,
    keep_last_ring: bool = False,
    ranks: int = 10,
    threshold_of: str = "maximum",
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a map by Algorithm 1 of the CrossEAI paper, best first.

    The mask holds the pixels above `threshold`, a share of the map's maximum. Its largest maximal
    all-ones rectangles are the candidates. Each grows by the ring of pixels around it (one pixel
    on all four sides and the corners, so the 8-neighbours of the box), again and again, until the
    ring to be added holds more zeros of the mask than ones; as many zeros as ones still grows. At
    the border the ring is what lies inside the map; a box that fills the map stops. The grown
    boxes are ranked by the mean, over the box, of the map with zeros outside the mask.

    Ties, among candidates of one area and among boxes of one mean, always fall the same way: the
    larger box, then the topmost, the leftmost, the wider.

    Parameters
    ----------
    map : ndarray [H, W] float
        Taken as float32. A map whose mask is empty has no box.
    threshold : float
        In [0, 1); strictly above it is mask.
    candidates : int, optional
        How many of the largest maximal rectangles compete; None or 0 for all of them.
    smoothing : float
        Sigma, in pixels, of a Gaussian over the map before all else; 0 for none.
    keep_last_ring : bool
        Whether a box keeps the ring that stopped it.
    ranks : int
        How many boxes to return at most.
    threshold_of : {"maximum", "span", "one"}
        What the threshold is a share of, see `regions.mask_of`. For `span` the map is counted
        from its minimum up, its means too.

    Returns
    -------
    boxes : ndarray [R, 4] int64
        x1, y1, x2, y2, half-open, in pixels of the map; R <= `ranks`, no box twice.
    scores : ndarray [R] float64
        The mean of the masked map in each box, in the units of the map, not increasing.

    Raises
    ------
    InputError
        If the map is not two-dimensional and finite, or a setting is out of range.

    References
    ----------
    J. Zhao, "CrossEAI: Using Explainable AI to generate better bounding boxes for Chest X-ray
    images", arXiv:2310.19835 (2023), Algorithm 1.
    """
    if (candidates or 0) < 0 or ranks < 1:
        raise InputError(f"candidates {candidates} and ranks {ranks}: at least 0 and at least 1")
    values = above_base(smooth(checked(map), smoothing), threshold_of)
    mask = mask_of(values, threshold, threshold_of)
    rectangles = _largest(maximal_rectangles(mask), candidates)
    ones, sums = _summed_area_tables(values, mask)
    return _best(rectangles, ones, sums, keep_last_ring, ranks)


def maximal_rectangles(mask: np.ndarray) -> np.ndarray:
    """All maximal all-ones rectangles of a mask.

    Maximal means that no row or column of ones can be added on any of the four sides.

    Parameters
    ----------
    mask : ndarray [H, W] bool
        Other types: non-zero is one.

    Returns
    -------
    ndarray [K, 4] int64
        x1, y1, x2, y2, half-open, each rectangle once, in the order of (y2, x2, y1): by the
        bottom edge, then the right edge, then the top edge.

    Raises
    ------
    InputError
        If the mask is not two-dimensional.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise InputError(f"a mask of {mask.ndim} dimensions: give two, [height, width]")
    return _maximal(np.ascontiguousarray(mask, bool))


def _largest(rectangles: np.ndarray, candidates: int | None) -> np.ndarray:
    """Keep the `candidates` rectangles of largest area."""
    if not candidates or len(rectangles) <= candidates:
        return rectangles
    areas = _areas(rectangles)
    smallest = np.partition(areas, -candidates)[-candidates]
    rectangles = rectangles[areas >= smallest]  # all that tie for the last place, to be sorted
    x1, y1, _, y2 = rectangles.T
    order = np.lexsort((y2, x1, y1, -_areas(rectangles)))
    return rectangles[order[:candidates]]


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@njit(cache=True)
def _maximal(mask: np.ndarray) -> np.ndarray:
    """Rectangles whose lowest row is y, for every y, by a stack over the histogram of ones above.

    A bar that is lower than the top of the stack ends the rectangle of that height: it can then
    grow neither left, right nor up. Whether it can grow down, the row below tells.
    """
    height, width = mask.shape
    found = np.empty((height * width, 4), np.int64)  # a row ends at most `width` rectangles
    count = 0
    bars = np.zeros(width + 1, np.int64)  # ones from y upward; the last stays 0 and ends all
    zero_below = np.empty(width, np.int64)  # nearest column <= x with a zero in row y + 1
    lefts = np.empty(width, np.int64)  # the stack: left edge and height,
    heights = np.empty(width, np.int64)  # strictly rising
    for y in range(height):
        zero = -1
        for x in range(width):
            bars[x] = bars[x] + 1 if mask[y, x] else 0
            if y + 1 == height or not mask[y + 1, x]:
                zero = x
            zero_below[x] = zero
        depth = 0
        for x in range(width + 1):
            left = x
            while depth and heights[depth - 1] > bars[x]:
                depth -= 1
                left = lefts[depth]
                if zero_below[x - 1] >= left:
                    found[count, 0] = left
                    found[count, 1] = y + 1 - heights[depth]
                    found[count, 2] = x
                    found[count, 3] = y + 1
                    count += 1
            if bars[x] and (depth == 0 or heights[depth - 1] < bars[x]):
                lefts[depth] = left
                heights[depth] = bars[x]
                depth += 1
    return found[:count].copy()


@njit(cache=True)
def _summed_area_tables(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the mask and the masked map over [0, y) x [0, x), int32 and float64 [H + 1, W + 1]."""
    height, width = mask.shape
    ones = np.zeros((height + 1, width + 1), np.int32)
    sums = np.zeros((height + 1, width + 1), np.float64)
    for y in range(height):
        row_ones = 0
        row_sum = 0.0
        for x in range(width):
            if mask[y, x]:
                row_ones += 1
                row_sum += values[y, x]
            ones[y + 1, x + 1] = ones[y, x + 1] + row_ones
            sums[y + 1, x + 1] = sums[y, x + 1] + row_sum
    return ones, sums


@njit(cache=True)
def _within(table, x1, y1, x2, y2):
    return table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1]


@njit(cache=True)
def _grown(x1, y1, x2, y2, ones, keep_last_ring):
    """Add rings to a box until one holds more zeros than ones."""
    height, width = ones.shape[0] - 1, ones.shape[1] - 1
    area, inside = (x2 - x1) * (y2 - y1), _within(ones, x1, y1, x2, y2)
    while True:
        left, top = max(x1 - 1, 0), max(y1 - 1, 0)
        right, bottom = min(x2 + 1, width), min(y2 + 1, height)
        wider_area = (right - left) * (bottom - top)
        wider_inside = _within(ones, left, top, right, bottom)
        ring, ring_ones = wider_area - area, wider_inside - inside
        stops = ring == 0 or ring - ring_ones > ring_ones
        if stops and not keep_last_ring:
            return x1, y1, x2, y2
        if stops:
            return left, top, right, bottom
        x1, y1, x2, y2 = left, top, right, bottom
        area, inside = wider_area, wider_inside


@njit(cache=True)
def _best(rectangles, ones, sums, keep_last_ring, ranks):
    """Grow every rectangle and keep the best `ranks` boxes in order, none twice."""
    boxes = np.empty((ranks, 4), np.int64)
    scores = np.empty(ranks, np.float64)
    count = 0
    for candidate in rectangles:
        x1, y1, x2, y2 = _grown(
            candidate[0], candidate[1], candidate[2], candidate[3], ones, keep_last_ring
        )
        area = (x2 - x1) * (y2 - y1)
        score = _within(sums, x1, y1, x2, y2) / area
        # The ranking is total: what neither follows nor precedes a box is that box again.
        place = count
        while place and _precedes(score, area, x1, y1, y2, scores[place - 1], boxes[place - 1]):
            place -= 1
        if place == ranks or (place and _same(x1, y1, x2, y2, boxes[place - 1])):
            continue
        count = min(count + 1, ranks)
        for later in range(count - 1, place, -1):
            boxes[later] = boxes[later - 1]
            scores[later] = scores[later - 1]
        boxes[place, 0], boxes[place, 1], boxes[place, 2], boxes[place, 3] = x1, y1, x2, y2
        scores[place] = score
    return boxes[:count].copy(), scores[:count].copy()


@njit(cache=True)
def _precedes(score, area, x1, y1, y2, other_score, other):
    """Whether a box ranks before another: mean, then area, top, left, width."""
    if score != other_score:
        return score > other_score
    other_area = (other[2] - other[0]) * (other[3] - other[1])
    if area != other_area:
        return area > other_area
    if y1 != other[1]:
        return y1 < other[1]
    if x1 != other[0]:
        return x1 < other[0]
    return y2 < other[3]


@njit(cache=True)
def _same(x1, y1, x2, y2, other):
    return x1 == other[0] and y1 == other[1] and x2 == other[2] and y2 == other[3]
