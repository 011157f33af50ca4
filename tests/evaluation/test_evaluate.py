import numpy as np
import pandas as pd
import pytest

from crosseai import tables
from crosseai.boxes.regions import encode
from crosseai.errors import InputError
from crosseai.evaluation.stage import evaluate

BOXES = [  # image, label, x, y, w, h: exactly what a radiologist drew
    ("a.png", "Mass", 0.0, 0.0, 10.0, 10.0),
    ("b.png", "Mass", 20.0, 20.0, 10.0, 10.0),
    ("c.png", "Nodule", 50.0, 50.0, 10.0, 10.0),
    ("d.png", "Nodule", 50.0, 50.0, 10.0, 10.0),  # not in the test part
    ("c.png", "Pneumonia", 10.0, 10.0, 40.0, 40.0),
]
FOUND = [  # image, label, rank, x, y, w, h, peak_x, peak_y
    ("a.png", "Mass", 0, 0.0, 0.0, 10.0, 5.0, 5.0, 2.0),  # IoU 0.5, IoBB 1
    ("a.png", "Mass", 1, 0.0, 0.0, 10.0, 8.0, 5.0, 2.0),  # IoU 0.8
    ("b.png", "Mass", 0, 60.0, 60.0, 10.0, 10.0, 65.0, 65.0),  # a false positive
    ("c.png", "Nodule", 0, 50.0, 50.0, 10.0, 10.0, 49.0, 55.0),  # IoU 1, peak outside
    ("a.png", "Effusion", 0, 0.0, 0.0, 5.0, 5.0, 2.0, 2.0),  # no ground truth: not scored
]


REGIONS = {  # image, label -> x1, y1, x2, y2 of boxes that make up the region
    ("a.png", "Mass"): [(0, 0, 10, 4), (40, 40, 50, 50)],  # IoU 40 / 200, IoBB 40 / 140
    ("b.png", "Mass"): [(20, 20, 30, 30)],  # IoU 1, though the box of rank 0 misses
    ("c.png", "Nodule"): [(60, 50, 61, 51)],  # beside the box
    ("a.png", "Effusion"): [(0, 0, 5, 5)],
}


def region(pair, width=100, height=100):
    mask = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in REGIONS[pair]:
        mask[y1:y2, x1:x2] = True
    return encode(mask)


def write_found(path, rows):
    columns = ["image", "label", "rank", "x", "y", "w", "h", "peak_x", "peak_y"]
    table = pd.DataFrame(rows, columns=columns)
    codes = [region(row[:2]) if row[2] == 0 and row[:2] in REGIONS else None for row in rows]
    table = table.assign(score=1.0, agreement=np.nan, outline=None, region=codes)
    tables.write(table, tables.FOUND, path)


@pytest.fixture
def run(tmp_path):
    """A tiny run: files, and the arguments of `evaluate`."""
    records = pd.DataFrame(
        {
            "image": ["a.png", "b.png", "c.png", "d.png"],
            "path": "",
            "patient": ["1", "2", "3", "4"],
            "labels": [["Mass"], ["Mass"], ["Nodule", "Pneumonia"], ["Nodule"]],
            "view": "PA",
            "width": 100,
            "height": 100,
            "official": "",
        }
    )
    tables.write(records, tables.RECORDS, tmp_path / "records.parquet")
    boxes = pd.DataFrame(BOXES, columns=["image", "label", "x", "y", "w", "h"])
    tables.write(boxes, tables.BOXES, tmp_path / "boxes.parquet")
    split = pd.DataFrame(
        {"image": records["image"], "part": ["test", "test", "test", "train"], "fold": 0}
    )
    tables.write(split, tables.SPLIT, tmp_path / "split.parquet")
    write_found(tmp_path / "crosseai.parquet", FOUND)
    write_found(tmp_path / "scalp.parquet", FOUND[:1])
    predicted = pd.DataFrame(
        {
            "image": ["a.png", "b.png", "c.png", "d.png"],
            "part": ["test", "test", "test", "validation"],
            "fold": 0,
            "Mass": [0.9, 0.2, 0.2, 0.5],
            "Nodule": [0.1, 0.3, 0.8, 0.4],
        }
    )
    predicted.to_parquet(tmp_path / "predictions.parquet")
    return {
        "records": tmp_path / "records.parquet",
        "boxes": tmp_path / "boxes.parquet",
        "split": tmp_path / "split.parquet",
        "found": {
            "scalp": tmp_path / "scalp.parquet",
            "crosseai": tmp_path / "crosseai.parquet",
        },
        "predictions": {"net": [tmp_path / "predictions.parquet"]},
        "out": tmp_path / "out",
        "resamples": 50,
        "draws": 10,
        "folds": 4,
    }


