"""What the choices that the papers leave open cost: Algorithm 1's settings on the phantom's maps.

Usage: python benchmarks/choices.py results/phantom [MODEL [GRADIENT_MAP]] > choices.md

Reads the maps of a finished phantom run, by default those of the model scalp and of the map
guided_backprop. A row changes one setting and keeps the others at their
defaults. Only the phantom's boxes are looked at, never a radiologist's.
"""

import sys
from pathlib import Path

import numpy as np

from crosseai import mapstore, tables
from crosseai.boxes.rectangles import find_box
from crosseai.boxes.regions import smooth
from crosseai.evaluation.overlap import iou
from crosseai.fusion import fuse
from crosseai.labels import TABLE_1

DEFAULT = {"t": 0.3, "threshold": 0.35, "smoothing": 2.0, "candidates": 50, "keep_last_ring": False}
VALUES = {
    "t": (0.0, 0.1, 0.3, 0.5, 0.7, 1.0),
    "threshold": (0.15, 0.25, 0.35, 0.45, 0.55),
    "smoothing": (0.0, 1.0, 2.0, 3.0, 4.0, 6.0),
    "candidates": (1, 5, 10, 50, 200, None),
    "keep_last_ring": (False, True),
}


#: Label, heatmap, gradient map, ground-truth box in map pixels.
Pair = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def read_pairs(
    run: Path, model: str, gradient_map: str
) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Label, heatmap, gradient map and ground-truth box in map pixels of each scored box."""
    size = tables.read(run / "data/records.parquet", tables.RECORDS).set_index("image")
    heatmaps = sorted((run / f"maps/{model}/grad_cam_plus_plus").glob("*.h5"))
    gradients = sorted((run / f"maps/{model}/{gradient_map}").glob("*.h5"))
    boxes = tables.read(run / "data/boxes.parquet", tables.BOXES).set_index(["image", "label"])
    pairs = []
    for first, second in zip(heatmaps, gradients, strict=True):
        with mapstore.MapFile(first) as heatmap, mapstore.MapFile(second) as gradient:
            height, width = gradient.shape
            for image, label in gradient.pairs():
                x, y, w, h = boxes.loc[(image, label)]
                scale = np.array([width / size.width[image], height / size.height[image]] * 2)
                truth = np.array([x, y, x + w, y + h]) * scale
                pairs.append(
                    (
                        label,
                        heatmap.read(image, label, gradient.shape),
                        gradient.read(image, label),
                        truth,
                    )
                )
    return pairs


def accuracy(pairs: list[Pair], t: float, smoothing: float, **settings) -> np.ndarray:
    """Mean IoU, then the accuracy at T(IoU) 0.1, 0.3 and 0.5; means of the six labels."""
    overlaps = {label: [] for label in TABLE_1}
    for label, heatmap, gradient, truth in pairs:
        if label in overlaps:
            box = find_box(smooth(fuse(heatmap, gradient, t), smoothing), **settings)
            overlaps[label].append(0.0 if box is None else float(iou(np.array(box), truth)))
    figures = [
        [np.mean(o), *(np.mean(np.array(o) >= level) for level in (0.1, 0.3, 0.5))]
        for o in overlaps.values()
        if o
    ]
    return np.mean(figures, axis=0)


def main() -> None:
    """Print one Markdown table."""
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    run, model, gradient_map = (*sys.argv[1:], *("scalp", "guided_backprop")[len(sys.argv) - 2 :])
    pairs = read_pairs(Path(run), model, gradient_map)
    print(f"{len(pairs)} boxes; six-label means\n")
    print("| setting | value | mean IoU | T = 0.1 | T = 0.3 | T = 0.5 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for setting, values in VALUES.items():
        for value in values:
            figures = accuracy(pairs, **{**DEFAULT, setting: value})
            cells = " | ".join(f"{figure:.3f}" for figure in figures)
            print(f"| `{setting}` | {'all' if value is None else value} | {cells} |")


if __name__ == "__main__":
    main()
