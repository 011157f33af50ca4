from itertools import combinations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.filters import gaussian

from crosseai.boxes.rectangles import find_box, find_boxes, maximal_rectangles
from crosseai.errors import InputError

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=7))


def brute_force(mask):
    """All rectangles of ones that no other rectangle of ones contains."""
    height, width = mask.shape
    full = [
        (x1, y1, x2, y2)
        for x1, x2 in combinations(range(width + 1), 2)
        for y1, y2 in combinations(range(height + 1), 2)
        if mask[y1:y2, x1:x2].all()
    ]
    return {
        a
        for a in full
        if not any(
            b != a and b[0] <= a[0] and b[1] <= a[1] and b[2] >= a[2] and b[3] >= a[3] for b in full
        )
    }


def speckled(seed, shape, levels):
    """A smooth blob plus speckle, on a few levels only where `levels` is given: many ties."""
    random = np.random.default_rng(seed)
    blob = gaussian(random.random(shape), random.uniform(1, 6))
    blob = (blob - blob.min()) / max(np.ptp(blob), 1e-6)
    values = random.uniform(0, 1) * blob + random.random(shape) ** 4 * random.random()
    return np.round(values * levels) / levels if levels else values


@settings(deadline=None, max_examples=300)
@given(masks)
def test_maximal_rectangles_are_those_of_brute_force_each_once(mask):
    found = [tuple(box) for box in maximal_rectangles(mask).tolist()]
    assert len(found) == len(set(found))
    assert set(found) == brute_force(mask)
    assert found == sorted(found, key=lambda box: (box[3], box[2], box[1]))
    assert found == reference.maximal_rectangles(mask)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.zeros((3, 5)), []),
        (np.ones((3, 5)), [(0, 0, 5, 3)]),
        (np.ones((1, 1)), [(0, 0, 1, 1)]),
        (np.zeros((0, 4)), []),
        ([[0, 0, 0], [0, 1, 0]], [(1, 1, 2, 2)]),
        ([[1, 1, 0], [1, 1, 1]], [(0, 0, 2, 2), (0, 1, 3, 2)]),
        ([[0, 1, 0], [1, 1, 1], [0, 1, 0]], [(0, 1, 3, 2), (1, 0, 2, 3)]),
        (np.eye(3), [(0, 0, 1, 1), (1, 1, 2, 2), (2, 2, 3, 3)]),
    ],
)
def test_maximal_rectangles_by_hand(mask, expected):
    found = maximal_rectangles(np.array(mask))
    assert found.dtype == np.int64
    assert found.shape == (len(expected), 4)
    assert [tuple(box) for box in found.tolist()] == expected


def test_maximal_rectangles_read_any_memory_order():
    mask = np.random.default_rng(0).random((20, 30)) < 0.6
    expected = maximal_rectangles(mask)
    np.testing.assert_array_equal(maximal_rectangles(np.asfortranarray(mask)), expected)
    np.testing.assert_array_equal(maximal_rectangles(np.repeat(mask, 2, 1)[:, ::2]), expected)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    levels=st.sampled_from([None, 1, 2, 3, 8]),
    threshold=st.sampled_from([0.0, 0.35, 0.5, 0.9]),
    candidates=st.sampled_from([None, 0, 1, 2, 5, 50]),
    smoothing=st.sampled_from([0.0, 0.0, 1.5]),
    keep_last_ring=st.booleans(),
    ranks=st.sampled_from([1, 3, 10, 1000]),
    threshold_of=st.sampled_from(["maximum", "span", "one"]),
)
def test_fast_equals_plain(seed, shape, levels, threshold, **rest):
    values = speckled(seed, shape, levels)
    if rest["threshold_of"] == "span":
        values = values - 0.5
    if threshold == 0.0:  # sums are exact above a positive threshold, or on few levels
        values = np.round(values * 8) / 8
        rest["smoothing"] = 0.0
    boxes, scores = find_boxes(values, threshold, **rest)
    expected_boxes, expected_scores = reference.find_boxes(values, threshold, **rest)
    assert [tuple(box) for box in boxes.tolist()] == expected_boxes
    assert scores.tolist() == expected_scores  # bit for bit
    best = find_box(values, threshold, **rest)
    assert best == (expected_boxes[0] if expected_boxes else None)


