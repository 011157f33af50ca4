import base64
import io
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crosseai import imagestore, mapstore
from crosseai.boxes.regions import smooth
from crosseai.errors import InputError
from crosseai.imagestore import ImageStore
from crosseai.report.gallery import (
    chosen,
    eight_bit,
    findings,
    kernel,
    packed_maps,
    pictures,
)

TRUTH = pd.DataFrame(
    {
        "image": ["a.png", "a.png", "b.png"],
        "label": ["Mass", "Nodule", "Mass"],
        "x": [10.0, 0.0, 5.0],
        "y": [20.0, 0.0, 5.0],
        "w": [10.0, 4.0, 10.0],
        "h": [10.0, 4.0, 20.0],
    }
)
SIZES = pd.DataFrame({"width": [100, 80], "height": [60, 80]}, index=["a.png", "b.png"])


def found(rows):
    columns = ["image", "label", "rank", "x", "y", "w", "h", "agreement", "outline"]
    return pd.DataFrame(rows, columns=columns)


def test_findings_by_hand():
    outline = [np.array([1.0, 2.0, 3.04, 4.0, 5.0, 6.0])]
    tables = {
        "scalp": found([("a.png", "Mass", 0, 10.0, 20.0, 10.0, 5.0, np.nan, None)]),
        "crosseai": found(
            [
                ("a.png", "Mass", 1, 50.0, 50.0, 9.0, 9.0, 0.1, None),
                ("a.png", "Mass", 0, 15.0, 20.0, 10.0, 10.0, 0.25, outline),
                ("b.png", "Mass", 0, 5.0, 5.0, 10.0, 20.0, 0.75, None),
            ]
        ),
    }
    first, second, third = findings(TRUTH, SIZES, tables, "crosseai")
    assert first["image"] == "a.png"
    assert first["label"] == "Mass"
    assert first["size"] == [100, 60]
    assert first["truth"] == [10, 20, 20, 30]
    assert first["boxes"] == {"scalp": [10, 20, 20, 25], "crosseai": [15, 20, 25, 30]}
    assert first["iou"] == {"scalp": 0.5, "crosseai": 0.3333}
    assert first["agreement"] == 0.25
    assert first["outline"] == [[1, 2, 3, 4, 5, 6]]
    assert second["boxes"] == {"scalp": None, "crosseai": None}
    assert second["iou"] == {"scalp": 0, "crosseai": 0}
    assert second["agreement"] is second["outline"] is None
    assert third["iou"] == {"scalp": 0, "crosseai": 1}
    assert third["outline"] is None


def test_workbenches_are_the_best_the_worst_and_others():
    overlap = np.linspace(0, 1, 100)
    labels = np.array(["Mass", "Nodule"] * 50)
    rows = chosen(overlap, labels, 24)
    assert len(rows) == 24
    for start in (0, 1):
        own = [row for row in rows if row % 2 == start]
        assert own[:4] == [start, start + 2, start + 4, start + 6]
        assert own[-4:] == [92 + start, 94 + start, 96 + start, 98 + start]
    assert rows == chosen(overlap, labels, 24) != chosen(overlap, labels, 24, seed=1)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), max_size=60), st.integers(3, 40)
)
def test_never_more_workbenches_than_allowed_and_none_twice(rows, limit):
    overlap = np.array([value for value, _ in rows])
    labels = np.array([label for _, label in rows], str)
    got = chosen(overlap, labels, limit)
    assert len(got) == len(set(got)) <= limit
    assert got == sorted(got)
    assert set(labels[got]) == set(labels)
    if len(rows) <= limit:
        assert got == list(range(len(rows)))


def test_a_map_is_packed_in_255_steps_and_shrunk_where_no_workbench_needs_it(tmp_path):
    rng = np.random.default_rng(0)
    maps = rng.random((2, 200, 200)).astype("float32") * 7
    path = tmp_path / "0.h5"
    drawn = ((row, 0, map) for row, map in enumerate(maps))
    mapstore.write(path, ["a", "b"], ["Mass"], drawn, (200, 200), [0, 0], ["", ""], {})
    pairs = [("b", "Mass"), ("a", "Mass")]
    second, first = packed_maps(tmp_path, range(1), pairs, {("a", "Mass")})
    assert (first["width"], first["height"]) == (200, 200)
    assert (second["width"], second["height"]) == (112, 112)
    data = zlib.decompress(base64.b64decode(first["data"]))
    values = np.frombuffer(data, "uint8").reshape(200, 200)
    assert np.abs(values / 255 - maps[0] / maps[0].max()).max() < 0.6 / 255
    with pytest.raises(InputError, match="no map of c and Mass"):
        packed_maps(tmp_path, range(1), [("c", "Mass")], set())


def test_an_empty_map_stays_empty():
    assert not eight_bit(np.zeros((3, 3), "float32")).any()


def test_pictures_are_the_radiographs(tmp_path):
    pixels = np.add.outer(np.arange(64), np.arange(64)).astype("uint8")
    imagestore.write(tmp_path / "0.h5", ["a.png"], iter([pixels]), 64)
    got = pictures(ImageStore([tmp_path / "0.h5"]), ["a.png", "a.png"])
    picture = Image.open(io.BytesIO(base64.b64decode(got["a.png"])))
    assert np.abs(np.asarray(picture.convert("L")).astype(int) - pixels).max() < 12
    assert len(got) == 1


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.25, 2.0, 4.0])
def test_the_kernel_smooths_as_the_box_rule_does(sigma):
    weights = np.array(kernel(sigma))
    map = np.random.default_rng(0).random((40, 40)).astype("float32")
    reach = len(weights) // 2
    rows = np.pad(map.astype("float64"), reach, "edge")
    down = sum(weights[k] * rows[k : k + 40] for k in range(len(weights)))
    both = sum(weights[k] * down[:, k : k + 40] for k in range(len(weights)))
    np.testing.assert_allclose(both, smooth(map, sigma), rtol=1e-5)
