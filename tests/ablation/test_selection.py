import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosseai import tables
from crosseai.ablation.selection import choose, deal, select
from crosseai.boxes.stage import find, gather
from crosseai.errors import InputError
from crosseai.fusion import fuse_files
from crosseai.labels import TABLE_1

FOLDS = 3


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(6, 30), st.integers(1, 5))
def test_choice_by_brute_force_and_never_by_the_fold_itself(seed, boxes, tried):
    random = np.random.default_rng(seed)
    overlap = random.random((boxes, tried))
    labels = random.choice(["Mass", "Nodule", "Pneumonia"], boxes)
    labels[:2] = "Mass"
    fold = random.permutation(np.r_[0, 1, 2, random.integers(0, FOLDS, boxes - 3)])
    labels[:] = np.where(np.isin(np.arange(boxes), [0, 1, 2]), "Mass", labels)
    chosen, reached = choose(overlap, labels, fold, FOLDS)
    for k in range(FOLDS):
        rows = [row for row in range(boxes) if fold[row] != k]
        six = {labels[row] for row in rows} & set(TABLE_1)
        means = [
            np.mean(
                [
                    np.mean([overlap[row, s] for row in rows if labels[row] == label])
                    for label in (six or {"Pneumonia"})
                ]
            )
            for s in range(tried)
        ]
        assert chosen[k] == int(np.argmax(means))
        assert reached[k] == pytest.approx(max(means))
        changed = overlap.copy()
        changed[fold == k] = random.random((np.count_nonzero(fold == k), tried))
        assert choose(changed, labels, fold, FOLDS)[0][k] == chosen[k]


def test_of_equals_the_first_is_chosen():
    overlap = np.full((4, 3), 0.5)
    assert choose(overlap, np.array(["Mass"] * 4), np.array([0, 0, 1, 1]), 2)[0] == [0, 0]


def test_patients_are_dealt_evenly_whatever_their_order():
    patients = [f"p{number}" for number in range(17)]
    dealt = deal(patients, 5, seed=1)
    assert sorted(dealt) == sorted(patients)
    sizes = np.bincount(list(dealt.values()), minlength=5)
    assert sizes.max() - sizes.min() == 1
    assert deal(patients[::-1] * 2, 5, seed=1) == dealt
    assert deal(patients, 5, seed=2) != dealt


@pytest.fixture
def two_kinds(run):
    """Two folds: of fold 0 the heatmaps are right, of fold 1 the gradient maps."""
    fold = deal([f"p{number}" for number in range(8)], 2, seed=0)
    right, wrong = run.square(2, 2), run.square(14, 14)
    of = {pair: fold[f"p{pair[0][0]}"] for pair in run.pairs}
    heatmaps = {pair: (right, wrong)[k] for pair, k in of.items()}
    gradients = {pair: (wrong, right)[k] for pair, k in of.items()}
    parts = [run.write_maps("heat", heatmaps), run.write_maps("grad", gradients)]
    return parts, {image: k for (image, _), k in of.items()}


def selected(run, parts, name="a", **values):
    out, choices = run.folder / f"{name}.parquet", run.folder / f"{name}.csv"
    select(*run.tables, parts, out, choices, run.side, threshold=0.5, folds=2, **values)
    return tables.read(out, tables.FOUND), pd.read_csv(choices)


def test_each_fold_is_boxed_with_what_is_best_on_the_other(run, two_kinds):
    parts, fold = two_kinds
    found, choices = selected(run, parts, t_values=[0.0, 1.0], smoothing_values=[0.0, 3.0])
    assert choices["t"].tolist() == [0.0, 1.0]  # fold 0 takes the gradient, right on fold 1
    assert choices["smoothing"].tolist() == [0.0, 0.0]
    assert choices["mean_iou_of_others"].tolist() == [1.0, 1.0]
    assert choices["boxes"].tolist() == choices["boxes_of_others"].tolist() == [8, 8]
    assert set(found["image"]) == set(fold)
    assert (found["x"] == 28).all()  # which is wrong on the fold itself
    assert (found["y"] == 42).all()


def test_the_boxes_of_a_fold_decide_nothing_about_it(run, two_kinds):
    parts, fold = two_kinds
    values = {"t_values": [0.0, 0.2, 1.0], "threshold_values": [0.3, 0.6]}
    found, choices = selected(run, parts, **values)
    zero = run.truth["image"].map(fold) == 0
    # The boxes of fold 0 move to where its gradient maps are: they decide about fold 1 alone.
    run.write_truth(run.truth.assign(x=run.truth["x"] + 24 * zero, y=run.truth["y"] + 36 * zero))
    moved, others = selected(run, parts, "b", **values)
    names = ["t", "threshold", "smoothing", "candidates", "mean_iou_of_others"]
    assert others.loc[0, names].tolist() == choices.loc[0, names].tolist()
    assert choices["t"].tolist() == [0.0, 1.0]
    assert others["t"].tolist() == [0.0, 0.0]
    own = [table[table["image"].map(fold) == 0].reset_index(drop=True) for table in (found, moved)]
    pd.testing.assert_frame_equal(*own)


def test_without_a_choice_the_table_is_that_of_the_stages(run):
    heatmaps = run.write_maps("heat", {pair: run.noise(k, 8) for k, pair in enumerate(run.pairs)})
    gradients = run.write_maps("grad", {pair: run.noise(k) for k, pair in enumerate(run.pairs)})
    given = {"threshold": 0.3, "smoothing": 1.0, "candidates": 9, "keep_last_ring": True}
    out = run.folder / "selected.parquet"
    for parts in ([heatmaps, gradients], [gradients]):
        select(*run.tables, parts, out, run.folder / "c.csv", 32, t=0.6, ranks=3, **given)
        shards = []
        for shard, files in enumerate(zip(*parts, strict=True)):
            maps, both = files[0], None
            if len(files) == 2:
                maps, both = run.folder / "fused.h5", files
                fuse_files(*files, maps, 0.6)
            shards.append(run.folder / f"{shard}.parquet")
            find(maps, run.tables[0], shards[-1], parts=both, size=32, ranks=3, **given)
        gather(shards, run.folder / "gathered.parquet")
        assert out.read_bytes() == (run.folder / "gathered.parquet").read_bytes()
        assert tables.read(out, tables.FOUND)["rank"].max() == 2


def test_boxes_of_one_patient_choose_nothing(run, two_kinds):
    parts, _ = two_kinds
    run.write_truth(run.truth[:2])
    with pytest.raises(InputError, match="choose on more patients with boxes"):
        selected(run, parts, t_values=[0.0, 1.0])
