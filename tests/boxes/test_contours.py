"""The rule `contours` against the published code's steps, one by one and slowly."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skimage.filters import gaussian

from crosseai.boxes import contours
from crosseai.boxes.contours import contour_boxes
from crosseai.errors import InputError


def jet(values):
    """Red, green and blue of 0 ... 1, between the corners of the usual jet."""
    red = np.interp(values, [0, 0.375, 0.625, 0.875, 1], [0, 0, 1, 1, 0.5])
    green = np.interp(values, [0, 0.125, 0.375, 0.625, 0.875, 1], [0, 0, 1, 1, 0, 0])
    blue = np.interp(values, [0, 0.125, 0.375, 0.625, 1], [0.5, 1, 1, 0, 0])
    return red, green, blue


def published_mask(map):
    """What the published code thresholds: coloured, kept, scaled, coloured again, grey."""
    values = np.asarray(map, "float32") - np.float32(np.min(map))
    red, _, _ = jet(values / values.max())
    kept = np.where(red >= 0.95, red, 0)
    if kept.max() == kept.min():
        return np.zeros(kept.shape, bool)
    scaled = np.rint((kept - kept.min()) / (kept.max() - kept.min()) * 155)
    red, green, blue = jet(scaled / 255)
    return 255 * (0.299 * red + 0.587 * green + 0.114 * blue) > 127


def pieces(mask, steps):
    """Connected sets of (row, column), by steps to the neighbours."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    while left:
        piece, front = set(), [left.pop()]
        while front:
            y, x = front.pop()
            piece.add((y, x))
            near = {(y + dy, x + dx) for dy, dx in steps} & left
            left -= near
            front += near
        yield piece


def box(piece):
    rows, columns = zip(*piece, strict=True)
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def contours_of(mask):
    """Boxes of the 8-connected regions and of their holes."""
    cross = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    around = [*cross, (1, 1), (1, -1), (-1, 1), (-1, -1)]
    outside = np.pad(~mask, 1, constant_values=True)
    holes = [piece for piece in pieces(outside, cross) if (0, 0) not in piece]
    inner = [{(y - 1, x - 1) for y, x in hole} for hole in holes]
    return [box(piece) for piece in [*pieces(mask, around), *inner]]


def union(a, b):
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def largest_first(boxes):
    return sorted(set(boxes), key=lambda box: (-area(box), box[1], box[0], box[3]))


def discs(*centres, size=100, value=0.75):
    """A map of discs x, y, radius in the kept band, with one pixel of the peak in a corner."""
    rows, columns = np.mgrid[:size, :size]
    values = np.zeros((size, size))
    for x, y, radius in centres:
        values[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = value
    values[0, 0] = 1
    return values


@pytest.fixture
def every_contour(monkeypatch):
    """However few points it has."""
    monkeypatch.setattr(contours, "_POINTS", 0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(8, 40), st.floats(2, 6))
def test_boxes_are_those_of_the_published_steps(seed, side, sigma):
    values = gaussian(np.random.default_rng(seed).random((side, side + 3)), sigma) - 0.3
    boxes = contours_of(published_mask(values))
    assume(len(boxes) <= 8)
    for _ in range(2):
        boxes += [union(a, b) for a, b in combinations(boxes, 2)]
        boxes = list(dict.fromkeys(boxes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contours, "_POINTS", 0)
        found = contour_boxes(values)
    assert [tuple(row) for row in found.tolist()] == largest_first(boxes)


def test_the_band_leaves_out_the_peak():
    """A cone: a ring is kept, whose hole, round the peak, is a contour of its own."""
    rows, columns = np.mgrid[:201, :201]
    cone = np.clip(1 - np.hypot(columns - 100, rows - 100) / 100, 0, None)
    ring, hole = contour_boxes(cone).tolist()
    assert ring == [62, 62, 139, 139]  # 1 - 38 / 100 is kept, 1 - 39 / 100 is not
    assert hole == [89, 89, 112, 112]  # 1 - 12 / 100 is kept, 1 - 11 / 100 is not


def test_unions_of_up_to_four(every_contour):
    five = [(10, 10, 5), (90, 12, 6), (12, 88, 7), (85, 85, 8), (50, 50, 9)]
    boxes = [(x - r, y - r, x + r + 1, y + r + 1) for x, y, r in five]
    expected = set()
    for count in range(1, 5):
        for chosen in combinations(boxes, count):
            x1, y1, x2, y2 = np.transpose(chosen)
            expected.add((x1.min(), y1.min(), x2.max(), y2.max()))
    found = contour_boxes(discs(*five))
    assert [tuple(row) for row in found.tolist()] == largest_first(expected)


def stairs(steps):
    """A staircase of 10 x 10 pixels a step: 2 * steps + 2 corners, each cut, so two turns."""
    values = np.zeros((120, 120))
    for step in range(steps):
        values[100 - 10 * (step + 1) : 100, 10 + 10 * step : 20 + 10 * step] = 0.75
    values[0, 0] = 1
    return values


def test_a_contour_needs_more_than_twenty_points():
    assert contour_boxes(stairs(4)).tolist() == []  # 20 turns
    assert contour_boxes(stairs(5)).tolist() == [[10, 50, 60, 100]]


def test_a_speck_counts_without_that_condition(every_contour):
    assert contour_boxes(stairs(4)).tolist() == [[10, 60, 50, 100]]


def test_many_contours_stay_bounded_and_the_largest_count():
    rng = np.random.default_rng(0)
    places = [(x, y) for x in range(15, 300, 30) for y in range(15, 300, 30)]
    centres = [(*places[k], 5 + int(r)) for k, r in enumerate(rng.permutation(100) // 10)]
    found = contour_boxes(discs(*centres, size=300))
    assert len(found) <= 6195
    wide = {tuple(row) for row in found.tolist()}
    drawn = {(x - r, y - r, x + r + 1, y + r + 1): r for x, y, r in centres}
    assert sorted(drawn[row] for row in wide & drawn.keys()) == [13] * 10 + [14] * 10
    areas = [area(row) for row in found.tolist()]
    assert areas == sorted(areas, reverse=True)
    assert len(wide) == len(found)


@pytest.mark.parametrize(
    "values", [np.zeros((8, 9)), np.full((3, 3), 4.0), discs((50, 50, 20)) > 0]
)
def test_nothing_in_the_band_is_no_box(values):
    assert contour_boxes(values).shape == (0, 4)


def test_a_map_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="NaN"):
        contour_boxes(np.full((4, 4), np.nan))
