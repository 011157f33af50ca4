import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import gaussian

from crosseai import tables
from crosseai.ablation.grid import Settings, best_boxes, boxes_of
from crosseai.ablation.scoring import corners, scored_boxes
from crosseai.boxes.stage import find
from crosseai.errors import InputError
from crosseai.fusion import fuse, fuse_files

SETTINGS = st.builds(
    Settings,
    t=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    threshold=st.sampled_from([0.1, 0.35, 0.6]),
    threshold_of=st.just("maximum"),
    smoothing=st.sampled_from([0.0, 1.0, 2.5]),
    candidates=st.sampled_from([0, 1, 3, 50]),
    keep_last_ring=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(SETTINGS, min_size=1, max_size=4), st.integers(0, 1000))
def test_every_setting_gives_the_box_of_plain_code(tried, seed):
    heatmap, gradient = np.random.default_rng(seed).random((2, 20, 20), "float32") ** 3
    found = best_boxes([heatmap, gradient], tried, 20)
    for own, box in zip(tried, found, strict=True):
        fused = fuse(heatmap, gradient, own.t)
        fused = (fused / fused.max()).astype("float16").astype("float32") * fused.max()
        if own.smoothing:
            fused = gaussian(fused, own.smoothing, preserve_range=True)
        boxes, _ = reference.find_boxes(
            fused, own.threshold, own.candidates, keep_last_ring=own.keep_last_ring
        )
        assert tuple(box) == boxes[0]


def test_boxes_are_those_of_the_stages(run):
    heatmaps = run.write_maps("heat", {pair: run.noise(k, 6) for k, pair in enumerate(run.pairs)})
    gradients = run.write_maps(
        "grad", {pair: run.noise(50 + k) for k, pair in enumerate(run.pairs)}
    )
    truth = scored_boxes(*run.tables)
    tried = [Settings(), Settings(0.6, 0.5, "span", 1.5, 2, True)]
    boxes = boxes_of(truth, [heatmaps, gradients], tried, 32)
    alone = boxes_of(truth, [heatmaps], tried, 32)
    out = run.folder / "found.parquet"
    for column, own in enumerate(tried):
        rest = own._asdict() | {"size": 32}
        del rest["t"]
        for shard, files in enumerate(zip(heatmaps, gradients, strict=True)):
            fuse_files(*files, run.folder / "fused.h5", own.t)
            for answer, maps in [(boxes, run.folder / "fused.h5"), (alone, files[0])]:
                find(maps, run.tables[0], out, **rest)
                found = tables.read(out, tables.FOUND)
                found = found[found["rank"] == 0].set_index(["image", "label"])
                rows = truth["image"].isin(truth["image"][shard::2])
                wanted = found.loc[truth.loc[rows, ["image", "label"]].apply(tuple, axis=1)]
                np.testing.assert_allclose(answer[rows, column], corners(wanted))


def test_no_map_and_an_empty_map_have_no_box(run):
    full, empty, *_ = run.pairs
    maps = run.write_maps("maps", {full: run.square(2, 2), empty: run.square(0, 0, side=0)})
    boxes = boxes_of(scored_boxes(*run.tables), [maps], [Settings()], run.side)
    assert boxes[0, 0].tolist() == [4, 6, 20, 30]
    assert np.isnan(boxes[1:]).all()


def test_maps_of_other_images_are_refused(run):
    heatmaps = run.write_maps("heat", {pair: run.square(2, 2) for pair in run.pairs})
    gradients = run.write_maps("grad", {pair: run.square(2, 2) for pair in run.pairs[2:]})
    with pytest.raises(InputError, match=r"heat/0\.h5 and .*grad/0\.h5: maps of different images"):
        boxes_of(scored_boxes(*run.tables), [heatmaps, gradients], [Settings()], run.side)
