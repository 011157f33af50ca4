"""What a finished run reruns after a change, by the jobs that Snakemake plans."""

import json

import pandas as pd
import pytest

AFTER_BOXES = {"evaluate", "report"}
BOXES = {
    method: {f"boxes {method} 0", f"boxes {method} 1", f"gather {method}"}
    for method in ("scalp", "crosseai")
}
FUSE = {"fuse crosseai 0", "fuse crosseai 1"}
MAPS = {
    f"maps scalp {name} {shard}"
    for name in ("grad_cam_plus_plus", "guided_backprop")
    for shard in (0, 1)
}


def test_chain_ends_in_table_and_page(finished):
    run = finished.folder / "results/tiny"
    table = pd.read_csv(run / "table1.csv")
    assert {"scalp", "crosseai", "control-prior"} <= set(table["method"])
    assert table["published"].isna().all()
    assert (run / "table1.md").stat().st_size
    assert (run / "report.html").stat().st_size
    methods = json.loads((run / "methods.json").read_text())
    assert methods["crosseai"]["t"] == 0.3
    assert [part["kind"] for part in methods["crosseai"]["map"]] == [
        "grad_cam_plus_plus",
        "guided_backprop",
    ]
    assert methods["scalp"]["box"]["threshold"] == 0.35


def test_every_job_has_a_log_and_a_benchmark(finished):
    run = finished.folder / "results/tiny"
    logs = {path.relative_to(run / "logs").with_suffix("") for path in run.glob("logs/**/*.log")}
    benchmarks = {
        path.relative_to(run / "benchmarks").with_suffix("")
        for path in run.glob("benchmarks/**/*.tsv")
    }
    assert logs == benchmarks
    assert len(logs) == 21


def test_finished_run_has_nothing_to_do(finished):
    assert finished.planned() == set()


def test_fusion_weight_reruns_fusions_only(finished):
    expected = {"configuration"} | FUSE | BOXES["crosseai"] | AFTER_BOXES
    assert finished.planned(t=0.4) == expected


def test_own_fusion_weight_of_another_method_spares_the_rest(finished):
    line = {
        "model": "scalp",
        "map": ["grad_cam_plus_plus", "guided_backprop"],
        "box": "rectangles",
        "t": 0.5,
    }
    planned = finished.planned(methods={"half": line}, table=["scalp", "crosseai", "half"])
    expected = {"fuse half 0", "fuse half 1", "boxes half 0", "boxes half 1", "gather half"}
    assert planned == expected | {"configuration"} | AFTER_BOXES


def test_box_threshold_reruns_boxes(finished):
    planned = finished.planned(boxes={"rectangles": {"threshold": 0.4}})
    assert planned == {"configuration"} | BOXES["scalp"] | BOXES["crosseai"] | AFTER_BOXES


def test_map_setting_reruns_that_map(finished):
    planned = finished.planned(maps={"guided_backprop": {"reduction": "sum"}})
    maps = {"maps scalp guided_backprop 0", "maps scalp guided_backprop 1"}
    assert planned == {"configuration"} | maps | FUSE | BOXES["crosseai"] | AFTER_BOXES


def test_model_setting_retrains_and_decodes_nothing(finished):
    planned = finished.planned(models={"scalp": {"learning_rate": 0.02}})
    after = MAPS | FUSE | BOXES["scalp"] | BOXES["crosseai"] | AFTER_BOXES
    assert planned == {"configuration", "train scalp 0"} | after


def test_weights_are_checked_and_decode_nothing(own):
    (own.folder / "some.safetensors").touch()
    planned = own.planned(models={"scalp": {"weights": "some.safetensors"}})
    after = MAPS | FUSE | BOXES["scalp"] | BOXES["crosseai"] | AFTER_BOXES
    assert planned == {"configuration", "weights scalp", "train scalp 0"} | after


def test_new_split_decodes_nothing(finished):
    planned = finished.planned(split={"kind": "kfold", "folds": 2})
    assert {"split", "train scalp 0", "train scalp 1"} <= planned
    assert not {"phantom", "records", "images 0", "images 1"} & planned


def test_unneeded_definition_reruns_the_page_only(finished):
    planned = finished.planned(models={"other": {"backbone": "resnet50"}})
    assert planned == {"configuration", "report"}


def test_changed_source_reruns_its_stage_and_what_follows(own):
    with open(own.folder / "crosseai/boxes/rectangles.py", "a") as source:
        source.write("# changed\n")
    assert own.planned() == BOXES["scalp"] | BOXES["crosseai"] | AFTER_BOXES


def test_changed_fusion_source_reruns_fusions_only(own):
    with open(own.folder / "crosseai/fusion.py", "a") as source:
        source.write("# changed\n")
    assert own.planned() == FUSE | BOXES["crosseai"] | AFTER_BOXES


@pytest.mark.parametrize(
    ("lost", "changes", "made"),
    [
        ("models/scalp/*/*", {"models": {"scalp": {"epochs": 2}}}, {"train scalp 0"} | MAPS | FUSE),
        ("boxes/*/*.parquet", {"boxes": {"rectangles": {"threshold": 0.4}}}, set()),
    ],
)
def test_rerun_killed_halfway_is_not_taken_for_finished(own, lost, changes, made):
    """Snakemake removes what a killed job was making anew; what was made of it still stands."""
    files = list(own.folder.glob(f"results/tiny/{lost}"))
    assert files
    names = [str(file.relative_to(own.folder)) for file in files]
    assert own.snakemake("--cleanup-metadata", *names).returncode == 0
    for file in files:
        file.unlink()
    planned = own.planned(**changes)
    assert planned == {"configuration"} | made | BOXES["crosseai"] | BOXES["scalp"] | AFTER_BOXES


def test_changed_readme_command_line_and_dates_rerun_nothing(own):
    (own.folder / "README.md").write_text("changed\n")
    for name in ("crosseai/cli.py", "crosseai/__init__.py"):
        with open(own.folder / name, "a") as source:
            source.write("# changed\n")
    (own.folder / "crosseai/fusion.py").touch()
    assert own.planned() == set()


def test_release_folder_instead_of_a_phantom(finished):
    release = {"kind": "nih", "path": "results/tiny/release"}
    planned = finished.planned(run="other", release=release)
    assert "records" in planned
    assert "phantom" not in planned


def test_values_given_on_the_command_line(finished):
    planned = finished.planned("--config", "boxes={rectangles: {threshold: 0.4}}")
    assert planned == {"configuration"} | BOXES["scalp"] | BOXES["crosseai"] | AFTER_BOXES