def accuracies(run):
    table = tables.read(run["out"] / "accuracy.parquet", tables.ACCURACY)
    keys = ["method", "label", "criterion", "protocol", "iou_threshold"]
    assert not table.duplicated(keys).any()
    return table.set_index(keys).sort_index()


def values(table, method, label, criterion="IoU", protocol="single"):
    return table.loc[(method, label, criterion, protocol), "accuracy"].tolist()


def test_accuracy_by_hand(run):
    evaluate(**run)
    table = accuracies(run)
    assert values(table, "crosseai", "Mass") == [0.5] * 5 + [0, 0]
    assert values(table, "crosseai", "Mass", protocol="oracle") == [0.5] * 7
    assert values(table, "crosseai", "Mass", criterion="IoBB") == [0.5] * 7
    assert values(table, "crosseai", "Nodule") == [1] * 7
    assert values(table, "crosseai", "Pneumonia") == [0] * 7  # no box is a miss
    assert values(table, "crosseai", "Mean") == [0.75] * 5 + [0.5] * 2
    assert values(table, "crosseai", "Mean8") == pytest.approx([0.5] * 5 + [1 / 3] * 2)
    assert values(table, "scalp", "Mean") == [0.25] * 5 + [0] * 2
    row = table.loc[("crosseai", "Mean", "IoU", "single", 0.1)]
    assert (row["n"], row["hits"]) == (3, 2)
    row = table.loc[("crosseai", "Mass", "IoU", "oracle", 0.7)]
    assert (row["n"], row["hits"]) == (2, 1)
    assert ((table["ci_low"] <= table["accuracy"]) & (table["accuracy"] <= table["ci_high"])).all()


def test_methods_in_the_order_given_then_controls_in_one_protocol(run):
    evaluate(**run)
    table = tables.read(run["out"] / "accuracy.parquet", tables.ACCURACY)
    assert list(table["method"].unique()) == [
        "scalp", "crosseai", "control-centre", "control-random", "control-prior",
    ]  # fmt: skip
    controls = table["method"].str.startswith("control-")
    assert set(table.loc[controls, "protocol"]) == {"single"}
    assert set(table.loc[~controls, "protocol"]) == {"single", "oracle", "region"}


def test_regions_by_hand(run):
    evaluate(**run)
    table = accuracies(run)
    assert values(table, "crosseai", "Mass", protocol="region") == [1, 1] + [0.5] * 5
    of_region = values(table, "crosseai", "Mass", criterion="IoBB", protocol="region")
    assert of_region == [1, 1] + [0.5] * 5
    assert values(table, "crosseai", "Nodule", protocol="region") == [0] * 7
    assert values(table, "crosseai", "Pneumonia", protocol="region") == [0] * 7  # nothing found
    assert values(table, "scalp", "Mass", protocol="region") == [0.5, 0.5] + [0] * 5
    row = table.loc[("crosseai", "Mean", "IoU", "region", 0.1)]
    assert (row["n"], row["hits"], row["accuracy"]) == (3, 2, 0.5)


