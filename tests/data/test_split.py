import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosseai import tables
from crosseai.data.split import share_boxes, split_by_patient
from crosseai.errors import InputError


def release(sizes, boxed=(), official=None):
    """Records and boxes: sizes[p] images of patient p, the images numbered `boxed` with a box."""
    patients = np.repeat(np.arange(len(sizes)), sizes)
    records = pd.DataFrame(
        {"image": [f"{n:04d}.png" for n in range(len(patients))], "patient": patients.astype(str)}
    )
    records["official"] = "" if official is None else official
    boxes = pd.DataFrame({"image": [f"{n:04d}.png" for n in boxed]}, dtype="str")
    return records, boxes


@st.composite
def releases(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=15, max_size=40))
    boxed = draw(st.sets(st.integers(0, sum(sizes) - 1), max_size=sum(sizes)))
    return release(sizes, sorted(boxed))


def parts_of_patients(split, records):
    """Number of parts that each (fold, patient) has images in."""
    return split.merge(records, on="image").groupby(["fold", "patient"])["part"].nunique()


@settings(deadline=None, max_examples=50)
@given(releases(), st.integers(0, 3), st.sampled_from([(0.7, 0.1, 0.2), (0.5, 0.25, 0.25)]))
def test_random_keeps_patients_whole_and_fractions_near(made, seed, fractions):
    records, boxes = made
    split = split_by_patient(records, boxes, "random", fractions, seed=seed)
    assert sorted(split["image"]) == sorted(records["image"])
    assert set(split["fold"]) == {0}
    assert (parts_of_patients(split, records) == 1).all()
    count = split["part"].value_counts()
    largest = records["patient"].value_counts().max()
    # Each end of a part lies half a patient from its place at most, or one more to fill the part.
    for part, fraction in zip(["train", "validation", "test"], fractions, strict=True):
        assert count[part] > 0
        assert abs(count[part] - fraction * len(records)) <= 3 * largest


@settings(deadline=None, max_examples=50)
@given(releases(), st.integers(2, 6), st.integers(0, 3))
def test_kfold_tests_every_image_once_by_a_model_that_never_saw_its_patient(made, folds, seed):
    records, boxes = made
    split = split_by_patient(records, boxes, "kfold", folds=folds, seed=seed)
    assert split.groupby("image").size().eq(folds).all()
    assert split["image"].nunique() == len(records)
    tested = split[split["part"] == "test"]
    assert sorted(tested["image"]) == sorted(records["image"])
    assert (parts_of_patients(split, records) == 1).all()
    present = split.groupby("fold")["part"].agg(set)
    assert (present == {"train", "validation", "test"}).all()
    # Dealt to the emptiest fold, no two folds differ by more than one patient.
    with_box = records["image"].isin(boxes["image"])
    dealt = records[with_box] if with_box.any() else records
    count = tested[tested["image"].isin(dealt["image"])]["fold"].value_counts()
    count = count.reindex(range(folds), fill_value=0)
    assert count.max() - count.min() <= dealt["patient"].value_counts().max()


def test_random_meets_the_fractions_where_patients_are_alike():
    split = split_by_patient(*release([2] * 100), "random")
    assert split["part"].value_counts().to_dict() == {"train": 140, "test": 40, "validation": 20}


def test_kfold_is_even_on_a_release_of_usual_make():
    rng = np.random.default_rng(0)
    sizes = rng.geometric(0.3, 1000)
    records, boxes = release(sizes, rng.choice(sizes.sum(), 200, replace=False))
    split = split_by_patient(records, boxes, "kfold", folds=5)
    tested = split[split["part"] == "test"]
    images = tested["fold"].value_counts()
    boxed = tested[tested["image"].isin(boxes["image"])]["fold"].value_counts()
    assert images.max() - images.min() <= 1
    assert boxed.max() - boxed.min() <= 1
    validation = split[split["part"] == "validation"]["fold"].value_counts()
    np.testing.assert_allclose(validation, 0.1 * 0.8 * len(records), atol=sizes.max())


@pytest.mark.parametrize("kind", ["random", "kfold", "official"])
def test_rows_in_another_order_change_nothing(kind):
    sizes = [3, 1, 2, 5, 1, 1, 4, 2, 2, 3]
    official = ["train_val"] * 13 + ["test"] * 11
    records, boxes = release(sizes, [14, 17, 20], official if kind == "official" else None)
    split = split_by_patient(records, boxes, kind, seed=3)
    shuffled = split_by_patient(
        records.sample(frac=1, random_state=1), boxes.sample(frac=1, random_state=2), kind, seed=3
    )
    pd.testing.assert_frame_equal(split, shuffled)


