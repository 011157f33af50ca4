"""What the benchmarks share: paired timing, and a table on the screen and in JSON."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["FOLDER", "Line", "machine", "markdown", "paired", "write"]

#: Where the JSON files go.
FOLDER = Path(__file__).parents[1] / "results" / "benchmarks"

PACKAGES = ["torch", "numpy", "pillow", "h5py", "numba", "captum", "grad-cam", "snakemake"]


class Line(NamedTuple):
    """One figure and its goal, such as 8.1 times, at least 7; None where nothing was asked."""

    subject: str
    figure: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    def goal(self) -> str:
        """Give the goal in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g} {self.unit}".strip()
        return "" if self.at_most is None else f"at most {self.at_most:g} {self.unit}".strip()

    def met(self) -> str:
        """Say yes or no, or nothing where there is no goal."""
        if self.at_least is None and self.at_most is None:
            return ""
        enough = self.at_least is None or self.figure >= self.at_least
        return "yes" if enough and (self.at_most is None or self.figure <= self.at_most) else "no"


def paired(
    functions: dict[str, Callable[[], object]], rounds: int, warm: int = 1
) -> dict[str, list[float]]:
    """Time functions in turn, so that a busy moment of the machine falls on all of them.

    Parameters
    ----------
    functions : dict of str to callable
    rounds : int
        How often each is timed.
    warm : int
        Rounds before, not timed.

    Returns
    -------
    dict of str to list of float
        Seconds.
    """
    seconds = {name: [] for name in functions}
    for number in range(warm + rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if number >= warm:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median, over the rounds, of how many times as long `slow` took as `fast`."""
    return float(np.median(np.divide(seconds[slow], seconds[fast])))


def machine() -> dict[str, object]:
    """Describe the machine and the versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
    }


def processor() -> str:
    """Name of the processor, as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(
    name: str, lines: Sequence[Line], seconds: dict[str, Iterable[float]], **more: object
) -> None:
    """Print the table of a subject and write `results/benchmarks/<name>.json`."""
    print(markdown(lines), flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {
        "lines": [line._asdict() | {"goal": line.goal(), "met": line.met()} for line in lines],
        "seconds": {key: list(values) for key, values in seconds.items()},
        **more,
        "machine": machine(),
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def markdown(lines: Sequence[Line]) -> str:
    """Table of figures and goals."""
    rows = ["| what | figure | goal | met |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {line.subject} | {line.figure:.3g} {line.unit} | {line.goal()} | {line.met()} |"
        for line in lines
    ]
    return "\n".join(rows)
