import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crosseai.data.images import decode, to_cache, write_shard
from crosseai.data.nih import read_release
from crosseai.errors import InputError
from crosseai.imagestore import ImageStore

GREY = np.random.default_rng(0).integers(0, 256, (30, 40), "uint8")


def test_grey_is_taken_as_it_is(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png")
    pixels = decode(tmp_path / "x.png")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, GREY)


@pytest.mark.parametrize("alpha", [255, 0])
def test_grey_in_rgba_gives_the_grey_whatever_the_alpha(tmp_path, alpha):
    Image.fromarray(np.dstack([GREY] * 3 + [np.full_like(GREY, alpha)])).save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png"), GREY)


def test_colour_gives_luminance(tmp_path):
    colour = np.random.default_rng(1).integers(0, 256, (30, 40, 3), "uint8")
    Image.fromarray(colour).save(tmp_path / "x.png")
    expected = colour @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    np.testing.assert_allclose(decode(tmp_path / "x.png"), expected, atol=0.51)


def test_palette_and_one_bit(tmp_path):
    indexed = Image.fromarray(GREY // 64, "P")
    indexed.putpalette([200, 200, 200, 10, 10, 10, 90, 90, 90, 0, 0, 0])
    indexed.save(tmp_path / "p.png")
    np.testing.assert_array_equal(decode(tmp_path / "p.png"), np.take([200, 10, 90, 0], GREY // 64))
    Image.fromarray(GREY > 100).save(tmp_path / "b.png")
    np.testing.assert_array_equal(decode(tmp_path / "b.png"), 255 * (GREY > 100))


def test_sixteen_bit_is_stretched_from_its_own_minimum_to_its_maximum(tmp_path):
    deep = np.random.default_rng(2).integers(300, 4096, (30, 40)).astype("uint16")  # 12 bits used
    Image.fromarray(deep).save(tmp_path / "x.png")
    pixels = decode(tmp_path / "x.png")
    assert pixels.dtype == np.uint8
    expected = (deep - float(deep.min())) / (float(deep.max()) - deep.min()) * 255
    np.testing.assert_allclose(pixels, expected, atol=0.501)
    assert (pixels.min(), pixels.max()) == (0, 255)
    Image.fromarray(np.full((3, 4), 700, "uint16")).save(tmp_path / "flat.png")
    assert not decode(tmp_path / "flat.png").any()


def test_jpeg(tmp_path):
    ramp = np.tile(np.arange(0, 240, 6, dtype="uint8"), (30, 1))
    Image.fromarray(ramp).save(tmp_path / "x.jpg", quality=95)
    np.testing.assert_allclose(decode(tmp_path / "x.jpg"), ramp, atol=4)


def damaged(path):
    """Content of a PNG cut off in the middle."""
    Image.fromarray(GREY).save(path)
    return path.read_bytes()[:600]


@pytest.mark.parametrize("content", [b"", b"no image at all", damaged], ids=["0", "text", "cut"])
def test_a_damaged_or_missing_file_is_named(tmp_path, content):
    path = tmp_path / "x.png"
    with pytest.raises(InputError, match=r"x.png: no such image file"):
        decode(path)
    path.write_bytes(content(path) if callable(content) else content)
    with pytest.raises(
        InputError, match=r"x.png: not a readable image .*; fetch it again"
    ) as error:
        decode(path)
    assert "\n" not in str(error.value)


def test_the_cache_fills_the_square_anti_aliased(tmp_path):
    pixels = np.zeros((64, 128), "uint8")
    pixels[:, 64:] = 200
    pixels[:, :64:2] = 100  # stripes of one pixel: plain sampling would give 0 or 100
    Image.fromarray(pixels).save(tmp_path / "x.png")
    cached = to_cache(tmp_path / "x.png", 16)
    assert cached.shape == (16, 16)
    assert cached.dtype == np.uint8
    np.testing.assert_allclose(cached[:, 1:7], 50, atol=2)
    np.testing.assert_array_equal(cached[:, 9:], 200)  # the half stays a half: axes scale apart


@pytest.fixture
def release(release_builder):
    names = [f"{n:02d}.png" for n in (5, 3, 9, 0, 7, 1, 8, 2, 6, 4, 10)]
    root = release_builder([(name, "Mass", "1") for name in names])
    return root, read_release(root).records


def test_shards_divide_the_images_and_hold_their_pixels(release, tmp_path):
    root, records = release
    paths = [tmp_path / f"{shard}.h5" for shard in range(3)]
    for shard, path in enumerate(paths):
        write_shard(records, root, shard, 3, 8, path)
    assert [len(ImageStore([path]).images) for path in paths] == [4, 4, 3]
    store = ImageStore(paths)
    assert store.images == sorted(records["image"])
    assert store.size == 8
    for image, path in zip(records["image"], records["path"], strict=True):
        np.testing.assert_array_equal(store.read(image), to_cache(root / path, 8))


def test_threads_and_row_order_leave_the_bytes_alone(release, tmp_path):
    root, records = release
    write_shard(records, root, 0, 1, 8, tmp_path / "one.h5")
    write_shard(records.iloc[::-1], root, 0, 1, 8, tmp_path / "two.h5", jobs=2)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_more_shards_than_images_are_empty_files(release, tmp_path):
    root, records = release
    write_shard(records[:1], root, 1, 2, 8, tmp_path / "1.h5")
    assert ImageStore([tmp_path / "1.h5"]).images == []


def test_a_damaged_image_stops_the_shard_and_leaves_no_file(release, tmp_path):
    root, records = release
    (root / "images/07.png").write_bytes((root / "images/07.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"images/07.png: not a readable image"):
        write_shard(records, root, 0, 1, 8, tmp_path / "out" / "0.h5", jobs=2)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("shard", [-1, 2])
def test_a_shard_out_of_range_is_named(tmp_path, shard):
    with pytest.raises(InputError, match=f"no shard {shard} of 2"):
        write_shard(pd.DataFrame({"image": [], "path": []}), tmp_path, shard, 2, 8, tmp_path / "x")
