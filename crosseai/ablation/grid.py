"""The box of a map under many settings, with all work shared that settings have in common."""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from crosseai.boxes.rectangles import find_boxes
from crosseai.boxes.regions import smooth
from crosseai.errors import InputError
from crosseai.fusion import fuse
from crosseai.mapstore import MapFile, enlarge

__all__ = ["Settings", "best_boxes", "boxes_of"]


class Settings(NamedTuple):
    """From cached maps to a box: the fusion weight and the settings of Algorithm 1.

    See `crosseai.fusion.fuse` and `crosseai.boxes.rectangles.find_boxes`.
    """

    t: float = 0.30
    threshold: float = 0.35
    threshold_of: str = "maximum"
    smoothing: float = 0.0
    candidates: int = 50
    keep_last_ring: bool = False


def best_boxes(parts: Sequence[np.ndarray], settings: Iterable[Settings], size: int) -> np.ndarray:
    """Box of rank 0 under each of the settings, as the fusion and the boxes stage would find it.

    Each fused map is made and smoothed once, whatever the number of settings.

    Parameters
    ----------
    parts : sequence of one or two ndarray [H, W] float
        The map, or the heatmap and the gradient map to fuse, of one shape.
    settings : iterable of Settings
        `t` counts for two parts only.
    size : int
        The map is enlarged to this height and width first.

    Returns
    -------
    ndarray [S, 4] float64
        x1, y1, x2, y2 in pixels of the enlarged map; NaN where there is no box.
    """
    settings = list(settings)
    boxes = np.full((len(settings), 4), np.nan)
    maps, smoothed = {}, {}
    for row, own in enumerate(settings):
        key = own.t, own.smoothing
        if own.t not in maps:
            whole = _as_stored(fuse(*parts, own.t)) if len(parts) == 2 else parts[0]
            maps[own.t] = enlarge(whole, (size, size))
        if key not in smoothed:
            smoothed[key] = smooth(maps[own.t], own.smoothing)
        found, _ = find_boxes(
            smoothed[key],
            own.threshold,
            own.candidates,
            keep_last_ring=own.keep_last_ring,
            ranks=1,
            threshold_of=own.threshold_of,
        )
        boxes[row] = found[0] if len(found) else np.nan
    return boxes


def boxes_of(
    truth: pd.DataFrame,
    parts: Sequence[Sequence[str | os.PathLike]],
    settings: Sequence[Settings],
    size: int,
    name: str = "boxes",
) -> np.ndarray:
    """Find the boxes that stand for ground-truth boxes, under each of the settings.

    Parameters
    ----------
    truth : DataFrame [n]
        image, label, width, height.
    parts : sequence of one or two sequences of path-like
        Of the map, or of the heatmap and the gradient map: the files of all shards, in one order.
    settings : sequence of Settings
    size : int
        As `best_boxes`.
    name : str
        Shown beside the progress.

    Returns
    -------
    ndarray [n, S, 4] float64
        x1, y1, x2, y2 in pixels of the source image; NaN where there is no map or no box.

    Raises
    ------
    InputError
        If the files of the parts do not belong together.
    """
    boxes = np.full((len(truth), len(settings), 4), np.nan)
    rows = truth.groupby(["image", "label"]).indices
    with tqdm(total=len(rows), desc=name, unit="map", disable=None) as progress:
        for shard in zip(*parts, strict=True):
            with ExitStack() as stack:
                files = [stack.enter_context(MapFile(path)) for path in shard]
                shape = tuple(map(max, *(file.shape for file in files))) if files[1:] else None
                for pair in sorted(_together(files) & rows.keys()):
                    maps = [file.read(*pair, shape) for file in files]
                    source = truth.loc[rows[pair][0], ["width", "height"]].to_numpy("float64")
                    boxes[rows[pair]] = best_boxes(maps, settings, size) * np.tile(source / size, 2)
                    progress.update()
    return boxes


def _together(files: Sequence[MapFile]) -> set[tuple[str, str]]:
    """Images and labels of the map files of one shard, which must be the same in all."""
    first, *others = files
    for other in others:
        if not first.matches(other):
            raise InputError(
                f"{first.path} and {other.path}: maps of different images, labels or weights; "
                "make both with the same models and give the shards in one order"
            )
    return set(first)


def _as_stored(map: np.ndarray) -> np.ndarray:
    """Round a map as a map file does, so that its box is the one of the boxes stage."""
    largest = np.abs(map).max()
    return (map / largest).astype("float16").astype("float32") * largest if largest > 0 else map
