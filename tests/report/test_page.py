import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosseai.errors import InputError
from crosseai.report.page import report, spread


def shown(run):
    """The page without its scripts and style."""
    page = (run / "report.html").read_text()
    return re.sub("<(script|style)[ >].*?</(script|style)>", "", page, flags=re.DOTALL)


def test_writes_the_table_the_figures_and_one_page(run, config):
    (run / "figures").mkdir()
    (run / "figures/panel-9.png").touch()  # of an earlier configuration
    report(run, config, nih=False, panels=2)

    rows = pd.read_csv(run / "table1.csv")
    assert list(rows) == [
        "method", "label", "criterion", "iou_threshold", "protocol", "n", "hits", "accuracy",
        "ci_low", "ci_high", "published",
    ]  # fmt: skip
    assert set(rows["method"]) > {"scalp", "crosseai", "control-prior"}
    text = (run / "table1.md").read_text()
    assert "| T(IoU) | label | n | scalp | crosseai | control-centre |" in text
    assert "supervised" in text
    assert "Research software, not for diagnosis." in text
    assert "the network trained on" not in text

    names = sorted(path.name for path in (run / "figures").iterdir())
    assert names == ["accuracy.png", "panel-1.png", "panel-2.png"]
    page = shown(run)
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # it stands alone
    assert "Research software, not for diagnosis." in page
    assert "prefers-color-scheme: dark" in (run / "report.html").read_text()
    assert "&#34;run&#34;: &#34;tiny&#34;" in page  # the configuration, escaped
    assert "the image is not in the table" in page
    assert "Classification: AUC on test images" in page

    # No printed figure beside a phantom's.
    assert rows["published"].isna().all()
    assert "printed" not in text
    assert "printed" not in page


def test_names_from_the_data_are_escaped(run, config):
    report(run, config | {"run": "<script>alert(1)</script>"}, nih=False, panels=0)
    page = shown(run)
    assert "<script" not in page
    assert "alert(1)</script" not in (run / "report.html").read_text()
    assert "<b>evil</b>" not in page
    assert "&lt;b&gt;evil&lt;/b&gt;.png" in page
    assert "<script" not in (run / "table1.md").read_text()


def test_notes_of_methods_stand_under_the_table_and_their_marks_in_its_header(run, config):
    methods = config["methods"] | {
        "scalp": config["methods"]["scalp"] | {"note": "a <i>reconstruction</i>\n| of sorts"}
    }
    report(run, config | {"methods": methods}, nih=False, panels=0)
    text = (run / "table1.md").read_text()
    assert "| T(IoU) | label | n | scalp¹ | crosseai | control-centre |" in text
    first = text.split("## ")[1]
    assert "- ¹ scalp: a &lt;i>reconstruction&lt;/i> | of sorts\n" in first
    page = shown(run)
    assert '<th scope="col"><button type="button">scalp¹</button></th>' in page
    assert "<li>¹ scalp: a &lt;i&gt;reconstruction&lt;/i&gt;" in page
    assert "<i>" not in page


def test_controls_are_told(run, config):
    report(run, config, nih=False, panels=0)
    text = (run / "table1.md").read_text()
    for control in ("control-centre: a", "control-random: a", "control-prior: the"):
        assert control in text
    assert "the mean of 10 draws" in text


def test_printed_figures_on_nih_data(run, config):
    report(run, config, nih=True, panels=0)
    assert "printed 0.69" in (run / "table1.md").read_text()  # crosseai, Mass, 0.1
    assert "printed 0.69" in shown(run)
    assert pd.read_csv(run / "table1.csv")["published"].notna().any()


def test_scoring_training_images_is_marked(run, config):
    report(run, config | {"score": "all"}, nih=False, panels=0)
    for text in ((run / "table1.md").read_text(), shown(run)):
        assert "the network trained on among them" in text
        assert "the run tiny, images of the training scored too" in text


def test_same_run_same_bytes(run, config):
    names = ["table1.csv", "table1.md", "report.html", "figures/panel-1.png"]
    report(run, config, nih=False, panels=1)
    first = [(run / name).read_bytes() for name in names]
    report(run, config, nih=False, panels=1)
    assert [(run / name).read_bytes() for name in names] == first


def test_a_table_without_a_fusion(run, config):
    report(run, config | {"table": ["scalp"]}, nih=False, panels=1)
    assert (run / "figures/panel-1.png").is_file()


@pytest.mark.parametrize("name", ["accuracy.parquet", "metrics.csv"])
def test_a_missing_table_is_named(run, config, name):
    (run / name).unlink()
    with pytest.raises(InputError, match=re.escape(name)):
        report(run, config, nih=False, panels=0)


def test_a_missing_map_is_named(run, config):
    for path in (run / "maps/net/guided").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"guided/0\.h5: not a readable map file"):
        report(run, config, nih=False, panels=1)


def test_spread_by_hand():
    overlap = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert spread(overlap, np.full(6, "Mass"), 3) == [0, 2, 4]
    assert spread(overlap, np.array(list("aabbcc")), 3) == [0, 2, 4]
    # Alone the nearest ranks would be 0, 2, 4; the label shown already gives way to another.
    assert spread(overlap, np.array(list("aaabbb")), 2) == [1, 4]
    assert spread(overlap, np.array(list("aaaaab")), 2) == [1, 5]


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), max_size=30), st.integers(0, 9))
def test_spread_shows_all_labels_before_one_twice(rows, count):
    overlap = np.array([value for value, _ in rows])
    labels = np.array([label for _, label in rows], str)
    chosen = spread(overlap, labels, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(rows))
    shown = [labels[row] for row in chosen]
    kinds = len(set(labels))
    assert len(set(shown[:kinds])) == min(count, kinds)
    assert chosen == spread(overlap, labels, count)
