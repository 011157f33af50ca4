import io

import numpy as np
import pytest
from PIL import Image

from crosseai import tables
from crosseai.report import figures


def draw(**changes):
    ramp = np.linspace(0, 1, 32 * 32).reshape(32, 32)
    settings = {
        "image": (ramp * 255).astype("uint8"),
        "heatmap": ramp,
        "gradient": ramp.T,
        "fused": ramp + ramp.T,
        "truth": np.array([0, 0, 50.0, 50]),
        "boxes": {"scalp": np.array([0, 0, 50.0, 25]), "crosseai": None},
        "title": "a.png · Mass (n = 3)",
        "size": (100, 80),
    }
    return figures.panel(**settings | changes)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_panel_shows_every_step_and_names_the_overlap():
    figure = draw()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["radiograph", "heatmap", "gradient map", "fused map", "boxes"]
    assert legend(figure) == ["ground truth", "scalp: IoU 0.50", "crosseai: no box"]
    assert figure.get_suptitle() == "a.png · Mass (n = 3)"


def test_panel_without_a_fusion():
    figure = draw(gradient=None, fused=None)
    assert [axis.get_title() for axis in figure.axes] == ["radiograph", "heatmap", "boxes"]


def test_panel_tells_many_methods_apart(tmp_path):
    names = [f"method {k}" for k in range(9)]
    figure = draw(boxes=dict.fromkeys(names, np.array([0, 0, 50.0, 25])))
    truth, *boxes = figure.axes[-1].patches
    looks = {(box.get_edgecolor(), box.get_linestyle()) for box in boxes}
    assert len(looks) == 9
    assert truth.get_edgecolor() not in {colour for colour, _ in looks}
    figures.save(figure, tmp_path / "panel.png")  # draws it, so that extents are known
    extent = figure.legends[0].get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.x1
    assert extent.y1 <= figure.axes[0].get_window_extent().y0


def test_panel_puts_boxes_and_maps_in_source_pixels():
    figure = draw()
    for axis in figure.axes:
        assert all(tuple(picture.get_extent()) == (0, 100, 80, 0) for picture in axis.images)
        assert axis.get_xlim() == (0, 100)
        assert axis.get_ylim() == (80, 0)
    truth, scalp = figure.axes[-1].patches[:2]
    assert truth.get_bbox().bounds == (0, 0, 50, 50)
    assert scalp.get_bbox().bounds == (0, 0, 50, 25)
    assert truth.get_edgecolor() != scalp.get_edgecolor()


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_map_without_contrast_is_drawn(value, tmp_path):
    figures.save(draw(fused=np.full((4, 4), value)), tmp_path / "panel.png")


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
    figures.save(draw(title="$\\frac{", boxes={"$\\bad{": None}), tmp_path / "panel.png")


def test_same_figure_same_bytes(tmp_path):
    for name in ("one.png", "two.png"):
        figures.save(draw(), tmp_path / name)
    one = (tmp_path / "one.png").read_bytes()
    assert one == (tmp_path / "two.png").read_bytes()
    image = Image.open(io.BytesIO(one))
    assert image.format == "PNG"
    assert not {"Software", "Creation Time"} & set(image.info)


def test_curves(run):
    accuracy = tables.read(run / "accuracy.parquet", tables.ACCURACY)
    figure = figures.accuracy_curves(accuracy)
    mean, *labels = figure.axes
    assert [axis.get_title() for axis in labels] == [
        "Cardiomegaly (n = 6)", "Mass (n = 6)", "Nodule (n = 6)", "Pneumonia (n = 6)",
    ]  # fmt: skip
    names = [line.get_label() for line in mean.lines]
    assert names == ["scalp", "crosseai", "control-centre", "control-random", "control-prior"]
    rows = accuracy[
        (accuracy["method"] == "crosseai")
        & (accuracy["label"] == "Mean")
        & (accuracy["criterion"] == "IoU")
        & (accuracy["protocol"] == "single")
    ]
    np.testing.assert_allclose(mean.lines[1].get_ydata(), rows["accuracy"])
    assert len(mean.collections) == 5  # a band each
    figures.save(figure, run / "curves.png")
