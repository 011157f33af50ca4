"""A release of a few small images, built file by file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def write_release_files(
    root: Path,
    rows: list[tuple[str, str, str]],
    boxes: list[str] = (),
    files: list[str] | None = None,
    table: str = "Data_Entry_2017.csv",
    lists: dict[str, list[str]] | None = None,
) -> Path:
    """Write rows of (image, labels, patient), box lines, 40 x 30 images and the lists."""
    root.mkdir(exist_ok=True)
    lines = [
        f"{image},{labels},0,{patient},50,F,PA,2500,2048,0.168,0.168,"
        for image, labels, patient in rows
    ]
    (root / table).write_text("\n".join([HEADER, *lines]) + "\n")
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    (root / "BBox_List_2017.csv").write_text("\n".join([header, *boxes]) + "\n")
    for name, images in (lists or {}).items():
        (root / f"{name}_list.txt").write_text("\n".join(images))
    if files is None:
        files = [f"images/{image}" for image in dict.fromkeys(row[0] for row in rows)]
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40), "uint8")
        Image.fromarray(pixels).save(root / file)
    return root


@pytest.fixture
def release_builder(tmp_path):
    """Give `write_release_files` for a folder of its own."""

    def build(*args, **kwargs):
        return write_release_files(tmp_path / "release", *args, **kwargs)

    return build
