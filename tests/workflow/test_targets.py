"""The targets that are not part of `all`: what they make, and what a change reruns."""

import shutil

import pandas as pd
import pytest

METHODS = ("scalp", "crosseai")
DEPTHS = ("head", "stage4", "stage3", "all")
SUM = {f"maps scalp guided_backprop~sum {shard}" for shard in (0, 1)}


@pytest.fixture(scope="module")
def ablated(finished, tmp_path_factory):
    """The finished run with its ablation."""
    folder = tmp_path_factory.mktemp("workflow") / "ablated"
    shutil.copytree(finished.folder, folder)
    workflow = type(finished)(folder)
    done = workflow.snakemake("--cores", "2", "ablation", table=[*METHODS])
    assert done.returncode == 0, done.stderr
    return workflow


def planned(workflow, target, **changes):
    """What a target plans, with the two methods whose settings are configured."""
    return workflow.planned(target, table=[*METHODS], **changes) - {target}


def test_ablation_makes_the_missing_map_and_the_curves(finished, ablated):
    assert planned(finished, "ablation") == SUM | {"ablate crosseai"}
    run = ablated.folder / "results/tiny/ablation"
    assert {path.name for path in run.iterdir()} == {f"crosseai.{s}" for s in ("csv", "md", "png")}
    table = pd.read_csv(run / "crosseai.csv")
    tried = table[["setting", "choice"]].drop_duplicates()["setting"].value_counts().to_dict()
    assert tried == {
        **{"t": 11, "threshold": 5, "smoothing": 8, "candidates": 6},
        **{"keep_last_ring": 2, "reduction": 2},
    }
    assert planned(ablated, "ablation") == set()


def test_ablation_agrees_with_table_1(ablated):
    run = ablated.folder / "results/tiny"
    table = pd.read_csv(run / "ablation/crosseai.csv")
    table = table[table["configured"] & (table["setting"] == "t") & (table["label"] == "Mean8")]
    metrics = pd.read_csv(run / "metrics.csv").set_index(["method", "label", "metric"])
    wanted = metrics.loc[("crosseai", "Mean8", "mean_iou")]
    (row,) = table[table["metric"] == "mean_iou"].itertuples()
    assert [row.value, row.ci_low, row.ci_high] == pytest.approx(
        wanted[["value", "ci_low", "ci_high"]].tolist(), abs=2e-6
    )


@pytest.mark.parametrize("changes", [{"t": [0.0, 1.0]}, {"candidates": [3]}])
def test_a_changed_value_reruns_the_ablation_only(ablated, changes):
    assert planned(ablated, "ablation", ablation=changes) == {"ablate crosseai"}


def test_a_configured_setting_reruns_what_uses_it(ablated):
    box = {"rectangles": {"threshold": 0.4}}
    assert planned(ablated, "ablation", boxes=box) == {"ablate crosseai"}
    assert planned(ablated, "ablation", sanity={"seed": 1}) == set()


def test_a_selecting_method_is_one_job(finished):
    line = {
        "model": "scalp",
        "map": ["grad_cam_plus_plus", "guided_backprop"],
        "box": "rectangles",
        "select": {"t": [0.2, 0.5]},
    }
    changes = {"methods": {"chosen": line}, "table": [*METHODS, "chosen"]}
    plan = finished.planned(**changes)
    assert plan == {"configuration", "select chosen", "evaluate", "report"}
    assert "sanity" in finished.planned("sanity", **changes)
    assert not any("chosen" in job for job in finished.planned("sanity", **changes))
    assert not any("chosen" in job for job in finished.planned("ablation", **changes))


def test_sanity_derives_methods_for_the_rules_there_are(finished):
    expected = {"sanity"}
    for depth in DEPTHS:
        expected.add(f"randomise scalp {depth} 0")
        for shard in (0, 1):
            expected |= {
                f"maps scalp~{depth} grad_cam_plus_plus {shard}",
                f"maps scalp~{depth} guided_backprop {shard}",
                f"fuse crosseai~{depth} {shard}",
                *(f"boxes {method}~{depth} {shard}" for method in METHODS),
            }
        expected |= {f"gather {method}~{depth}" for method in METHODS}
    plan = finished.planned("sanity", table=[*METHODS])
    assert plan == expected
    few = finished.planned("sanity", table=["scalp"], sanity={"depths": ["stage2"]})
    assert few == {
        "randomise scalp stage2 0",
        "gather scalp~stage2",
        "sanity",
        *(f"maps scalp~stage2 grad_cam_plus_plus {shard}" for shard in (0, 1)),
        *(f"boxes scalp~stage2 {shard}" for shard in (0, 1)),
    }


def test_what_is_derived_is_no_part_of_the_configuration(finished):
    assert "~" not in (finished.folder / "results/tiny/config.json").read_text()
    assert "~" not in (finished.folder / "results/tiny/methods.json").read_text()
