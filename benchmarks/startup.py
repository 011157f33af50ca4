"""How long `crosseai --help` takes, and what importing torch would cost."""

import subprocess
import sys

import numpy as np
from measure import Line, paired, write

ROUNDS = 9
COMMANDS = {
    "crosseai --help": ["-m", "crosseai", "--help"],
    "crosseai train --help": ["-m", "crosseai", "train", "--help"],
    "import crosseai": ["-c", "import crosseai"],
    "import torch": ["-c", "import torch"],
    "python": ["-c", ""],
}
IS_TORCH_THERE = (
    "import sys; from crosseai.cli import main\n"
    "try: main(['--help'])\n"
    "except SystemExit: pass\n"
    "sys.exit('torch' in sys.modules)"
)


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Run Python."""
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure, print and write."""
    run("-c", IS_TORCH_THERE)
    seconds = paired(
        {name: lambda words=words: run(*words) for name, words in COMMANDS.items()}, ROUNDS
    )
    lines = [
        Line(name, np.median(values), "s", at_most=0.5 if name == "crosseai --help" else None)
        for name, values in seconds.items()
    ]
    write("startup", lines, seconds)


if __name__ == "__main__":
    main()
