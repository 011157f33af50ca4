"""The stage `sanity`: what is left of maps and boxes once the network has forgotten.

J. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018. A method whose boxes are as good
with random weights as with trained ones says nothing about what the network has learned; one whose
boxes are as good on another image says nothing about this one.
"""

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.metrics import structural_similarity
from tqdm import tqdm

from crosseai import tables
from crosseai.ablation.figures import sanity_curves, save
from crosseai.ablation.scoring import cells, corners, mean_label, scored_boxes, summary
from crosseai.errors import InputError
from crosseai.evaluation.accuracy import THRESHOLDS, hits
from crosseai.evaluation.overlap import iou
from crosseai.files import replacing
from crosseai.fusion import scale
from crosseai.mapstore import MapFile

__all__ = ["ANOTHER", "TRAINED", "another_image", "sanity", "similarity"]

log = logging.getLogger(__name__)

TRAINED, ANOTHER = "trained", "another image"

_COLUMNS = [
    "method",
    "depth",
    "label",
    "metric",
    "iou_threshold",
    "value",
    "ci_low",
    "ci_high",
    "n",
]
_SHOWN = {
    "rank correlation": ("rank_correlation", None),
    "SSIM": ("ssim", None),
    "IoU with the trained box": ("box_iou", None),
    "T(IoU) = 0.1": ("accuracy", 0.1),
    "T(IoU) = 0.3": ("accuracy", 0.3),
    "mean IoU": ("mean_iou", None),
    "mean IoU lost": ("mean_iou_lost", None),
}


