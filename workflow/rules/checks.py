"""Checks of the configuration before any job runs: each error is one line with its mend."""

import json
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from functools import reduce
from operator import getitem
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, ValidationError

from crosseai.errors import InputError
from crosseai.labels import CHESTX_RAY8

__all__ = ["SCHEMA", "check_schema", "check_values", "known_keys"]

SCHEMA = yaml.safe_load(
    (Path(__file__).parents[1] / "schemas/config.schema.yaml").read_text(encoding="utf-8")
)

#: Classifiers that make maps of their own and pool none; a test compares this with the classes.
MAKE_MAPS = {"supervision"}


def check_schema(config: dict) -> None:
    """Check keys, types and ranges.

    Text where the schema wants a number or a truth value is first replaced by what it says:
    Snakemake gives all of ``--config 'images={size: 64}'`` as text, and YAML 1e-4.

    Raises
    ------
    InputError
    """
    validator = Draft202012Validator(SCHEMA)
    for error in list(validator.iter_errors(config)):
        if error.validator in ("type", "enum") and isinstance(error.instance, str):
            *above, key = error.absolute_path
            with suppress(ValueError):
                reduce(getitem, above, config)[key] = json.loads(error.instance)
    errors = validator.iter_errors(config)
    # A wrong value also makes its key count as unevaluated: the value is what to tell.
    error = min(errors, key=lambda error: error.validator == "unevaluatedProperties", default=None)
    if error is not None:
        raise InputError(_describe(error))


def check_values(config: dict) -> None:
    """Check what no schema can: names that belong together, sums and paths.

    Raises
    ------
    InputError
    """
    release = config["release"]
    if release["kind"] == "phantom":
        for label in config["labels"]:
            _check_known("labels", label, CHESTX_RAY8)
    elif release["path"] is None:
        raise InputError(
            "release.path: not set; give the folder of the NIH release, "
            "as in --config 'release={path: /data/nih}'"
        )
    elif not Path(release["path"]).is_dir():
        raise InputError(f"release.path: {release['path']}: no such folder; correct the path")
    fractions = config["split"]["fractions"]
    if not abs(sum(fractions) - 1) < 1e-6:
        terms = " + ".join(f"{fraction:g}" for fraction in fractions)
        raise InputError(f"split.fractions: {terms} = {sum(fractions):g}; must add up to 1")
    for name in config["table"]:
        _check_known("table", name, config["methods"])
        method = config["methods"][name]
        where = f"methods.{name}"
        _check_known(f"{where}.model", method["model"], config["models"])
        _check_known(f"{where}.box", method["box"], config["boxes"])
        for part in [method["map"]] if isinstance(method["map"], str) else method["map"]:
            _check_known(f"{where}.map", part, config["maps"])
            classifier = config["models"][method["model"]]["classifier"]
            _check_map(f"{where}.map", part, config["maps"][part]["kind"], classifier)
        _check_select(f"{where}.select", method, config["boxes"][method["box"]]["rule"])
        weights = config["models"][method["model"]]["weights"]
        if weights is not None and not Path(weights).is_file():
            raise InputError(
                f"models.{method['model']}.weights: {weights}: no such file; correct the path"
            )


def known_keys(schema: dict, instance: dict) -> list[str]:
    """Names of the properties that `schema` gives to `instance`."""
    names = list(schema.get("properties", ()))
    for branch in schema.get("allOf", ()):
        if Draft202012Validator(branch["if"]).is_valid(instance):
            names += branch["then"]["properties"]
    return names


def _describe(error: ValidationError) -> str:
    where = ".".join(map(str, error.absolute_path))
    if error.validator in ("additionalProperties", "unevaluatedProperties"):
        known = known_keys(error.schema, error.instance)
        key = next(key for key in error.instance if key not in known)
        place = f"{where}: " if where else ""
        return f'{place}unknown key "{key}"; {_suggest(key, known)}'
    if error.validator == "enum":
        suggestion = _suggest(error.instance, error.validator_value)
        return f'{where}: "{error.instance}" is unknown; {suggestion}'
    meaning = error.schema.get("description", "")
    return f"{where}: {' '.join(error.message.split())}. {meaning}"


def _check_known(where: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InputError(f'{where}: "{name}" is unknown; {_suggest(name, known)}')


def _check_map(where: str, name: str, kind: str, classifier: str) -> None:
    if kind in ("own", "cam") and (kind == "own") != (classifier in MAKE_MAPS):
        other = "own" if kind == "cam" else "cam or grad_cam_plus_plus"
        raise InputError(
            f"{where}: {name} is of the kind {kind}, which the classifier {classifier} does not "
            f"go with; choose a map of the kind {other}"
        )


def _check_select(where: str, method: dict, rule: str) -> None:
    chosen = {key for key in ("t", "threshold", "smoothing", "candidates") if method["select"][key]}
    if chosen and rule != "rectangles":
        raise InputError(f'{where}: needs a box of the rule rectangles, not "{rule}"')
    if "t" in chosen and isinstance(method["map"], str):
        raise InputError(f"{where}.t: the method fuses nothing; give two maps or leave it out")


def _suggest(name: object, known: Iterable[object]) -> str:
    """What to write instead: the closest name, or else all."""
    known = list(map(str, known))
    close = get_close_matches(str(name), known, 1)
    return f'did you mean "{close[0]}"?' if close else f"choose from {', '.join(known)}"
