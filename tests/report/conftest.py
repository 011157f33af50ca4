"""A tiny finished run, made with the functions that the stages before use."""

import shutil

import numpy as np
import pandas as pd
import pytest

from crosseai import imagestore, mapstore, tables
from crosseai.evaluation.stage import evaluate

LABELS = ["Cardiomegaly", "Mass", "Nodule", "Pneumonia"]
SIZE = 64
COUNT = 28
METHODS = ["scalp", "crosseai"]


def hill(x, y, width, size=SIZE):
    """A smooth bump, float [size, size]."""
    rows, columns = np.mgrid[:size, :size]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2))


@pytest.fixture
def config():
    return {
        "run": "tiny",
        "split": {"kind": "random", "fractions": [0.7, 0.1, 0.2], "folds": 5, "seed": 0},
        "score": "test",
        "images": {"shards": 2, "size": SIZE},
        "maps": {"cam": {"kind": "grad_cam_plus_plus"}, "guided": {"kind": "guided_backprop"}},
        "methods": {
            "scalp": {"model": "net", "map": "cam", "box": "found", "t": None},
            "crosseai": {"model": "net", "map": ["cam", "guided"], "box": "found", "t": None},
        },
        "t": 0.3,
        "boxes": {
            "found": {
                "rule": "rectangles",
                "threshold": 0.35,
                "threshold_of": "maximum",
                "candidates": 50,
                "smoothing": 1.0,
                "keep_last_ring": False,
                "size": None,
            }
        },
        "table": METHODS,
        "controls": {"draws": 10, "seed": 0, "folds": 4},
        "evaluation": {"resamples": 50, "seed": 0},
        "report": {"panels": 3},
    }


@pytest.fixture
def run(built, tmp_path):
    """A finished run of one's own."""
    return shutil.copytree(built, tmp_path / "run")


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """28 images of 128 x 96 source pixels, two shards, one box each; the last 24 are scored."""
    tmp_path = tmp_path_factory.mktemp("built")
    rng = np.random.default_rng(0)
    images = [f"{k:08d}_000.png" for k in range(COUNT)]
    labels = [LABELS[k % 4] for k in range(COUNT)]
    centres = rng.integers(20, 44, (COUNT, 2))
    records = pd.DataFrame(
        {
            "image": images,
            "path": images,
            "patient": [str(k) for k in range(COUNT)],
            "labels": [[label] for label in labels],
            "view": "PA",
            "width": 128,
            "height": 96,
            "official": "",
        }
    )
    tables.write(records, tables.RECORDS, tmp_path / "data/records.parquet")
    x, y = centres.T * [[2.0], [1.5]]  # source pixels
    boxes = pd.DataFrame(
        {"image": images, "label": labels, "x": x - 12, "y": y - 12, "w": 24.0, "h": 24.0}
    )
    tables.write(boxes, tables.BOXES, tmp_path / "data/boxes.parquet")
    split = pd.DataFrame({"image": images, "part": ["train"] * 4 + ["test"] * 24, "fold": 0})
    tables.write(split, tables.SPLIT, tmp_path / "data/split.parquet")
    left_out = pd.DataFrame(
        [("BBox_List_2017.csv", 3, "<b>evil</b>.png", "the image is not in the table")] * 2,
        columns=["file", "row", "image", "reason"],
    )
    left_out.to_csv(tmp_path / "data/left_out.csv", index=False)

    maps = {"maps/net/cam": 8, "maps/net/guided": 2, "fused/crosseai": 4}
    for shard, rows in enumerate([range(14), range(14, COUNT)]):
        pixels = ((hill(*centres[k], 6) + rng.random((SIZE, SIZE))) * 127 for k in rows)
        names = [images[k] for k in rows]
        imagestore.write(tmp_path / f"data/images/{shard}.h5", names, pixels, SIZE)
        for folder, width in maps.items():
            # Hills with speckle, so that masks have holes and boxes many rivals.
            drawn = (
                (
                    place,
                    LABELS.index(labels[k]),
                    hill(*centres[k], width) * rng.uniform(0.4, 1, (SIZE, SIZE)),
                )
                for place, k in enumerate(rows)
            )
            mapstore.write(
                tmp_path / f"{folder}/{shard}.h5",
                names, LABELS, drawn, (SIZE, SIZE), [0] * 14, ["hash"] * 14, {},
            )  # fmt: skip
    for method, offset in [("scalp", 18), ("crosseai", 6)]:
        shift = rng.uniform(0, offset, (COUNT, 2))
        found = boxes.assign(
            rank=0, score=1.0, agreement=np.nan, peak_x=x, peak_y=y, outline=None, region=""
        )
        found[["x", "y"]] += shift
        if method == "scalp":
            found = found[found["label"] != "Mass"]
        tables.write(found, tables.FOUND, tmp_path / f"boxes/{method}.parquet")
    predicted = pd.DataFrame({"image": images, "part": split["part"], "fold": 0})
    for label in LABELS:
        predicted[label] = rng.random(COUNT) + 0.4 * (np.array(labels) == label)
    (tmp_path / "models/net/fold0").mkdir(parents=True)
    predicted.to_parquet(tmp_path / "models/net/fold0/predictions.parquet")
    evaluate(
        tmp_path / "data/records.parquet",
        tmp_path / "data/boxes.parquet",
        tmp_path / "data/split.parquet",
        {method: tmp_path / f"boxes/{method}.parquet" for method in METHODS},
        {"net": [tmp_path / "models/net/fold0/predictions.parquet"]},
        tmp_path,
        resamples=50,
        draws=10,
        folds=4,
    )
    return tmp_path
