import numpy as np
import pandas as pd
import pytest

from crosseai import tables
from crosseai.ablation.curves import ablate, variations
from crosseai.ablation.figures import setting_curves
from crosseai.ablation.grid import Settings
from crosseai.boxes.stage import find, gather
from crosseai.evaluation.stage import evaluate
from crosseai.fusion import fuse_files

VALUES = {
    "t_values": (0.0, 0.5, 1.0),
    "threshold_values": (0.35, 0.6),
    "smoothing_values": (0.0, 1.0),
    "candidates_values": (0, 1),
    "resamples": 50,
}


def values(table, **key):
    rows = table[np.logical_and.reduce([table[name] == value for name, value in key.items()])]
    return rows["value"].tolist()


def test_one_setting_at_a_time():
    configured = Settings(t=0.3, candidates=50)
    varied = variations(configured, t=(1.0, 0.0), candidates=(0, 1), keep_last_ring=(False, True))
    assert [(name, value) for name, value, _ in varied] == [
        *(("t", 0.0), ("t", 0.3), ("t", 1.0)),
        *(("candidates", 1), ("candidates", 50), ("candidates", 0)),
        *(("keep_last_ring", False), ("keep_last_ring", True)),
    ]
    for name, value, own in varied:
        assert own == configured._replace(**{name: value})
    assert sum(own == configured for _, _, own in varied) == 3


@pytest.fixture
def shifted(run):
    """Heatmaps at the ground truth; gradient maps half beside it and, as a sum, far from it."""
    heatmaps = run.write_maps("heat", {pair: run.square(2, 2) for pair in run.pairs})
    gradients = {
        "max": run.write_maps("max", {pair: run.square(6, 2) for pair in run.pairs}),
        "sum": run.write_maps("sum", {pair: run.square(14, 14) for pair in run.pairs}),
    }
    return heatmaps, gradients


def test_values_by_hand_and_the_same_bytes_again(run, shifted):
    out, again = run.folder / "ablation/crosseai.csv", run.folder / "again.csv"
    for path in (out, again):
        ablate(*run.tables, *shifted, path, run.side, t=0.3, threshold=0.5, **VALUES)
    for suffix in (".csv", ".md", ".png"):
        assert out.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()
    table = pd.read_csv(out)
    mass = table[table["label"] == "Mass"]
    # Half beside an 8 x 8 square is 4 of 12 columns: IoU 1/3. The heatmap wins from t = 0.5 on.
    for t, overlap in [("0.0", 1 / 3), ("0.3", 1 / 3), ("1.0", 1.0)]:
        assert values(mass, setting="t", choice=t, metric="mean_iou") == pytest.approx([overlap])
        assert values(mass, setting="t", choice=t, metric="accuracy") == [
            float(overlap >= T / 10) for T in range(1, 8)
        ]
    assert values(mass, setting="reduction", choice="max", metric="mean_iou") == pytest.approx(
        [1 / 3], abs=1e-5
    )
    assert values(mass, setting="reduction", choice="sum", metric="mean_iou") == [0]
    assert set(mass["n"]) == {8}
    assert set(table.loc[table["label"] == "Mean8", "n"]) == {16}
    configured = table[table["configured"]].drop_duplicates("setting")
    assert configured.set_index("setting")["choice"].to_dict() == {
        "t": "0.3",
        "threshold": "0.5",
        "smoothing": "0.0",
        "candidates": "50",
        "keep_last_ring": "False",
        "reduction": "max",
    }
    text = out.with_suffix(".md").read_text()
    assert "| t | **0.3** | 0.333 [0.333, 0.333] | 1.000 [1.000, 1.000] |" in text
    rows = [line.split(" | ")[:2] for line in text.splitlines()[2:]]
    assert ["| candidates", "1"] in rows
    assert rows[-6:] == [
        ["| candidates", "**50**"],
        ["| candidates", "all"],
        ["| keep_last_ring", "**False**"],
        ["| keep_last_ring", "True"],
        ["| reduction", "**max**"],
        ["| reduction", "sum"],
    ]


def test_configured_settings_give_the_figures_of_the_evaluation(run):
    squares = [run.square(2 + k // 2, 2) for k in range(len(run.pairs))]
    heatmaps = run.write_maps("heat", dict(zip(run.pairs, squares, strict=True)))
    gradients = run.write_maps("grad", {pair: run.noise(k) for k, pair in enumerate(run.pairs)})
    split = tables.read(run.tables[2], tables.SPLIT)
    split.loc[split["image"].str[0].isin(["0", "3"]), "part"] = "train"
    tables.write(split, tables.SPLIT, run.tables[2])
    for shard, files in enumerate(zip(heatmaps, gradients, strict=True)):
        fuse_files(*files, run.folder / "fused.h5", 0.4)
        found = run.folder / f"{shard}.parquet"
        find(run.folder / "fused.h5", run.tables[0], found, size=32, smoothing=1.0)
    gather([run.folder / "0.parquet", run.folder / "1.parquet"], run.folder / "found.parquet")
    found = {"crosseai": run.folder / "found.parquet"}
    evaluate(*run.tables, found, {}, run.folder, resamples=50, draws=1, folds=2)
    accuracy = tables.read(run.folder / "accuracy.parquet", tables.ACCURACY)
    keys = ["method", "criterion", "protocol"]
    accuracy = accuracy.set_index(keys).loc[("crosseai", "IoU", "single")]
    accuracy = accuracy.set_index(["label", "iou_threshold"])[["accuracy", "ci_low", "ci_high"]]
    assert 0.1 < accuracy["accuracy"].mean() < 0.9

    out = run.folder / "crosseai.csv"
    maps = heatmaps, {"max": gradients}
    ablate(*run.tables, *maps, out, 32, t=0.4, smoothing=1.0, **VALUES)
    table = pd.read_csv(out)
    assert "reduction" not in set(table["setting"])  # there is but one
    configured = table[table["configured"] & (table["metric"] == "accuracy")]
    assert configured["setting"].nunique() == 5
    for _, own in configured.groupby("setting"):
        own = own.set_index(["label", "iou_threshold"])[["value", "ci_low", "ci_high"]]
        np.testing.assert_allclose(own, accuracy.loc[own.index], atol=1e-5)


def test_the_figure_has_a_panel_a_setting_and_marks_the_configured_value():
    tried = {
        "t": ["0.0", "0.3", "1.0"],
        "candidates": ["1", "50", "all"],
        "reduction": ["max", "sum"],
    }
    keys = [("accuracy", 0.1), ("accuracy", 0.3), ("accuracy", 0.5), ("mean_iou", np.nan)]
    rows = [
        (setting, value, value in ("0.3", "50", "max"), "Mean", metric, T, 0.5, 0.4, 0.6)
        for setting, values in tried.items()
        for value in values
        for metric, T in keys
    ]
    keys = ["setting", "choice", "configured", "label", "metric", "iou_threshold"]
    names = [*keys, "value", "ci_low", "ci_high"]
    axes = setting_curves(pd.DataFrame(rows, columns=names)).axes
    assert [axis.axison for axis in axes] == [True] * 3 + [False] * 3
    for axis, mark in zip(axes, [0.3, 1, 0], strict=False):  # 50 lies between 1 and all
        dashed, *curves = axis.get_lines()
        assert dashed.get_xdata()[0] == mark
        assert len(curves) == len(axis.collections) == 4  # a band each
    assert axes[0].get_lines()[1].get_xdata().tolist() == [0.0, 0.3, 1.0]
    assert [tick.get_text() for tick in axes[1].get_xticklabels()] == ["1", "50", "all"]
