"""The command line: what it shows, what it passes on, how it ends."""

import inspect
import json
import subprocess
import sys
from dataclasses import fields
from functools import wraps
from pathlib import Path

import click
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import save_file

from crosseai import __version__, cli
from crosseai.boxes.stage import find
from crosseai.models import CLASSIFIERS
from crosseai.models.training import Settings

SCHEMA = yaml.safe_load(
    (Path(__file__).parents[1] / "workflow/schemas/config.schema.yaml").read_text()
)["properties"]


def commands(group: click.Group = cli.main, above: tuple = ()):
    """Every command: its words and itself."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name), command


COMMANDS = {" ".join(words): command for words, command in commands()}


def run(*words: object):
    return CliRunner().invoke(cli.main, list(map(str, words)))


def defaults(name: str) -> dict:
    """Defaults of the options of a command; a list as a list."""
    context = click.Context(COMMANDS[name], info_name=name)
    return {
        option.name: list(option.default) if isinstance(option.default, tuple) else option.default
        for option in COMMANDS[name].get_params(context)
        if isinstance(option, click.Option) and not option.required and option.opts != ["--help"]
    }


def in_schema(schema: dict) -> dict:
    """Defaults of the keys of a part of the schema, those of all kinds together."""
    found = {name: own["default"] for name, own in schema["properties"].items() if "default" in own}
    for branch in schema.get("allOf", ()):
        found |= in_schema(branch["then"])
    return found


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from crosseai.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'pandas', 'numpy', 'numba', 'matplotlib', 'h5py'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("phantom", "data", "weights", "train", "maps", "fuse", "boxes", "evaluate"):
        assert f"  {name} " in done.stdout


def test_version():
    assert __version__ in run("--version").output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name):
    shown = run(*name.split(), "--help")
    assert shown.exit_code == 0, shown.output
    assert f"  Example:\n    crosseai {name} " in shown.output
    context = click.Context(COMMANDS[name])
    for parameter in COMMANDS[name].get_params(context):
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name


def test_example_lines_are_complete_commands():
    for name, command in COMMANDS.items():
        example = command.help.split("Example:")[1].replace("\\\n", " ").split()
        words = example[1 + len(name.split()) :]
        context = command.make_context(name, words, resilient_parsing=False)
        assert context.params


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("phantom", SCHEMA["release"]["properties"]["phantom"]),
        ("data records", SCHEMA["release"]),
        ("data records", {"properties": {"labels": SCHEMA["labels"]}}),
        ("data split", SCHEMA["split"]),
        ("data share-boxes", SCHEMA["split"]),
        ("maps", {"properties": {"explain": SCHEMA["explain"], "score": SCHEMA["score"]}}),
        ("maps", SCHEMA["maps"]["additionalProperties"]),
        ("fuse", {"properties": {"t": SCHEMA["t"]}}),
        ("boxes find", SCHEMA["boxes"]["additionalProperties"]),
        ("evaluate", {"properties": {"score": SCHEMA["score"]}}),
        ("evaluate", SCHEMA["evaluation"]),
        (
            "evaluate",
            {
                "properties": {
                    "draws": SCHEMA["controls"]["properties"]["draws"],
                    "folds": SCHEMA["controls"]["properties"]["folds"],
                    "control_seed": SCHEMA["controls"]["properties"]["seed"],
                }
            },
        ),
    ],
)
def test_defaults_are_the_schemas(name, schema):
    own, wanted = defaults(name), in_schema(schema)
    shared = own.keys() & wanted.keys()
    assert shared
    assert {key: own[key] for key in shared} == {key: wanted[key] for key in shared}
    if name in ("phantom", "data split", "boxes find"):
        assert wanted.keys() - own.keys() <= {"kind", "box_folds"}


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_training_has_the_keys_and_defaults_of_its_code(classifier):
    settings = {field.name: field.default for field in fields(Settings)}
    network = {
        name: parameter.default
        for name, parameter in inspect.signature(CLASSIFIERS[classifier]).parameters.items()
        if name != "labels"
    }
    schema = SCHEMA["models"]["additionalProperties"]
    (own,) = [
        b["then"]
        for b in schema["allOf"]
        if b["if"]["properties"]["classifier"]["const"] == classifier
    ]
    known = in_schema({"properties": schema["properties"]}) | in_schema(own)
    assert known == settings | network | {"classifier": "scalp"}
    assert settings.items() <= defaults("train").items()
    assert network.keys() <= defaults("train").keys()


def test_training_gets_what_was_given(monkeypatch):
    called = []
    monkeypatch.setattr("crosseai.models.training.train", lambda *values: called.append(values))
    done = run(
        *("train", "a.h5", "b.h5", "--records", "r", "--split", "s", "--fold", 3),
        *("--labels", "Mass,Nodule", "--out", "o", "--epochs", 2, "--no-flip"),
        *("--learning-rate", 0.5, "--stride-in-1x1", "--backbone", "densenet121"),
    )
    assert done.exit_code == 0, done.output
    ((records, split, shards, fold, labels, out, classifier, network, settings, boxes),) = called
    assert (records, split, shards, fold, out) == ("r", "s", ("a.h5", "b.h5"), 3, "o")
    assert (labels, classifier, boxes) == (("Mass", "Nodule"), "scalp", None)
    assert settings == Settings(epochs=2, flip=False, learning_rate=0.5)
    assert network["backbone"] == "densenet121"
    assert network["stride_in_1x1"] is True
    assert network["temperature"] == 0.5


def test_box_rule_gets_its_own_settings(monkeypatch):
    called = []

    @wraps(find)
    def record(*values, **settings):
        called.append(settings)

    monkeypatch.setattr("crosseai.boxes.stage.find", record)
    given = ("boxes", "find", "m", "--records", "r", "--out", "o", "--threshold", 0.5)
    common = {"threshold": 0.5, "threshold_of": "maximum", "smoothing": 0.0, "ranks": 10}
    assert run(*given, "--rule", "regions").exit_code == 0
    assert run(*given, "--rule", "levels", "--levels", "20,60", "--size", 9).exit_code == 0
    assert called == [common, common | {"levels": (20, 60), "size": 9}]
    refused = run(*given, "--rule", "contours", "--candidates", 3)
    assert refused.exit_code == 2
    assert "--candidates is no setting" in refused.output


def test_setting_of_another_kind_is_refused():
    done = run(
        *("maps", "w", "--kind", "grad_cam_plus_plus", "--reduction", "sum", "--images", "i"),
        *("--split", "s", "--boxes", "b", "--out", "o"),
    )
    assert done.exit_code == 2
    assert "--reduction is no setting of grad_cam_plus_plus" in done.output


def test_pairs_keep_their_order(monkeypatch):
    called = []
    monkeypatch.setattr(
        "crosseai.evaluation.stage.evaluate", lambda *values, **settings: called.append(values)
    )
    given = ("evaluate", "--records", "r", "--boxes", "b", "--split", "s", "--out", "o")
    found = ("--found", "z=1.parquet", "--found", "a=2.parquet")
    folds = ("--predictions", "m=f0", "--predictions", "m=f1")
    assert run(*given, *found, *folds).exit_code == 0
    ((*_, methods, predictions, _out),) = called
    assert list(methods.items()) == [("z", "1.parquet"), ("a", "2.parquet")]
    assert predictions == {"m": ["f0", "f1"]}
    wrong = run(*given, "--found", "a")
    assert wrong.exit_code == 2
    assert "'a' is not NAME=PATH" in wrong.output


def test_from_release_to_cache(tmp_path):
    release, data = tmp_path / "release", tmp_path / "data"
    tables = ("--records", data / "records.parquet")
    boxes = ("--boxes", data / "boxes.parquet")
    cut = ("--kind", "random", "--fractions", "0.4,0.3,0.3")
    for words in [
        ("phantom", release, "--images", 12, "--size", 32, "--seed", 3),
        ("data", "records", release, "--out", data, "--labels", "Mass,Effusion"),
        ("data", "split", *tables, *boxes, *cut, "--out", data / "split.parquet"),
        ("data", "images", release, *tables, "--size", 32, "--out", data / "0.h5"),
    ]:
        done = run(*words)
        assert done.exit_code == 0, done.output
    records = pd.read_parquet(data / "records.parquet")
    assert len(records) == 12
    assert set(records["labels"].explode().dropna()) <= {"Mass", "Effusion"}
    assert set(pd.read_parquet(data / "split.parquet")["part"]) == {"train", "validation", "test"}
    assert (data / "0.h5").stat().st_size > 12 * 32 * 32


def test_no_printed_figure_stands_beside_a_phantom_s(tmp_path, monkeypatch):
    release = tmp_path / "release"
    assert run("phantom", release, "--images", 4, "--size", 48).exit_code == 0
    config = {"release": {"kind": "nih", "path": str(release)}, "report": {"panels": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    seen = []
    monkeypatch.setattr("crosseai.report.page.report", lambda *words: seen.append(words[2]))
    assert run("report", tmp_path).exit_code == 0
    (release / "PHANTOM").unlink()
    assert run("report", tmp_path).exit_code == 0
    assert seen == [False, True]


def test_weights_are_told(tmp_path):
    file, out = tmp_path / "some.safetensors", tmp_path / "report.json"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file)
    assert run("weights", file, "--backbone", "resnet18", "--out", out).exit_code == 0
    report = json.loads(out.read_text())
    assert report["file"] == str(file)
    assert report["read"] == ["conv1.weight"]
    assert "bn1.weight" in report["to_learn"]
    frozen = run("weights", file, "--backbone", "resnet18", "--freeze-until", "layer1")
    assert frozen.exit_code == 1
    assert "freeze_until: " in frozen.stderr
    wrong = run("weights", file, "--backbone", "densenet121")
    assert wrong.exit_code == 1
    assert "weights of another network: it has 'conv1.weight'" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data", "records", "nowhere", "--out", "o"), "nowhere: no such release folder"),
        (("report", "nowhere"), "nowhere/config.json"),
        (("boxes", "gather", "nowhere.parquet", "--out", "o"), "nowhere.parquet: no such table"),
    ],
)
def test_bad_input_is_one_line(words, message):
    done = run(*words)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("crosseai: error: ")
    assert message in line
