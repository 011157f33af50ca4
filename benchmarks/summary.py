"""A finished run in a few small Markdown tables, as docs/results.md shows them.

Usage: python benchmarks/summary.py results/<run>
"""

import sys
from pathlib import Path

import pandas as pd

from crosseai.labels import CHESTX_RAY8


def interval(row: pd.Series, value: str) -> str:
    """Format a figure with its interval."""
    return f"{row[value]:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]"


def markdown(table: pd.DataFrame, corner: str) -> str:
    """Format a table of texts whose index is the first column."""
    lines = [[corner, *table.columns], ["---"] * (len(table.columns) + 1)]
    lines += [[str(index), *row] for index, row in zip(table.index, table.values, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy(table: pd.DataFrame, protocol: str) -> str:
    """Six-label means by threshold and method."""
    rows = table[(table.protocol == protocol) & (table.label == "Mean")]
    cells = {
        method: {row.iou_threshold: interval(row, "accuracy") for _, row in own.iterrows()}
        for method, own in rows.groupby("method", sort=False)
    }
    return markdown(pd.DataFrame(cells), "T(IoU)")


def by_label(table: pd.DataFrame, threshold: float) -> str:
    """Accuracy by label and method at one threshold, single box."""
    rows = table[(table.protocol == "single") & (table.iou_threshold.sub(threshold).abs() < 1e-6)]
    cells = {
        method: {row.label: interval(row, "accuracy") for _, row in own.iterrows()}
        for method, own in rows.groupby("method", sort=False)
    }
    counts = rows.drop_duplicates("label").set_index("label").n.astype(str)
    table = pd.DataFrame(cells).assign(n=counts)
    return markdown(table.reindex([*CHESTX_RAY8, "Mean", "Mean8"]).dropna(), "label")


def differences(table: pd.DataFrame) -> str:
    """Six-label means by threshold and method, single box."""
    rows = table[
        (table.protocol == "single") & (table.criterion == "IoU") & (table.label == "Mean")
    ]
    cells = {
        method: {
            row.iou_threshold: f"{row.difference:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}]"
            for _, row in own.iterrows()
        }
        for method, own in rows.groupby("method", sort=False)
    }
    return markdown(pd.DataFrame(cells), "T(IoU)")


def auc(metrics: pd.DataFrame) -> str:
    """AUC by label and model."""
    cells = {
        model: own.set_index("label").apply(interval, axis=1, value="value")
        for model, own in metrics.groupby("method", sort=False)
    }
    return markdown(pd.DataFrame(cells).reindex([*CHESTX_RAY8, "Mean", "Mean8"]).dropna(), "label")


def main() -> None:
    """Print all tables of a run."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = Path(sys.argv[1])
    table = pd.read_csv(run / "table1.csv")
    table = table[table.criterion == "IoU"]
    metrics = pd.read_csv(run / "metrics.csv")
    print("One box an image and label, mean of the six labels:\n")
    print(accuracy(table, "single"))
    print("\nThe best of all candidates (an upper limit), mean of the six labels:\n")
    print(accuracy(table, "oracle"))
    print("\nThe thresholded region, mean of the six labels:\n")
    print(accuracy(table, "region"))
    for threshold in (0.1, 0.3, 0.5):
        print(f"\nBy label at T(IoU) = {threshold}:\n")
        print(by_label(table, threshold))
    print("\nDifference to the reference, paired, one box, mean of the six labels:\n")
    print(differences(pd.read_parquet(run / "differences.parquet")))
    print("\nAUC on the test part, within each fold and then averaged:\n")
    print(auc(metrics[metrics.metric == "auc"]))


if __name__ == "__main__":
    main()
