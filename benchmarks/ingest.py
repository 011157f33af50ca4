"""From 1024 x 1024 PNGs to the image cache against the decoder's bare rate on the same files.

Grey images of the phantom, as large as the release's, in as many threads for both.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from measure import Line, paired, ratio, write
from PIL import Image

from crosseai.data.images import write_shard
from crosseai.data.phantom import write_phantom

IMAGES = 96
TIMES = 4  # each file, under as many names
SIZE = 224
ROUNDS = 7


def load(path: Path) -> None:
    """Decode and nothing else."""
    with Image.open(path) as image:
        image.load()


def main() -> None:
    """Measure, print and write."""
    jobs = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_phantom(root / "release", IMAGES, 1024, 0, jobs)
        paths = sorted((root / "release").rglob("*.png")) * TIMES
        records = pd.DataFrame(
            {
                "image": [f"{row:06}.png" for row in range(len(paths))],
                "path": [str(path.relative_to(root)) for path in paths],
            }
        )

        def decode() -> None:
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(load, paths))

        def ingest() -> None:
            write_shard(records, root, 0, 1, SIZE, root / "cache.h5", jobs)

        seconds = paired({"decoder": decode, "ingest": ingest}, ROUNDS)
    write(
        "ingest",
        [
            Line(
                "ingest's rate",
                ratio(seconds, "decoder", "ingest"),
                "of the decoder's",
                at_least=0.9,
            ),
            Line("images a second", IMAGES * TIMES / np.median(seconds["ingest"])),
        ],
        seconds,
    )


if __name__ == "__main__":
    main()
