"""Lint, format, and configuration files that agree with the schema and with each other."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def tool(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    if not path.exists() and "CI" not in os.environ:
        pytest.skip(f"{name} is not installed")
    return str(path)


def test_snakemake_lint():
    done = subprocess.run([tool("snakemake"), "--lint"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_snakefmt():
    done = subprocess.run(
        [tool("snakefmt"), "--check", "Snakefile", "workflow"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def properties(schema: dict, required: tuple = ()):
    """Every key of the schema: name, its schema, whether it must be given."""
    for name, own in schema.get("properties", {}).items():
        if "const" not in own:
            yield name, own, name in schema.get("required", required)
            yield from properties(own)
    below = [schema.get("additionalProperties"), schema.get("items"), schema.get("then")]
    for own in [*below, *schema.get("allOf", ())]:
        if isinstance(own, dict):
            yield from properties(own)


def test_every_key_has_a_description_and_a_default():
    keys = list(properties(SCHEMA))
    assert len(keys) > 60
    for name, own, required in keys:
        assert own.get("description"), name
        assert required or "default" in own, name


def test_every_mapping_is_closed():
    def mappings(schema):
        if isinstance(schema, dict):
            if schema.get("type") == "object":
                yield schema
            for own in schema.values():
                yield from mappings(own)
        elif isinstance(schema, list):
            for own in schema:
                yield from mappings(own)

    for schema in mappings(SCHEMA):
        named = isinstance(schema.get("additionalProperties"), dict)  # names of one's choice
        closed = False in (
            schema.get("additionalProperties"),
            schema.get("unevaluatedProperties"),
        )
        assert named or closed, schema.get("description")


@pytest.mark.parametrize("path", [ROOT / "config.yaml", *sorted(ROOT.glob("config/*.yaml"))])
def test_configuration_fits_the_schema(path):
    Draft202012Validator(SCHEMA).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.yaml")), ids=lambda path: path.name)
def test_nothing_of_the_default_slips_into_another_run(path):
    own = yaml.safe_load(path.read_text())
    assert own["run"] != DEFAULT["run"]
    assert own["release"]["kind"] == "nih"
    for section in ("split", "images"):
        assert DEFAULT[section].keys() <= own[section].keys()
    for name, settings in own["models"].items():
        assert DEFAULT["models"].get(name, {}).keys() <= settings.keys()


def test_environment_asks_for_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {"matplotlib": "matplotlib-base", "torch": "pytorch"}
    wanted = {f"python {project['requires-python']}"}
    for requirement in project["dependencies"]:
        name, bound = requirement.split(">=")
        wanted.add(f"{names.get(name, name)} >={bound}")
    environment = yaml.safe_load((ROOT / "envs/crosseai.yaml").read_text())
    assert set(environment["dependencies"]) == wanted
    assert environment["channels"] == ["conda-forge", "nodefaults"]
