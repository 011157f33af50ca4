import os

import h5py
import numpy as np
import pytest

from crosseai import imagestore
from crosseai.errors import InputError
from crosseai.imagestore import ImageStore

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8), "uint8")
NAMES = ["e", "b", "a", "d", "ü"]


def test_round_trip_over_shards_by_name(tmp_path):
    imagestore.write(tmp_path / "0.h5", NAMES[:3], iter(PIXELS[:3]), 8)
    imagestore.write(tmp_path / "1.h5", NAMES[3:], iter(PIXELS[3:]), 8)
    store = ImageStore([tmp_path / "0.h5", tmp_path / "1.h5"])
    assert store.images == NAMES
    assert store.size == 8
    for name in reversed(NAMES):
        pixels = store.read(name)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, PIXELS[NAMES.index(name)])
    with pytest.raises(KeyError):
        store.read("f")


def test_an_empty_shard(tmp_path):
    imagestore.write(tmp_path / "0.h5", [], iter(()), 8)
    imagestore.write(tmp_path / "1.h5", ["a"], PIXELS[:1], 8)
    assert ImageStore([tmp_path / "0.h5"]).images == []
    assert ImageStore([tmp_path / "0.h5"]).size == 8
    np.testing.assert_array_equal(
        ImageStore([tmp_path / "0.h5", tmp_path / "1.h5"]).read("a"), PIXELS[0]
    )


def test_same_images_same_bytes(tmp_path):
    for name in ("x.h5", "y.h5"):
        imagestore.write(tmp_path / name, NAMES, PIXELS, 8)
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "y.h5").read_bytes()


@pytest.mark.parametrize("size", [8, 9])
def test_an_exception_leaves_nothing(tmp_path, size):
    def pixels():
        yield PIXELS[0]
        raise RuntimeError

    with pytest.raises((RuntimeError, TypeError)):
        imagestore.write(tmp_path / "0.h5", NAMES, pixels(), size)
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_no_cache_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.h5: not a readable image cache"):
        ImageStore([tmp_path / "none.h5"])
    (tmp_path / "x.h5").write_text("text")
    with pytest.raises(InputError, match=r"x\.h5: not a readable image cache"):
        ImageStore([tmp_path / "x.h5"])


def test_another_hdf5_file_is_named(tmp_path):
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["images"] = ["a"]
    with pytest.raises(InputError, match=r"maps\.h5"):
        ImageStore([tmp_path / "maps.h5"])
