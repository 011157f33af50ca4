"""Figures: the panels of the paper's Figure 3, and accuracy over T."""

import os

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from crosseai.evaluation.overlap import iou
from crosseai.files import replacing
from crosseai.report.table import is_control

__all__ = ["accuracy_curves", "panel", "save"]

# Okabe and Ito's palette, told apart with any colour vision; yellow is kept for the ground truth.
_TRUTH = "#F0E442"
_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
_DARK, _LIGHT = "#111418", "#E8EAED"
_CONTROL_DASHES = ((0, (6, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))


def panel(
    image: np.ndarray,
    heatmap: np.ndarray | None,
    gradient: np.ndarray | None,
    fused: np.ndarray | None,
    truth: np.ndarray,
    boxes: dict[str, np.ndarray | None],
    title: str,
    size: tuple[int, int],
) -> Figure:
    """One finding from radiograph to box, as in the paper's Figure 3.

    Parameters
    ----------
    image : ndarray [H, W] uint8
    heatmap, gradient, fused : ndarray [h, w] float, optional
        Of any size; a map that the method does not have is left out.
    truth : ndarray [4] float
        x1, y1, x2, y2 in pixels of the source image.
    boxes : dict of str to ndarray [4] float
        Method -> its box, or None where it found none.
    title : str
    size : (int, int)
        Width and height of the source image in pixels: the frame of all boxes.

    Returns
    -------
    Figure
    """
    width, height = size
    extent = (0, width, height, 0)  # pixel edges, origin top left
    maps = [("heatmap", heatmap), ("gradient map", gradient), ("fused map", fused)]
    maps = [(name, values) for name, values in maps if values is not None]
    count = 2 + len(maps)
    rows = -(-(1 + len(boxes)) // int(1.3 * count))  # of the legend: two inches an entry
    inches = 2.6 * height / width + 0.7 + 0.2 * rows
    figure = Figure(figsize=(2.6 * count, inches), facecolor=_DARK, dpi=120)
    axes = figure.subplots(1, count, squeeze=False)[0]
    names = ["radiograph", *(name for name, _ in maps), "boxes"]
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name, color=_LIGHT, fontsize=9)
        axis.set_axis_off()
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent)
        axis.set_xlim(0, width)
        axis.set_ylim(height, 0)
    for axis, (name, values) in zip(axes[1:], maps, strict=False):
        # A gradient map is thin lines on nothing, which an overlay would hide.
        overlay = 1.0 if name == "gradient map" else 0.55
        top = np.quantile(values, 0.995) or values.max() or 1
        colours = {"cmap": "magma", "vmin": 0, "vmax": top, "alpha": overlay}
        axis.imshow(values, extent=extent, interpolation="bilinear", **colours)
        _draw(axis, truth, _TRUTH, "-", 1.0)
    _draw(axes[0], truth, _TRUTH, "-", 1.6)
    handles = [_draw(axes[-1], truth, _TRUTH, "-", 1.6, "ground truth")]
    for number, (method, box) in enumerate(boxes.items()):
        if box is None:
            box, label = np.full(4, np.nan), f"{method}: no box"
        else:
            label = f"{method}: IoU {iou(box, truth):.2f}"
        handles.append(_draw(axes[-1], box, *_line(number), 1.6, label))
    figure.suptitle(title, color=_LIGHT, fontsize=10, parse_math=False)
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        ncols=-(-len(handles) // rows),
        frameon=False,
        fontsize=9,
        labelcolor=_LIGHT,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar sign in a name is a dollar sign
    margins = {"top": 1 - 0.6 / inches, "bottom": (0.1 + 0.2 * rows) / inches}
    figure.subplots_adjust(left=0.01, right=0.99, wspace=0.04, **margins)
    return figure


def accuracy_curves(accuracy: pd.DataFrame) -> Figure:
    """T(IoU) accuracy over T, one box an image and label.

    The mean over Table 1's labels, then each label; bands are the 95 % intervals, controls grey
    and dashed.

    Parameters
    ----------
    accuracy : DataFrame
        As `tables.ACCURACY`.

    Returns
    -------
    Figure
    """
    chosen = accuracy[(accuracy["criterion"] == "IoU") & (accuracy["protocol"] == "single")]
    labels = [label for label in dict.fromkeys(chosen["label"]) if label not in ("Mean", "Mean8")]
    mean = "Mean" if "Mean" in set(chosen["label"]) else "Mean8"
    styles = _styles(list(dict.fromkeys(chosen["method"])))
    columns = max(2, -(-len(labels) // 2))
    figure = Figure(figsize=(4.2 + 2.0 * columns, 4.8), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, 2 + columns)
    large = figure.add_subplot(grid[:, :2])
    _curves(large, chosen[chosen["label"] == mean], styles)
    large.set(xlabel="T(IoU)", ylabel="accuracy")
    large.set_title("mean of the labels in Table 1" if mean == "Mean" else "mean of all labels")
    for number, label in enumerate(labels):
        rows = chosen[chosen["label"] == label]
        axis = figure.add_subplot(
            grid[number // columns, 2 + number % columns], sharex=large, sharey=large
        )
        _curves(axis, rows, styles)
        title = f"{label} (n = {rows['n'].iloc[0]})"
        axis.set_title(title, fontsize=9, parse_math=False)
        axis.tick_params(labelleft=False, labelsize=8)
    large.set_ylim(0, 1)
    large.set_xticks(sorted(set(chosen["iou_threshold"]))[::2])
    handles, names = large.get_legend_handles_labels()
    legend_rows = -(-len(names) // 7)
    legend = {"ncols": -(-len(names) // legend_rows), "frameon": False}
    figure.legend(handles, names, loc="outside lower center", **legend)
    return figure


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG; the same figure gives the same bytes."""
    with replacing(path) as temporary:
        figure.savefig(
            temporary, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None}
        )


def _draw(
    axis, box: np.ndarray, colour: str, style: str, width: float, label: str = ""
) -> Rectangle:
    x1, y1, x2, y2 = box
    look = {"edgecolor": colour, "linestyle": style, "linewidth": width, "label": label}
    return axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **look))


def _line(number: int) -> tuple[str, str]:
    """Colour and line style of the method of that number: dashed once the colours are used up."""
    return _COLOURS[number % len(_COLOURS)], "-" if number < len(_COLOURS) else "--"


def _styles(methods: list[str]) -> dict[str, dict]:
    """Line style of each method: a colour, or grey dashes for a control."""
    styles, seen, controls = {}, 0, 0
    for method in methods:
        if is_control(method):
            dashes = _CONTROL_DASHES[controls % len(_CONTROL_DASHES)]
            styles[method] = {"color": "#777777", "linestyle": dashes, "linewidth": 1.2}
            controls += 1
        else:
            colour, style = _line(seen)
            styles[method] = {"color": colour, "linestyle": style, "linewidth": 1.8}
            seen += 1
    return styles


def _curves(axis, rows: pd.DataFrame, styles: dict[str, dict]) -> None:
    for method, style in styles.items():
        own = rows[rows["method"] == method].sort_values("iou_threshold")
        axis.plot(own["iou_threshold"], own["accuracy"], label=method, **style)
        band = own["iou_threshold"], own["ci_low"], own["ci_high"]
        axis.fill_between(*band, color=style["color"], alpha=0.15, linewidth=0)
    axis.grid(color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