@pytest.mark.parametrize("kind", ["random", "kfold"])
def test_the_seed_decides(kind):
    records, boxes = release([2] * 50, [0, 7, 30])
    splits = [split_by_patient(records, boxes, kind, seed=seed) for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(splits[0], splits[1])
    assert not splits[0].equals(splits[2])


def test_the_split_fits_its_table(tmp_path):
    records, boxes = release([2] * 20)
    split = split_by_patient(records, boxes, "kfold")
    tables.write(split, tables.SPLIT, tmp_path / "split.parquet")
    read = tables.read(tmp_path / "split.parquet", tables.SPLIT)
    assert set(read["part"]) == {"train", "validation", "test"}
    assert split["fold"].is_monotonic_increasing


def test_official_takes_the_test_list_and_cuts_validation_from_the_rest():
    official = ["train_val"] * 400 + ["test"] * 100
    records, boxes = release([2] * 250, [400, 405], official)
    split = split_by_patient(records, boxes, "official", (0.6, 0.2, 0.2))
    assert split["image"][split["part"] == "test"].tolist() == records["image"][400:].tolist()
    assert split["part"].value_counts().to_dict() == {
        "train": 300,
        "validation": 100,  # 0.2 / (0.6 + 0.2) of 400
        "test": 100,
    }
    assert (parts_of_patients(split, records) == 1).all()


@pytest.mark.parametrize(
    ("official", "boxed", "message"),
    [
        ([""] * 6, [], "train_val_list.txt and test_list.txt"),
        (["train_val"] * 6, [], "train_val_list.txt and test_list.txt"),
        (["train_val"] * 4 + ["test", ""], [], r"0005.png of patient 2 is in neither"),
        (["train_val"] * 4 + ["test"] * 2, [1], r"0001.png of patient 0 has a box"),
        (["train_val"] * 3 + ["test"] * 3, [], r"0002.png of patient 1 .*both|one list"),
    ],
)
def test_unusable_official_lists_are_named(official, boxed, message):
    with pytest.raises(InputError, match=message):
        split_by_patient(*release([2, 2, 2], boxed, official), "official")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "kfolds"}, "split.kind: 'kfolds' is unknown; did you mean 'kfold'"),
        ({"kind": "zzz"}, "split.kind: 'zzz' is unknown; Known: official, random, kfold"),
        (
            {"fractions": (0.7, 0.2, 0.2)},
            r"^split.fractions: 0.7 \+ 0.2 \+ 0.2 = 1.1, must add up to 1$",
        ),
        ({"fractions": (0.7, float("nan"), 0.2)}, "must add up to 1"),
        ({"fractions": (1.2, -0.4, 0.2)}, "split.fractions: .*none below 0"),
        ({"fractions": (0.0, 0.5, 0.5)}, "split.fractions: .*training above"),
        ({"fractions": (0.8, 0.2)}, "split.fractions: .*three shares"),
        ({"kind": "kfold", "folds": 1}, "split.folds: 1, must be at least 2"),
        ({"kind": "kfold", "folds": 7}, "split.folds: 7, .*at most the 6 patients"),
    ],
)
def test_unusable_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        split_by_patient(*release([2] * 6), **{"kind": "random"} | settings)


def test_too_few_patients_are_named():
    with pytest.raises(InputError, match="too few patients to cut into 3 parts, 2"):
        split_by_patient(*release([5, 5]), "random")


def test_a_part_without_share_stays_empty():
    split = split_by_patient(*release([1] * 10), "random", (0.8, 0.2, 0.0))
    assert split["part"].value_counts().to_dict() == {"train": 8, "validation": 2}


def listed():
    """40 patients of three images in train_val and 20 in test, a box on half of the latter's."""
    return release([3] * 60, range(121, 180, 2), ["train_val"] * 120 + ["test"] * 60)


def test_shared_boxes_are_tested_once_and_seen_by_the_other_folds():
    records, boxes = listed()
    split = split_by_patient(records, boxes, "official")
    shared = share_boxes(split, records, boxes, box_folds=3)
    assert shared.columns.tolist() == split.columns.tolist()
    tested = set(split.image[split.part == "test"])
    boxed = tested & set(boxes.image)
    patient = records.set_index("image").patient
    for fold, rows in shared.groupby("fold"):
        part = rows.set_index("image").part
        own = set(part.index[part == "test"])
        assert own <= tested
        assert set(part.index[part == "train"]) == set(split.image[split.part == "train"]) | (
            boxed - own
        )
        assert set(part.index[part == "validation"]) == set(split.image[split.part == "validation"])
        assert not set(patient[list(own)]) & set(patient[part.index[part != "test"]])
        assert 0.2 < len(own & boxed) / len(boxed) < 0.47, fold
        assert 0.2 < len(own) / len(tested) < 0.47, fold
    assert shared[shared.part == "test"].image.is_unique
    assert set(shared.image[shared.part == "test"]) == tested
    again = share_boxes(split.sample(frac=1, random_state=0), records[::-1], boxes[::-1], 3)
    assert again.equals(shared)


def test_boxes_that_are_shared_already_or_too_few_are_said_in_one_line():
    records, boxes = listed()
    with pytest.raises(InputError, match="share their boxes already"):
        share_boxes(split_by_patient(records, boxes, "kfold", folds=3), records, boxes)
    split = split_by_patient(records, boxes, "official")
    with pytest.raises(InputError, match="box_folds: 500, must be at least 2 and at most"):
        share_boxes(split, records, boxes, box_folds=500)