def sanity(
    records: str | os.PathLike,
    boxes: str | os.PathLike,
    split: str | os.PathLike,
    maps: Mapping[str, str | os.PathLike],
    found: Mapping[str, str | os.PathLike],
    out: str | os.PathLike,
    shards: int,
    size: int,
    score: str = "test",
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Write `sanity.csv`, `sanity.md` and `sanity.png`.

    Each method's maps and single boxes are compared with those of the same method after the
    network's weights were made anew from the top down to a depth, and with its own of another
    image with the same label. Metrics: `rank_correlation` (Spearman's) and `ssim` of the map with
    the trained one, `box_iou` of the box with the trained one's; `accuracy` at each
    `iou_threshold` and `mean_iou` with the ground truth; `accuracy_lost` and `mean_iou_lost`, how
    much more the trained network reaches (paired). Without a box all overlaps are 0.

    Parameters
    ----------
    records, boxes, split : path-like
        Tables of the data stage.
    maps, found : mapping of str to path-like
        Folder of map files and table of boxes, of each METHOD and of each METHOD~DEPTH.
    out : path-like
        Folder to write into.
    shards : int
        How many map files, 0.h5 and so on, each folder has.
    size : int
        Maps are compared at this height and width.
    score : {"test", "all"}
        As the evaluation.
    resamples, seed : int
        Of the bootstrap.

    Raises
    ------
    InputError
        If the names of `maps` and `found` differ or a trained method is missing.
    """
    if maps.keys() != found.keys():
        raise InputError("maps and found: give both for the same methods and depths")
    truth = scored_boxes(records, boxes, split, score)
    partner = another_image(truth["label"].to_numpy(), truth["patient"].to_numpy())
    read = partial(_maps, truth=truth, shards=shards, size=size)
    target = corners(truth) / _extent(truth)  # [n, 4], shares of the image
    keys, columns = [], []

    def add(values: np.ndarray, **key: object) -> None:
        keys.append(key)
        columns.append(values)

    for method, depths in _depths(maps).items():
        trained, own = read(maps[method]), _boxes(found[method], truth)
        before = _scores(own, target)
        for (metric, threshold), values in before.items():
            add(values, method=method, depth=TRAINED, metric=metric, iou_threshold=threshold)
        for depth in [*depths, ANOTHER]:
            name = f"{method}~{depth}"
            other = trained[partner] if depth == ANOTHER else read(maps[name])
            box = own[partner] if depth == ANOTHER else _boxes(found[name], truth)
            key = {"method": method, "depth": depth}
            pairs = tqdm(zip(trained, other, strict=True), name, len(truth), disable=None)
            alike = np.array([similarity(*pair) for pair in pairs])  # [n, 2]
            add(alike[:, 0], **key, metric="rank_correlation")
            add(alike[:, 1], **key, metric="ssim")
            add(iou(own, box), **key, metric="box_iou")
            for (metric, threshold), values in _scores(box, target).items():
                key["iou_threshold"] = threshold
                add(values, **key, metric=metric)
                add(before[metric, threshold] - values, **key, metric=f"{metric}_lost")
    rows = summary(np.stack(columns, axis=1), truth, resamples, seed)
    table = rows.join(pd.DataFrame(keys), on="column")[_COLUMNS]
    with replacing(Path(out, "sanity.csv")) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    with replacing(Path(out, "sanity.md")) as temporary:
        temporary.write_text(_markdown(table), encoding="utf-8")
    save(sanity_curves(table), Path(out, "sanity.png"))
    log.info("%s: %d boxes, %d methods", out, len(truth), table["method"].nunique())


def similarity(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Spearman's rank correlation and the structural similarity of two maps.

    Parameters
    ----------
    a, b : ndarray [H, W] float
        Each is scaled to span 0 to 255 for the second.

    Returns
    -------
    (float, float)
        In [-1, 1]. The correlation with a constant map, which orders nothing, is 0.

    References
    ----------
    Z. Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity",
    IEEE Transactions on Image Processing 13(4), 2004.
    """
    ranks = [pd.Series(values.ravel()).rank().to_numpy() for values in (a, b)]  # [H * W]
    ordered = all(np.ptp(own) > 0 for own in ranks)
    correlation = np.corrcoef(*ranks)[0, 1] if ordered else 0.0
    return float(correlation), float(structural_similarity(scale(a), scale(b), data_range=255))


def another_image(labels: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """For each row, another one of the same label.

    Parameters
    ----------
    labels, patients : ndarray [n] str

    Returns
    -------
    ndarray [n] int
        A permutation. The partner is of another patient, unless a patient has half of the label's
        rows.
    """
    partner = np.arange(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(patients[rows], kind="stable")]  # a patient's rows side by side
        partner[rows] = np.roll(rows, len(rows) // 2)
    return partner


def _depths(names: Mapping[str, object]) -> dict[str, list[str]]:
    """Method -> the depths to which it was made anew, from names METHOD and METHOD~DEPTH."""
    depths = {name: [] for name in names if "~" not in name}
    for method, _, depth in (name.partition("~") for name in names if "~" in name):
        if method not in depths:
            raise InputError(f"{method}~{depth}: give {method!r}, the trained one, too")
        depths[method].append(depth)
    return depths


def _extent(truth: pd.DataFrame) -> np.ndarray:
    return truth[["width", "height", "width", "height"]].to_numpy("float64")  # [n, 4]


def _maps(folder: str | os.PathLike, truth: pd.DataFrame, shards: int, size: int) -> np.ndarray:
    """Read the map of each ground-truth box, [n, size, size] float32."""
    maps = np.empty((len(truth), size, size), "float32")
    missing = truth.groupby(["image", "label"]).indices
    for shard in range(shards):
        with MapFile(Path(folder, f"{shard}.h5")) as file:
            for pair in missing.keys() & set(file):
                maps[missing.pop(pair)] = file.read(*pair, (size, size))
    if missing:
        image, label = next(iter(missing))
        raise InputError(f"{folder}: no map of {image}, {label}; make the maps again")
    return maps


def _boxes(path: str | os.PathLike, truth: pd.DataFrame) -> np.ndarray:
    """Look up the single box for each ground-truth box: [n, 4], shares of the image, or NaN."""
    found = tables.read(path, tables.FOUND)
    found = found[found["rank"] == 0].set_index(["image", "label"])
    wanted = pd.MultiIndex.from_frame(truth[["image", "label"]])
    return corners(found.reindex(wanted)) / _extent(truth)


def _scores(boxes: np.ndarray, target: np.ndarray) -> dict[tuple[str, float], np.ndarray]:
    """Accuracy at each T and mean IoU, [n] each."""
    overlap = iou(boxes, target).round(9)[:, None]  # [n, 1], as the evaluation rounds
    accuracy = zip(THRESHOLDS, hits(overlap).T, strict=True)
    scores = {("accuracy", threshold): values for threshold, values in accuracy}
    return scores | {("mean_iou", np.nan): overlap[:, 0]}


def _markdown(table: pd.DataFrame) -> str:
    """Means over labels, a row a method and depth."""
    mean = mean_label(table["label"])
    lines = [
        "# Sanity check: weights made anew from the logits down to a depth",
        "",
        "The boxes of a method survive where the 95 % interval of the mean IoU lost reaches zero:",
        "they are no worse than those of the trained network, so they do not come from what it has",
        "learned. In the last row of a method, map and box are the trained network's of another",
        "image with the same label.",
        f"Means over {'the labels in Table 1' if mean == 'Mean' else 'all labels'}, with 95 %",
        "intervals by bootstrap over patients.",
        "",
        "| " + " | ".join(["method", "made anew", *_SHOWN, "survives"]) + " |",
        "| --- " * (len(_SHOWN) + 3) + "|",
    ]
    rows = table[table["label"] == mean]
    for (method, depth), own in rows.groupby(["method", "depth"], sort=False):
        made = {TRAINED: "nothing", ANOTHER: f"nothing, {ANOTHER}"}.get(depth, depth)
        lost = own.loc[own["metric"] == "mean_iou_lost", "ci_low"]
        survives = ["yes" if low <= 0 else "no" for low in lost] or [""]
        line = [method, made, *cells(own, _SHOWN.values()), *survives]
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"
