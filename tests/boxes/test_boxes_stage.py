import numpy as np
import pandas as pd
import pytest

from crosseai import mapstore, tables
from crosseai.boxes import regions, stage
from crosseai.boxes.contours import contour_boxes
from crosseai.boxes.rectangles import find_boxes
from crosseai.errors import InputError

LABELS = ["Effusion", "Mass"]
SIDE = 16


def blobs(seed):
    random = np.random.default_rng(seed)
    values = np.abs(random.normal(size=(SIDE, SIDE))) ** 3
    x, y = random.integers(0, SIDE - 6, 2)
    values[y : y + 5, x : x + 6] += 2 + random.random((5, 6))
    return values


def write_maps(path, maps):
    """A map file of {(image, label): map}."""
    images = list(dict.fromkeys(image for image, _ in maps))
    stored = [
        (images.index(image), LABELS.index(label), values)
        for (image, label), values in maps.items()
    ]
    count = len(images)
    mapstore.write(
        path, images, LABELS, stored, (SIDE, SIDE), [0] * count, ["hash"] * count, {"t": 0.3}
    )
    return path


@pytest.fixture
def maps():
    names = [f"{number}.png" for number in (3, 1, 2, 0)]
    return {
        (name, label): blobs(row * 2 + column)
        for row, name in enumerate(names)
        for column, label in enumerate(LABELS)
        if (name, label) != ("2.png", "Mass")
    }


@pytest.fixture
def records(tmp_path):
    count = 4
    table = pd.DataFrame(
        {
            "image": [f"{number}.png" for number in range(count)],
            "path": "",
            "patient": "p",
            "labels": [[]] * count,
            "view": "PA",
            "width": [40, 64, 48, 16],
            "height": [20, 80, 48, 16],
            "official": "",
        }
    )
    path = tmp_path / "records.parquet"
    tables.write(table, tables.RECORDS, path)
    return path


def test_boxes_are_those_of_the_rule_in_source_pixels(tmp_path, maps, records):
    path = write_maps(tmp_path / "maps.h5", maps)
    stage.find(path, records, tmp_path / "found.parquet", size=32, threshold=0.4, candidates=20)
    found = tables.read(tmp_path / "found.parquet", tables.FOUND)
    assert found.agreement.isna().all()
    keys = list(zip(found["image"], found["label"], found["rank"], strict=True))
    assert keys == sorted(keys)
    assert {key[:2] for key in keys} == set(maps)

    rows = found[(found["image"] == "0.png") & (found["label"] == "Mass")]  # 40 x 20, map 32 x 32
    values = mapstore.read(path, "0.png", "Mass", (32, 32))
    boxes, scores = find_boxes(values, 0.4, 20)
    assert rows["rank"].tolist() == list(range(len(boxes)))
    assert rows["score"].tolist() == scores.tolist()
    x1, y1, x2, y2 = boxes.T
    np.testing.assert_allclose(rows["x"], x1 * 1.25)
    np.testing.assert_allclose(rows["y"], y1 * 0.625)
    np.testing.assert_allclose(rows["w"], (x2 - x1) * 1.25)
    np.testing.assert_allclose(rows["h"], (y2 - y1) * 0.625)
    peak_x, peak_y = regions.peak(values)
    assert set(rows["peak_x"]) == {peak_x * 1.25}
    assert set(rows["peak_y"]) == {peak_y * 0.625}
    assert rows["outline"].iloc[1:].isna().all()
    assert rows["region"].iloc[1:].isna().all()


def test_outline_and_region_lie_in_the_source_image(tmp_path, maps, records):
    path = write_maps(tmp_path / "maps.h5", maps)
    stage.find(path, records, tmp_path / "found.parquet")
    found = tables.read(tmp_path / "found.parquet", tables.FOUND)
    for row in found[found["rank"] == 0].itertuples():
        width, height = {"0": (40, 20), "1": (64, 80), "2": (48, 48), "3": (16, 16)}[row.image[0]]
        mask = regions.mask_of(mapstore.read(path, row.image, row.label), 0.35)
        region = regions.decode(row.region, height, width)
        for y in range(height):
            for x in range(width):  # the map's pixel that holds the centre of this one
                assert (
                    region[y, x]
                    == mask[int((y + 0.5) * SIDE / height), int((x + 0.5) * SIDE / width)]
                )
        points = np.concatenate(list(row.outline)).reshape(-1, 2)
        assert (points >= [row.x - 1e-9, row.y - 1e-9]).all()
        assert (points <= [row.x + row.w + 1e-9, row.y + row.h + 1e-9]).all()


