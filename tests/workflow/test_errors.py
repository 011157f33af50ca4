"""Bad input: one clear line and exit code 1, before hours of work."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from snakemake.utils import update_config, validate

from crosseai.errors import InputError

ROOT = Path(__file__).parents[2]

#: Configuration merged into the default, what is said.
CASES = {
    "misspelt key": (
        {"models": {"scalp": {"backbnoe": "resnet18"}}},
        'models.scalp: unknown key "backbnoe"; did you mean "backbone"?',
    ),
    "unknown label": ({"labels": ["Mas"]}, '"Mas" is unknown; did you mean "Mass"?'),
    "fractions": (
        {"split": {"fractions": [0.7, 0.2, 0.2]}},
        "split.fractions: 0.7 + 0.2 + 0.2 = 1.1; must add up to 1",
    ),
    "no release": (
        {"release": {"kind": "nih", "path": "nowhere"}},
        "release.path: nowhere: no such folder",
    ),
}

#: The same for errors that the same lines print.
MORE = {
    "misspelt key at the top": (
        {"explane": "all"},
        'unknown key "explane"; did you mean "explain"?',
    ),
    "key of another kind": (
        {"maps": {"guided_backprop": {"layer": "layer4"}}},
        'maps.guided_backprop: unknown key "layer"; '
        "choose from kind, target, batch, precision, reduction",
    ),
    "unknown choice": (
        {"split": {"kind": "kfolds"}},
        'split.kind: "kfolds" is unknown; did you mean "kfold"?',
    ),
    "wrong type": ({"split": "kfold"}, "split: 'kfold' is not of type 'object'"),
    "out of range": ({"t": 1.5}, "t: 1.5 is greater than the maximum of 1"),
    "wrong value beside its neighbours": (
        {"models": {"scalp": {"negatives": 0}}},
        "models.scalp.negatives: 0 is less than the minimum of 2",
    ),
    "label that no phantom has": ({"labels": ["Edema"]}, 'labels: "Edema" is unknown'),
    "release not named": ({"release": {"kind": "nih"}}, "release.path: not set"),
    "no weights": (
        {"models": {"scalp": {"weights": "nowhere.safetensors"}}},
        "models.scalp.weights: nowhere.safetensors: no such file",
    ),
    "unknown method": ({"table": ["croseai"]}, '"croseai" is unknown; did you mean "crosseai"?'),
    "unknown model": (
        {"methods": {"scalp": {"model": "sclap"}}},
        'methods.scalp.model: "sclap" is unknown; did you mean "scalp"?',
    ),
    "unknown map": (
        {"methods": {"scalp": {"map": "grad_cam"}}},
        'methods.scalp.map: "grad_cam" is unknown; did you mean "grad_cam_plus_plus"?',
    ),
    "own map of a classifier that makes none": (
        {"methods": {"scalp": {"map": "patches"}}},
        "methods.scalp.map: patches is of the kind own, which the classifier scalp does",
    ),
    "class activation map of patches": (
        {"methods": {"supervision": {"map": "cam"}}, "table": ["supervision"]},
        "methods.supervision.map: cam is of the kind cam, which the classifier supervision does",
    ),
    "unknown box rule": (
        {"methods": {"scalp": {"box": "rectangle"}}},
        'methods.scalp.box: "rectangle" is unknown; did you mean "rectangles"?',
    ),
    "choice of what only Algorithm 1 has": (
        {
            "boxes": {"round": {"rule": "regions"}},
            "methods": {"crosseai": {"box": "round", "select": {"candidates": [1, 5]}}},
        },
        'methods.crosseai.select: needs a box of the rule rectangles, not "regions"',
    ),
    "choice of a fusion weight without a fusion": (
        {"methods": {"scalp": {"select": {"t": [0.1, 0.9]}}}},
        "methods.scalp.select.t: the method fuses nothing",
    ),
    "fusion of one": (
        {"methods": {"crosseai": {"map": ["guided_backprop"]}}},
        "methods.crosseai.map: ['guided_backprop'] is too short",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_configuration(fresh, case):
    changes, message = CASES[case]
    done = fresh.snakemake("--cores", "1", **changes)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert line.startswith("crosseai: error: ")
    assert message in line
    assert "Traceback" not in done.stderr
    assert not (fresh.folder / "results").exists()


def check(monkeypatch, changes: dict) -> dict:
    """Check the default configuration with `changes`, as the Snakefile does."""
    monkeypatch.syspath_prepend(ROOT / "workflow/rules")
    checks = import_module("checks")
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, changes)
    checks.check_schema(config)
    validate(config, str(ROOT / "workflow/schemas/config.schema.yaml"))
    checks.check_values(config)
    return config


@pytest.mark.parametrize("case", MORE)
def test_message(monkeypatch, case):
    changes, message = MORE[case]
    with pytest.raises(InputError) as error:
        check(monkeypatch, changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_text_from_the_command_line_becomes_numbers(monkeypatch):
    changes = {
        "models": {"scalp": {"weight_decay": "1e-4", "flip": "false", "output_stride": "16"}},
        "split": {"fractions": ["0.5", "0.25", "0.25"]},
        "run": "7",
    }
    config = check(monkeypatch, changes)
    scalp = config["models"]["scalp"]
    assert (scalp["weight_decay"], scalp["flip"], scalp["output_stride"]) == (1e-4, False, 16)
    assert config["split"]["fractions"] == [0.5, 0.25, 0.25]
    assert config["run"] == "7"


def test_weights_of_another_network(fresh):
    save_file({"conv1.weight": torch.zeros(5, 3, 7, 7)}, fresh.folder / "wrong.safetensors")
    done = fresh.snakemake("--cores", "1", models={"scalp": {"weights": "wrong.safetensors"}})
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "crosseai: error" in line]
    assert "wrong.safetensors: weights of another network: 'conv1.weight'" in line
    assert "Traceback" not in done.stderr
    assert not (fresh.folder / "results/tiny/data").exists()
