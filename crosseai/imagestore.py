"""The image cache: one HDF5 file a shard, grey 8-bit images of one size."""

import os
from collections.abc import Iterable, Sequence

import h5py
import numpy as np

from crosseai.errors import InputError
from crosseai.files import replacing

__all__ = ["ImageStore", "write"]


def write(
    path: str | os.PathLike, images: list[str], pixels: Iterable[np.ndarray], size: int
) -> None:
    """Write one shard of the cache, atomically, as the pixels come.

    Parameters
    ----------
    path : path-like
    images : list of str
    pixels : iterable of ndarray [size, size] uint8
        One an image, in the same order.
    size : int
    """
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        stored = file.create_dataset(
            "pixels",
            (len(images), size, size),
            "uint8",
            chunks=(1, size, size) if images else None,
            track_times=False,
        )
        for row, image in enumerate(pixels):
            stored[row] = image
        file.create_dataset("images", data=images, dtype=h5py.string_dtype(), track_times=False)


class ImageStore:
    """All shards of a cache, read by image name.

    Attributes
    ----------
    images : list of str
    size : int
        Height and width of every image.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]):
        self._files = []
        self._where = {}
        self.size = 0
        for path in paths:
            try:
                file = h5py.File(path)
                names, self.size = file["images"].asstr()[:], file["pixels"].shape[1]
            except (OSError, KeyError) as error:
                raise InputError(f"{path}: not a readable image cache ({error})") from None
            for row, name in enumerate(names):
                self._where[name] = (len(self._files), row)
            self._files.append(file)
        self.images = list(self._where)

    def read(self, image: str) -> np.ndarray:
        """The pixels of one image, uint8 [size, size]."""
        file, row = self._where[image]
        return self._files[file]["pixels"][row]