def test_a_fusion_carries_the_agreement_of_its_parts(tmp_path, maps, records):
    path = write_maps(tmp_path / "fused.h5", maps)
    same = write_maps(tmp_path / "heatmap.h5", maps)
    other = write_maps(tmp_path / "gradient.h5", {k: np.roll(v, 2, 0) for k, v in maps.items()})
    out = tmp_path / "found.parquet"
    stage.find(path, records, out, parts=(same, same), size=24)
    assert (tables.read(out, tables.FOUND)["agreement"] == 1).all()
    stage.find(path, records, out, parts=(same, other), size=24)
    found = tables.read(out, tables.FOUND)
    assert found["agreement"].between(0, 1).all()
    row = found[(found["image"] == "3.png") & (found["rank"] == 0)].iloc[0]
    a, b = (mapstore.read(part, "3.png", row["label"], (24, 24)) for part in (same, other))
    box = np.rint(row[["x", "y"]].tolist() * 2 + np.r_[0, 0, row["w"], row["h"]]) * 24 / 16
    assert row["agreement"] == regions.agreement(a, b, box.astype(int), 0.35)


def test_a_map_without_a_box_has_no_row(tmp_path, maps, records):
    maps["1.png", "Mass"] = np.zeros((SIDE, SIDE))
    path = write_maps(tmp_path / "maps.h5", maps)
    stage.find(path, records, tmp_path / "found.parquet")
    found = tables.read(tmp_path / "found.parquet", tables.FOUND)
    assert set(zip(found["image"], found["label"], strict=True)) == set(maps) - {("1.png", "Mass")}


def test_smoothing_applies_to_box_region_and_outline(tmp_path, maps, records):
    values = np.zeros((SIDE, SIDE))
    values[2:8, 2:8], values[13, 13] = 0.8, 1
    path = write_maps(tmp_path / "maps.h5", {("3.png", "Mass"): values})
    stage.find(path, records, tmp_path / "found.parquet", smoothing=1.0)
    first = tables.read(tmp_path / "found.parquet", tables.FOUND).iloc[0]
    stored = mapstore.read(path, "3.png", "Mass")
    boxes, _ = find_boxes(stored, smoothing=1.0)
    assert first[["x", "y", "w", "h"]].tolist() == [
        *boxes[0, :2],
        boxes[0, 2] - boxes[0, 0],
        boxes[0, 3] - boxes[0, 1],
    ]
    mask = regions.mask_of(regions.smooth(stored, 1.0), 0.35)
    np.testing.assert_array_equal(regions.decode(first["region"], SIDE, SIDE), mask)
    assert not mask[13, 13]


def test_the_region_rule_boxes_connected_regions_largest_first(tmp_path, records):
    values = np.zeros((SIDE, SIDE))
    values[2:4, 1:9], values[10, 10] = 1, 2
    path = write_maps(tmp_path / "maps.h5", {("3.png", "Mass"): values})
    stage.find(path, records, tmp_path / "found.parquet", rule="regions", threshold=0.25)
    found = tables.read(tmp_path / "found.parquet", tables.FOUND)
    assert found[["x", "y", "w", "h"]].to_numpy().tolist() == [[1, 2, 8, 2], [10, 10, 1, 1]]
    assert found["score"].tolist() == [1, 2]


def flood(mask):
    """Boxes of the 8-connected regions, the largest first, pixel by pixel."""
    left, found = {tuple(pixel) for pixel in np.argwhere(mask)}, []
    for first in sorted(left):
        region, front = set(), [first]
        while front:
            y, x = front.pop()
            if (y, x) in left:
                left.remove((y, x))
                region.add((y, x))
                front += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        if region:
            rows, columns = np.transpose(list(region))
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            found.append((len(region), box))
    return [box for _, box in sorted(found, key=lambda pair: -pair[0])]


def test_the_level_rule_boxes_the_regions_above_each_level(tmp_path, maps, records):
    path = write_maps(tmp_path / "maps.h5", {k: v - 1 for k, v in maps.items()})
    levels = {"levels": (60, 180), "ranks": 100}
    region = {"threshold": 60 / 255, "threshold_of": "span"}
    stage.find(path, records, tmp_path / "found.parquet", rule="levels", **levels, **region)
    found = tables.read(tmp_path / "found.parquet", tables.FOUND)
    several = 0
    for label in ("Effusion", "Mass"):
        rows = found[(found["image"] == "3.png") & (found["label"] == label)]
        values = mapstore.read(path, "3.png", label)
        scaled = (values - values.min()) / (values.max() - values.min()) * 255
        high, low = flood(scaled > 180), flood(scaled > 60)
        expected = [*high, *(box for box in low if box not in high)]
        assert rows[["x", "y", "w", "h"]].to_numpy().tolist() == expected
        inside = [values[y : y + h, x : x + w].mean() for x, y, w, h in expected]
        np.testing.assert_allclose(rows["score"], inside, rtol=1e-6)
        whole = regions.decode(rows["region"].iloc[0], SIDE, SIDE)
        np.testing.assert_array_equal(whole, scaled > 60)
        several += len(high) > 0 and len(low) > 1
    assert several


def test_a_box_of_two_levels_comes_once(tmp_path, records):
    values = np.zeros((SIDE, SIDE))
    values[2:5, 1:9] = 1
    path = write_maps(tmp_path / "maps.h5", {("3.png", "Mass"): values})
    stage.find(path, records, tmp_path / "found.parquet", rule="levels")
    found = tables.read(tmp_path / "found.parquet", tables.FOUND)
    assert found[["x", "y", "w", "h"]].to_numpy().tolist() == [[1, 2, 8, 3]]


