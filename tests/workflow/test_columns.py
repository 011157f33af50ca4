"""All columns of the table in one run."""

import ast
import re
from pathlib import Path

import pandas as pd

from crosseai import tables
from crosseai.models import CLASSIFIERS

ROOT = Path(__file__).parents[2]
COLUMNS = ["baseline", "supervision", "scalp", "scalp-code", "chexradinet", "crosseai"]


def test_every_column_is_trained_explained_boxed_and_scored(own):
    short = {"epochs": 1, "batch": 16, "threads": 1}
    models = {name: short for name in COLUMNS if name != "crosseai"}
    done = own.snakemake("--cores", "2", models=models, table=COLUMNS)
    assert done.returncode == 0, done.stderr
    run = own.folder / "results/tiny"

    table = pd.read_csv(run / "table1.csv")
    controls = ["control-centre", "control-random", "control-prior"]
    assert table.method.unique().tolist() == COLUMNS + controls
    mean = table[(table.label == "Mean8") & (table.criterion == "IoU")]
    counts = mean.groupby(["method", "protocol"]).n.unique().explode()
    assert counts.nunique() == 1  # supervision, too, is scored on every box
    assert set(counts.index) == {
        (method, protocol) for method in COLUMNS for protocol in ("single", "oracle", "region")
    } | {(control, "single") for control in controls}
    differences = tables.read(run / "differences.parquet", tables.DIFFERENCES)
    assert set(differences.method) == set(COLUMNS + controls) - {"crosseai"}
    assert set(differences.reference) == {"crosseai"}

    text = (run / "table1.md").read_text(encoding="utf-8")
    assert "a reconstruction" in text
    assert "whose training sees boxes" in text
    assert text.count("Of 2 folds of patients, each model learned from the others' boxes") == 1

    split = tables.read(run / "data/split_with_boxes.parquet", tables.SPLIT)
    assert split.fold.unique().tolist() == [0, 1]
    assert not (run / "models/supervision/fold2").exists()


def test_no_other_training_is_given_boxes(finished):
    """Of the commands that Snakemake plans, one classifier's alone names them."""
    done = finished.snakemake(
        *("--dry-run", "--cores", "2", "--printshellcmds"), table=[*COLUMNS, "crosseai-paper"]
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    commands = [line for line in text.splitlines() if " -m crosseai train " in line]
    assert len(commands) == 5
    seeing = {line.split("--classifier ")[1].split()[0] for line in commands if "--boxes" in line}
    assert seeing == {"supervision"}


def test_the_workflow_knows_what_the_classes_say():
    text = (ROOT / "workflow/rules/common.smk").read_text(encoding="utf-8")
    (line,) = re.findall(r"^CLASSIFIERS_THAT_SEE_BOXES = (.*)$", text, re.M)
    assert ast.literal_eval(line) == {n for n, kind in CLASSIFIERS.items() if kind.sees_boxes}
    text = (ROOT / "workflow/rules/checks.py").read_text(encoding="utf-8")
    (line,) = re.findall(r"^MAKE_MAPS = (.*)$", text, re.M)
    assert ast.literal_eval(line) == {
        n for n, kind in CLASSIFIERS.items() if hasattr(kind, "heatmaps")
    }
