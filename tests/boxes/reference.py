"""Algorithm 1 once more, plain NumPy and Python: slow, short, and what the fast one must equal."""

import numpy as np
from skimage.filters import gaussian


def maximal_rectangles(mask):
    """Every run of full columns between two rows that neither row outside could join."""
    height, width = mask.shape
    found = []
    for y1 in range(height):
        full = np.ones(width, bool)
        for y2 in range(y1 + 1, height + 1):
            full = full & mask[y2 - 1]
            if not full.any():
                break
            edges = np.flatnonzero(np.diff(np.r_[False, full, False]))
            for x1, x2 in edges.reshape(-1, 2):
                above = y1 > 0 and mask[y1 - 1, x1:x2].all()
                below = y2 < height and mask[y2, x1:x2].all()
                if not above and not below:
                    found.append((int(x1), y1, int(x2), y2))
    return sorted(found, key=lambda box: (box[3], box[2], box[1]))


def ones(mask, box):
    x1, y1, x2, y2 = box
    return np.count_nonzero(mask[y1:y2, x1:x2])


def grow(mask, box, keep_last_ring):
    height, width = mask.shape
    while True:
        x1, y1, x2, y2 = box
        grown = (max(x1 - 1, 0), max(y1 - 1, 0), min(x2 + 1, width), min(y2 + 1, height))
        if grown == box:
            return box
        ring_ones = ones(mask, grown) - ones(mask, box)
        ring_zeros = area(grown) - area(box) - ring_ones
        if ring_zeros > ring_ones:
            return grown if keep_last_ring else box
        box = grown


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def find_boxes(
    map,
    threshold=0.35,
    candidates=50,
    smoothing=0.0,
    keep_last_ring=False,
    ranks=10,
    threshold_of="maximum",
):
    values = np.asarray(map, "float32")
    if smoothing:
        values = gaussian(values, smoothing, preserve_range=True)
    if threshold_of == "span":
        values = values - values.min()
    values = values.astype("float64")
    if threshold_of == "one":
        mask = values > threshold
    else:
        mask = (values > threshold * values.max()) & (values.max() > 0)
    masked = np.where(mask, values, 0)

    def order(box):
        return (-area(box), box[1], box[0], box[3])

    rectangles = sorted(maximal_rectangles(mask), key=order)
    boxes = {grow(mask, box, keep_last_ring) for box in rectangles[: candidates or None]}
    means = {box: masked[box[1] : box[3], box[0] : box[2]].mean() for box in boxes}
    best = sorted(boxes, key=lambda box: (-means[box], *order(box)))[:ranks]
    return best, [means[box] for box in best]
