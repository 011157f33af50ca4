"""Figures: curves with the bands of their 95 % intervals."""

import os

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crosseai.ablation.scoring import mean_label
from crosseai.files import replacing

__all__ = ["sanity_curves", "save", "setting_curves"]

# Okabe and Ito's palette, told apart with any colour vision; the markers differ too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SETTINGS = {
    "t": "t: share of the heatmap",
    "threshold": "threshold: share of the maximum",
    "smoothing": "smoothing: sigma in pixels",
    "candidates": "candidates: largest rectangles",
    "keep_last_ring": "keep_last_ring",
    "reduction": "reduction of the channels",
}
_MARK = {"color": "#777777", "linestyle": (0, (4, 2)), "linewidth": 1.2}
_NUMBERS = ("t", "threshold", "smoothing")  # the values of the others stand side by side


def setting_curves(table: pd.DataFrame) -> Figure:
    """Accuracy and mean IoU over the values of each setting, mean over labels.

    Bands are the 95 % intervals; a dashed line marks the configured value.

    Parameters
    ----------
    table : DataFrame
        As `curves.ablate` writes it.

    Returns
    -------
    Figure
    """
    mean = mean_label(table["label"])
    rows = table[table["label"] == mean]
    settings = list(dict.fromkeys(rows["setting"]))
    figure = Figure(figsize=(11, 6.4), dpi=120, layout="constrained")
    axes = figure.subplots(2, 3, sharey=True).ravel()
    for axis in axes[len(settings) :]:
        axis.set_axis_off()
    for axis, setting in zip(axes, settings, strict=False):
        own = rows[rows["setting"] == setting]
        choices = own["choice"].drop_duplicates()
        numbers = setting in _NUMBERS
        place = {c: float(c) if numbers else number for number, c in enumerate(choices)}
        if not numbers:
            axis.set_xticks(range(len(choices)), choices)
            axis.margins(x=0.2 if len(choices) < 3 else 0.05)
        axis.axvline(place[own.loc[own["configured"], "choice"].iloc[0]], **_MARK)
        for number, level in enumerate((0.1, 0.3, 0.5, None)):
            curve = own["metric"] == "mean_iou" if level is None else own["iou_threshold"] == level
            name = "mean IoU" if level is None else f"accuracy at T(IoU) = {level}"
            band(axis, own.loc[curve, "choice"].map(place), own[curve], number, name)
        axis.set_title(_SETTINGS[setting], fontsize=10)
    axes[0].set_ylim(0, None)
    handles, names = axes[0].get_legend_handles_labels()
    title = "Mean of the labels in Table 1" if mean == "Mean" else "Mean of all labels"
    figure.suptitle(f"{title}; dashed: as configured", fontsize=11)
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def sanity_curves(table: pd.DataFrame) -> Figure:
    """What is left of maps and boxes as ever more weights are made anew, mean over labels.

    Bands are the 95 % intervals. The last point, apart, is the trained network on another image.

    Parameters
    ----------
    table : DataFrame
        As `sanity.sanity` writes it.

    Returns
    -------
    Figure
    """
    rows = table[table["label"] == mean_label(table["label"])]
    depths = list(dict.fromkeys(rows["depth"]))
    place = {depth: number for number, depth in enumerate(depths)}
    figure = Figure(figsize=(11, 7), dpi=120, layout="constrained")
    for axis, (metric, title) in zip(figure.subplots(2, 2).ravel(), _METRICS.items(), strict=True):
        chosen = rows[rows["metric"] == metric]
        for number, (method, own) in enumerate(chosen.groupby("method", sort=False)):
            band(axis, own["depth"].map(place)[:-1], own[:-1], number, method)
            band(axis, own["depth"].map(place)[-1:], own[-1:], number, None)
        axis.set_xticks(range(len(depths)), depths)
        axis.set_xlim(-0.2, len(depths) - 0.8)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.set_title(title, fontsize=10)
    handles, names = axis.get_legend_handles_labels()
    figure.suptitle("Weights made anew from the logits down to a depth", fontsize=11)
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


_METRICS = {
    "rank_correlation": "map: rank correlation with the trained one",
    "ssim": "map: structural similarity with the trained one",
    "box_iou": "box: IoU with the trained one",
    "mean_iou": "box: mean IoU with the ground truth",
}


def band(axis: Axes, x: pd.Series, rows: pd.DataFrame, number: int, name: str | None) -> None:
    """Draw a curve of `value` with its interval, in the style of its number."""
    colour = _COLOURS[number % len(_COLOURS)]
    marker = _MARKERS[number % len(_MARKERS)]
    axis.plot(x, rows["value"], color=colour, marker=marker, markersize=4, label=name)
    if len(rows) > 1:
        axis.fill_between(x, rows["ci_low"], rows["ci_high"], color=colour, alpha=0.15, linewidth=0)
    else:
        axis.vlines(x, rows["ci_low"], rows["ci_high"], color=colour, alpha=0.4)
    axis.grid(color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG; the same figure gives the same bytes."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
