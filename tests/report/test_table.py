import numpy as np
import pandas as pd
import pytest

from crosseai import tables
from crosseai.labels import TABLE_1
from crosseai.report.table import PUBLISHED_PROTOCOL, markdown, marks_of, sections, switched, table

METHODS = ["baseline", "supervision", "scalp", "chexradinet", "crosseai", "control-prior"]
PROTOCOLS = ("single", "oracle", "region")
NOTHING = pd.DataFrame(columns=tables.DIFFERENCES.names)
METRICS = pd.DataFrame(
    [
        ("scalp", "Mean", "mean_iou", 0.2, 0.1, 0.3, 60),
        ("scalp", "Mean", "afp@0.1", 0.6, 0.5, 0.7, 60),
        ("scalp", "Mean", "afp_all@0.1", 2.5, 2.25, 2.75, 60),
        ("net", "Mass", "auc", 0.81, 0.75, 0.87, 100),
    ],
    columns=["method", "label", "metric", "value", "ci_low", "ci_high", "n"],
)


@pytest.fixture
def accuracy():
    """Every method equally good, but crosseai a little better and the control best."""
    rows = []
    for method in METHODS:
        value = {"crosseai": 0.5, "control-prior": 0.9}.get(method, 0.4)
        for label in [*TABLE_1, "Mean"]:
            for criterion in ("IoU", "IoBB"):
                for protocol in ("single",) if method == "control-prior" else PROTOCOLS:
                    for threshold in (0.1, 0.4):
                        key = method, label, criterion, threshold, protocol
                        rows.append((*key, 10, 10 * value, value, value - 0.06, value + 0.06))
    return pd.DataFrame(rows, columns=tables.ACCURACY.names)


def find(table, **key):
    for name, value in key.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table["published"].item()


def test_no_printed_figure_beside_a_phantoms(accuracy):
    got = table(accuracy)
    assert list(got)[:5] == ["method", "label", "criterion", "iou_threshold", "protocol"]
    assert list(got)[5:] == ["n", "hits", "accuracy", "ci_low", "ci_high", "published"]
    assert got["published"].isna().all()
    assert len(got) == len(accuracy)
    assert "printed" not in markdown(sections(got, NOTHING, METRICS, {}), "Phantom", [])


def test_printed_figures_in_the_protocol_their_paper_used(accuracy):
    got = table(accuracy, published=True)
    key = {"label": "Cardiomegaly", "criterion": "IoU", "iou_threshold": 0.1}
    assert find(got, method="crosseai", protocol="single", **key) == 1.0
    assert find(got, method="scalp", protocol="oracle", **key) == 0.97
    assert find(got, method="baseline", protocol="oracle", **key) == 0.94
    assert find(got, method="supervision", protocol="region", **key) == 0.98
    assert np.isnan(find(got, method="scalp", protocol="single", **key))
    assert np.isnan(find(got, method="crosseai", protocol="oracle", **key))
    assert np.isnan(find(got, method="crosseai", protocol="single", **key | {"criterion": "IoBB"}))
    filled = got[got["published"].notna()]
    assert set(filled["criterion"]) == {"IoU"}
    assert (filled["protocol"] == filled["method"].map(PUBLISHED_PROTOCOL)).all()
    assert set(filled["method"]) == set(PUBLISHED_PROTOCOL)
    assert not filled["method"].str.startswith("control").any()


def test_the_order_of_rows_is_kept(accuracy):
    for published in (True, False):
        got = table(accuracy, published)
        pd.testing.assert_frame_equal(got[list(accuracy)], accuracy)


def test_table_1_in_the_papers_shape(accuracy):
    first = sections(table(accuracy, published=True), NOTHING, METRICS, {})[0]
    assert first.header == ["T(IoU)", "label", "n", *METHODS]
    assert [row[1].text for row in first.rows[:7]] == [*TABLE_1, "Mean of 6 labels"]
    assert [row[0].text for row in first.rows] == ["0.1"] * 7 + ["0.4"] * 7
    assert first.rows[1][7].whole == "0.50 [0.44, 0.56] · printed 1.00"
    assert first.rows[1][5].whole == "0.40 [0.34, 0.46]"  # scalp's figure is an oracle's
    assert first.rows[13][7].whole.endswith("printed 0.42")  # the mean as printed


def test_bold_is_the_best_method_and_never_a_control(accuracy):
    first = sections(table(accuracy), NOTHING, METRICS, {})[0]
    for row in first.rows:
        assert [cell.best for cell in row] == [False] * 7 + [True, False]


def test_equals_are_all_bold_and_nothing_is_best_of_zeros(accuracy):
    level = accuracy.assign(accuracy=0.4)
    level.loc[level["label"] == "Mass", "accuracy"] = 0.0
    for row in sections(table(level), NOTHING, METRICS, {})[0].rows:
        expected = row[1].text != "Mass"
        assert [cell.best for cell in row[3:]] == [expected] * 5 + [False]


def test_oracle_section_leaves_out_the_controls(accuracy):
    oracle = sections(table(accuracy, published=True), NOTHING, METRICS, {})[1]
    assert oracle.header[3:] == METHODS[:-1]
    assert oracle.rows[0][5].whole.endswith("printed 0.61")  # scalp's mean at 0.1


