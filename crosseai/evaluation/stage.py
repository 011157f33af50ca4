"""The stage: boxes found, ground truth and predictions in, accuracies and intervals out."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from crosseai import tables
from crosseai.boxes.regions import decode
from crosseai.errors import InputError
from crosseai.evaluation import accuracy, bootstrap
from crosseai.evaluation.controls import CONTROLS, control_boxes
from crosseai.files import replacing

__all__ = ["evaluate"]

# Of the boxes found: all but the outlines, which are large.
_COLUMNS = [name for name in tables.FOUND.names if name != "outline"]
_METRICS = ["method", "label", "metric", "value", "ci_low", "ci_high", "n"]
# At a time, to bound memory.
_ROWS = 500  # ground-truth boxes
_NUMBERS = 1_000_000  # weights drawn for the AUC
_log = logging.getLogger(__name__)


def evaluate(
    records: str | os.PathLike,
    boxes: str | os.PathLike,
    split: str | os.PathLike,
    found: Mapping[str, str | os.PathLike],
    predictions: Mapping[str, Sequence[str | os.PathLike]],
    out: str | os.PathLike,
    *,
    score: str = "test",
    draws: int = 100,
    folds: int = 5,
    control_seed: int = 0,
    resamples: int = 2000,
    seed: int = 0,
    reference: str = "crosseai",
) -> None:
    """Write `accuracy.parquet`, `differences.parquet` and `metrics.csv`.

    Protocol `single` scores one box an image and label (rank 0), `oracle` the best of all
    candidates, `region` all pixels above the threshold (Li et al. 2018: all active patches);
    controls have `single` alone. Row `n` is the number of ground-truth boxes (of images for an
    AUC). For `Mean` and `Mean8` `n` and `hits` are sums, while `accuracy` is the mean of the
    labels' accuracies. Every figure is compared with the reference's of the same protocol.
    Metrics: `mean_iou`, `pointing_game`, `afp@T` (false positives of the single box) and
    `afp_all@T` (of all candidates; not for controls) of each method, `auc` (test) and
    `auc_validation` of each model, within each fold and then the mean over the folds.

    Parameters
    ----------
    records, boxes, split : path-like
        Tables of the data stage.
    found : mapping of str to path-like
        Method -> its boxes, in the order of the table.
    predictions : mapping of str to sequence of path-like
        Model -> the predictions of its folds.
    out : path-like
        Folder to write into.
    score : {"test", "all"}
        Score the boxes on images of a test part, or all boxes, those on images the model trained
        on among them.
    draws, folds, control_seed : int
        Of the controls, see `controls.control_boxes`.
    resamples, seed : int
        Of the bootstrap.
    reference : str
        Method that all others are compared with; without it there are no differences.

    Raises
    ------
    InputError
        If no box can be scored, or a table names an image that the records do not know.
    """
    out = Path(out)
    columns = ["image", "patient", "labels", "width", "height"]
    known = tables.read(records, tables.RECORDS, columns).set_index("image")
    truth = _truth(tables.read(boxes, tables.BOXES), boxes, known)
    scored = _scored(truth, tables.read(split, tables.SPLIT), score)
    drawn = control_boxes(
        _corners(truth) / _sizes(truth),
        truth["label"].to_numpy(),
        truth["patient"].to_numpy(),
        draws,
        folds,
        control_seed,
    )
    controls = _measured_controls(drawn, truth, scored)
    truth = truth[scored]
    corners, labels = _corners(truth), truth["label"].to_numpy()
    names, patient = np.unique(truth["patient"].to_numpy(), return_inverse=True)
    weights = bootstrap.resample(len(names), resamples, np.random.default_rng(seed))
    _log.info("scoring %d boxes, %d methods and controls", len(truth), len(found) + len(controls))

    def measured(method: str) -> _Measured:
        if method in found:
            return _measured(method, _answer(found[method], truth, known), corners)
        return controls[method]

    # One method at a time, the reference beside it: memory does not grow with the table.
    methods = [*found, *controls]
    base = measured(reference) if reference in methods else _Measured([], None)
    boxed, compared, unboxed = [], [], []
    for method in methods:
        keys, values = base if method == reference else measured(method)
        pairs = [] if method == reference else _pairs(keys, base.keys)
        columns = [values] + [values[:, [i]] - base.values[:, [j]] for i, j in pairs]
        columns = np.concatenate(columns, axis=1)  # [n, M]
        limits = bootstrap.intervals(columns, labels, patient, weights)
        rows = _rows(accuracy.label_means(columns, labels), limits, labels)
        own = rows[rows["column"] < len(keys)].join(pd.DataFrame(keys), on="column")
        boxed.append(own[own["criterion"] != ""].copy())
        boxed[-1]["hits"] = _sums(values, labels, boxed[-1])
        unboxed.append(own[own["criterion"] == ""])
        paired = rows[rows["column"] >= len(keys)].copy()
        paired["column"] = [pairs[column - len(keys)][0] for column in paired["column"]]
        compared.append(paired.join(pd.DataFrame(keys), on="column"))

    boxed = pd.concat(boxed).rename(columns={"value": "accuracy", "threshold": "iou_threshold"})
    tables.write(boxed, tables.ACCURACY, out / "accuracy.parquet")
    compared = pd.concat(compared).rename(
        columns={"value": "difference", "threshold": "iou_threshold"}
    )
    compared["reference"] = reference
    tables.write(compared, tables.DIFFERENCES, out / "differences.parquet")

    metrics = unboxed
    for model, paths in predictions.items():
        metrics.append(_auc_rows(model, paths, known, resamples, seed))
    with replacing(out / "metrics.csv") as temporary:
        pd.concat(metrics)[_METRICS].to_csv(temporary, index=False, float_format="%.6f")


def _known(images: pd.Series, known: pd.DataFrame, path: str | os.PathLike) -> None:
    """Refuse images that the records do not hold."""
    unknown = images[~images.isin(known.index)]
    if len(unknown):
        raise InputError(
            f"{path}, row {unknown.index[0]}: image {unknown.iloc[0]!r} is not in the records "
            f"({unknown.nunique()} such); run the stages before this one again on this release"
        )


def _truth(boxes: pd.DataFrame, path: str | os.PathLike, known: pd.DataFrame) -> pd.DataFrame:
    """Ground-truth boxes with the patient and the size of their image."""
    _known(boxes["image"], known, path)
    return boxes.join(known[["patient", "width", "height"]], on="image")


def _scored(truth: pd.DataFrame, split: pd.DataFrame, score: str) -> np.ndarray:
    """Which boxes count: bool [N]."""
    test = split.loc[split["part"] == "test", "image"]
    scored = np.ones(len(truth), bool) if score == "all" else truth["image"].isin(test).to_numpy()
    if not scored.any():
        raise InputError(
            f"none of the {len(truth)} boxes lies on an image of the test part; "
            "use another split, or score: all"
        )
    return scored


def _corners(table: pd.DataFrame) -> np.ndarray:
    """Columns x, y, w, h -> x1, y1, x2, y2: [n, 4]."""
    start, size = table[["x", "y"]].to_numpy(), table[["w", "h"]].to_numpy()
    return np.concatenate([start, start + size], axis=1)


def _sizes(truth: pd.DataFrame) -> np.ndarray:
    """Width, height, width, height of the image of each box: [n, 4]."""
    return truth[["width", "height", "width", "height"]].to_numpy("float64")


class _Answer(NamedTuple):
    """What a method, or a control, says to each of the `n` ground-truth boxes."""

    boxes: np.ndarray  # [n, K, 4]: a method's candidates, best first, or a control's draws
    peaks: np.ndarray  # [n, D, 2]
    regions: dict[str, np.ndarray] | None = None  # criterion -> overlap [n, 1]; not of a control

    def part(self, rows: slice) -> "_Answer":
        """What it says to some of the boxes."""
        regions = {name: overlap[rows] for name, overlap in self.regions.items()}
        return _Answer(self.boxes[rows], self.peaks[rows], regions)


def _answer(path: str | os.PathLike, truth: pd.DataFrame, known: pd.DataFrame) -> _Answer:
    """Look up what a method found for every ground-truth box."""
    wanted = pd.MultiIndex.from_frame(truth[["image", "label"]])
    asked = wanted.unique()
    order = asked.get_indexer(wanted)  # a pair may have several ground-truth boxes
    rows_of = pd.Series(np.arange(len(truth))).groupby(order).indices
    corners, sizes = _corners(truth), truth[["height", "width"]].to_numpy()
    boxes = np.full((len(asked), 1, 4), np.nan)
    peaks = np.full((len(asked), 1, 2), np.nan)
    regions = {criterion: np.zeros((len(truth), 1)) for criterion in accuracy.CRITERIA}
    read = 0
    for part in tables.read_parts(path, tables.FOUND, _COLUMNS):
        part = part.to_pandas()
        part.index += read
        read += len(part)
        _known(part["image"], known, path)
        position = asked.get_indexer(pd.MultiIndex.from_frame(part[["image", "label"]]))
        part, position = part[position >= 0], position[position >= 0]
        rank = part["rank"].to_numpy()
        more = max(rank.max(initial=0) + 1 - boxes.shape[1], 0)
        boxes = np.pad(boxes, ((0, 0), (0, more), (0, 0)), constant_values=np.nan)
        twice = part.duplicated(["image", "label", "rank"]).to_numpy()
        repeated = twice | ~np.isnan(boxes[position, rank, 0])
        if repeated.any():
            row = repeated.argmax()
            image, label, number = part.iloc[row][["image", "label", "rank"]]
            raise InputError(
                f"{path}, row {part.index[row]}: a second box of rank {number} for {image} and "
                f"{label}; run the boxes stage again"
            )
        boxes[position, rank] = _corners(part)
        first, own = position[rank == 0], part[rank == 0]
        peaks[first, 0] = own[["peak_x", "peak_y"]]
        for pair, code in zip(first, own["region"].fillna(""), strict=True):
            if code:  # run-length code; none where the method has no region
                for row in rows_of[pair]:
                    overlaps = accuracy.region_overlaps(decode(code, *sizes[row]), corners[row])
                    for criterion, share in overlaps.items():
                        regions[criterion][row] = share
    return _Answer(boxes[order], peaks[order], regions)


class _Measured(NamedTuple):
    """Every measure of a method: what each column is, and values [n, M]."""

    keys: list[dict]
    values: np.ndarray | None


def _measured(method: str, answer: _Answer, truth: np.ndarray) -> _Measured:
    """Measure a method, some boxes at a time."""
    parts = [
        _measures(method, answer.part(slice(start, start + _ROWS)), truth[start : start + _ROWS])
        for start in range(0, len(truth), _ROWS)
    ]
    return _joined(parts)


def _measured_controls(
    drawn: Iterable[Mapping[str, np.ndarray]], truth: pd.DataFrame, scored: np.ndarray
) -> dict[str, _Measured]:
    """Measure the controls on the scored boxes, as they are drawn for all."""
    corners, sizes = _corners(truth), _sizes(truth)
    parts = {name: [] for name in CONTROLS}
    start = 0
    for block in drawn:
        for name, shares in block.items():
            here = slice(start, start + len(shares))
            boxes = (shares * sizes[here, None])[scored[here]]  # [m, D, 4]
            answer = _Answer(boxes, (boxes[..., :2] + boxes[..., 2:]) / 2)
            parts[name].append(_measures(name, answer, corners[here][scored[here]]))
        start = here.stop
    return {name: _joined(own) for name, own in parts.items()}


def _joined(parts: Sequence[_Measured]) -> _Measured:
    return _Measured(parts[0].keys, np.concatenate([part.values for part in parts]))


def _measures(method: str, answer: _Answer, truth: np.ndarray) -> _Measured:
    """Measure a method on boxes [n, 4]. Accuracies have a criterion, metrics have none."""
    keys, columns = [], []

    def add(values: np.ndarray, **key: object) -> None:
        blank = {"criterion": "", "protocol": "", "threshold": np.nan, "metric": ""}
        keys.append(blank | {"method": method} | key)
        columns.append(values)

    boxes, peaks, regions = answer
    overlap = {name: accuracy.overlaps(boxes, truth, name) for name in accuracy.CRITERIA}
    chosen = slice(None) if regions is None else slice(1)  # draws count alike, ranks do not
    for criterion in accuracy.CRITERIA:
        protocols = {"single": overlap[criterion][:, chosen]}
        if regions is not None:
            protocols["oracle"] = accuracy.best(overlap[criterion])
            protocols["region"] = regions[criterion]
        for protocol, scored in protocols.items():
            for threshold, hit in zip(accuracy.THRESHOLDS, accuracy.hits(scored).T, strict=True):
                add(hit, criterion=criterion, protocol=protocol, threshold=threshold)
    single, drawn = overlap["IoU"][:, chosen], boxes[:, chosen]
    add(single.mean(axis=1), metric="mean_iou")
    add(accuracy.pointing(peaks, truth), metric="pointing_game")
    false = {"afp": accuracy.false_positives(single, drawn) / drawn.shape[1]}
    if regions is not None:
        false["afp_all"] = accuracy.false_positives(overlap["IoU"], boxes)
    for metric, counts in false.items():
        for threshold, count in zip(accuracy.THRESHOLDS, counts.T, strict=True):
            add(count, metric=f"{metric}@{threshold}")
    return _Measured(keys, np.stack(columns, axis=1))


def _pairs(keys: list[dict], reference: list[dict]) -> list[tuple[int, int]]:
    """Columns to subtract: (a method's accuracy, the reference's)."""

    def what(key: dict) -> tuple:
        return key["criterion"], key["protocol"], key["threshold"]

    base = {what(key): column for column, key in enumerate(reference) if key["criterion"]}
    return [(i, base[what(key)]) for i, key in enumerate(keys) if what(key) in base]


def _rows(means: dict, limits: dict, labels: np.ndarray) -> pd.DataFrame:
    """Long form, a row a column of values and label: column, label, value, interval, n."""
    frames = [
        pd.DataFrame(
            {
                "column": np.arange(len(value)),
                "label": label,
                "value": value,
                "ci_low": limits[label][0],
                "ci_high": limits[label][1],
                "n": _members(labels, label).sum(),
            }
        )
        for label, value in means.items()
    ]
    return pd.concat(frames).sort_values("column", kind="stable", ignore_index=True)


def _members(labels: np.ndarray, label: str) -> np.ndarray:
    """Rows of a label or of a mean's labels: bool [n]."""
    return np.isin(labels, accuracy.MEANS.get(label, (label,)))


