import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosseai.evaluation import accuracy

NAN = [np.nan] * 4
TRUTH = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], float)
FOUND = np.array(
    [
        [[0, 0, 10, 3], [0, 0, 10, 7]],  # IoU 0.3, then 0.7; IoBB 1, 1
        [[20, 20, 30, 30], [0, 0, 20, 10]],  # IoU 0, then 0.5; IoBB 0, 0.5
        [NAN, NAN],  # nothing found
    ]
)


def test_thresholds_are_the_decimals():
    assert accuracy.THRESHOLDS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def test_overlaps():
    np.testing.assert_allclose(
        accuracy.overlaps(FOUND, TRUTH, "IoU"), [[0.3, 0.7], [0, 0.5], [0, 0]]
    )
    np.testing.assert_allclose(accuracy.overlaps(FOUND, TRUTH, "IoBB"), [[1, 1], [0, 0.5], [0, 0]])


def test_iobb_divides_by_the_detected_box():
    inside = np.array([[[2, 2, 4, 4]]])
    assert accuracy.overlaps(inside, TRUTH[:1], "IoBB")[0, 0] == 1


def test_single_and_oracle_hits():
    overlap = accuracy.overlaps(FOUND, TRUTH, "IoU")
    single = accuracy.hits(overlap[:, :1])
    np.testing.assert_array_equal(single[0], [1, 1, 1, 0, 0, 0, 0])  # exactly T is a hit
    np.testing.assert_array_equal(single[1:], np.zeros((2, 7)))
    oracle = accuracy.hits(accuracy.best(overlap))
    np.testing.assert_array_equal(oracle[0], np.ones(7))
    np.testing.assert_array_equal(oracle[1], [1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(oracle[2], np.zeros(7))


@pytest.mark.parametrize("k", range(1, 8))
@pytest.mark.parametrize("side", [1, 0.1, 1 / 3, 7.7])
def test_an_overlap_of_exactly_t_hits_whatever_the_units(k, side):
    truth = np.array([[0, 0, 10, 1]]) * side
    found = np.array([[[0, 0, k, 1]]]) * side
    assert accuracy.hits(accuracy.overlaps(found, truth, "IoU")).sum() == k


def test_draws_count_by_their_share():
    np.testing.assert_allclose(
        accuracy.hits(np.array([[0, 0.15, 0.45, 0.75]]))[0],
        [0.75, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25],
    )


def test_false_positives_need_a_box():
    single = FOUND[:, :1]
    overlap = accuracy.overlaps(single, TRUTH, "IoU")
    false = accuracy.false_positives(overlap, single)
    np.testing.assert_array_equal(false[0], [0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(false[1], np.ones(7))
    np.testing.assert_array_equal(false[2], np.zeros(7))


def test_all_drawn_boxes_that_miss_are_false():
    overlap = accuracy.overlaps(FOUND, TRUTH, "IoU")  # 0.3 and 0.7; 0 and 0.5; no box
    false = accuracy.false_positives(overlap, FOUND)
    np.testing.assert_array_equal(false[0], [0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(false[1], [1, 1, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(false[2], np.zeros(7))


def test_region_overlaps_by_hand():
    region = np.zeros((10, 20), bool)
    region[2:6, 3:8] = True  # 20 pixels
    got = accuracy.region_overlaps(region, np.array([3, 2, 8, 4]))
    assert got == {"IoU": 0.5, "IoBB": 0.5}
    got = accuracy.region_overlaps(region, np.array([0, 0, 20, 10]))
    assert got == {"IoU": 0.1, "IoBB": 1}
    got = accuracy.region_overlaps(region, np.array([7.5, 5.5, 9.5, 6.5]))  # inside: 0.25
    assert got == {"IoU": round(0.25 / 21.75, 9), "IoBB": 0.25 / 20}
    empty = accuracy.region_overlaps(np.zeros((4, 4), bool), np.array([0, 0, 2, 2]))
    assert empty == {"IoU": 0, "IoBB": 0}


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_region_overlaps_are_those_of_sets_of_pixels(seed, share):
    rng = np.random.default_rng(seed)
    region = rng.random((9, 14)) < share
    x1, y1 = rng.integers(0, [14, 9])
    x2, y2 = rng.integers([x1, y1], [14, 9]) + 1
    box = np.zeros_like(region)
    box[y1:y2, x1:x2] = True
    got = accuracy.region_overlaps(region, np.array([x1, y1, x2, y2], float))
    assert got["IoU"] == pytest.approx((region & box).sum() / (region | box).sum(), abs=1e-9)
    assert got["IoBB"] == pytest.approx((region & box).sum() / max(region.sum(), 1), abs=1e-9)


def test_a_region_that_is_one_box_scores_as_the_box():
    truth = np.array([1.5, 0, 8, 6.25])
    region = np.zeros((10, 10), bool)
    region[2:9, 3:10] = True
    for criterion, share in accuracy.region_overlaps(region, truth).items():
        box = np.array([[[3, 2, 10, 9]]])
        assert share == accuracy.overlaps(box, truth[None], criterion)[0, 0]


def test_pointing_game():
    peaks = np.array([[[0, 0]], [[10, 5]], [[np.nan, np.nan]]])  # 10 is outside 0 .. 10
    np.testing.assert_array_equal(accuracy.pointing(peaks, TRUTH), [1, 0, 0])


def test_means_are_over_labels_not_over_boxes():
    labels = np.array(["Mass", "Nodule", "Nodule", "Nodule", "Pneumonia", "Hernia"])
    values = np.array([[1.0], [0], [0], [0.3], [0.4], [1]])
    means = accuracy.label_means(values, labels)
    assert list(means) == ["Hernia", "Mass", "Nodule", "Pneumonia", "Mean", "Mean8"]
    assert means["Nodule"] == pytest.approx(0.1)
    assert means["Mean"] == pytest.approx((1 + 0.1) / 2)
    assert means["Mean8"] == pytest.approx((1 + 0.1 + 0.4) / 3)


def test_no_mean_without_its_labels():
    means = accuracy.label_means(np.ones((1, 1)), np.array(["Pneumonia"]))
    assert list(means) == ["Pneumonia", "Mean8"]
