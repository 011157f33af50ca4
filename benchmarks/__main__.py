"""All benchmarks, or those named: python benchmarks [maps boxes ...].

Each is a script of its own, which prints its table and writes `results/benchmarks/<name>.json`;
the table of all stands at the end.
"""

import json
import subprocess
import sys
from pathlib import Path

from measure import FOLDER, Line, markdown

SUBJECTS = [
    "maps",
    "boxes",
    "ingest",
    "training",
    "bootstrap",
    "plan",
    "startup",
    "scale",
    "mapstore",
]

if __name__ == "__main__":
    chosen = sys.argv[1:] or SUBJECTS
    if unknown := set(chosen) - set(SUBJECTS):
        sys.exit(f"no benchmark named {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    for subject in chosen:
        print(f"\n## {subject}\n", flush=True)
        subprocess.run([sys.executable, Path(__file__).with_name(f"{subject}.py")], check=True)
    lines = []
    for subject in chosen:
        for line in json.loads((FOLDER / f"{subject}.json").read_text())["lines"]:
            lines.append(Line(**{field: line[field] for field in Line._fields}))
    print("\n## all\n\n" + markdown(lines))