@settings(deadline=None, max_examples=90)
@given(
    arrays(np.float32, (5, 6), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([0.05, 0.5]),
    st.sampled_from(["maximum", "span", "one"]),
)
def test_fast_equals_plain_on_any_map(values, threshold, threshold_of):
    chosen = {"threshold": threshold, "candidates": None, "threshold_of": threshold_of}
    boxes, scores = find_boxes(values, **chosen)
    expected_boxes, expected_scores = reference.find_boxes(values, **chosen)
    assert [tuple(box) for box in boxes.tolist()] == expected_boxes
    assert scores.tolist() == expected_scores


def test_fast_equals_plain_on_a_large_map():
    values = speckled(3, (90, 120), None)
    for candidates in (50, None):
        boxes, scores = find_boxes(values, candidates=candidates)
        expected_boxes, expected_scores = reference.find_boxes(values, candidates=candidates)
        assert [tuple(box) for box in boxes.tolist()] == expected_boxes
        assert scores.tolist() == expected_scores


def test_a_ring_of_as_many_zeros_as_ones_is_added():
    # The centre's ring holds four of each; a corner's, clipped, one 1 and two 0.
    values = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    boxes, scores = find_boxes(values)
    assert boxes.tolist() == [[0, 0, 1, 1], [2, 0, 3, 1], [0, 2, 1, 3], [2, 2, 3, 3], [0, 0, 3, 3]]
    assert scores.tolist() == [1, 1, 1, 1, 5 / 9]


def test_the_last_ring_is_kept_on_request_and_equal_boxes_are_joined():
    values = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    boxes, scores = find_boxes(values)
    assert boxes.tolist() == [[1, 0, 2, 3], [0, 1, 3, 2]]  # a tie: the topmost first
    assert scores.tolist() == [1, 1]
    boxes, scores = find_boxes(values, keep_last_ring=True)
    assert boxes.tolist() == [[0, 0, 3, 3]]
    assert scores.tolist() == [5 / 9]


def test_the_mean_decides_and_only_among_the_largest():
    values = np.zeros((20, 20))
    values[2:8, 2:8] = 0.5
    values[12:14, 12:14] = 1
    assert find_box(values) == (12, 12, 14, 14)
    assert find_box(values, candidates=1) == (2, 2, 8, 8)
    assert find_box(values, threshold=0.5) == (12, 12, 14, 14)
    boxes, scores = find_boxes(values, ranks=1)
    assert boxes.tolist() == [[12, 12, 14, 14]]
    assert scores.tolist() == [1]


def test_the_last_place_among_candidates_goes_to_the_topmost_then_leftmost_then_wider():
    tall, wide = np.ones((3, 2)), np.ones((2, 3))
    values = np.zeros((12, 20))
    values[9:12, 0:2] = tall
    values[1:4, 4:6] = tall
    values[1:3, 12:15] = wide
    assert find_box(values, candidates=1) == (4, 1, 6, 4)
    values[1:4, 4:6] = 0
    assert find_box(values, candidates=1) == (12, 1, 15, 3)
    corner = np.zeros((12, 20))
    corner[0:3, 0:2], corner[0:2, 0:3] = tall, wide
    assert find_box(corner, candidates=1) == (0, 0, 3, 2)


def test_zeros_outside_the_mask_count_in_the_mean():
    values = np.array([[1, 1, 0.2, 1]])  # the ring of the first two holds 0.2, below the mask
    boxes, scores = find_boxes(values, keep_last_ring=True)
    assert (boxes.tolist()[0], scores[0]) == ([0, 0, 3, 1], 2 / 3)


def test_equal_means_tie_whatever_the_value():
    values = np.zeros((200, 200), "float32")
    for x, y, side in [(10, 150, 7), (100, 20, 12), (40, 20, 12), (150, 150, 9)]:
        values[y : y + side, x : x + side] = 0.7
    boxes, scores = find_boxes(values)
    assert [tuple(box) for box in boxes.tolist()] == [
        (40, 20, 52, 32),
        (100, 20, 112, 32),
        (150, 150, 159, 159),
        (10, 150, 17, 157),
    ]
    assert set(scores.tolist()) == {float(np.float32(0.7))}


def test_the_threshold_is_a_share_of_what_is_asked():
    values = np.full((6, 9), -1.0)
    values[1:4, 1:4], values[2:5, 6:8] = 0.2, 0.6  # half-way of the span is -0.2
    assert find_box(values, threshold=0.5) == (6, 2, 8, 5)
    boxes, scores = find_boxes(values, threshold=0.5, threshold_of="span")
    assert boxes.tolist() == [[6, 2, 8, 5], [1, 1, 4, 4]]
    assert scores == pytest.approx([1.6, 1.2])  # from the minimum up
    boxes, scores = find_boxes(values, threshold=0.1, threshold_of="one")
    assert boxes.tolist() == [[6, 2, 8, 5], [1, 1, 4, 4]]
    assert scores == pytest.approx([0.6, 0.2])
    assert find_box(values, threshold=0.7, threshold_of="one") is None


def test_smoothing_drops_a_speck():
    values = np.zeros((30, 30))
    values[5:15, 5:15] = 0.8
    values[25, 25] = 1
    assert find_box(values) == (25, 25, 26, 26)
    x1, y1, x2, y2 = find_box(values, smoothing=1.5)
    assert min(x1, y1) >= 2
    assert max(x2, y2) <= 18


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_positive_values_has_no_box(value):
    values = np.full((4, 6), value)
    boxes, scores = find_boxes(values)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)
    assert find_box(values) is None


def test_a_full_map_is_one_box():
    assert find_box(np.ones((4, 6))) == (0, 0, 6, 4)
    assert find_box(np.ones((1, 1))) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        (np.array([[1, np.nan]]), {}),
        (np.array([[1, np.inf]]), {}),
        (np.ones(4), {}),
        (np.ones((1, 2, 2)), {}),
        (np.ones((0, 3)), {}),
        (np.ones((2, 2)), {"threshold": 1.0}),
        (np.ones((2, 2)), {"threshold": -0.1}),
        (np.ones((2, 2)), {"threshold_of": "mean"}),
        (np.ones((2, 2)), {"smoothing": -1}),
        (np.ones((2, 2)), {"candidates": -1}),
        (np.ones((2, 2)), {"ranks": 0}),
    ],
)
def test_bad_input_is_one_clear_line(values, changed):
    with pytest.raises(InputError) as error:
        find_boxes(values, **changed)
    assert len(str(error.value).splitlines()) == 1


def test_a_mask_of_three_dimensions_is_refused():
    with pytest.raises(InputError, match="3 dimensions"):
        maximal_rectangles(np.ones((2, 2, 2)))
