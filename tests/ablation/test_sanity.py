import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from crosseai import tables
from crosseai.ablation.sanity import ANOTHER, TRAINED, another_image, sanity, similarity
from crosseai.errors import InputError


def test_rank_correlation_is_spearmans_with_ties():
    random = np.random.default_rng(0)
    a = random.integers(0, 5, (12, 9)).astype("float32")
    b = a + random.integers(0, 5, (12, 9))
    assert similarity(a, b)[0] == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)


def test_a_map_is_like_itself_whatever_its_units_and_unlike_what_has_no_order():
    values = np.random.default_rng(1).random((16, 16), "float32")
    assert similarity(values, 3 * values + 2) == (pytest.approx(1), pytest.approx(1))
    assert similarity(values, values**3)[0] == pytest.approx(1)
    assert similarity(values, values**3)[1] < 0.99
    assert similarity(values, -values)[0] == pytest.approx(-1)
    assert similarity(values, np.zeros((16, 16), "float32"))[0] == 0


def test_structural_similarity_by_its_definition():
    a, b = np.random.default_rng(2).random((2, 7, 7))
    a, b = ((255 * (x - x.min()) / np.ptp(x)) for x in (a, b))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    covariance = np.cov(a.ravel(), b.ravel())  # over the one window of 7 x 7 that fits
    expected = (
        (2 * a.mean() * b.mean() + c1)
        * (2 * covariance[0, 1] + c2)
        / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2))
    )
    assert similarity(a, b)[1] == pytest.approx(expected, rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("LM"), st.integers(0, 6)), min_size=1, max_size=30))
def test_another_image_has_the_label_and_if_possible_another_patient(rows):
    labels = np.array([label for label, _ in rows])
    patients = np.array([f"p{patient}" for _, patient in rows])
    partner = another_image(labels, patients)
    assert sorted(partner) == list(range(len(rows)))
    assert (labels[partner] == labels).all()
    for label in set(labels):
        own = labels == label
        counts = np.unique(patients[own], return_counts=True)[1]
        if counts.max() <= own.sum() // 2:
            assert (patients[partner[own]] != patients[own]).all()


def write_found(path, boxes):
    """Boxes of rank 0: image, label, x, y, w, h."""
    table = pd.DataFrame(boxes, columns=["image", "label", "x", "y", "w", "h"])
    table = table.assign(rank=0, score=1.0, agreement=np.nan, peak_x=0.0, peak_y=0.0)
    tables.write(table.assign(outline=None, region=""), tables.FOUND, path)
    return path


@pytest.fixture
def inputs(run):
    """A method whose boxes are right, lost with the head and, with all weights, kept in half."""
    maps, found = {}, {}
    right = [(*pair, 4.0, 6.0, 16.0, 24.0) for pair in run.pairs]
    half = [(*pair, 4.0, 6.0, 8.0, 24.0) for pair in run.pairs]
    for name, boxes in {"scalp": right, "scalp~head": [], "scalp~all": half}.items():
        seed = 100 * len(maps)
        made = {pair: run.noise(seed + k) for k, pair in enumerate(run.pairs)}
        maps[name] = run.write_maps(name, made)[0].parent
        found[name] = write_found(run.folder / f"{name}.parquet", boxes)
    return maps, found


def test_what_is_lost_by_hand(run, inputs):
    out = run.folder / "sanity"
    sanity(*run.tables, *inputs, out, 2, run.side, resamples=50)
    table = pd.read_csv(out / "sanity.csv")
    mass = table[table["label"] == "Mass"].set_index(["depth", "metric", "iou_threshold"])["value"]
    mean = mass.droplevel("iou_threshold")
    assert dict.fromkeys(table["depth"]) == dict.fromkeys([TRAINED, "head", "all", ANOTHER])
    assert mass[TRAINED, "accuracy", 0.7] == 1
    assert mass["head", "accuracy", 0.1] == 0
    assert mass["head", "accuracy_lost", 0.1] == 1
    assert mean["head", "box_iou"] == 0
    assert mean["all", "box_iou"] == mean["all", "mean_iou"] == 0.5
    assert mean["all", "mean_iou_lost"] == 0.5
    assert mass["all", "accuracy_lost", 0.5] == 0
    assert mass["all", "accuracy_lost", 0.6] == 1
    assert mean[ANOTHER, "box_iou"] == 1  # all boxes lie at one place
    assert (table["n"] == np.where(table["label"].str.startswith("Mean"), 16, 8)).all()
    lines = (out / "sanity.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if "| scalp" in line]
    assert [(own[2], own[-2]) for own in cells] == [
        ("nothing", ""),
        ("head", "no"),
        ("all", "no"),
        ("nothing, another image", "yes"),
    ]
    assert (out / "sanity.png").stat().st_size


def test_maps_are_compared_pair_by_pair(run, inputs):
    maps, found = inputs
    maps["scalp~all"] = maps["scalp"]
    sanity(*run.tables, maps, found, run.folder, 2, run.side, resamples=5)
    table = pd.read_csv(run.folder / "sanity.csv").set_index(["label", "depth", "metric"])["value"]
    for metric in ("rank_correlation", "ssim"):
        assert table["Mean8", "all", metric] == 1
        assert table["Mean8", "head", metric] < 0.5
        assert table["Mean8", ANOTHER, metric] < 0.5


def test_what_is_missing_is_named(run, inputs):
    maps, found = inputs
    with pytest.raises(InputError, match="both for the same methods"):
        sanity(*run.tables, maps, {"scalp": found["scalp"]}, run.folder, 2, run.side)
    lost = [{"scalp~all": own["scalp~all"]} for own in inputs]
    with pytest.raises(InputError, match="give 'scalp', the trained one"):
        sanity(*run.tables, *lost, run.folder, 2, run.side)
    with pytest.raises(InputError, match=r"scalp: no map of"):
        sanity(*run.tables, maps, found, run.folder, 1, run.side)
    assert not (run.folder / "sanity.csv").exists()
