import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from crosseai import mapstore
from crosseai.errors import InputError
from crosseai.fusion import fuse, fuse_files, scale

SHARE = st.floats(0, 1)
SEED = st.integers(0, 2**32)


def maps(seed, shape=(6, 5)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.exponential(size=shape)


@st.composite
def any_map(draw, shape=(3, 4)):
    """Few distinct values, so that plateaus and constant maps come often."""
    unit = draw(st.sampled_from([1e-40, 1e-20, 1e-3, 1.0, 1e20]))
    return unit * draw(arrays.arrays("float64", shape, elements=st.integers(-3, 9)))


def test_by_hand():
    heatmap = np.array([[0.0, 1.0], [2.0, 4.0]])
    gradient = np.array([[30.0, 20.0], [10.0, 10.0]])
    np.testing.assert_allclose(scale(heatmap), [[0, 63.75], [127.5, 255]])
    np.testing.assert_allclose(scale(gradient), [[255, 127.5], [0, 0]])
    expected = [
        [0.7 * 255, 0.3 * 63.75 + 0.7 * 127.5],
        [0.3 * 127.5, 0.3 * 255],
    ]
    fused = fuse(heatmap, gradient, 0.3)
    assert fused.dtype == np.float32
    np.testing.assert_allclose(fused, expected, rtol=1e-6)


def test_the_ends_of_t_are_the_maps_themselves():
    heatmap, gradient = maps(0)
    np.testing.assert_array_equal(fuse(heatmap, gradient, 1), scale(heatmap))
    np.testing.assert_array_equal(fuse(heatmap, gradient, 0), scale(gradient))


def test_a_constant_map_adds_nothing():
    heatmap, _ = maps(0)
    flat = np.full_like(heatmap, 7)
    np.testing.assert_allclose(fuse(heatmap, flat, 0.3), 0.3 * scale(heatmap), rtol=1e-6)
    assert not fuse(flat, flat, 0.5).any()


@given(any_map(), any_map(), SHARE)
def test_values_lie_within_0_and_255(heatmap, gradient, t):
    for values in (scale(heatmap), fuse(heatmap, gradient, t)):
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert values.max() <= 255


@given(SEED)
def test_a_map_spans_0_to_255(seed):
    scaled = scale(maps(seed)[0])
    assert scaled.min() == 0
    assert scaled.max() == 255


@given(SEED, SHARE, st.floats(1e-6, 1e6), st.floats(-100, 100), st.floats(1e-6, 1e6))
def test_units_and_offsets_of_the_maps_do_not_count(seed, t, unit, offset, other):
    heatmap, gradient = maps(seed)
    expected = fuse(heatmap, gradient, t)
    fused = fuse((heatmap + offset) * unit, gradient * other, t)
    np.testing.assert_allclose(fused, expected, rtol=0, atol=0.02)


@given(SEED, SHARE)
def test_swapping_the_maps_swaps_their_shares(seed, t):
    heatmap, gradient = maps(seed)
    np.testing.assert_allclose(
        fuse(heatmap, gradient, t), fuse(gradient, heatmap, 1 - t), rtol=0, atol=1e-3
    )


def test_shapes_and_shares_that_do_not_fit():
    heatmap, gradient = maps(0)
    with pytest.raises(ValueError, match="shapes"):
        fuse(heatmap, gradient[:, :-1], 0.3)
    with pytest.raises(ValueError, match="shapes"):
        fuse(heatmap, gradient[:1], 0.3)  # would broadcast
    for t in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="outside 0 to 1"):
            fuse(heatmap, gradient, t)


IMAGES, CLASSES = ["a", "b"], ["Mass", "Nodule"]
PAIRS = [(0, 0), (1, 0), (1, 1)]


def write(path, shape, seed, pairs=PAIRS, model=("m0", "m1"), images=IMAGES, fold=(0, 3)):
    values = np.random.default_rng(seed).normal(size=(2, 2, *shape))
    mapstore.write(
        path,
        images,
        CLASSES,
        ((i, c, values[i, c]) for i, c in pairs),
        shape,
        list(fold),
        list(model),
        {"kind": "x"},
    )


def test_files_are_fused_pair_by_pair_at_the_larger_size(tmp_path):
    write(tmp_path / "cam.h5", (3, 3), 0)
    write(tmp_path / "guided.h5", (12, 12), 1)
    fuse_files(tmp_path / "cam.h5", tmp_path / "guided.h5", tmp_path / "out" / "0.h5", 0.3)
    with (
        mapstore.MapFile(tmp_path / "cam.h5") as cam,
        mapstore.MapFile(tmp_path / "guided.h5") as guided,
        mapstore.MapFile(tmp_path / "out" / "0.h5") as fused,
    ):
        assert list(fused) == [("a", "Mass"), ("b", "Mass"), ("b", "Nodule")]
        assert fused.shape == (12, 12)
        assert fused.fold.tolist() == [0, 3]
        assert fused.model == ["m0", "m1"]
        assert fused.attributes == {"t": 0.3}
        for pair in fused:
            expected = fuse(cam.read(*pair, (12, 12)), guided.read(*pair), 0.3)
            np.testing.assert_allclose(fused.read(*pair), expected, atol=255 * 2**-11)
    fuse_files(tmp_path / "guided.h5", tmp_path / "cam.h5", tmp_path / "swapped.h5", 0.7)
    np.testing.assert_allclose(
        mapstore.read(tmp_path / "swapped.h5", "b", "Nodule"),
        mapstore.read(tmp_path / "out" / "0.h5", "b", "Nodule"),
        atol=255 * 2**-10,
    )


def test_neither_side_of_a_map_shrinks(tmp_path):
    write(tmp_path / "cam.h5", (3, 12), 0)
    write(tmp_path / "guided.h5", (12, 3), 1)
    fuse_files(tmp_path / "cam.h5", tmp_path / "guided.h5", tmp_path / "0.h5", 0.3)
    assert mapstore.read(tmp_path / "0.h5", "a", "Mass").shape == (12, 12)


@pytest.mark.parametrize(
    "other",
    [{"model": ("m0", "other")}, {"pairs": PAIRS[:2]}, {"images": ["a", "c"]}],
)
def test_files_of_other_weights_images_or_labels_are_refused(tmp_path, other):
    write(tmp_path / "cam.h5", (3, 3), 0)
    write(tmp_path / "guided.h5", (12, 12), 1, **other)
    with pytest.raises(InputError, match=r"cam\.h5 and .*guided\.h5: maps of different"):
        fuse_files(tmp_path / "cam.h5", tmp_path / "guided.h5", tmp_path / "0.h5", 0.3)
    assert not (tmp_path / "0.h5").exists()


def test_a_share_outside_0_to_1_and_a_missing_file_are_one_line(tmp_path):
    write(tmp_path / "cam.h5", (3, 3), 0)
    with pytest.raises(InputError, match=r"t: 1\.5"):
        fuse_files(tmp_path / "cam.h5", tmp_path / "cam.h5", tmp_path / "0.h5", 1.5)
    with pytest.raises(InputError, match=r"none\.h5"):
        fuse_files(tmp_path / "none.h5", tmp_path / "cam.h5", tmp_path / "0.h5", 0.5)


def test_empty_shards_give_an_empty_shard(tmp_path):
    for name in ("cam.h5", "guided.h5"):
        write(tmp_path / name, (1, 1), 0, (), (), [], ())
    fuse_files(tmp_path / "cam.h5", tmp_path / "guided.h5", tmp_path / "0.h5", 0.3)
    with mapstore.MapFile(tmp_path / "0.h5") as fused:
        assert list(fused) == []
