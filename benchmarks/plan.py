"""A dry run on the finished plan of the full release: 64 shards, five methods, nothing to do.

The files of every stage are empty stand-ins, with Snakemake's own records of the jobs beside them.
The release has a row for each of 112,120 images.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import Line, paired, write

ROOT = Path(__file__).parents[1]
IMAGES = 112_120
ROUNDS = 5


def main() -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "weights").mkdir()
        (work / "weights" / "resnet50_imagenet.safetensors").touch()
        (work / "release").mkdir()
        for name in ("train_val_list.txt", "test_list.txt", "BBox_List_2017.csv"):
            (work / "release" / name).touch()
        rows = (f"{row:08}_000.png,No Finding,0,{row}" for row in range(IMAGES))
        (work / "release" / "Data_Entry_2017.csv").write_text("\n".join(rows))

        def snakemake(*words: str) -> str:
            command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile"]
            command += ["--directory", work, "--configfile", ROOT / "config" / "nih.yaml"]
            command += ["--config", "release={path: release}", "images={shards: 64}"]
            done = subprocess.run([*command, *words], cwd=work, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            return done.stdout + done.stderr

        outputs = [line.split("\t")[0] for line in snakemake("--summary").splitlines()[1:]]
        for output in outputs:
            path = work / output
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if path.name == "figures" else path.touch()
        snakemake("--touch", "--cores", "1")
        if "Nothing to be done" not in snakemake("--dry-run"):
            sys.exit("the plan is not finished")
        seconds = paired({"dry run": lambda: snakemake("--dry-run")}, ROUNDS)
    write(
        "plan",
        [
            Line("dry run of the finished plan", np.median(seconds["dry run"]), "s", at_most=10),
            Line("files of the plan", len(outputs)),
        ],
        seconds,
    )


if __name__ == "__main__":
    main()