def _sums(values: np.ndarray, labels: np.ndarray, rows: pd.DataFrame) -> list[float]:
    """Hits behind each row: the sum of its label's values in its column."""
    sums = {label: values[_members(labels, label)].sum(axis=0) for label in set(rows["label"])}
    return [
        sums[label][column] for label, column in zip(rows["label"], rows["column"], strict=True)
    ]


def _auc_rows(
    model: str, paths: Sequence[str | os.PathLike], known: pd.DataFrame, resamples: int, seed: int
) -> pd.DataFrame:
    """Score every label's AUC, test and validation: rows of metrics.csv."""
    folds = []
    for path in paths:
        folds.append(pd.read_parquet(path))
        _known(folds[-1]["image"], known, path)
    predicted = pd.concat(folds, ignore_index=True)
    labels = [name for name in predicted if name not in ("image", "part", "fold")]
    members = {label: [label] for label in sorted(labels)} | accuracy.MEANS
    rows = []
    for part, metric in [("test", "auc"), ("validation", "auc_validation")]:
        here = predicted[predicted["part"] == part]
        if here.empty:
            continue
        value, replicates = _auc(here, labels, known, resamples, seed)  # [L], [R, L]
        for label, names in members.items():
            columns = [labels.index(name) for name in names if name in labels]
            if np.isnan(value[columns]).all():
                continue
            low, high = bootstrap.percentiles(
                bootstrap.nan_mean(replicates[:, columns], axis=1)[:, None]
            )
            row = model, label, metric, np.nanmean(value[columns]), low[0], high[0]
            rows.append((*row, here["image"].nunique()))
    return pd.DataFrame(rows, columns=_METRICS)


def _auc(
    predicted: pd.DataFrame, labels: list[str], known: pd.DataFrame, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """AUC [L] and its replicates [R, L] over resampled patients."""
    scores = predicted[labels].to_numpy("float64")  # [n, L]
    findings = known["labels"].reindex(predicted["image"])
    positive = np.array([[label in own for label in labels] for own in findings])  # [n, L]
    fold = predicted["fold"].to_numpy()
    owner = known["patient"].reindex(predicted["image"]).to_numpy()
    names, patient = np.unique(owner, return_inverse=True)
    value = bootstrap.fold_auc(scores, positive, fold, np.ones((len(scores), 1)))[0]
    rng = np.random.default_rng(seed)
    step = max(1, _NUMBERS // len(scores))
    replicates = []
    for start in range(0, resamples, step):
        weights = bootstrap.resample(len(names), min(step, resamples - start), rng)
        drawn = weights.T[patient].astype("float64")  # [n, r]
        replicates.append(bootstrap.fold_auc(scores, positive, fold, drawn))
    return value, np.concatenate(replicates)
