import os

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosseai import mapstore
from crosseai.errors import InputError

RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(3, 2, 7, 9)).astype("float32")
IMAGES, CLASSES = ["x.png", "ü.png", "z.png"], ["Mass", "Nodule"]


def write(path, pairs=((0, 0), (0, 1), (2, 1)), maps=MAPS):
    entries = ((i, c, maps[i, c]) for i, c in pairs)
    write_entries(path, entries, maps.shape[2:])


def write_entries(path, entries, shape):
    mapstore.write(
        path,
        IMAGES,
        CLASSES,
        entries,
        shape,
        fold=[0, 4, 1],
        model=["aa", "bb", "cc"],
        attributes={"kind": "guided_backprop", "t": 0.3},
    )


def relative_error(read, written):
    return np.abs(read - written).max() / np.abs(written).max()


@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e-30, 1e9])
def test_round_trip_within_half_precision_whatever_the_unit(tmp_path, unit):
    write(tmp_path / "0.h5", maps=MAPS * np.float32(unit))
    for i, c in [(0, 0), (0, 1), (2, 1)]:
        read = mapstore.read(tmp_path / "0.h5", IMAGES[i], CLASSES[c])
        assert read.dtype == np.float32
        written = MAPS[i, c] * np.float32(unit)
        assert relative_error(read, written) < 2**-11
        large = np.abs(written) > 1e-4 * np.abs(written).max()  # above float16's subnormals
        np.testing.assert_allclose(read[large], written[large], rtol=2**-10)


def test_what_the_file_says_of_itself(tmp_path):
    write(tmp_path / "0.h5")
    with mapstore.MapFile(tmp_path / "0.h5") as file:
        assert file.images == IMAGES
        assert file.classes == CLASSES
        assert file.fold.tolist() == [0, 4, 1]
        assert file.model == ["aa", "bb", "cc"]
        assert file.shape == (7, 9)
        assert file.attributes == {"kind": "guided_backprop", "t": 0.3}
        assert list(file) == [("x.png", "Mass"), ("x.png", "Nodule"), ("z.png", "Nodule")]
        np.testing.assert_array_equal(
            file.read("z.png", "Nodule"), mapstore.read(tmp_path / "0.h5", "z.png", "Nodule")
        )
    with h5py.File(tmp_path / "0.h5") as file:
        assert file["maps"].shape == (3, 2, 7, 9)
        assert file["maps"].dtype == np.float16
        assert file["maps"].chunks == (1, 1, 7, 9)


def test_a_map_that_was_not_written_is_a_key_error(tmp_path):
    write(tmp_path / "0.h5")
    for pair in [("x.png", "Hernia"), ("y.png", "Mass"), ("z.png", "Mass"), ("ü.png", "Mass")]:
        with pytest.raises(KeyError):
            mapstore.read(tmp_path / "0.h5", *pair)


def test_a_map_of_zeros_is_a_map(tmp_path):
    write(tmp_path / "0.h5", maps=np.zeros_like(MAPS))
    assert not mapstore.read(tmp_path / "0.h5", "x.png", "Mass").any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_an_error_that_names_it(tmp_path, value):
    maps = MAPS.copy()
    maps[0, 0, 3, 3] = value
    with pytest.raises(InputError, match=r"x\.png, Mass is not finite"):
        write(tmp_path / "0.h5", maps=maps)
    assert not list(tmp_path.iterdir())


def test_maps_that_were_not_asked_for_take_no_space(tmp_path):
    large = np.zeros((3, 2, 256, 256), "float32") + RNG.normal(size=(3, 2, 256, 256))
    write(tmp_path / "all.h5", [(i, c) for i in range(3) for c in range(2)], large)
    write(tmp_path / "one.h5", [(1, 1)], large)
    assert (tmp_path / "one.h5").stat().st_size < (tmp_path / "all.h5").stat().st_size / 5


def test_an_empty_shard(tmp_path):
    mapstore.write(tmp_path / "0.h5", [], CLASSES, (), (1, 1), [], [], {})
    with mapstore.MapFile(tmp_path / "0.h5") as file:
        assert file.images == list(file) == file.model == []
        assert file.classes == CLASSES


def test_same_maps_same_bytes(tmp_path):
    write(tmp_path / "a.h5")
    write(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_an_exception_leaves_nothing(tmp_path):
    def maps():
        yield 0, 0, MAPS[0, 0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_entries(tmp_path / "0.h5", maps(), (7, 9))
    assert os.listdir(tmp_path) == []


def test_a_replaced_file_is_read_anew(tmp_path):
    path = tmp_path / "0.h5"
    write(path)
    mapstore.read(path, "x.png", "Mass")
    write(path, maps=MAPS + 1)
    os.utime(path, ns=(0, 0))  # surely another time, whatever the steps of the clock
    assert relative_error(mapstore.read(path, "x.png", "Mass"), MAPS[0, 0] + 1) < 2**-10


def test_files_that_are_no_map_files_are_named(tmp_path):
    (tmp_path / "x.h5").write_text("text")
    for name in ("x.h5", "none.h5"):
        with pytest.raises(InputError, match=f"{name}: not a readable map file"):
            mapstore.MapFile(tmp_path / name)
    with pytest.raises(InputError, match=r"none\.h5"):
        mapstore.read(tmp_path / "none.h5", "x.png", "Mass")


def test_another_hdf5_file_is_named(tmp_path):
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["images"] = ["a"]
    with pytest.raises(InputError, match=r"images\.h5"):
        mapstore.MapFile(tmp_path / "images.h5")


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 40), st.integers(0, 40), st.integers(0)
)
def test_enlarging_equals_torch_s_bilinear_interpolation(height, width, more, wider, seed):
    values = np.random.default_rng(seed).normal(size=(height, width)).astype("float32")
    size = (height + more, width + wider)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None].double(), size, mode="bilinear", align_corners=False
    )[0, 0]
    enlarged = mapstore.enlarge(values, size)
    assert enlarged.dtype == np.float32
    np.testing.assert_allclose(enlarged, expected, rtol=0, atol=1e-6)


def test_reading_at_a_size_enlarges(tmp_path):
    write(tmp_path / "0.h5")
    native = mapstore.read(tmp_path / "0.h5", "x.png", "Mass")
    np.testing.assert_array_equal(
        mapstore.read(tmp_path / "0.h5", "x.png", "Mass", (14, 36)),
        mapstore.enlarge(native, (14, 36)),
    )
