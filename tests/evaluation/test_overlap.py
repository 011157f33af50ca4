import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from crosseai.evaluation.overlap import area_inside, iobb, iou

corner = st.integers(0, 12)
box = st.tuples(corner, corner, corner, corner)
edge = st.floats(-2, 12)


def pixels(box):
    """The pixels of a half-open box, counted one by one."""
    x1, y1, x2, y2 = box
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


@pytest.mark.parametrize(
    ("a", "b", "union", "of_a", "of_b"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1, 1, 1),
        ([0, 0, 10, 10], [5, 0, 15, 10], 50 / 150, 0.5, 0.5),
        ([2, 2, 4, 4], [0, 0, 10, 10], 0.04, 1, 0.04),  # inside: IoBB 1 however small
        ([0, 0, 10, 10], [10, 0, 20, 10], 0, 0, 0),  # half-open boxes that touch do not overlap
        ([0, 0, 10, 10], [20, 20, 30, 30], 0, 0, 0),
        ([3, 3, 3, 9], [0, 0, 10, 10], 0, 0, 0),  # no width
        ([0.5, 0, 1.5, 1], [0, 0, 1, 1], 0.5 / 1.5, 0.5, 0.5),
        ([np.nan] * 4, [0, 0, 10, 10], 0, 0, 0),
    ],
)
def test_by_hand(a, b, union, of_a, of_b):
    assert iou(a, b) == pytest.approx(union)
    assert iobb(a, b) == pytest.approx(of_a)
    assert iobb(b, a) == pytest.approx(of_b)


@given(box, box)
def test_counts_pixels(a, b):
    one, two = pixels(a), pixels(b)
    assert iou(a, b) == pytest.approx(len(one & two) / max(1, len(one | two)))
    assert iobb(a, b) == pytest.approx(len(one & two) / max(1, len(one)))


def test_broadcasts():
    a = np.array([[0, 0, 2, 2], [0, 0, 4, 4], [1, 1, 2, 2]])
    b = np.array([[0, 0, 2, 2], [9, 9, 10, 10]])
    table = iou(a[:, None], b[None])
    assert table.shape == (3, 2)
    np.testing.assert_allclose(table, [[1, 0], [0.25, 0], [0.25, 0]])
    np.testing.assert_allclose(iobb(a[:, None], b[None]), [[1, 0], [0.25, 0], [1, 0]])


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=10)), edge, edge, edge, edge)
def test_area_inside_adds_what_each_pixel_has_inside(mask, xa, xb, ya, yb):
    x1, x2, y1, y2 = min(xa, xb), max(xa, xb), min(ya, yb), max(ya, yb)
    expected = 0
    for y, x in np.argwhere(mask):
        across = max(0, min(x + 1, x2) - max(x, x1))
        down = max(0, min(y + 1, y2) - max(y, y1))
        expected += across * down
    assert area_inside(mask, np.array([x1, y1, x2, y2])) == pytest.approx(expected, abs=1e-9)


def test_area_inside_by_hand():
    mask = np.array([[1, 1, 0], [0, 1, 1]], bool)
    assert area_inside(mask, [0, 0, 3, 2]) == 4
    assert area_inside(mask, [0.5, 0, 2, 1]) == 1.5
    assert area_inside(mask, [1.25, 0.5, 1.75, 1.25]) == 0.375
    assert area_inside(mask, [1.5, 0.5, 9, 9]) == 0.25 + 0.5 + 1
    assert area_inside(mask, [2, 0, 3, 1]) == 0
    assert area_inside(mask, [4, 0, 5, 1]) == 0
