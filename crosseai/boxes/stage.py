"""The stage `boxes`: a shard of maps to a table of boxes, and the tables of all shards to one."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from itertools import chain
from operator import itemgetter

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from crosseai import tables
from crosseai.boxes.contours import contour_boxes
from crosseai.boxes.rectangles import find_boxes
from crosseai.boxes.regions import (
    agreement,
    encode,
    mask_of,
    outline,
    peak,
    region_boxes,
    smooth,
)
from crosseai.errors import InputError
from crosseai.mapstore import MapFile

__all__ = ["RULES", "find", "gather"]


def _regions(
    map: np.ndarray, threshold: float, threshold_of: str, ranks: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around the connected regions, largest first."""
    return _scored(map, region_boxes(map, threshold, threshold_of), ranks)


def _levels(
    map: np.ndarray,
    threshold: float,
    threshold_of: str,
    levels: Sequence[float] = (60.0, 180.0),
    ranks: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around the regions above each level of the map scaled to 0 ... 255 (Wang et al. 2017).

    The highest level's come first, of a level the largest first; a box of several levels comes
    once.
    """
    if not all(0 <= level < 255 for level in levels):
        raise InputError(f"levels {list(levels)}: must lie in 0 <= level < 255")
    boxes = [region_boxes(map, level / 255, "span") for level in sorted(levels, reverse=True)]
    boxes = dict.fromkeys(tuple(box) for box in np.concatenate(boxes).tolist())
    return _scored(map, np.array(list(boxes), "int64").reshape(-1, 4), ranks)


def _contours(
    map: np.ndarray, threshold: float, threshold_of: str, ranks: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as SCALP's published code draws them, largest first."""
    return _scored(map, contour_boxes(map), ranks)


def _scored(map: np.ndarray, boxes: np.ndarray, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first boxes, each with the mean of the map in it."""
    boxes = boxes[:ranks]
    scores = [map[y1:y2, x1:x2].mean(dtype="float64") for x1, y1, x2, y2 in boxes]
    return boxes, np.array(scores, "float64")


#: A rule takes a map, `threshold`, `threshold_of` and its own settings, and gives boxes [R, 4] in
#: pixels of the map (x1, y1, x2, y2, half-open) and scores [R], best first. `levels` and `contours`
#: have thresholds of their own: the common one is then for outline, agreement and region alone.
RULES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "rectangles": find_boxes,
    "regions": _regions,
    "levels": _levels,
    "contours": _contours,
}


def find(
    maps: str | os.PathLike,
    records: str | os.PathLike,
    out: str | os.PathLike,
    rule: str = "rectangles",
    parts: Sequence[str | os.PathLike] | None = None,
    size: int | None = None,
    threshold: float = 0.35,
    threshold_of: str = "maximum",
    smoothing: float = 0.0,
    **settings,
) -> None:
    """Find the boxes of every map of a shard and write them as a `tables.FOUND`.

    Rows are sorted by image, label and rank. A map without a box has no row. The outline and the
    run-length code of the thresholded map, both in pixels of the source image, stand with rank 0.

    Parameters
    ----------
    maps : path-like
        The method's map file.
    records : path-like
        `records.parquet`, for the width and height of the source images.
    out : path-like
        The table to write.
    rule : str
        A key of `RULES`.
    parts : (path-like, path-like), optional
        For a fusion, the map files of its heatmap and its gradient map: their agreement in each
        box is then computed, at the size of the fused map. Null otherwise.
    size : int, optional
        Enlarge each map to this height and width before the rule; as it is stored by default.
    threshold : float
        Share above which a pixel is mask; the mask is also that of agreement, outline and region.
    threshold_of : {"maximum", "span", "one"}
        What the threshold is a share of, see `regions.mask_of`.
    smoothing : float
        Sigma of a Gaussian, in pixels of the enlarged map, over every map and both its parts.
    **settings
        The rule's own.

    Raises
    ------
    InputError
        For an unknown rule, an image without a record or a part without the map.
    """
    if rule not in RULES:
        close = get_close_matches(rule, RULES, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(RULES)}"
        raise InputError(f"unknown box rule '{rule}': {hint}")
    sizes = tables.read(records, tables.RECORDS).set_index("image")[["width", "height"]]
    above = {"threshold": threshold, "threshold_of": threshold_of}
    with ExitStack() as stack:
        fused = stack.enter_context(MapFile(maps))
        sources = [stack.enter_context(MapFile(part)) for part in parts or ()]
        shape = (size, size) if size else fused.shape

        def read(source: MapFile, image: str, label: str) -> np.ndarray:
            try:
                return smooth(source.read(image, label, shape), smoothing)
            except KeyError:
                raise InputError(
                    f"{source.path}: no map of {image}, {label}, which {maps} has; make it again"
                ) from None

        def found() -> Iterator[dict]:
            for image, label in tqdm(sorted(fused), desc="boxes", unit="map", disable=None):
                if image not in sizes.index:
                    raise InputError(
                        f"{records}: no row for {image}, which {maps} has; make it again"
                    )
                width, height = sizes.loc[image]
                values = read(fused, image, label)
                boxes, scores = RULES[rule](values, **above, **settings)
                if not len(boxes):
                    continue
                both = [read(source, image, label) for source in sources]
                yield from _rows(image, label, values, both, boxes, scores, above, width, height)

        tables.write_rows(found(), tables.FOUND, out)


def gather(paths: Sequence[str | os.PathLike], out: str | os.PathLike) -> None:
    """Join the tables of all shards, sorted by image, label and rank.

    The result does not depend on how the images were spread over shards.

    Parameters
    ----------
    paths : sequence of path-like
        Tables that `find` wrote, in any order.
    out : path-like
    """
    tables.write_parts(_merged(paths), tables.FOUND, out)


def _merged(paths: Sequence[str | os.PathLike]) -> Iterator[pa.Table]:
    """Rows of sorted tables in order; of tables that overlap, as shards do not, all at a time."""
    groups = []
    for first, last, path in sorted(filter(None, map(_extent, paths)), key=itemgetter(0, 1)):
        if groups and first <= groups[-1][0]:
            groups[-1] = max(last, groups[-1][0]), [*groups[-1][1], path]
        else:
            groups.append((last, [path]))
    for _, own in groups:
        parts = chain.from_iterable(tables.read_parts(path, tables.FOUND) for path in own)
        if len(own) == 1:
            yield from parts
        else:
            order = [(name, "ascending") for name in ("image", "label", "rank")]
            yield pa.concat_tables(parts).sort_by(order)


def _extent(path: str | os.PathLike) -> tuple[str, str, str | os.PathLike] | None:
    """First and last image of a sorted table, and its path; None of an empty one."""
    first = last = None
    for part in tables.read_parts(path, tables.FOUND, ["image"]):
        first, last = first or part["image"][0].as_py(), part["image"][-1].as_py()
    return (first, last, path) if first else None


def _rows(
    image: str,
    label: str,
    map: np.ndarray,
    parts: Sequence[np.ndarray],
    boxes: np.ndarray,
    scores: np.ndarray,
    above: dict[str, object],
    width: int,
    height: int,
) -> list[dict]:
    """Rows of one map, in pixels of the source image."""
    scale = np.array([width / map.shape[1], height / map.shape[0]])  # x, y
    mask = mask_of(map, **above)
    peak_x, peak_y = scale * peak(map)
    rows = []
    for rank, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        x1, y1, x2, y2 = box * np.tile(scale, 2)
        first = rank == 0
        rows.append(
            {
                "image": image,
                "label": label,
                "rank": rank,
                "x": x1,
                "y": y1,
                "w": x2 - x1,
                "h": y2 - y1,
                "score": score,
                "agreement": agreement(*parts, box, **above) if parts else None,
                "peak_x": peak_x,
                "peak_y": peak_y,
                "outline": _scaled(outline(mask, box), scale) if first else None,
                "region": encode(_nearest(mask, height, width)) if first else None,
            }
        )
    return rows


def _scaled(polygons: list[np.ndarray], scale: np.ndarray) -> list[np.ndarray]:
    return [(polygon.reshape(-1, 2) * scale).ravel() for polygon in polygons]


def _nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarge a mask by nearest neighbours, as frames of pixel edges; bool [height, width].

    Column by column in memory, which is the order that the run-length code reads.
    """
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    return mask.T[columns][:, rows].T
