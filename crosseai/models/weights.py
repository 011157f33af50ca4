"""Weights as safetensors: initial ones under torchvision's names, trained ones with all they need.

Nothing is unpickled: safetensors holds numbers and text.
"""

import hashlib
import json
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from crosseai.errors import InputError
from crosseai.files import replacing
from crosseai.models import build

__all__ = ["digest", "initialise", "load", "save"]

log = logging.getLogger(__name__)


def initialise(model: nn.Module, path: str | os.PathLike) -> list[str]:
    """Fill the backbone of `model` from a file under torchvision's parameter names.

    The file may be complete or partial, with or without the classification layer, which is not
    used. What it lacks stays as it was built.

    Parameters
    ----------
    model : nn.Module
        Its ``features`` are filled.
    path : path-like
        A safetensors file.

    Returns
    -------
    list of str
        Names of the backbone's parameters that the file lacks, which stay to be learned.

    Raises
    ------
    InputError
        If the file is missing or unreadable, or belongs to another network: a parameter that the
        backbone does not have, a shape that differs, or none that it knows.
    """
    given = {
        name.removeprefix("features."): tensor
        for name, tensor in read_tensors(path)[0].items()
        if not name.startswith(("fc.", "classifier."))
    }
    own = model.features.state_dict()
    for name, tensor in given.items():
        if name not in own:
            raise InputError(
                f"{path}: weights of another network: it has {name!r}, the backbone has not; "
                "set backbone and weights so that they match"
            )
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{path}: weights of another network: {name!r} has shape {tuple(tensor.shape)}, "
                f"the backbone's is {tuple(own[name].shape)}; set backbone and weights to match"
            )
    if not given:
        raise InputError(f"{path}: no parameter of the backbone; set weights to its own file")
    model.features.load_state_dict(given, strict=False)
    missing = [name for name, _ in model.features.named_parameters() if name not in given]
    stages = dict.fromkeys(
        "attention" if "attention" in name else name.split(".")[0] for name in missing
    )
    log.info(
        "%s: %d tensors read; to be learned: %s",
        path,
        len(given),
        ", ".join([*stages, "the classification layer"]),
    )
    return missing


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such weights file; check the key weights")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def save(model: nn.Module, description: dict, path: str | os.PathLike) -> None:
    """Write a trained model.

    Parameters
    ----------
    model : nn.Module
    description : dict
        `classifier`, `labels` and `settings` as `build` takes them, `size` of the input in pixels,
        `mean` and `std` of its normalisation. Kept in the file, so that it explains itself.
    path : path-like
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"crosseai": json.dumps(description, sort_keys=True)})


def load(path: str | os.PathLike) -> tuple[nn.Module, dict]:
    """Read a trained model and its description; the model is in evaluation mode.

    Raises
    ------
    InputError
        If the file is not a model that `save` wrote.
    """
    tensors, metadata = read_tensors(path)
    if "crosseai" not in metadata:
        raise InputError(f"{path}: no model of this program; give a weights.safetensors of a run")
    description = json.loads(metadata["crosseai"])
    model = build(description["classifier"], description["labels"], **description["settings"])
    model.load_state_dict(tensors)
    return model.eval(), description


def digest(path: str | os.PathLike) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