def test_a_box_without_a_region_misses_as_region_alone(run):
    found = tables.read(run["found"]["crosseai"], tables.FOUND)
    tables.write(found.assign(region=None), tables.FOUND, run["found"]["crosseai"])
    evaluate(**run)
    table = accuracies(run)
    assert values(table, "crosseai", "Mass", protocol="region") == [0] * 7
    assert values(table, "crosseai", "Mass") == [0.5] * 5 + [0, 0]


def test_a_region_has_the_size_of_its_image(run):
    records = tables.read(run["records"], tables.RECORDS)
    records.loc[records["image"] == "b.png", ["width", "height"]] = [80, 50]
    tables.write(records, tables.RECORDS, run["records"])
    found = tables.read(run["found"]["crosseai"], tables.FOUND)
    found.loc[found["image"] == "b.png", "region"] = region(("b.png", "Mass"), 80, 50)
    tables.write(found, tables.FOUND, run["found"]["crosseai"])
    evaluate(**run)
    assert values(accuracies(run), "crosseai", "Mass", protocol="region") == [1, 1] + [0.5] * 5


def test_controls_by_hand(run):
    """The only other Nodule has the same box: the prior hits, the centre overlaps a quarter."""
    evaluate(**run)
    table = accuracies(run)
    assert values(table, "control-prior", "Nodule") == [1] * 7
    assert values(table, "control-centre", "Nodule") == [1] + [0] * 6  # 25 / 175
    assert values(table, "control-prior", "Pneumonia") == [0] * 7  # no other patient has it
    random = table.loc[("control-random", "Nodule", "IoU", "single"), "hits"]
    assert (random * 10 == (random * 10).round()).all()  # a share of the ten draws


def test_controls_follow_the_size_of_the_image(run):
    records = tables.read(run["records"], tables.RECORDS)
    records.loc[records["image"] == "c.png", ["width", "height"]] = [200, 400]
    tables.write(records, tables.RECORDS, run["records"])
    evaluate(**run)
    # The other's box 50, 50, 10, 10 of 100 x 100 is 100, 200, 20, 40 here: no overlap.
    assert values(accuracies(run), "control-prior", "Nodule") == [0] * 7


def test_score_all_scores_every_box(run):
    evaluate(**run, score="all")
    table = accuracies(run)
    assert table.loc[("crosseai", "Nodule", "IoU", "single", 0.1), "n"] == 2
    assert values(table, "crosseai", "Nodule") == [0.5] * 7


def test_metrics_by_hand(run):
    evaluate(**run)
    metrics = pd.read_csv(run["out"] / "metrics.csv")
    assert list(metrics) == ["method", "label", "metric", "value", "ci_low", "ci_high", "n"]
    metrics = metrics.set_index(["method", "label", "metric"])
    assert metrics.loc[("crosseai", "Mass", "mean_iou"), "value"] == 0.25
    assert metrics.loc[("crosseai", "Mass", "pointing_game"), "value"] == 0.5
    assert metrics.loc[("crosseai", "Nodule", "pointing_game"), "value"] == 0
    assert metrics.loc[("crosseai", "Mass", "afp@0.1"), "value"] == 0.5
    assert metrics.loc[("crosseai", "Mass", "afp@0.6"), "value"] == 1
    assert metrics.loc[("crosseai", "Pneumonia", "afp@0.1"), "value"] == 0  # no box
    # Of the Mass boxes IoU 0.5 and 0.8 on one image, 0 on the other.
    all_drawn = [metrics.loc[("crosseai", "Mass", f"afp_all@{T}"), "value"] for T in (0.5, 0.6)]
    assert all_drawn == [0.5, 1]
    assert metrics.loc[("scalp", "Mass", "afp_all@0.6"), "value"] == 0.5
    assert metrics.loc[("control-random", "Mass", "afp@0.7"), "value"] <= 1  # a share of draws
    assert not any(method.startswith("control") and "afp_all" in metric
                   for method, _, metric in metrics.index)  # fmt: skip
    assert metrics.loc[("crosseai", "Pneumonia", "afp@0.1"), "n"] == 1
    assert metrics.loc[("net", "Mass", "auc"), "value"] == 0.75  # one pair right, one tied
    assert metrics.loc[("net", "Nodule", "auc"), "value"] == 1
    assert metrics.loc[("net", "Mean", "auc"), "value"] == 0.875
    assert metrics.loc[("net", "Mass", "auc"), "n"] == 3
    assert "auc_validation" not in metrics.index.get_level_values("metric")  # no negatives


