"""The boxes that are scored, and what is measured on them with its interval."""

import os
from collections.abc import Iterable

import numpy as np
import pandas as pd

from crosseai import tables
from crosseai.errors import InputError
from crosseai.evaluation.accuracy import MEANS, label_means
from crosseai.evaluation.bootstrap import intervals, resample

__all__ = ["cells", "corners", "mean_label", "scored_boxes", "summary"]


def scored_boxes(
    records: str | os.PathLike,
    boxes: str | os.PathLike,
    split: str | os.PathLike,
    score: str = "test",
) -> pd.DataFrame:
    """Ground-truth boxes that count, as in the table.

    Parameters
    ----------
    records, boxes, split : path-like
        Tables of the data stage.
    score : {"test", "all"}
        The boxes on images of a test part, or all.

    Returns
    -------
    DataFrame
        `tables.BOXES` with the `patient`, `width` and `height` of the image.

    Raises
    ------
    InputError
        If there is none, or one lies on an image that the records do not hold.
    """
    known = tables.read(records, tables.RECORDS).set_index("image")
    truth = tables.read(boxes, tables.BOXES)
    unknown = truth.loc[~truth["image"].isin(known.index), "image"]
    if len(unknown):
        raise InputError(f"{boxes}: image {unknown.iloc[0]!r} is not in {records}; make both again")
    if score == "test":
        cut = tables.read(split, tables.SPLIT)
        truth = truth[truth["image"].isin(cut.loc[cut["part"] == "test", "image"])]
    if truth.empty:
        raise InputError(
            f"{boxes}: no box to score; use a split whose test part has some, or score: all"
        )
    return truth.join(known[["patient", "width", "height"]], on="image").reset_index(drop=True)


def corners(table: pd.DataFrame) -> np.ndarray:
    """Columns x, y, w, h -> x1, y1, x2, y2: [n, 4]."""
    start, size = table[["x", "y"]].to_numpy(), table[["w", "h"]].to_numpy()
    return np.concatenate([start, start + size], axis=1)


def summary(
    values: np.ndarray, truth: pd.DataFrame, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Mean of each column of `values` by label and over labels, with its 95 % interval.

    Parameters
    ----------
    values : ndarray [n, M] float
        A row a ground-truth box.
    truth : DataFrame [n]
        From `scored_boxes`.
    resamples, seed : int
        Of the bootstrap over patients; the same draws as the table's.

    Returns
    -------
    DataFrame
        column (0 ... M - 1), label (the means last), value, ci_low, ci_high, n (boxes).
    """
    labels = truth["label"].to_numpy()
    names, patient = np.unique(truth["patient"].to_numpy(), return_inverse=True)
    weights = resample(len(names), resamples, np.random.default_rng(seed))
    limits = intervals(values, labels, patient, weights)
    frames = [
        pd.DataFrame(
            {
                "column": np.arange(values.shape[1]),
                "label": label,
                "value": mean,
                "ci_low": limits[label][0],
                "ci_high": limits[label][1],
                "n": np.isin(labels, MEANS.get(label, (label,))).sum(),
            }
        )
        for label, mean in label_means(values, labels).items()
    ]
    return pd.concat(frames).sort_values("column", kind="stable", ignore_index=True)


def mean_label(labels: Iterable[str]) -> str:
    """The mean to look at first: over the labels in Table 1, else over all that carry boxes."""
    return next(name for name in MEANS if name in set(labels))


def cells(rows: pd.DataFrame, shown: Iterable[tuple[str, float | None]]) -> list[str]:
    """Figures with their intervals, as text; empty where there is none.

    Parameters
    ----------
    rows : DataFrame
        metric, iou_threshold, value, ci_low, ci_high of one label.
    shown : iterable of (str, float or None)
        Metric and, for an accuracy, the threshold.
    """
    texts = {
        (row.metric, None if pd.isna(row.iou_threshold) else row.iou_threshold): (
            f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        )
        for row in rows.itertuples()
    }
    return [texts.get(key, "") for key in shown]
