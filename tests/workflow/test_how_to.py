"""The how-to on methods does what it says."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

HOW_TO = Path(__file__).parents[2] / "docs/how-to/method.md"


def examples() -> list[dict]:
    """Configurations that the page shows, in order."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", HOW_TO.read_text(encoding="utf-8"), re.M | re.S)
    return [yaml.safe_load(block) for block in blocks]


@pytest.mark.parametrize("example", examples())
def test_the_table_keeps_its_columns(example):
    default = yaml.safe_load((HOW_TO.parents[2] / "config.yaml").read_text(encoding="utf-8"))
    assert example["table"][:-1] == default["table"]


def test_a_method_more_is_one_file_of_configuration(own):
    """Planned are its map, its boxes and the table; made, it stands in the table."""
    mine = examples()[0] | {"table": ["scalp", "crosseai", "mine"]}  # the tiny run has two
    expected = {
        f"{rule} {shard}"
        for rule in ("maps scalp integrated_gradients", "boxes mine")
        for shard in (0, 1)
    }
    expected |= {"gather mine", "configuration", "evaluate", "report"}
    assert own.planned(**mine) == expected
    done = own.snakemake("--cores", "2", **mine)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(own.folder / "results/tiny/table1.csv")
    shown = table[table.method.isin(mine["table"])]
    assert shown.method.unique().tolist() == mine["table"]
    assert shown.groupby("method").n.max().nunique() == 1


def test_a_fusion_and_a_classifier_more_spare_what_is_there(finished):
    fusion = examples()[1] | {"table": ["scalp", "crosseai", "half"]}
    classifier = examples()[2] | {"table": ["scalp", "crosseai", "plain"]}
    planned = finished.planned(**fusion)
    assert {"fuse half 0", "boxes half 1"} <= planned
    assert not [job for job in planned if job.startswith(("maps", "train"))]
    planned = finished.planned(**classifier)
    assert [job for job in sorted(planned) if job.startswith("train")] == ["train plain 0"]
    assert not [job for job in planned if job.startswith(("fuse", "boxes scalp", "images"))]