def test_the_contour_rule_draws_the_largest_box_first(tmp_path, records):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    cone = 1 - np.hypot(columns - 7, rows - 8) / 20
    path = write_maps(tmp_path / "maps.h5", {("1.png", "Mass"): cone})
    out = tmp_path / "found.parquet"
    stage.find(path, records, out, rule="contours", size=200, ranks=1)
    largest = tables.read(out, tables.FOUND)
    stage.find(path, records, out, rule="contours", size=200)
    found = tables.read(out, tables.FOUND)
    values = mapstore.read(path, "1.png", "Mass", (200, 200))
    boxes = contour_boxes(values)
    assert len(boxes) > 1
    x1, y1, _, y2 = boxes.T
    np.testing.assert_allclose(found["x"], x1 * 64 / 200)
    np.testing.assert_allclose(found["h"], (y2 - y1) * 80 / 200)
    inside = [values[a:b, c:d].mean(dtype="float64") for c, a, d, b in boxes]
    assert found["score"].tolist() == inside
    pd.testing.assert_frame_equal(largest, found[:1])


def test_the_threshold_of_the_span_holds_for_box_region_outline_and_agreement(tmp_path, records):
    values, other = np.full((SIDE, SIDE), -1.0), np.full((SIDE, SIDE), -3.0)
    values[2:8, 3:9] = -0.2  # of the span -1 ... 0: 0.8
    values[12, 12] = 0
    other[2:8, 6:9] = -2
    path = write_maps(tmp_path / "fused.h5", {("3.png", "Mass"): values})
    part = write_maps(tmp_path / "part.h5", {("3.png", "Mass"): other})
    out = tmp_path / "found.parquet"
    chosen = {"candidates": 1, "parts": (path, part), "threshold": 0.5}
    stage.find(path, records, out, **chosen)
    assert tables.read(out, tables.FOUND).empty  # nothing of the map is positive
    stage.find(path, records, out, **chosen, threshold_of="span")
    (row,) = tables.read(out, tables.FOUND).itertuples()
    assert (row.x, row.y, row.w, row.h) == (3, 2, 6, 6)
    assert row.score == pytest.approx(0.8, rel=1e-3)  # maps are stored in float16
    assert row.agreement == 18 / 36
    mask = values > -0.5
    np.testing.assert_array_equal(regions.decode(row.region, SIDE, SIDE), mask)
    (polygon,) = row.outline
    assert polygon.reshape(-1, 2).min(0).tolist() == [3, 2]


def test_gathered_table_does_not_depend_on_the_shards(tmp_path, maps, records):
    def run(name, groups):
        shards = []
        for shard, images in enumerate(groups):
            kept = {key: values for key, values in maps.items() if key[0][0] in images}
            path = write_maps(tmp_path / f"{name}{shard}.h5", kept)
            shards.append(tmp_path / f"{name}{shard}.parquet")
            stage.find(path, records, shards[-1])
        stage.gather(shards, tmp_path / f"{name}.parquet")
        return (tmp_path / f"{name}.parquet").read_bytes()

    whole = run("one", ["0123"])
    assert whole == run("four", ["31", "", "0", "2"])
    assert whole == (tmp_path / "one0.parquet").read_bytes()


def test_a_run_without_any_box_gathers_to_an_empty_table(tmp_path, records):
    path = write_maps(tmp_path / "maps.h5", {})
    stage.find(path, records, tmp_path / "0.parquet")
    stage.gather([tmp_path / "0.parquet"] * 2, tmp_path / "all.parquet")
    assert tables.read(tmp_path / "all.parquet", tables.FOUND).empty


def test_mistakes_are_named(tmp_path, maps, records):
    path = write_maps(tmp_path / "maps.h5", maps)
    out = tmp_path / "found.parquet"
    with pytest.raises(InputError, match="'rectangels': did you mean 'rectangles'"):
        stage.find(path, records, out, rule="rectangels")
    with pytest.raises(InputError, match="choose from rectangles, regions, levels, contours"):
        stage.find(path, records, out, rule="x")
    with pytest.raises(InputError, match=r"levels \[60, 255\]"):
        stage.find(path, records, out, rule="levels", levels=(60, 255))
    with pytest.raises(InputError, match="threshold_of 'mean'"):
        stage.find(path, records, out, threshold_of="mean")
    stray = write_maps(tmp_path / "stray.h5", maps | {("9.png", "Mass"): blobs(9)})
    with pytest.raises(InputError, match=r"no row for 9\.png"):
        stage.find(stray, records, out)
    part = write_maps(tmp_path / "part.h5", {("3.png", "Mass"): blobs(9)})
    with pytest.raises(InputError, match=r"part\.h5: no map of 0\.png, Effusion"):
        stage.find(path, records, out, parts=(path, part))
    assert not out.exists()
