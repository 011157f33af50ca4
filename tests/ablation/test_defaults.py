"""The schema's defaults are the functions'."""

import inspect
from pathlib import Path

import yaml

from crosseai.ablation.curves import ablate
from crosseai.ablation.selection import select
from crosseai.models.randomise import DEPTHS, randomise

SCHEMA = yaml.safe_load(
    (Path(__file__).parents[2] / "workflow/schemas/config.schema.yaml").read_text()
)["properties"]


def defaults(function) -> dict:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def in_schema(section: dict) -> dict:
    return {name: own["default"] for name, own in section["properties"].items()}


def test_ablation():
    own, wanted = defaults(ablate), in_schema(SCHEMA["ablation"])
    for name in ("t", "threshold", "smoothing", "candidates"):
        assert list(own[f"{name}_values"]) == wanted[name]
    box = SCHEMA["boxes"]["additionalProperties"]
    common = in_schema(box) | in_schema(box["allOf"][0]["then"])
    for function in (ablate, select):
        for name, default in defaults(function).items():
            if name in common:
                assert default == common[name], name
        assert defaults(function)["t"] == SCHEMA["t"]["default"]
        assert defaults(function)["score"] == SCHEMA["score"]["default"]


def test_selection():
    own = defaults(select)
    wanted = in_schema(SCHEMA["methods"]["additionalProperties"]["properties"]["select"])
    for name in ("t", "threshold", "smoothing", "candidates"):
        assert own[f"{name}_values"] is wanted[name] is None
    assert (own["folds"], own["seed"]) == (wanted["folds"], wanted["seed"])


def test_sanity():
    section = SCHEMA["sanity"]["properties"]
    assert section["depths"]["items"]["enum"] == list(DEPTHS)
    assert section["seed"]["default"] == defaults(randomise)["seed"]