def test_region_section_leaves_out_the_controls(accuracy):
    region = sections(table(accuracy, published=True), NOTHING, METRICS, {})[2]
    assert region.title == "T(IoU) accuracy, the region above the threshold instead of a box"
    assert region.header[3:] == METHODS[:-1]
    printed = ["printed" in cell.whole for cell in region.rows[0][3:]]
    assert printed == [False, True, False, False, False]  # supervision's alone


def test_the_page_switches_between_protocols_and_labels(accuracy):
    got = switched(table(accuracy), {})
    assert [(section.protocol, section.labels) for section in got] == [
        ("single", "six"), ("oracle", "six"), ("region", "six"),
    ]  # fmt: skip
    assert [row[1].text for row in got[1].rows[:7]] == [*TABLE_1, "Mean of 6 labels"]
    assert got[1].header[3:] == METHODS[:-1]
    eighth = accuracy[accuracy["label"] == "Mean"].assign(label="Mean8")
    more = pd.concat([accuracy, eighth, eighth.assign(label="Pneumonia")])
    got = {(s.protocol, s.labels): s for s in switched(table(more), {})}
    names = [row[1].text for row in got["single", "eight"].rows[:8]]
    assert names == [*TABLE_1, "Pneumonia", "Mean of 7 labels"]


def test_a_label_without_boxes_is_absent_and_the_mean_says_so(accuracy):
    first = sections(table(accuracy[accuracy["label"] != "Nodule"]), NOTHING, METRICS, {})[0]
    names = [row[1].text for row in first.rows]
    assert "Nodule" not in names
    assert "Mean of 5 labels" in names


def test_no_printed_mean_beside_a_mean_of_fewer_labels(accuracy):
    got = table(accuracy[accuracy["label"] != "Nodule"], published=True)
    assert got.loc[got["label"] == "Mean", "published"].isna().all()
    assert got.loc[got["label"] == "Mass", "published"].notna().any()


def test_differences_are_signed(accuracy):
    row = ("scalp", "crosseai", "Mean", "IoU", 0.1, "single", 60, -0.1, -0.2, 0.05)
    differences = pd.DataFrame([row], columns=tables.DIFFERENCES.names)
    shown = {s.title: s for s in sections(table(accuracy), differences, METRICS, {})}
    title = "T(IoU) accuracy minus that of crosseai, one box an image and label, mean over labels"
    section = shown[title]
    assert [cell.whole for cell in section.rows[0]] == ["0.1", "-0.10 [-0.20, +0.05]"]


def test_every_protocol_has_its_differences(accuracy):
    rows = [
        (method, "crosseai", "Mean", "IoU", 0.1, protocol, 60, -0.1, -0.2, 0.05)
        for method, protocols in [("scalp", PROTOCOLS), ("control-prior", PROTOCOLS[:1])]
        for protocol in protocols
    ]
    differences = pd.DataFrame(rows, columns=tables.DIFFERENCES.names)
    found = [
        section
        for section in sections(table(accuracy), differences, METRICS, {"scalp": "¹"})
        if "minus that of crosseai" in section.title
    ]
    headers = [section.header for section in found]
    assert headers == [
        ["T(IoU)", "scalp¹", "control-prior"], ["T(IoU)", "scalp¹"], ["T(IoU)", "scalp¹"]
    ]  # fmt: skip
    assert len({section.title for section in found}) == 3


def test_marks_count_the_notes():
    assert marks_of({"scalp": "a", "b": "c"}) == {"scalp": "¹", "b": "²"}
    many = marks_of({f"m{k}": "x" for k in range(1, 13)})
    assert (many["m10"], many["m12"]) == ("¹⁰", "¹²")


def test_marked_methods_are_marked_wherever_they_are_named(accuracy):
    for section in sections(table(accuracy), NOTHING, METRICS, {"scalp": "¹", "crosseai": "²"}):
        if section.title.startswith("Classification"):
            continue  # by model
        named = [*section.header, *(row[0].text for row in section.rows)]
        assert "scalp¹" in named
        assert not {"scalp", "crosseai"} & set(named)


def test_markdown(accuracy):
    text = markdown(
        sections(table(accuracy), NOTHING, METRICS, {}), "A <run>", ["controls are supervised"]
    )
    lines = text.splitlines()
    assert lines[0] == "# A &lt;run>"
    rows = [line for line in lines if line.startswith("| 0.1 | Atelectasis")]
    assert rows == [
        "| 0.1 | Atelectasis | 10 | " + "0.40 [0.34, 0.46] | " * 4
        + "**0.50 [0.44, 0.56]** | 0.90 [0.84, 0.96] |"
    ]  # fmt: skip
    assert "- controls are supervised" in lines
    assert "| Mass | 0.81 [0.75, 0.87] |" in lines
    assert "| scalp | 0.20 [0.10, 0.30] |  | 0.60 [0.50, 0.70] |  |  | 2.50 [2.25, 2.75] |" in lines
    widths = {}  # every row of a table has as many cells as its header
    for line in lines:
        if line.startswith("|"):
            widths.setdefault("now", line.count("|"))
            assert line.count("|") == widths["now"]
        else:
            widths = {}


def test_a_bar_in_a_name_does_not_break_the_table(accuracy):
    renamed = accuracy.replace({"method": {"crosseai": "a|b"}})
    text = markdown(sections(table(renamed), NOTHING, METRICS, {}), "x", [])
    assert "a\\|b" in text
