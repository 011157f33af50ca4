import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from crosseai.evaluation import bootstrap
from crosseai.evaluation.accuracy import MEANS, label_means


def data(n=60, patients=25, columns=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(["Mass", "Nodule", "Effusion", "Pneumonia"], n)
    return rng.random((n, columns)), labels, rng.integers(patients, size=n)


def test_every_resample_draws_as_many_patients():
    weights = bootstrap.resample(17, 50, np.random.default_rng(0))
    assert weights.shape == (50, 17)
    np.testing.assert_array_equal(weights.sum(axis=1), 17)
    np.testing.assert_array_equal(weights, bootstrap.resample(17, 50, np.random.default_rng(0)))
    assert weights.std(axis=0).min() > 0


@pytest.mark.parametrize("columns", [3, 600])  # 600: more than one block of columns
def test_against_plain_loops(columns):
    values, labels, patients = data(columns=columns)
    weights = bootstrap.resample(25, 80, np.random.default_rng(1))
    got = bootstrap.intervals(values, labels, patients, weights)
    assert set(got) == {*labels, "Mean", "Mean8"}
    replicates = {name: [] for name in got}
    for row in weights:
        ratio = {}
        for label in set(labels):
            total, weight = np.zeros(columns), 0.0
            for i in range(len(labels)):
                if labels[i] == label:
                    total += row[patients[i]] * values[i]
                    weight += row[patients[i]]
            if weight:
                ratio[label] = total / weight
        for name, members in MEANS.items():
            if present := [ratio[label] for label in members if label in ratio]:
                replicates[name].append(np.mean(present, axis=0))
        for label, value in ratio.items():
            replicates[label].append(value)
    for name, (low, high) in got.items():
        np.testing.assert_allclose(low, np.quantile(replicates[name], 0.025, axis=0))
        np.testing.assert_allclose(high, np.quantile(replicates[name], 0.975, axis=0))


def test_against_the_normal_approximation():
    rng = np.random.default_rng(2)
    n = 1000
    values = (rng.random((n, 1)) < 0.3).astype(float)
    weights = bootstrap.resample(n, 4000, rng)
    low, high = bootstrap.intervals(values, np.full(n, "Mass"), np.arange(n), weights)["Mass"]
    p = values.mean()
    half = 1.96 * np.sqrt(p * (1 - p) / n)
    assert low[0] == pytest.approx(p - half, abs=0.15 * half)
    assert high[0] == pytest.approx(p + half, abs=0.15 * half)


def test_boxes_of_one_patient_are_not_independent():
    rng = np.random.default_rng(3)
    values = np.repeat(rng.random((50, 1)) < 0.5, 8, axis=0).astype(float)
    labels = np.full(400, "Mass")
    together = bootstrap.intervals(
        values, labels, np.repeat(np.arange(50), 8), bootstrap.resample(50, 500, rng)
    )["Mass"]
    apart = bootstrap.intervals(values, labels, np.arange(400), bootstrap.resample(400, 500, rng))[
        "Mass"
    ]
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_a_paired_difference_is_the_interval_of_the_differences():
    """Two methods that differ by a constant: the paired difference has no width."""
    values, labels, patients = data(columns=1)
    weights = bootstrap.resample(25, 60, np.random.default_rng(4))
    both = bootstrap.intervals(np.hstack([values, 0 * values + 0.25]), labels, patients, weights)
    for low, high in both.values():
        assert high[0] - low[0] > 0
        assert low[1] == pytest.approx(0.25)
        assert high[1] == pytest.approx(0.25)


def test_a_label_of_one_patient_does_not_spoil_the_means():
    values = np.array([[1.0], [0], [0], [1]])
    labels = np.array(["Mass", "Nodule", "Nodule", "Nodule"])
    weights = np.array([[0.0, 1, 2, 0], [2, 1, 0, 0]])  # Mass is not drawn in the first
    got = bootstrap.intervals(values, labels, np.arange(4), weights)
    assert got["Mass"] == (1, 1)
    np.testing.assert_allclose(got["Mean"][1], np.quantile([0, 0.5], 0.975))


def test_the_interval_holds_the_estimate():
    values, labels, patients = data(n=300, patients=200)
    weights = bootstrap.resample(200, 400, np.random.default_rng(5))
    limits = bootstrap.intervals(values, labels, patients, weights)
    for name, value in label_means(values, labels).items():
        assert (limits[name][0] < value).all()
        assert (value < limits[name][1]).all()


def test_nothing_left_gives_nan():
    assert np.isnan(bootstrap.percentiles(np.full((3, 2), np.nan))).all()


@pytest.mark.parametrize("levels", [4, 10_000])  # few levels: many ties
def test_auc_against_sklearn(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=200) / levels
    positive = rng.random(200) < 0.3
    weights = rng.integers(0, 4, size=(200, 12)).astype(float)
    expected = [roc_auc_score(positive, scores, sample_weight=w) for w in weights.T]
    np.testing.assert_allclose(bootstrap.auc(scores, positive, weights), expected)


def test_auc_needs_both_classes():
    scores, ones = np.arange(4.0), np.ones((4, 1))
    assert np.isnan(bootstrap.auc(scores, np.zeros(4, bool), ones))
    assert np.isnan(bootstrap.auc(scores, np.ones(4, bool), ones))
    drawn = np.array([[1.0, 1], [1, 1], [0, 1], [0, 1]])  # the first draws no positive
    got = bootstrap.auc(scores, np.array([False, False, True, True]), drawn)
    assert np.isnan(got[0])
    assert got[1] == 1


def test_fold_auc_never_compares_scores_of_two_models():
    rng = np.random.default_rng(6)
    scores = rng.random((300, 2))
    positive = rng.random((300, 2)) < 0.4
    folds = rng.integers(3, size=300)
    expected = [
        np.mean([roc_auc_score(positive[folds == k, c], scores[folds == k, c]) for k in range(3)])
        for c in range(2)
    ]
    shifted = scores + 10 * folds[:, None]
    got = bootstrap.fold_auc(shifted, positive, folds, np.ones((300, 1)))
    np.testing.assert_allclose(got, [expected])


def test_fold_auc_leaves_out_a_fold_without_positives():
    scores = np.array([[0.1], [0.9], [0.3], [0.2]])
    positive = np.array([[False], [True], [False], [False]])
    got = bootstrap.fold_auc(scores, positive, np.array([0, 0, 1, 1]), np.ones((4, 1)))
    assert got == 1
