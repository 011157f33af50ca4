"""Which source files a stage depends on."""

import subprocess
import sys
from pathlib import Path

import pytest

from crosseai.sources import sources

ROOT = Path(__file__).parents[2]
IMPORTED = """
import importlib, sys
importlib.import_module(sys.argv[1])
for name, module in sys.modules.items():
    if name.startswith("crosseai."):
        print(module.__file__)
"""


@pytest.mark.parametrize(
    "module", ["crosseai.fusion", "crosseai.evaluation.stage", "crosseai.maps.attribution"]
)
def test_what_python_imports(module, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, module], check=True, capture_output=True, text=True
    )
    assert {str(Path(path).resolve()) for path in sources(module)} == set(done.stdout.split())


def test_paths_are_relative_and_sorted(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    found = sources("crosseai.fusion")
    assert found == sorted(found)
    assert "crosseai/fusion.py" in found
    assert "crosseai/__init__.py" not in found


def test_several_modules_are_joined(monkeypatch):
    monkeypatch.chdir(ROOT)
    both = sources("crosseai.fusion", "crosseai.labels")
    assert both == sorted({*sources("crosseai.fusion"), "crosseai/labels.py"})


def test_unknown_module():
    with pytest.raises(ModuleNotFoundError, match=r"crosseai\.fusoin"):
        sources("crosseai.fusoin")
