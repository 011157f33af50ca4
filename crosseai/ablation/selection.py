"""The stage `select`: boxes whose settings were chosen on the boxes of other patients.

Supervised, though by a handful of numbers only, and to be told so beside every figure.
"""

import logging
import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from tqdm import tqdm

from crosseai import tables
from crosseai.ablation.grid import Settings, boxes_of
from crosseai.ablation.scoring import corners, scored_boxes
from crosseai.boxes.stage import find
from crosseai.errors import InputError
from crosseai.evaluation.accuracy import label_means
from crosseai.evaluation.overlap import iou
from crosseai.files import replacing
from crosseai.fusion import fuse_files
from crosseai.mapstore import MapFile

__all__ = ["choose", "deal", "select"]

log = logging.getLogger(__name__)


def select(
    records: str | os.PathLike,
    boxes: str | os.PathLike,
    split: str | os.PathLike,
    parts: Sequence[Sequence[str | os.PathLike]],
    out: str | os.PathLike,
    choices: str | os.PathLike,
    size: int,
    score: str = "test",
    t: float = 0.30,
    threshold: float = 0.35,
    threshold_of: str = "maximum",
    smoothing: float = 0.0,
    candidates: int = 50,
    keep_last_ring: bool = False,
    ranks: int = 10,
    t_values: Sequence[float] | None = None,
    threshold_values: Sequence[float] | None = None,
    smoothing_values: Sequence[float] | None = None,
    candidates_values: Sequence[int] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> None:
    """Find boxes by Algorithm 1 with the settings that do best on other patients' boxes.

    Patients are dealt into folds. For each fold every combination of the values is tried on the
    scored boxes of the *other* folds; the one with the highest mean IoU, mean over the labels in
    Table 1, finds the boxes of the fold's images. A fold's own boxes decide nothing about it.

    Parameters
    ----------
    records, boxes, split : path-like
        Tables of the data stage.
    parts : sequence of one or two sequences of path-like
        Of the map, or of the heatmap and the gradient map: the files of all shards.
    out : path-like
        The table of boxes, a `tables.FOUND`, as the boxes stage writes it.
    choices : path-like
        Table of what each fold chose, .csv.
    size : int
        Each map is enlarged to this height and width.
    score : {"test", "all"}
        As the evaluation.
    t, threshold, threshold_of, smoothing, candidates, keep_last_ring, ranks
        As configured: of the settings that are not chosen.
    t_values, threshold_values, smoothing_values, candidates_values : sequence, optional
        What is tried; 0 candidates are all.
    folds, seed : int
        Of the dealing.

    Raises
    ------
    InputError
        If the boxes of fewer than two folds can be scored.
    """
    grid = [
        Settings(*values)
        for values in product(
            t_values or [t],
            threshold_values or [threshold],
            [threshold_of],
            smoothing_values or [smoothing],
            candidates_values or [candidates],
            [keep_last_ring],
        )
    ]
    truth = scored_boxes(records, boxes, split, score)
    owner = tables.read(records, tables.RECORDS).set_index("image")["patient"]
    fold_of = deal(owner.loc[_explained(parts[0])], folds, seed)
    truth = truth[truth["patient"].isin(fold_of)].reset_index(drop=True)
    overlap = iou(boxes_of(truth, parts, grid, size), corners(truth)[:, None])  # [n, S]
    fold = truth["patient"].map(fold_of).to_numpy()
    chosen, reached = choose(overlap, truth["label"].to_numpy(), fold, folds)
    rows = [
        {
            "fold": k,
            "boxes": (fold == k).sum(),
            "boxes_of_others": (fold != k).sum(),
            **grid[index]._asdict(),
            "mean_iou_of_others": reached[k],
        }
        for k, index in enumerate(chosen)
    ]
    for row in rows:
        log.info(", ".join(f"{name} {value}" for name, value in row.items()))
    found = []
    for index in tqdm(sorted(set(chosen)), "chosen settings", disable=None):
        own = {patient for patient, k in fold_of.items() if chosen[k] == index}
        table = _find(parts, records, grid[index], size, ranks)
        found.append(table[table["image"].map(owner).isin(own)])
    found = pd.concat([table for table in found if len(table)] or found[:1])
    tables.write(found.sort_values(["image", "label", "rank"]), tables.FOUND, out)
    with replacing(choices) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")


def deal(patients: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Deal patients into folds of equal size: patient -> fold. The order given does not matter."""
    names = np.unique(patients)
    order = np.random.default_rng(seed).permutation(len(names)) % folds
    return dict(zip(names.tolist(), order.tolist(), strict=True))


def choose(
    overlap: np.ndarray, labels: np.ndarray, fold: np.ndarray, folds: int
) -> tuple[list[int], list[float]]:
    """Choose for each fold the settings that do best on the boxes of the other folds.

    Best is the highest mean IoU, mean over the labels in Table 1 (over all, where there is none of
    these). The mean IoU counts every overlap, where an accuracy counts those beyond a threshold.

    Parameters
    ----------
    overlap : ndarray [n, S] float
        IoU of each box under each of the settings.
    labels : ndarray [n] str
    fold : ndarray [n] int
    folds : int

    Returns
    -------
    chosen : list of int
        For each fold, which of the settings; the first of equals.
    reached : list of float
        Its mean IoU on the boxes of the other folds.

    Raises
    ------
    InputError
        If all boxes belong to one fold.
    """
    chosen, reached = [], []
    for k in range(folds):
        others = fold != k
        if not others.any():
            raise InputError(f"select: no box outside fold {k}; choose on more patients with boxes")
        means = label_means(overlap[others], labels[others])
        mean = means.get("Mean", means["Mean8"]).round(9)  # [S]
        chosen.append(int(mean.argmax()))
        reached.append(float(mean.max()))
    return chosen, reached


def _explained(shards: Sequence[str | os.PathLike]) -> list[str]:
    """Images that have a map."""
    images = []
    for path in shards:
        with MapFile(path) as maps:
            images += maps.images
    return images


def _find(
    parts: Sequence[Sequence[str | os.PathLike]],
    records: str | os.PathLike,
    settings: Settings,
    size: int,
    ranks: int,
) -> pd.DataFrame:
    """All boxes of all maps under one setting, by the stages themselves."""
    own = settings._asdict()
    t = own.pop("t")
    found = []
    with TemporaryDirectory() as folder:
        maps, out = Path(folder, "maps.h5"), Path(folder, "boxes.parquet")
        for shard in zip(*parts, strict=True):
            if len(shard) == 2:
                fuse_files(*shard, maps, t)
                find(maps, records, out, "rectangles", shard, size, ranks=ranks, **own)
            else:
                find(*shard, records, out, "rectangles", None, size, ranks=ranks, **own)
            found.append(tables.read(out, tables.FOUND))
    return pd.concat(found)
