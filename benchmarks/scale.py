"""Memory and time of the stages from maps to evaluation, as the data set grows.

One shard of random images with one boxed label each, a small random network. For its memory every
stage runs as the command that it is; for its time all run in one process, which has started and
compiled what there is to compile.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import Line, paired, write

TIMED = (250, 1000, 4000)
WEIGHED = (1000, 10_000)
ROUNDS = 3
SIZE = 112
SOURCE = 1024  # pixels of the radiographs
NETWORK = {"backbone": "resnet18", "width": 8, "output_stride": 8}


def write_inputs(folder: Path, number: int) -> None:
    """Write an image cache, tables and a model for `number` images of number / 4 patients.

    Imports are here since the process that starts the stages must be small: the peak memory of a
    process begins with that of the one that started it.
    """
    import pandas as pd
    import torch

    from crosseai import imagestore, tables
    from crosseai.labels import CHESTX_RAY8
    from crosseai.models import build, weights
    from crosseai.models.augmentation import MEAN, STD

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = [f"{image:06}.png" for image in range(number)]
    labels = rng.choice(CHESTX_RAY8, number)
    pixels = (rng.integers(0, 256, (SIZE, SIZE), "uint8") for _ in images)
    imagestore.write(folder / "images.h5", images, pixels, SIZE)
    corner, extent = rng.integers(0, SOURCE // 2, (number, 2)), rng.integers(99, 400, (number, 2))
    records = {
        "image": images,
        "path": images,
        "patient": [f"{image // 4}" for image in range(number)],
        "labels": [[label] for label in labels],
        "view": "PA",
        "width": SOURCE,
        "height": SOURCE,
        "official": "test",
    }
    boxes = {
        "image": images,
        "label": labels,
        **dict(zip("xy", corner.T.astype(float), strict=True)),
        **dict(zip("wh", extent.T.astype(float), strict=True)),
    }
    split = {"image": images, "part": "test", "fold": 0}
    for name, columns, schema in [
        ("records", records, tables.RECORDS),
        ("boxes", boxes, tables.BOXES),
        ("split", split, tables.SPLIT),
    ]:
        tables.write(pd.DataFrame(columns), schema, folder / f"{name}.parquet")
    torch.manual_seed(0)
    model = build("scalp", list(CHESTX_RAY8), **NETWORK)
    description = {
        "classifier": "scalp",
        "labels": list(CHESTX_RAY8),
        "settings": NETWORK,
        "size": SIZE,
        "mean": MEAN,
        "std": STD,
        "fold": 0,
    }
    weights.save(model, description, folder / "weights.safetensors")


#: Stage -> its command.
STAGES = {
    "maps": "maps weights.safetensors --images images.h5 --split split.parquet"
    " --boxes boxes.parquet --kind guided_backprop --out gradients.h5",
    "heatmaps": "maps weights.safetensors --images images.h5 --split split.parquet"
    " --boxes boxes.parquet --kind grad_cam_plus_plus --out heatmaps.h5",
    "fuse": "fuse heatmaps.h5 gradients.h5 --t 0.3 --out fused.h5",
    "boxes": "boxes find fused.h5 --parts heatmaps.h5 gradients.h5 --records records.parquet"
    " --rule rectangles --smoothing 2 --out shard.parquet",
    "gather": "boxes gather shard.parquet --out found.parquet",
    "evaluate": "evaluate --records records.parquet --boxes boxes.parquet --split split.parquet"
    " --found crosseai=found.parquet --found again=found.parquet --out .",
}


def megabytes(folder: Path, arguments: str) -> float:
    """Run a command in `folder`: its peak resident memory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "crosseai", *arguments.split()],
        cwd=folder,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"crosseai {arguments}: exit code {process.returncode}")
    return usage.ru_maxrss / 1024


def time_stages(folder: Path) -> dict[str, list[float]]:
    """Run every stage in this process, for each number of images in turn."""
    from crosseai.cli import main as crosseai

    seconds = {}
    for number in TIMED:
        write_inputs(folder / str(number), number)

    def run(number: int, arguments: str) -> None:
        os.chdir(folder / str(number))
        crosseai(arguments.split(), standalone_mode=False)

    for stage, arguments in STAGES.items():
        functions = {
            f"{stage}, {number} images": lambda n=number, a=arguments: run(n, a) for number in TIMED
        }
        seconds |= paired(functions, ROUNDS)
    return seconds


def main() -> None:
    """Measure, print and write."""
    if sys.argv[1:2] == ["inputs"]:
        return write_inputs(Path(sys.argv[2]), int(sys.argv[3]))
    if sys.argv[1:2] == ["time"]:
        seconds = time_stages(Path(sys.argv[2]))
        return Path(sys.argv[2], "seconds.json").write_text(json.dumps(seconds))
    memory = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in WEIGHED:
            here = Path(folder, str(number))
            subprocess.run([sys.executable, __file__, "inputs", here, str(number)], check=True)
            for stage, arguments in STAGES.items():
                memory[stage, number] = megabytes(here, arguments)
        own = Path(folder, "time")
        subprocess.run([sys.executable, __file__, "time", own], check=True, stderr=subprocess.PIPE)
        seconds = json.loads((own / "seconds.json").read_text())
    few, many = WEIGHED
    lines = []
    for stage in STAGES:
        lines += [
            Line(f"{stage}: peak memory for {few:,} images", memory[stage, few], "MB"),
            Line(
                f"{stage}: that for {many:,}",
                memory[stage, many] / memory[stage, few],
                "times that",
                at_most=1.1,
            ),
        ]
    for stage in STAGES:
        rates = [np.median(seconds[f"{stage}, {number} images"]) / number for number in TIMED]
        lines += [
            Line(f"{stage}: time an image", 1e3 * rates[-1], "ms"),
            Line(
                f"{stage}: its spread over {', '.join(map(str, TIMED))} images",
                max(rates) / min(rates),
                "times the least",
                at_most=1.1,
            ),
        ]
    write(
        "scale",
        lines,
        seconds,
        megabytes={f"{stage}, {number} images": value for (stage, number), value in memory.items()},
    )


if __name__ == "__main__":
    main()
