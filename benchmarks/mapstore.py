"""The map store: float16, as it is, against 8 bits with a stored scale, and what it does to boxes.

Reads the maps of the phantom run, so `make report` comes first: random networks have no boxes to
lose. Fused maps are made from stored heatmaps and gradient maps and are stored in turn.
"""

import json
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from measure import Line, paired, write

from crosseai import tables
from crosseai.boxes.rectangles import find_boxes
from crosseai.boxes.regions import smooth
from crosseai.evaluation.overlap import iou
from crosseai.fusion import fuse
from crosseai.mapstore import MapFile, enlarge

RUN = Path(__file__).parents[1] / "results" / "phantom"
ROUNDS = 5
THRESHOLDS = (0.1, 0.3, 0.5)


def store(path: Path, maps: np.ndarray, bits: int) -> None:
    """Write maps [N, H, W], never negative, in chunks of one map, with the scale of each."""
    largest = maps.max((1, 2), keepdims=True)
    shares = maps / np.where(largest > 0, largest, 1)
    stored = shares.astype("float16") if bits == 16 else np.rint(255 * shares).astype("uint8")
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset(
            "maps", data=stored, chunks=(1, *maps.shape[1:]), shuffle=True, compression="lzf"
        )
        file.create_dataset("scale", data=largest)


def load(path: Path, bits: int) -> np.ndarray:
    """Read maps one by one, as the stages do."""
    with h5py.File(path) as file:
        scale = file["scale"][:] / (1 if bits == 16 else 255)
        stored = file["maps"]
        return np.stack([stored[row] * scale[row] for row in range(len(stored))], dtype="float32")


def main() -> None:
    """Measure, print and write."""
    if not (RUN / "methods.json").exists():
        sys.exit(f"{RUN}: no finished run; make it by `make report`")
    line = json.loads((RUN / "methods.json").read_text())["crosseai"]
    rule = {key: line["box"][key] for key in ("threshold", "candidates", "smoothing")}
    pairs, parts = [], {"grad_cam_plus_plus": [], "guided_backprop": []}
    for kind, maps in parts.items():
        pairs = []
        for path in sorted((RUN / "maps" / "scalp" / kind).glob("*.h5")):
            with MapFile(path) as file:
                pairs += file
                maps += [file.read(*pair) for pair in file]
    size = parts["guided_backprop"][0].shape
    originals = {kind: np.stack(maps) for kind, maps in parts.items()}
    truth = tables.read(RUN / "data" / "boxes.parquet", tables.BOXES)
    records = tables.read(RUN / "data" / "records.parquet", tables.RECORDS).set_index("image")

    def boxes(heatmaps: np.ndarray, gradients: np.ndarray, path: Path, bits: int) -> np.ndarray:
        fused = [
            fuse(enlarge(heat, size), gradient, line["t"])
            for heat, gradient in zip(heatmaps, gradients, strict=True)
        ]
        store(path, np.stack(fused), bits)
        found = np.full((len(pairs), 4), np.nan)
        for row, map in enumerate(load(path, bits)):
            best, _ = find_boxes(
                smooth(map, rule["smoothing"]), rule["threshold"], rule["candidates"]
            )
            found[row] = best[0] if len(best) else np.nan
        return found

    lines, seconds, found = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for bits in (16, 8):
            read = {}
            for kind, maps in originals.items():
                path = Path(folder, f"{kind}{bits}.h5")
                own = paired(
                    {
                        "write": lambda path=path, maps=maps, bits=bits: store(path, maps, bits),
                        "read": lambda path=path, bits=bits: load(path, bits),
                    },
                    ROUNDS,
                )
                read[kind] = load(path, bits)
                name = f"{kind}, {bits} bits"
                lines.append(Line(f"{name}: a map", path.stat().st_size / len(maps), "bytes"))
                for what, values in own.items():
                    lines.append(Line(f"{name}: {what}", len(maps) / np.median(values), "maps/s"))
                    seconds[f"{name}, {what}"] = values
            found[bits] = boxes(*read.values(), Path(folder, "fused.h5"), bits)
    scale = records.loc[[image for image, _ in pairs], ["width", "height"]].to_numpy() / size[::-1]
    boxed = {
        pair: rows[["x", "y", "w", "h"]].to_numpy()
        for pair, rows in truth.groupby(["image", "label"])
    }
    hits = {bits: np.zeros(len(THRESHOLDS)) for bits in found}
    for row, pair in enumerate(pairs):
        for x, y, width, height in boxed[pair]:
            target = np.array([x, y, x + width, y + height])
            for bits, own in found.items():
                overlap = np.nan_to_num(iou(own[row] * np.tile(scale[row], 2), target))
                hits[bits] += overlap >= np.array(THRESHOLDS)
    changed = ~np.isclose(found[8], found[16], equal_nan=True).all(axis=1)
    both = iou(found[8], found[16])
    lines += [
        Line("boxes that 8 bits change", 100 * changed.mean(), "%"),
        Line("IoU of a changed box with the other", np.nanmean(both[changed]), "on average"),
    ]
    for number, threshold in enumerate(THRESHOLDS):
        difference = 100 * (hits[8] - hits[16])[number] / sum(map(len, boxed.values()))
        lines.append(Line(f"change of T(IoU) = {threshold}", difference, "points"))
    write("mapstore", lines, seconds)


if __name__ == "__main__":
    main()
