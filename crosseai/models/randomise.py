"""Networks that have forgotten what they learned, from the top down to a chosen depth.

J. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018 (cascading randomisation).
"""

import logging
import os
import re

import numpy as np
import torch

from crosseai.errors import InputError
from crosseai.models import build, weights
from crosseai.models.classifier import Classifier

__all__ = ["DEPTHS", "forgotten", "randomise"]

log = logging.getLogger(__name__)

#: How far down from the logits: the head alone, down to and including a stage, everything. With
#: each the lowest stage that is made anew, where 0 is the stem.
DEPTHS = {"head": 5, "stage4": 4, "stage3": 3, "stage2": 2, "stage1": 1, "all": 0}

# Where a stage begins; what stands between two such names belongs to the one before, and what
# stands before the first is the stem.
_STAGE = re.compile(r"(?:layer|denseblock)(\d)")


def randomise(
    trained: str | os.PathLike, out: str | os.PathLike, depth: str = "all", seed: int = 0
) -> None:
    """Write a trained model with its weights above a depth made anew.

    They become what they are in a network that was just built: random parameters, and batch norms
    whose statistics are those of no data (mean 0, variance 1). Nothing below the depth changes.

    Parameters
    ----------
    trained : path-like
        ``weights.safetensors`` of a model.
    out : path-like
        The same of the new one.
    depth : str
        One of `DEPTHS`.
    seed : int
        Each fold draws weights of its own.

    Raises
    ------
    InputError
        If the depth is unknown.
    """
    model, description = weights.load(trained)
    # A seed apart from the training's: its first weights, of which the trained ones keep a trace,
    # must not come back.
    state = np.random.SeedSequence([seed, description["fold"]]).generate_state(1)
    torch.manual_seed(int(state[0]))
    new = build(description["classifier"], description["labels"], **description["settings"])
    names, fresh = forgotten(model, depth), new.state_dict()
    model.load_state_dict({name: fresh[name] for name in names}, strict=False)
    weights.save(model, description | {"randomised": depth, "randomised_seed": seed}, out)
    log.info("%s: %d of %d tensors made anew", out, len(names), len(fresh))


def forgotten(model: Classifier, depth: str) -> list[str]:
    """Names of the parameters and statistics that lie above a depth.

    Parameters
    ----------
    model : Classifier
        Its stages are those of ``model.features``; the rest is the head.
    depth : str
        One of `DEPTHS`.

    Returns
    -------
    list of str
    """
    if depth not in DEPTHS:
        raise InputError(f"depth: {depth!r} is unknown; choose one of {tuple(DEPTHS)}")
    stage, stage_of = 0, {}
    for name, _ in model.features.named_children():
        begins = _STAGE.fullmatch(name)
        stage = int(begins[1]) if begins else stage
        stage_of[name] = stage
    return [
        name
        for name in model.state_dict()
        if not name.startswith("features.") or stage_of[name.split(".")[1]] >= DEPTHS[depth]
    ]
