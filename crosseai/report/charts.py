"""Charts of the page, as plotly figures: they answer to hovering, zooming and the legend."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from sklearn.metrics import roc_curve

from crosseai.labels import CHESTX_RAY8
from crosseai.report.table import is_control

__all__ = ["accuracy", "agreement", "colours", "iou_violins", "roc", "settings"]

# Okabe and Ito's palette, told apart with any colour vision; yellow is kept for the ground truth.
_PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
_GREY = "#8A939C"
_DASHES = {"control-centre": "dash", "control-random": "dot", "control-prior": "dashdot"}
_COLUMNS = 3
_RATES = np.linspace(0, 1, 101)


def colours(methods: list[str]) -> dict[str, str]:
    """Give each method its colour, by its place among those that are no controls; controls grey."""
    own = [name for name in methods if not is_control(name)]
    return {
        name: _GREY if is_control(name) else _PALETTE[own.index(name) % len(_PALETTE)]
        for name in methods
    }


def accuracy(accuracy: pd.DataFrame) -> go.Figure:
    """T(IoU) accuracy over T, one box an image and label, with 95 % bands.

    Parameters
    ----------
    accuracy : DataFrame
        As `tables.ACCURACY`.

    Returns
    -------
    Figure
        The mean of Table 1's labels first, then a panel a label.
    """
    rows = accuracy[(accuracy["criterion"] == "IoU") & (accuracy["protocol"] == "single")]
    known = set(rows["label"])
    mean = "Mean" if "Mean" in known else "Mean8"
    labels = [mean, *(name for name in CHESTX_RAY8 if name in known)]
    figure = _panels(["mean", *labels[1:]])
    shades = colours(list(dict.fromkeys(rows["method"])))
    for place, label in enumerate(labels):
        for method, own in rows[rows["label"] == label].groupby("method", sort=False):
            own = own.sort_values("iou_threshold")
            for trace in _band(own, method, shades[method], first=place == 0):
                figure.add_trace(trace, *_cell(place))
    figure.update_yaxes(range=[0, 1])
    figure.update_xaxes(dtick=0.2)
    return _finished(figure, len(labels))


def _band(rows: pd.DataFrame, method: str, colour: str, first: bool) -> list[go.Scatter]:
    """A curve and its band, which the legend switches together."""
    x = rows["iou_threshold"].tolist()
    edges = go.Scatter(
        x=[*x, *reversed(x)],
        y=[*rows["ci_high"], *reversed(rows["ci_low"].tolist())],
        mode="lines",
        fill="toself",
        fillcolor=_transparent(colour, 0.12),
        line={"width": 0},
        hoverinfo="skip",
        legendgroup=method,
        showlegend=False,
    )
    interval = [
        f"{low:.2f} to {high:.2f}"
        for low, high in zip(rows["ci_low"], rows["ci_high"], strict=True)
    ]
    curve = go.Scatter(
        x=x,
        y=rows["accuracy"].tolist(),
        customdata=interval,
        mode="lines",
        line={"color": colour, "dash": _DASHES.get(method, "solid"), "width": 2},
        name=method,
        legendgroup=method,
        showlegend=first,
        hovertemplate="%{y:.2f} (%{customdata}) at T = %{x}",
    )
    return [edges, curve]


def iou_violins(overlaps: Mapping[str, np.ndarray]) -> go.Figure:
    """How the IoU of the single box spreads over the findings, a violin a method.

    Parameters
    ----------
    overlaps : mapping of str to ndarray [n] float
        Method -> IoU with every ground-truth box; no box counts as 0.
    """
    shades = colours(list(overlaps))
    figure = go.Figure(
        [
            go.Violin(
                y=np.round(values, 4).tolist(),
                name=method,
                line={"color": shades[method]},
                meanline={"visible": True},
                box={"visible": True},
                points=False,
                spanmode="hard",
                showlegend=False,
            )
            for method, values in overlaps.items()
        ]
    )
    figure.update_yaxes(title="IoU", range=[0, 1])
    return _finished(figure, 1)


def roc(predictions: Mapping[str, pd.DataFrame], positive: pd.DataFrame) -> go.Figure:
    """ROC curves on the test images, the mean over the folds.

    Parameters
    ----------
    predictions : mapping of str to DataFrame
        Model -> rows of image, part, fold and a column of probabilities a label.
    positive : DataFrame of bool
        Image by label.
    """
    labels = [name for name in CHESTX_RAY8 if name in positive]
    figure = _panels(labels)
    shades = colours(list(predictions))
    for place, label in enumerate(labels):
        for model, rows in predictions.items():
            tested = rows[rows["part"] == "test"]
            curves = []
            for _, fold in tested.groupby("fold"):
                truth = positive.loc[fold["image"], label].to_numpy()
                if 0 < truth.sum() < len(truth):
                    false, true, _ = roc_curve(truth, fold[label])
                    curves.append(np.interp(_RATES, false, true))
            if curves:
                figure.add_trace(
                    go.Scatter(
                        x=_RATES.round(2).tolist(),
                        y=np.mean(curves, axis=0).round(4).tolist(),
                        mode="lines",
                        line={"color": shades[model], "width": 2},
                        name=model,
                        legendgroup=model,
                        showlegend=place == 0,
                        hovertemplate="sensitivity %{y:.2f} at 1 - specificity %{x:.2f}",
                    ),
                    *_cell(place),
                )
    figure.update_yaxes(range=[0, 1])
    figure.update_xaxes(range=[0, 1])
    return _finished(figure, len(labels))


def agreement(agreements: np.ndarray, overlaps: np.ndarray, bins: int = 8) -> go.Figure:
    """IoU over the agreement of the two explanations, which may tell what boxes to trust.

    Parameters
    ----------
    agreements, overlaps : ndarray [n] float
        Of the reference's box: agreement, and IoU with the ground truth.
    bins : int
        Parts of as many findings each, whose mean IoU and share of hits are drawn.
    """
    order = np.argsort(agreements, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    middle = [round(float(agreements[part].mean()), 4) for part in parts]
    figure = go.Figure(
        go.Scatter(
            x=agreements.round(4).tolist(),
            y=overlaps.round(4).tolist(),
            mode="markers",
            marker={"color": _transparent(_GREY, 0.5), "size": 5},
            name="a finding",
            hovertemplate="agreement %{x:.2f}, IoU %{y:.2f}",
        )
    )
    means = [round(float(overlaps[part].mean()), 4) for part in parts]
    hits = [round(float((overlaps[part] >= 0.3).mean()), 4) for part in parts]
    for name, values, colour in [("mean IoU", means, _PALETTE[0]), ("T(0.3)", hits, _PALETTE[1])]:
        figure.add_trace(
            go.Scatter(x=middle, y=values, mode="lines+markers", line={"color": colour}, name=name)
        )
    figure.update_xaxes(title="agreement", rangemode="tozero")
    figure.update_yaxes(title="IoU, share of hits", range=[0, 1])
    return _finished(figure, 1)


def settings(table: pd.DataFrame) -> go.Figure:
    """What each setting of the boxes is worth: accuracy at three T over its values.

    Parameters
    ----------
    table : DataFrame
        As the ablation writes it.
    """
    mean = "Mean" if "Mean" in set(table["label"]) else "Mean8"
    rows = table[(table["label"] == mean) & (table["metric"] == "accuracy")]
    names = list(dict.fromkeys(rows["setting"]))
    figure = _panels(names)
    shown = [t for t in (0.1, 0.3, 0.5) if t in set(rows["iou_threshold"])]
    for place, name in enumerate(names):
        for colour, threshold in zip(_PALETTE, shown, strict=False):
            own = rows[(rows["setting"] == name) & (rows["iou_threshold"] == threshold)]
            configured = [12 if flag else 6 for flag in own["configured"]]
            figure.add_trace(
                go.Scatter(
                    x=own["choice"].astype(str).tolist(),
                    y=own["value"].tolist(),
                    mode="lines+markers",
                    line={"color": colour},
                    marker={"size": configured},
                    error_y={
                        "type": "data",
                        "array": (own["ci_high"] - own["value"]).tolist(),
                        "arrayminus": (own["value"] - own["ci_low"]).tolist(),
                        "thickness": 1,
                        "width": 2,
                    },
                    name=f"T = {threshold}",
                    legendgroup=str(threshold),
                    showlegend=place == 0,
                ),
                *_cell(place),
            )
    figure.update_xaxes(type="category")
    return _finished(figure, len(names))


def _panels(titles: list[str]) -> go.Figure:
    """Small panels on common axes."""
    rows = -(-len(titles) // _COLUMNS)
    return make_subplots(
        rows,
        _COLUMNS,
        subplot_titles=titles,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.3 / max(rows, 2),
    )


def _cell(place: int) -> tuple[int, int]:
    """Row and column of a panel, from 1."""
    return place // _COLUMNS + 1, place % _COLUMNS + 1


def _finished(figure: go.Figure, panels: int) -> go.Figure:
    rows = -(-panels // _COLUMNS)
    return figure.update_layout(
        template="none",
        height=140 + 240 * rows if panels > 1 else 420,
        margin={"l": 45, "r": 10, "t": 40, "b": 40},
        legend={"orientation": "h", "y": -0.12 if panels > 1 else -0.2},
        hovermode="closest",
    )


def _transparent(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"
