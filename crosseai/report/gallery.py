"""What the page's gallery and workbench show of each scored finding, ready for JSON.

Pictures are WebP; maps are bytes, each divided by its largest value and multiplied by 255, and
deflated. Both are base64, so that one file holds them all.
"""

import base64
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from crosseai.errors import InputError
from crosseai.evaluation.overlap import iou
from crosseai.imagestore import ImageStore
from crosseai.mapstore import MapFile

__all__ = ["chosen", "eight_bit", "findings", "kernel", "packed_maps", "pictures"]

_PICTURE = 320  # pixels across, at most
_COARSE = 112  # pixels across a map that no workbench computes with, at most


def findings(
    truth: pd.DataFrame,
    sizes: pd.DataFrame,
    found: Mapping[str, pd.DataFrame],
    reference: str,
) -> list[dict]:
    """One entry a ground-truth box, in the order of `truth`.

    Parameters
    ----------
    truth : DataFrame
        The scored boxes, as `tables.BOXES`.
    sizes : DataFrame
        width and height of each image, by image.
    found : mapping of str to DataFrame
        Method -> its boxes, as `tables.FOUND`.
    reference : str
        The method whose outline and agreement are shown.

    Returns
    -------
    list of dict
        image, label, size (width, height), truth (x1, y1, x2, y2), boxes and iou (one a method,
        None and 0 where it found none), agreement and outline of the reference's box, all in
        pixels of the source image.
    """
    corners = _corners(truth)
    pairs = list(zip(truth["image"], truth["label"], strict=True))
    first = {
        method: table[table["rank"] == 0].set_index(["image", "label"])
        for method, table in found.items()
    }
    boxes = {}
    for method, table in first.items():
        rows = table.reindex(pd.MultiIndex.from_tuples(pairs, names=["image", "label"]))
        boxes[method] = _corners(rows)  # [n, 4], NaN without a box
    overlaps = {method: np.nan_to_num(iou(own, corners)) for method, own in boxes.items()}
    entries = []
    for row, (image, label) in enumerate(pairs):
        entry = {
            "image": image,
            "label": label,
            "size": [int(value) for value in sizes.loc[image, ["width", "height"]]],
            "truth": _rounded(corners[row]),
            "boxes": {method: _rounded(own[row]) for method, own in boxes.items()},
            "iou": {method: round(float(own[row]), 4) for method, own in overlaps.items()},
            "agreement": None,
            "outline": None,
        }
        if (image, label) in first[reference].index:
            own = first[reference].loc[(image, label)]
            if not pd.isna(own["agreement"]):
                entry["agreement"] = round(float(own["agreement"]), 4)
            if own["outline"] is not None:
                entry["outline"] = [_rounded(polygon) for polygon in own["outline"]]
        entries.append(entry)
    return entries


def chosen(overlap: np.ndarray, labels: np.ndarray, limit: int, seed: int = 0) -> list[int]:
    """Choose rows for the workbench: of each label the best, the worst and others by chance.

    Parameters
    ----------
    overlap : ndarray [n] float
        IoU of the reference.
    labels : ndarray [n] str
    limit : int
        At most as many rows.
    seed : int

    Returns
    -------
    list of int
        Sorted.
    """
    if len(overlap) <= limit:
        return list(range(len(overlap)))
    rng = np.random.default_rng(seed)
    names = np.unique(labels)
    rows = []
    for name in names:
        own = np.flatnonzero(labels == name)
        own = own[np.argsort(overlap[own], kind="stable")]
        count = min(limit // len(names), len(own))
        third = count // 3
        worst, best = own[:third], own[len(own) - third :]
        rest = own[third : len(own) - third]
        rows += [*worst, *best, *rng.choice(rest, count - 2 * third, replace=False)]
    return sorted(int(row) for row in rows)


def pictures(store: ImageStore, images: Sequence[str]) -> dict[str, str]:
    """Radiographs of the cache as WebP, base64, by image."""
    encoded = {}
    for name in dict.fromkeys(images):
        picture = Image.fromarray(np.asarray(store.read(name)))
        picture.thumbnail((_PICTURE, _PICTURE))
        buffer = io.BytesIO()
        picture.save(buffer, "webp", quality=75)
        encoded[name] = base64.b64encode(buffer.getvalue()).decode()
    return encoded


def packed_maps(
    folder: Path, shards: Sequence[int], pairs: Sequence[tuple[str, str]], whole: set
) -> list[dict]:
    """Maps of images and labels, packed, in the order of `pairs`.

    Parameters
    ----------
    folder : Path
        Of the map files.
    shards : sequence of int
    pairs : sequence of (image, label)
    whole : set of (image, label)
        Those that keep their size; others shrink to what a gallery needs.

    Raises
    ------
    InputError
        If no shard has the map of a pair.
    """
    wanted, got = set(pairs), {}
    for shard in shards:
        with MapFile(folder / f"{shard}.h5") as maps:
            for pair in wanted.intersection(maps):
                got[pair] = packed(maps.read(*pair), None if pair in whole else _COARSE)
    if missing := wanted - got.keys():
        image, label = min(missing)
        raise InputError(f"{folder}: no map of {image} and {label}; make the maps again")
    return [got[pair] for pair in pairs]


def kernel(sigma: float) -> list[float]:
    """Weights of the Gaussian that smooths maps before Algorithm 1; one weight for none."""
    if not sigma:
        return [1.0]
    reach = int(4 * sigma + 0.5)  # as far as scikit-image's
    impulse = np.zeros(4 * reach + 1)
    impulse[2 * reach] = 1
    return gaussian_filter1d(impulse, sigma)[reach:-reach].tolist()


def packed(values: np.ndarray, largest: int | None = None) -> dict:
    """Pack a map [H, W], never negative, as bytes: width, height and deflated data."""
    picture = Image.fromarray(eight_bit(values))
    if largest is not None:
        picture.thumbnail((largest, largest), Image.Resampling.BOX)
    data = base64.b64encode(zlib.compress(picture.tobytes(), 9)).decode()
    return {"width": picture.width, "height": picture.height, "data": data}


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Shares of a map's maximum in steps of 1/255, uint8 [H, W]; an empty map stays empty."""
    largest = values.max()
    shares = values / largest if largest > 0 else np.zeros_like(values)
    return np.rint(255 * np.clip(shares, 0, 1)).astype("uint8")


def _corners(table: pd.DataFrame) -> np.ndarray:
    """Columns x, y, w, h -> x1, y1, x2, y2: [n, 4]."""
    start, size = table[["x", "y"]].to_numpy(), table[["w", "h"]].to_numpy()
    return np.concatenate([start, start + size], axis=1)


def _rounded(values: np.ndarray) -> list[float] | None:
    """Numbers as JSON has them, to a tenth; None instead of NaN."""
    values = np.asarray(values, "float64")
    return None if np.isnan(values).any() else values.round(1).tolist()
