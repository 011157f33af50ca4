"""From the release's image files to the image cache."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from struct import error as StructError
from zlib import error as ZlibError

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from crosseai import imagestore
from crosseai.errors import InputError

__all__ = ["decode", "to_cache", "write_shard"]

logger = logging.getLogger(__name__)

#: What Pillow raises on a file that is not, or no longer, an image.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    StructError,
    ZlibError,
    Image.DecompressionBombError,
)


def decode(path: str | os.PathLike) -> np.ndarray:
    """Read a radiograph as grey 8-bit.

    8-bit grey is taken as it is. Colour and palette become luminance and alpha is dropped: the
    release's few RGBA files are grey images with an opaque alpha. More than 8 bits are scaled
    linearly so that the image's own minimum and maximum become 0 and 255: such files hold 10 to 16
    significant bits without saying how many, and division by 256 would leave most of them black.

    Parameters
    ----------
    path : path-like
        PNG, JPEG or another format that Pillow reads.

    Returns
    -------
    ndarray [H, W] uint8

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    return np.array(_grey(path))


def _grey(path: str | os.PathLike) -> Image.Image:
    """Read a radiograph as `decode` says, loaded, mode L."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                return Image.fromarray(_stretch(np.asarray(image, "float64")))
            image.load()
            return image if image.mode == "L" else image.convert("L")
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file; put it back or remove its row") from None
    except _BROKEN as error:
        raise InputError(
            f"{path}: not a readable image ({error}); fetch it again or remove its row"
        ) from None


def _stretch(values: np.ndarray) -> np.ndarray:
    """Minimum to 0, maximum to 255, uint8; a constant image is black."""
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(values.shape, "uint8")
    return np.rint((values - low) * (255 / (high - low))).astype("uint8")


def to_cache(path: str | os.PathLike, size: int) -> np.ndarray:
    """Read a radiograph and resize it for the cache, anti-aliased.

    The aspect ratio is not kept: the whole image fills the square, so x and y of a box scale by
    `size` / width and `size` / height, each on its own.

    Parameters
    ----------
    path : path-like
    size : int
        Height and width of the result.

    Returns
    -------
    ndarray [size, size] uint8

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    # Large images are first shrunk by a whole factor to no less than twice the size: a grey level
    # or two of difference, for half of the time.
    resized = _grey(path).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(resized)


def write_shard(
    records: pd.DataFrame,
    root: str | os.PathLike,
    shard: int,
    shards: int,
    size: int,
    out: str | os.PathLike,
    jobs: int = 1,
) -> None:
    """Decode and resize one shard of the release into the image cache.

    The images, sorted by name, are divided into `shards` runs of nearly equal length; neither the
    split nor the folds matter, so a new split decodes nothing again.

    Parameters
    ----------
    records : DataFrame
        `crosseai.tables.RECORDS`, of all shards.
    root : path-like
        The release folder that `path` of the records refers to.
    shard, shards : int
        Which shard, counted from 0, and of how many.
    size : int
        Height and width in the cache.
    out : path-like
        The file to write; see `crosseai.imagestore`. Its bytes do not depend on `jobs`.
    jobs : int
        Threads; Pillow releases the interpreter's lock while it decodes and resizes.

    Raises
    ------
    InputError
        If the shard is out of range or an image file is missing or damaged.
    """
    if not 0 <= shard < shards:
        raise InputError(f"images.shards: no shard {shard} of {shards}, they count from 0")
    records = records.sort_values("image", ignore_index=True)
    part = records.iloc[np.array_split(np.arange(len(records)), shards)[shard]]
    paths = [Path(root, path) for path in part["path"]]
    pixels = _ordered_map(partial(to_cache, size=size), paths, jobs)
    pixels = tqdm(pixels, f"images {shard}", len(paths), unit="image", disable=None)
    imagestore.write(out, part["image"].tolist(), pixels, size)
    logger.info("%s: %d images of %d x %d pixels", out, len(part), size, size)


def _ordered_map(function: Callable, items: Iterable, jobs: int) -> Iterator:
    """Apply `function` in `jobs` threads, results in order, a few items ahead of the reader."""
    with ThreadPoolExecutor(jobs) as pool:
        ahead = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * jobs:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
