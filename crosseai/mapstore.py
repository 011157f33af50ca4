"""The map store: one HDF5 file a shard, one explanation map an image and class.

Layout: `maps` float16 ``[image, class, H, W]`` in chunks of one map; `scale` float32
``[image, class]``; `images`, `classes`, `fold` and `model` as indexes. A map is stored divided by
its largest absolute value, so that small gradients do not underflow in float16, and `scale` holds
that value. A map that was not asked for takes no space and has scale NaN.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import h5py
import numpy as np
from PIL import Image

from crosseai.errors import InputError
from crosseai.files import replacing

__all__ = ["MapFile", "enlarge", "read", "write"]

# In memory at a time.
_ROWS = 1000  # texts
_INDEX = 64 * 1024  # bytes of HDF5's own


def write(
    path: str | os.PathLike,
    images: list[str],
    classes: list[str],
    maps: Iterable[tuple[int, int, np.ndarray]],
    shape: tuple[int, int],
    fold: list[int],
    model: list[str],
    attributes: Mapping[str, object],
) -> None:
    """Write one shard, atomically; identical maps give identical bytes.

    Parameters
    ----------
    path : path-like
    images, classes : list of str
        The first two axes.
    maps : iterable of (int, int, ndarray [H, W] float)
        Index of the image, index of the class, the map. May be a generator: it is written as it
        comes, so memory does not grow with the shard.
    shape : (int, int)
        H, W of every map, at its native size.
    fold, model : list of int, list of str
        For each image: the fold that explains it and the hash of that fold's weights.
    attributes : mapping
        The parameters that made the maps.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        _forget_index(file)
        stored = file.create_dataset(
            "maps",
            (len(images), len(classes), *shape),
            "float16",
            chunks=(1, 1, *shape) if images and classes else None,
            shuffle=True if images and classes else None,
            compression="lzf" if images and classes else None,
            track_times=False,
        )
        scale = np.full((len(images), len(classes)), np.nan, "float32")
        for image, label, values in maps:
            largest = float(np.abs(values).max())
            if not np.isfinite(largest):
                raise InputError(
                    f"{path}: the map of {images[image]}, {classes[label]} is not finite; "
                    "look at the training of its model"
                )
            scale[image, label] = largest
            stored[image, label] = values / largest if largest > 0 else values
        for name, values in [
            ("scale", scale),
            ("images", _encoded(images)),
            ("classes", _encoded(classes)),
            ("fold", np.array(fold, "int32")),
            ("model", _encoded(model)),
        ]:
            file.create_dataset(name, data=values, track_times=False)
        file.attrs.update(attributes)


class MapFile:
    """A shard of maps opened for reading; use as a context manager. Iterates over its pairs.

    Attributes
    ----------
    images, classes : list of str
    row, column : dict of str to int
        Where an image, and where a class, is in these.
    fold : ndarray [image] int
    shape : (int, int)
        Native H, W.
    attributes : dict
    """

    def __init__(self, path: str | os.PathLike):
        try:
            self._file = h5py.File(path)
            _forget_index(self._file)
            self.images = _texts(self._file["images"])
            self.classes = _texts(self._file["classes"])
            self.fold = self._file["fold"][:]
            self.model = _texts(self._file["model"])
            self.shape = self._file["maps"].shape[2:]
            self._scale = self._file["scale"][:]
        except (OSError, KeyError) as error:
            raise InputError(f"{path}: not a readable map file ({error})") from None
        self.path = path
        self.attributes = dict(self._file.attrs)
        self.row = {name: row for row, name in enumerate(self.images)}
        self.column = {name: column for column, name in enumerate(self.classes)}

    def __enter__(self) -> "MapFile":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The (image, label) pairs that have a map, in stored order."""
        rows, columns = np.nonzero(~np.isnan(self._scale))
        return ((self.images[r], self.classes[c]) for r, c in zip(rows, columns, strict=True))

    def __len__(self) -> int:
        return int((~np.isnan(self._scale)).sum())

    def matches(self, other: "MapFile") -> bool:
        """Whether both hold maps of the same images and labels, by the same weights."""
        return (self.images, self.classes, self.model) == (
            other.images,
            other.classes,
            other.model,
        ) and (np.isnan(self._scale) == np.isnan(other._scale)).all()

    def read(self, image: str, label: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """One map, float32 [H, W], in its original units.

        Parameters
        ----------
        image, label : str
        size : (H, W), optional
            Enlarge to this size, bilinear.

        Raises
        ------
        KeyError
            If the shard has no map of this image and label.
        """
        row, column = self.row[image], self.column[label]
        if np.isnan(self._scale[row, column]):
            raise KeyError((image, label))
        values = self._file["maps"][row, column].astype("float32") * self._scale[row, column]
        return values if size is None else enlarge(values, size)


def _forget_index(file: h5py.File) -> None:
    """Keep little of where the maps lie in memory, of which HDF5 has up to 32 MiB otherwise."""
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.initial_size = config.min_size = config.max_size = _INDEX
    file.id.set_mdc_config(config)


def _encoded(texts: list[str]) -> np.ndarray:
    """Of a fixed length: HDF5 keeps others in a heap, which it would hold in memory when read."""
    length = max((len(text.encode()) for text in texts), default=0) or 1
    encoded = (text.encode() for text in texts)
    return np.fromiter(encoded, h5py.string_dtype(length=length), len(texts))


def _texts(dataset: h5py.Dataset) -> list[str]:
    """All texts; equal ones, of other files too, are one in memory."""
    text = dataset.asstr()
    return [
        sys.intern(value)
        for start in range(0, len(dataset), _ROWS)
        for value in text[start : start + _ROWS]
    ]


def read(
    path: str | os.PathLike, image: str, label: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """One map of a shard, float32 [H, W]; see `MapFile.read`. The file is opened once."""
    if not os.path.exists(path):
        raise InputError(f"{path}: no such map file")
    return _opened(os.fspath(path), os.stat(path).st_mtime_ns).read(image, label, size)


@lru_cache(maxsize=16)
def _opened(path: str, _modified: int) -> MapFile:
    return MapFile(path)


def enlarge(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map to (H, W), bilinear with half-pixel centres; float32 [H, W]."""
    height, width = size
    if values.shape == (height, width):
        return np.asarray(values, "float32")
    image = Image.fromarray(np.ascontiguousarray(values, "float32"))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