def test_differences_are_the_differences_of_the_accuracies(run):
    evaluate(**run)
    table, keys = accuracies(run), ["label", "criterion", "protocol", "iou_threshold"]
    differences = tables.read(run["out"] / "differences.parquet", tables.DIFFERENCES)
    assert set(differences["reference"]) == {"crosseai"}
    assert set(differences["method"]) == {*table.index.unique("method")} - {"crosseai"}
    expected = (
        table.loc[pd.MultiIndex.from_frame(differences[["method", *keys]]), "accuracy"].to_numpy()
        - table.loc["crosseai"].loc[pd.MultiIndex.from_frame(differences[keys])]["accuracy"]
    )
    np.testing.assert_allclose(differences["difference"], expected, atol=1e-12)
    assert len(differences) == len(table) - len(table.loc["crosseai"]) > 0
    compared = set(zip(differences["method"], differences["protocol"], strict=True))
    assert compared == {
        ("scalp", "single"), ("scalp", "oracle"), ("scalp", "region"),
        ("control-centre", "single"), ("control-random", "single"), ("control-prior", "single"),
    }  # fmt: skip
    assert set(differences["criterion"]) == {"IoU", "IoBB"}


def test_no_differences_without_the_reference(run):
    del run["found"]["crosseai"]
    evaluate(**run)
    assert tables.read(run["out"] / "differences.parquet", tables.DIFFERENCES).empty


def test_same_input_same_bytes(run, tmp_path):
    evaluate(**run)
    evaluate(**run | {"out": tmp_path / "again"})
    for name in ("accuracy.parquet", "differences.parquet", "metrics.csv"):
        assert (run["out"] / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_two_ground_truth_boxes_of_one_pair_are_scored_each(run):
    boxes = pd.DataFrame(
        [*BOXES, ("c.png", "Nodule", 0.0, 0.0, 5.0, 5.0)],
        columns=["image", "label", "x", "y", "w", "h"],
    )
    tables.write(boxes, tables.BOXES, run["boxes"])
    evaluate(**run)
    assert values(accuracies(run), "crosseai", "Nodule") == [0.5] * 7
    assert values(accuracies(run), "crosseai", "Nodule", protocol="region") == [0] * 7


def test_found_boxes_of_an_unknown_image(run):
    write_found(run["found"]["scalp"], [("x.png", *FOUND[0][1:])])
    with pytest.raises(InputError, match=r"scalp\.parquet, row 0: image 'x\.png'"):
        evaluate(**run)


def test_predictions_of_an_unknown_image(run):
    records = tables.read(run["records"], tables.RECORDS)
    tables.write(records[records["image"] != "d.png"], tables.RECORDS, run["records"])
    tables.write(tables.read(run["boxes"], tables.BOXES)[:3], tables.BOXES, run["boxes"])
    with pytest.raises(InputError, match=r"predictions\.parquet, row 3: image 'd\.png'"):
        evaluate(**run)


def test_two_boxes_of_one_rank(run):
    write_found(run["found"]["scalp"], [FOUND[0], FOUND[0]])
    with pytest.raises(InputError, match="a second box of rank 0"):
        evaluate(**run)


def test_nothing_to_score(run):
    split = tables.read(run["split"], tables.SPLIT).assign(part="train")
    tables.write(split, tables.SPLIT, run["split"])
    with pytest.raises(InputError, match="score: all"):
        evaluate(**run)


def test_a_method_that_found_nothing(run):
    write_found(run["found"]["scalp"], [])
    evaluate(**run)
    assert values(accuracies(run), "scalp", "Mean", protocol="oracle") == [0] * 7
