"""A run of a few images with maps, small enough to box within a test."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crosseai import mapstore, tables

LABELS = ["Effusion", "Mass"]
SIDE = 24


@dataclass
class Run:
    """Tables and map files of a run; `tables` are what every stage of the room takes first."""

    folder: Path
    truth: pd.DataFrame
    side: int = SIDE

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Image and label of each ground-truth box, in order."""
        return list(self.truth[["image", "label"]].itertuples(index=False, name=None))

    @property
    def tables(self) -> list[Path]:
        return [self.folder / f"{name}.parquet" for name in ("records", "boxes", "split")]

    def square(self, x: int, y: int, side: int = 8) -> np.ndarray:
        """A map that is 1 on a square and 0 elsewhere."""
        values = np.zeros((SIDE, SIDE), "float32")
        values[y : y + side, x : x + side] = 1
        return values

    def noise(self, seed: int, side: int = SIDE) -> np.ndarray:
        """A map with a blob in noise."""
        random = np.random.default_rng(seed)
        values = np.abs(random.normal(size=(side, side))) ** 3
        x, y = random.integers(0, side - 5, 2)
        values[y : y + 6, x : x + 5] += 2 + random.random(values[y : y + 6, x : x + 5].shape)
        return values.astype("float32")

    def write_truth(self, truth: pd.DataFrame) -> None:
        tables.write(truth, tables.BOXES, self.folder / "boxes.parquet")

    def write_maps(self, name: str, maps: dict, shards: int = 2) -> list[Path]:
        """Maps {(image, label): [SIDE, SIDE]} over shards by image."""
        images = list(dict.fromkeys(image for image, _ in maps))
        paths = []
        for shard in range(shards):
            own = images[shard::shards]
            stored = [
                (own.index(image), LABELS.index(label), values)
                for (image, label), values in maps.items()
                if image in own
            ]
            paths.append(self.folder / name / f"{shard}.h5")
            count = len(own)
            shape = (SIDE, SIDE) if not stored else stored[0][2].shape
            mapstore.write(paths[-1], own, LABELS, stored, shape, [0] * count, ["w"] * count, {})
        return paths


@pytest.fixture
def run(tmp_path) -> Run:
    """Eight patients with two images of twice the maps' width and thrice their height.

    One image has a Mass, the other an Effusion, all at x 4 ... 20, y 6 ... 30 of the image, which
    is `run.square(2, 2)` of the map.
    """
    names = [(f"{patient}{image}.png", f"p{patient}") for patient in range(8) for image in "ab"]
    records = pd.DataFrame(
        {
            "image": [name for name, _ in names],
            "path": "",
            "patient": [patient for _, patient in names],
            "labels": [["Mass"] if name[1] == "a" else ["Effusion"] for name, _ in names],
            "view": "PA",
            "width": 2 * SIDE,
            "height": 3 * SIDE,
            "official": "",
        }
    )
    truth = pd.DataFrame(
        {
            "image": records["image"],
            "label": records["labels"].str[0],
            **{"x": 4.0, "y": 6.0, "w": 16.0, "h": 24.0},
        }
    )
    tables.write(records, tables.RECORDS, tmp_path / "records.parquet")
    split = pd.DataFrame({"image": records["image"], "part": "test", "fold": 0})
    tables.write(split, tables.SPLIT, tmp_path / "split.parquet")
    made = Run(tmp_path, truth)
    made.write_truth(truth)
    return made
