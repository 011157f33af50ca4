from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco
from skimage.measure import points_in_poly

from crosseai.boxes.regions import (
    agreement,
    decode,
    encode,
    largest_region,
    mask_of,
    outline,
    peak,
    region_boxes,
)
from crosseai.errors import InputError

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))


def flood(mask):
    """Sets of (row, column), 8-connected, in the order of their first pixel by rows."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    while left:
        region, front = set(), [min(left)]
        while front:
            y, x = front.pop()
            if (y, x) in left:
                left.remove((y, x))
                region.add((y, x))
                front += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        yield region


def test_mask_is_strictly_above_the_share_of_the_maximum():
    values = np.array([[4, 2, 2.0001], [-8, 0, 1]])
    assert mask_of(values, 0.5).tolist() == [[True, False, True], [False, False, False]]
    assert mask_of(values, 0.0).tolist() == [[True, True, True], [False, False, True]]
    assert not mask_of(-values.clip(0), 0.0).any()
    with pytest.raises(InputError, match="threshold 1"):
        mask_of(values, 1)


def test_a_share_of_the_span_counts_from_the_minimum():
    values = np.array([[-2, 0, 2], [2.001, 6, 1]])  # half-way: 2
    assert mask_of(values, 0.5, "span").tolist() == [[False] * 3, [True, True, False]]
    assert mask_of(values, 0.0, "span").tolist() == [[False, True, True], [True] * 3]
    assert mask_of(-values, 0.5, "span").tolist() == [[True, True, False], [False, False, True]]
    assert not mask_of(np.full((2, 2), 3.0), 0.0, "span").any()


def test_a_share_of_one_is_the_value_itself():
    values = np.array([[0.5, 0.501, 7], [-3, 0, 0.4]])
    assert mask_of(values, 0.5, "one").tolist() == [[False, True, True], [False] * 3]
    assert not mask_of(values / 100, 0.5, "one").any()


def test_an_unknown_share_is_named():
    with pytest.raises(InputError, match="'mean': choose one of maximum, span, one"):
        mask_of(np.ones((2, 2)), 0.5, "mean")


@settings(deadline=None)
@given(masks)
def test_region_boxes_are_those_of_a_flood_fill(mask):
    regions = sorted(flood(mask), key=len, reverse=True)
    expected = []
    for region in regions:
        rows, columns = zip(*region, strict=True)
        expected.append([min(columns), min(rows), max(columns) + 1, max(rows) + 1])
    found = region_boxes(mask, 0.35)
    assert found.tolist() == expected
    assert found.shape == (len(expected), 4)
    kept = {(int(y), int(x)) for y, x in np.argwhere(largest_region(mask))}
    assert kept == (regions[0] if regions else set())


def test_the_outline_of_one_pixel_lies_within_the_pixel():
    mask = np.zeros((6, 8), bool)
    mask[4, 5] = True
    (polygon,) = outline(mask, (3, 2, 8, 6))
    points = polygon.reshape(-1, 2)
    assert points.min(0).tolist() == [5, 4]
    assert points.max(0).tolist() == [6, 5]
    assert len(np.unique(points, axis=0)) == len(points) == 4


def test_the_outline_closes_along_the_box():
    (polygon,) = outline(np.ones((10, 10), bool), (2, 3, 6, 10))
    points = polygon.reshape(-1, 2)
    assert points.min(0).tolist() == [2, 3]
    assert points.max(0).tolist() == [6, 10]
    assert outline(np.zeros((4, 4), bool), (0, 0, 4, 4)) == []


@settings(deadline=None)
@given(masks, st.data())
def test_the_outline_holds_the_pixels_of_the_mask_in_the_box(mask, data):
    height, width = mask.shape
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    rows, columns = np.indices(mask.shape)
    centres = np.stack([columns.ravel(), rows.ravel()], 1) + 0.5
    odd = np.zeros(mask.size, bool)  # holes are contours too: inside is an odd number of them
    for polygon in outline(mask, (x1, y1, x2, y2)):
        odd ^= points_in_poly(centres, polygon.reshape(-1, 2))
    expected = np.zeros_like(mask)
    expected[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
    np.testing.assert_array_equal(odd.reshape(mask.shape), expected)


def test_agreement_by_hand():
    heatmap = np.array([[9, 9, 0, 9], [9, 0, 0, 9]])
    gradient = np.array([[0, 0.5, 0.5, 0], [0.5, 0, 0, 1]])
    assert agreement(heatmap, gradient, (0, 0, 3, 2), 0.35) == 2 / 4
    assert agreement(heatmap, gradient, (0, 0, 4, 2), 0.35) == 3 / 6
    assert agreement(heatmap, gradient, (0, 0, 1, 1), 0.35) == 0
    assert np.isnan(agreement(heatmap, gradient, (1, 1, 3, 2), 0.35))
    assert agreement(heatmap, gradient, (0, 0, 3, 2), 0.6) == 0  # each by its own whole maximum
    assert agreement(heatmap, gradient, (0, 0, 4, 2), 0.75, "one") == 1 / 5
    assert agreement(heatmap - 9, gradient, (0, 0, 4, 2), 0.35, "span") == 3 / 6


@given(masks)
def test_run_length_code_is_cocos(mask):
    code = encode(mask)
    counts = [] if not mask.size or not mask[0, 0] else [0]
    counts += [len(list(run)) for _, run in groupby(mask.ravel(order="F").tolist())]
    size = list(mask.shape)
    assert code.encode() == coco.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
    decoded = decode(code, *size)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)


def test_peak_is_the_centre_of_the_first_largest_pixel():
    values = np.zeros((4, 7))
    values[2, 5] = values[2, 6] = values[3, 0] = 2
    assert peak(values) == (5.5, 2.5)
    assert peak(np.zeros((3, 3))) == (0.5, 0.5)
