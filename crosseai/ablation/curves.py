"""The stage `ablate`: each setting of a fusion's boxes varied alone, on cached maps."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from crosseai.ablation.figures import save, setting_curves
from crosseai.ablation.grid import Settings, boxes_of
from crosseai.ablation.scoring import cells, corners, mean_label, scored_boxes, summary
from crosseai.evaluation.accuracy import THRESHOLDS, hits, overlaps
from crosseai.files import replacing

__all__ = ["ablate", "variations"]

log = logging.getLogger(__name__)

_COLUMNS = [
    "setting",
    "choice",
    "configured",
    "label",
    "metric",
    "iou_threshold",
    "value",
    "ci_low",
    "ci_high",
    "n",
]
_SHOWN = {
    "mean IoU": ("mean_iou", None),
    "T(IoU) = 0.1": ("accuracy", 0.1),
    "T(IoU) = 0.3": ("accuracy", 0.3),
    "T(IoU) = 0.5": ("accuracy", 0.5),
}


def ablate(
    records: str | os.PathLike,
    boxes: str | os.PathLike,
    split: str | os.PathLike,
    heatmaps: Sequence[str | os.PathLike],
    gradients: Mapping[str, Sequence[str | os.PathLike]],
    out: str | os.PathLike,
    size: int,
    score: str = "test",
    t: float = 0.30,
    threshold: float = 0.35,
    threshold_of: str = "maximum",
    smoothing: float = 0.0,
    candidates: int = 50,
    keep_last_ring: bool = False,
    t_values: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    threshold_values: Sequence[float] = (0.15, 0.25, 0.35, 0.45, 0.55),
    smoothing_values: Sequence[float] = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
    candidates_values: Sequence[int] = (1, 5, 10, 50, 200, 0),
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Write what each setting is worth: all figures, .csv, the means, .md, their curves, .png.

    One setting is varied at a time, the others stay as configured; the configured value is always
    among those tried, and the ring that ended the growth is tried both ways. Metrics, of the
    single box: `accuracy` at each `iou_threshold`, and `mean_iou`.

    Parameters
    ----------
    records, boxes, split : path-like
        Tables of the data stage.
    heatmaps : sequence of path-like
        Map files of all shards.
    gradients : mapping of str to sequence of path-like
        The same of the gradient map; under several reductions of the input's channels, by name,
        the configured one first.
    out : path-like
        The .csv; the others are written beside it.
    size : int
        Each map is enlarged to this height and width.
    score : {"test", "all"}
        As the evaluation.
    t, threshold, threshold_of, smoothing, candidates, keep_last_ring
        As configured; see `grid.Settings`.
    t_values, threshold_values, smoothing_values, candidates_values : sequence
        What is tried; 0 candidates are all.
    resamples, seed : int
        Of the bootstrap.
    """
    configured = Settings(t, threshold, threshold_of, smoothing, candidates, keep_last_ring)
    varied = variations(
        configured,
        t=t_values,
        threshold=threshold_values,
        smoothing=smoothing_values,
        candidates=candidates_values,
        keep_last_ring=(False, True),
    )
    truth = scored_boxes(records, boxes, split, score)
    (first, shards), *others = gradients.items()
    settings = list(dict.fromkeys(own for _, _, own in varied))
    found = boxes_of(truth, [heatmaps, shards], settings, size)  # [n, S, 4]
    columns = [
        (setting, _text(setting, value), own == configured, found[:, settings.index(own)])
        for setting, value, own in varied
    ]
    if others:
        columns.append(("reduction", first, True, found[:, settings.index(configured)]))
    for reduction, shards in others:
        other = boxes_of(truth, [heatmaps, shards], [configured], size, reduction)
        columns.append(("reduction", reduction, False, other[:, 0]))
    table = _table(columns, truth, resamples, seed)
    with replacing(out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    with replacing(Path(out).with_suffix(".md")) as temporary:
        temporary.write_text(_markdown(table), encoding="utf-8")
    save(setting_curves(table), Path(out).with_suffix(".png"))
    log.info("%s: %d settings on %d boxes", out, len(columns), len(truth))


def variations(
    configured: Settings, **values: Sequence[object]
) -> list[tuple[str, object, Settings]]:
    """Vary one setting at a time.

    Parameters
    ----------
    configured : Settings
    **values : sequence
        What to try, by setting; the configured value is added where it is missing.

    Returns
    -------
    list of (str, object, Settings)
        Name of the setting, its value, and the settings with it. By setting in the order given,
        by value in rising order, 0 candidates, which are all, last.
    """
    return [
        (name, value, configured._replace(**{name: value}))
        for name, tried in values.items()
        for value in sorted(
            {*tried, getattr(configured, name)},
            key=lambda value: (name == "candidates" and value == 0, value),
        )
    ]


def _text(setting: str, value: object) -> str:
    return "all" if setting == "candidates" and value == 0 else str(value)


def _table(
    columns: Sequence[tuple[str, str, bool, np.ndarray]],
    truth: pd.DataFrame,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Long form: a row a setting, its value, label and metric."""
    values, keys = [], []
    for setting, choice, configured, found in columns:
        overlap = overlaps(found[:, None], corners(truth), "IoU")  # [n, 1]
        values += [hits(overlap), overlap]
        key = {"setting": setting, "choice": choice, "configured": configured}
        keys += [key | {"metric": "accuracy", "iou_threshold": T} for T in THRESHOLDS]
        keys.append(key | {"metric": "mean_iou"})
    rows = summary(np.concatenate(values, axis=1), truth, resamples, seed)
    return rows.join(pd.DataFrame(keys), on="column")[_COLUMNS]


def _markdown(table: pd.DataFrame) -> str:
    """Means over labels, a row a setting and its value; the configured one in bold."""
    lines = ["| " + " | ".join(["setting", "value", *_SHOWN]) + " |", "| --- " * 6 + "|"]
    rows = table[table["label"] == mean_label(table["label"])]
    for (setting, choice), own in rows.groupby(["setting", "choice"], sort=False):
        text = f"**{choice}**" if own["configured"].any() else choice
        lines.append("| " + " | ".join([setting, text, *cells(own, _SHOWN.values())]) + " |")
    return "\n".join(lines) + "\n"
