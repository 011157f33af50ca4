import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosseai.evaluation.overlap import iobb, iou

corner = st.integers(0, 12)
box = st.tuples(corner, corner, corner, corner)


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
