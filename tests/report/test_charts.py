import numpy as np
import pandas as pd
import pytest

from crosseai import tables
from crosseai.report import charts


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_accuracy_has_a_curve_and_a_band_a_method_and_panel():
    rows = [
        (method, label, "IoU", threshold, protocol, 10, 5.0, value, value - 0.1, value + 0.1)
        for method, value in [("scalp", 0.4), ("crosseai", 0.5), ("control-prior", 0.2)]
        for label in ("Mass", "Mean")
        for threshold in (0.3, 0.1)
        for protocol in ("single", "oracle")
    ]
    figure = charts.accuracy(pd.DataFrame(rows, columns=tables.ACCURACY.names))
    curves = traces(figure, "crosseai")
    assert len(curves) == 2
    assert [tuple(curve.x) for curve in curves] == [(0.1, 0.3)] * 2
    assert [curve.showlegend for curve in curves] == [True, False]
    assert curves[0].customdata[0] == "0.40 to 0.60"
    assert [note.text for note in figure.layout.annotations] == ["mean", "Mass"]
    assert traces(figure, "control-prior")[0].line.dash != "solid"


def test_every_method_has_a_colour_and_controls_are_grey():
    got = charts.colours(["a", "control-x", "b", "control-y"])
    assert len({got["a"], got["b"], got["control-x"]}) == 3
    assert got["control-x"] == got["control-y"]


def test_violins_hold_every_finding():
    figure = charts.iou_violins({"a": np.array([0.1, 0.2]), "b": np.array([0.0, 1.0])})
    assert [tuple(violin.y) for violin in figure.data] == [(0.1, 0.2), (0.0, 1.0)]


def test_roc_by_hand():
    predicted = pd.DataFrame(
        {
            "image": list("abcd") * 2,
            "part": ["test"] * 4 + ["validation"] * 4,
            "fold": 0,
            "Mass": [0.9, 0.6, 0.4, 0.1] * 2,
        }
    )
    positive = pd.DataFrame({"Mass": [True, False, True, False]}, index=list("abcd"))
    figure = charts.roc({"net": predicted}, positive)
    (curve,) = figure.data
    at = dict(zip(curve.x, curve.y, strict=True))
    assert at[0.0] == 0.5  # one of two before any false alarm
    assert at[1.0] == 1.0
    assert at[0.75] == 1.0


def test_a_label_with_positives_alone_has_no_roc():
    predicted = pd.DataFrame({"image": ["a"], "part": ["test"], "fold": [0], "Mass": [0.9]})
    positive = pd.DataFrame({"Mass": [True]}, index=["a"])
    assert not charts.roc({"net": predicted}, positive).data


def test_agreement_is_parted_into_as_many_findings_each():
    agreements, overlaps = np.arange(8) / 8, np.array([0, 0, 0.2, 0.4, 0.4, 0.6, 0.8, 1.0])
    figure = charts.agreement(agreements, overlaps, bins=2)
    assert tuple(traces(figure, "mean IoU")[0].y) == (0.15, 0.7)
    assert tuple(traces(figure, "T(0.3)")[0].y) == (0.25, 1.0)


def test_settings_show_the_configured_value_large():
    rows = [
        ("t", choice, choice == "0.3", "Mean", "accuracy", 0.1, value, value - 0.1, value + 0.2)
        for choice, value in [("0.0", 0.2), ("0.3", 0.5)]
    ]
    names = ["setting", "choice", "configured", "label", "metric", "iou_threshold"]
    table = pd.DataFrame(rows, columns=[*names, "value", "ci_low", "ci_high"])
    (curve,) = charts.settings(table).data
    assert curve.x == ("0.0", "0.3")
    assert curve.y == (0.2, 0.5)
    assert curve.marker.size[1] > curve.marker.size[0]
    assert curve.error_y.array == pytest.approx([0.2, 0.2])
