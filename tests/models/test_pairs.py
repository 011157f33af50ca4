import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosseai.errors import InputError
from crosseai.models import build
from crosseai.models.pairs import contrastive_batches, patient_batches, plain_batches


@st.composite
def studies(draw):
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    share = draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    labels = rng.random((n, draw(st.integers(1, 4)))) < share
    patients = rng.integers(0, draw(st.integers(1, 40)), n)
    return labels, patients


def rows(batches):
    """All rows of an epoch: batch, image, label, group."""
    return np.concatenate(
        [
            np.stack([np.full(len(b.image), i), b.image, b.label, b.group], 1)
            for i, b in enumerate(batches)
        ]
    )


@settings(max_examples=80, deadline=None)
@given(studies(), st.sampled_from([2, 4, 8]), st.sampled_from([2, 6, 16, 128]), st.integers(0, 99))
def test_an_epoch_of_contrastive_batches(study, negatives, size, seed):
    labels, patients = study
    batches = list(
        contrastive_batches(labels, patients, negatives, size, np.random.default_rng(seed))
    )
    assert [len(b.image) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert 0 < len(batches[-1].image) <= size

    epoch = rows(batches)
    query, positive = epoch[0::2], epoch[1::2]
    assert sorted(query[:, 1]) == list(range(len(labels)))  # each image is a query once
    np.testing.assert_array_equal(query[:, [0, 2, 3]], positive[:, [0, 2, 3]])
    for q, p, label in zip(query[:, 1], positive[:, 1], query[:, 2], strict=True):
        if label < 0:
            assert not labels[q].any()
            assert p == q
            continue
        assert labels[q, label]
        assert labels[p, label]
        assert patients[q] == patients[p]
        others = (patients == patients[q]) & labels[:, label]
        assert (p != q) == (others.sum() > 1)  # the query itself only where there is no other

    for group in np.unique(epoch[:, 3]):
        assert len(set(epoch[epoch[:, 3] == group, 2])) == 1
        assert (query[:, 3] == group).sum() <= negatives // 2 + 1
    for batch in batches:
        owner = patients[batch.image]
        for i in range(0, len(batch.image), 2):
            mates = batch.group == batch.group[i]
            found = int((mates & (owner != owner[i])).sum())
            assert found <= negatives
            own = owner[mates][::2]
            if mates.sum() == negatives + 2 and len(set(own)) == len(own):
                assert found == negatives


def test_distinct_patients_in_batches_of_whole_groups_all_get_k_negatives():
    batches = list(
        contrastive_batches(np.ones((30, 1), bool), np.arange(30), 8, 20, np.random.default_rng(0))
    )
    assert len(batches) == 3
    for batch in batches:
        assert [(batch.group == g).sum() for g in batch.group] == [10] * 20


def test_one_label_s_groups_are_full_but_for_the_last():
    epoch = rows(
        contrastive_batches(np.ones((13, 1), bool), np.arange(13), 8, 26, np.random.default_rng(0))
    )
    assert sorted(np.unique(epoch[:, 3], return_counts=True)[1]) == [6, 10, 10]


def test_the_seed_decides_and_epochs_differ():
    labels = np.random.default_rng(0).random((30, 3)) < 0.5
    patients = np.arange(30) // 2

    def epoch(seed):
        return rows(contrastive_batches(labels, patients, 4, 8, np.random.default_rng(seed)))

    np.testing.assert_array_equal(epoch(1), epoch(1))
    assert (epoch(1) != epoch(2)).any()


def test_labels_and_positives_are_drawn_anew_each_time():
    labels = np.ones((4, 3), bool)
    drawn, positives = set(), set()
    for seed in range(40):
        epoch = rows(
            contrastive_batches(labels, np.zeros(4, int), 4, 8, np.random.default_rng(seed))
        )
        first = np.flatnonzero(epoch[0::2, 1] == 0)[0]
        drawn.add(epoch[2 * first, 2])
        positives.add(epoch[2 * first + 1, 1])
    assert drawn == {0, 1, 2}
    assert positives == {1, 2, 3}


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 99))
def test_plain_batches_show_every_image_once(n, size, seed):
    batches = list(plain_batches(n, size, np.random.default_rng(seed)))
    assert sorted(np.concatenate([b.image for b in batches])) == list(range(n))
    assert [len(b.image) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert all((b.label == -1).all() and len(b.label) == len(b.image) for b in batches)


@pytest.mark.parametrize(("share", "per_epoch"), [(1, 10), (0.8, 20)])
def test_the_classifier_pairs_only_for_a_contrastive_loss(share, per_epoch):
    model = build("scalp", ["a"], backbone="tiny", classification_weight=share)
    batches = model.batches(np.ones((10, 1), bool), np.arange(10), 4, np.random.default_rng(0))
    assert sum(len(b.image) for b in batches) == per_epoch


@settings(max_examples=80, deadline=None)
@given(studies(), st.sampled_from([2, 6, 16, 128]), st.integers(0, 99))
def test_an_epoch_of_patient_batches(study, size, seed):
    _, patients = study
    batches = list(patient_batches(patients, size, np.random.default_rng(seed)))
    assert [len(b.image) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert 0 < len(batches[-1].image) <= size
    assert all((b.label == -1).all() and not b.group.any() for b in batches)
    assert all(len(b.label) == len(b.group) == len(b.image) for b in batches)
    epoch = np.concatenate([b.image for b in batches])
    assert sorted(epoch[0::2]) == list(range(len(patients)))  # each image is a query once
    np.testing.assert_array_equal(patients[epoch[0::2]], patients[epoch[1::2]])


def test_pairs_are_two_random_images_of_a_patient_possibly_the_same():
    """As the published code draws them: each of the nine ordered pairs as often as the others."""
    patients = np.array([0, 1, 0, 1, 0])
    counts = np.zeros((5, 5))
    for seed in range(900):
        for batch in patient_batches(patients, 10, np.random.default_rng(seed)):
            np.add.at(counts, (batch.image[0::2], batch.image[1::2]), 1)
    expected = np.where(patients[:, None] == patients, 900 / np.bincount(patients)[patients], 0)
    assert (counts[expected == 0] == 0).all()
    assert (np.abs(counts - expected)[expected > 0] < 5 * np.sqrt(450)).all()


def test_labels_make_no_difference_to_pairs_by_patient():
    model = build("scalp", ["a"], backbone="tiny", pairs="patient")
    epochs = [
        rows(model.batches(labels, np.arange(20) // 3, 8, np.random.default_rng(5)))
        for labels in (np.zeros((20, 1), bool), np.ones((20, 1), bool))
    ]
    np.testing.assert_array_equal(*epochs)
    expected = rows(patient_batches(np.arange(20) // 3, 8, np.random.default_rng(5)))
    np.testing.assert_array_equal(epochs[0], expected)


def test_pairs_by_patient_need_an_even_batch():
    with pytest.raises(InputError, match="batch: 7 is not even"):
        list(patient_batches(np.arange(4), 7, np.random.default_rng(0)))
