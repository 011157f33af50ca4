import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosseai.evaluation import controls
from crosseai.evaluation.controls import CONTROLS, medoid
from crosseai.evaluation.overlap import iou


def control_boxes(*arguments, **settings):
    """All boxes at once."""
    parts = list(controls.control_boxes(*arguments, **settings))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def make(patients, seed):
    """Random boxes in relative coordinates, one a patient's row."""
    rng = np.random.default_rng(seed)
    start = rng.random((len(patients), 2)) * 0.5
    boxes = np.hstack([start, start + 0.05 + rng.random((len(patients), 2)) * 0.4])
    return boxes, rng.choice(["Mass", "Nodule"], len(patients)), np.array(patients, str)


def test_by_hand():
    """Two patients, two folds: each one's box is made of the other's."""
    boxes = np.array([[0.1, 0.1, 0.3, 0.5], [0.6, 0.2, 0.7, 0.4]])
    got = control_boxes(boxes, np.array(["Mass"] * 2), np.array(["1", "2"]), draws=7, folds=2)
    np.testing.assert_allclose(got["control-centre"][0, 0], [0.45, 0.4, 0.55, 0.6])
    np.testing.assert_allclose(got["control-centre"][1, 0], [0.4, 0.3, 0.6, 0.7])
    np.testing.assert_allclose(got["control-prior"][:, 0], boxes[::-1])
    random = got["control-random"]
    assert random.shape == (2, 7, 4)
    np.testing.assert_allclose(random[0, :, 2:] - random[0, :, :2], [[0.1, 0.2]] * 7)
    np.testing.assert_allclose(random[1, :, 2:] - random[1, :, :2], [[0.2, 0.4]] * 7)


def test_the_size_is_the_median():
    boxes = np.array([[0, 0, 0.1, 0.2], [0.5, 0.5, 0.7, 0.6], [0, 0, 0.9, 0.9], [0, 0, 1, 1]])
    got = control_boxes(boxes, np.full(4, "Mass"), np.array(list("abcd")), draws=1, folds=4)
    np.testing.assert_allclose(got["control-centre"][3, 0], [0.4, 0.4, 0.6, 0.6])


def test_medoid():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 6], [90, 90, 99, 99]], float)
    np.testing.assert_array_equal(medoid(boxes), boxes[1])
    np.testing.assert_array_equal(medoid(boxes[:1]), boxes[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=2, max_size=24), st.integers(0, 99), st.integers(2, 5))
def test_never_the_same_patients_boxes(patients, seed, folds):
    """Whatever a patient's own boxes are, the controls' boxes for that patient stay the same."""
    boxes, labels, patients = make(patients, seed)
    before = control_boxes(boxes, labels, patients, draws=3, folds=folds, seed=seed)
    own = patients == patients[0]
    moved = boxes.copy()
    moved[own] = [0.9, 0.9, 0.99, 0.99]
    after = control_boxes(moved, labels, patients, draws=3, folds=folds, seed=seed)
    for name in CONTROLS:
        np.testing.assert_array_equal(before[name][own], after[name][own])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=2, max_size=24), st.integers(0, 99))
def test_inside_the_image_and_missing_only_without_others(patients, seed):
    boxes, labels, patients = make(patients, seed)
    got = control_boxes(boxes, labels, patients, draws=5, folds=99, seed=seed)  # leave one out
    others = [
        ((labels == label) & (patients != patient)).any()
        for label, patient in zip(labels, patients, strict=True)
    ]
    for name in CONTROLS:
        assert (~np.isnan(got[name]).any(axis=(1, 2)) == others).all()
        assert np.nanmin(got[name], initial=0) >= -1e-12
        assert np.nanmax(got[name], initial=1) <= 1 + 1e-12


def test_draws_are_uniform_and_repeatable():
    boxes, labels = np.tile([0.0, 0, 0.5, 0.2], (2, 1)), np.full(2, "Mass")
    got, again, other = (
        control_boxes(boxes, labels, np.array(["1", "2"]), draws=4000, folds=2, seed=seed)
        for seed in (0, 0, 1)
    )
    start = got["control-random"][0, :, :2]
    np.testing.assert_allclose(
        np.quantile(start[:, 0], [0.25, 0.5, 0.75]) / 0.5, [0.25, 0.5, 0.75], atol=0.04
    )
    np.testing.assert_allclose(
        np.quantile(start[:, 1], [0.25, 0.5, 0.75]) / 0.8, [0.25, 0.5, 0.75], atol=0.04
    )
    np.testing.assert_array_equal(got["control-random"], again["control-random"])
    assert not np.array_equal(got["control-random"], other["control-random"])
    assert not np.array_equal(got["control-random"][0], got["control-random"][1])


def test_prior_finds_what_always_sits_in_one_place():
    rng = np.random.default_rng(0)
    boxes = np.array([0.4, 0.5, 0.8, 0.9]) + rng.normal(0, 0.01, (40, 4))
    got = control_boxes(boxes, np.full(40, "Cardiomegaly"), np.arange(40).astype(str))
    assert iou(got["control-prior"][:, 0], boxes).mean() > 0.85
    assert iou(got["control-random"], boxes[:, None]).mean() == pytest.approx(0.2, abs=0.1)
