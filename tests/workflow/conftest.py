"""A finished tiny run in a copy of the workflow, made once, and what Snakemake plans there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ["Snakefile", "config.yaml", "config", "crosseai", "envs", "profiles", "workflow"]
TINY = {
    "run": "tiny",
    "release": {"phantom": {"images": 100, "size": 64}},
    "split": {"fractions": [0.4, 0.2, 0.4]},
    "images": {"size": 64, "shards": 2},
    "models": {"scalp": {"epochs": 1, "batch": 16, "threads": 1}},
    "table": ["scalp", "crosseai"],
    "controls": {"draws": 2, "folds": 2},
    "evaluation": {"resamples": 20},
    "report": {"panels": 1},
}


class Workflow:
    """A copy of the workflow, and Snakemake in it as a user calls it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def snakemake(self, *arguments: str, **changes: object) -> subprocess.CompletedProcess:
        """Run Snakemake on the tiny configuration with `changes` merged into it."""
        if changes:
            changed = self.folder / "changed.yaml"
            changed.write_text(yaml.safe_dump(changes))
            arguments = (*arguments, "--configfile", "tiny.yaml", "changed.yaml")
        else:
            arguments = (*arguments, "--configfile", "tiny.yaml")
        # Without the environment's own PATH: jobs must find the interpreter all the same.
        environment = os.environ | {"PATH": os.defpath, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def planned(self, *arguments: str, **changes: object) -> set[str]:
        """Jobs of a dry run, such as ``fuse crosseai 0``; without the rule `all`."""
        done = self.snakemake("--dry-run", "--cores", "2", *arguments, **changes)
        assert done.returncode == 0, done.stderr
        text = done.stdout + done.stderr
        jobs = set()
        for name, body in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n?)*)", text, re.M):
            values = re.search(r"^    wildcards: (.*)$", body, re.M)
            words = re.findall(r"=([^,]+)", values[1]) if values else []
            jobs.add(" ".join([name, *words]))
        assert jobs or "Nothing to be done" in text
        return jobs - {"all"}


def copy(source: Path, folder: Path) -> Workflow:
    for name in WORKFLOW:
        if (source / name).is_dir():
            shutil.copytree(
                source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy2(source / name, folder)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return Workflow(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Workflow:
    """A finished run; leave its files as they are."""
    workflow = copy(ROOT, tmp_path_factory.mktemp("workflow") / "finished")
    done = workflow.snakemake("--cores", "2")
    assert done.returncode == 0, done.stderr
    return workflow


@pytest.fixture
def own(finished, tmp_path) -> Workflow:
    """A copy of the finished run, to change."""
    shutil.copytree(finished.folder, tmp_path / "own")
    return Workflow(tmp_path / "own")


@pytest.fixture(scope="session")
def fresh(tmp_path_factory) -> Workflow:
    """A workflow that has not run."""
    return copy(ROOT, tmp_path_factory.mktemp("workflow") / "fresh")
