"""The stage: maps of one shard of images, each explained by the fold that did not train on it."""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from crosseai import mapstore, tables
from crosseai.errors import InputError
from crosseai.imagestore import ImageStore
from crosseai.maps.against_black import integrated_gradients, layer_conductance, lime
from crosseai.maps.cam import cam, grad_cam, grad_cam_plus_plus
from crosseai.maps.folding import folded
from crosseai.maps.guided import deconvnet, guided_backprop
from crosseai.maps.own import own
from crosseai.models import weights
from crosseai.models.augmentation import normalise

__all__ = ["MAPS", "ahead", "attribute"]

log = logging.getLogger(__name__)
Item = TypeVar("Item")

#: A map takes (model, images [N, 3, H, W], classes [N, C], **settings) and gives [N, C, h, w].
MAPS = {
    method.__name__: method
    for method in (
        cam,
        grad_cam,
        grad_cam_plus_plus,
        guided_backprop,
        deconvnet,
        integrated_gradients,
        layer_conductance,
        lime,
        own,
    )
}


def attribute(
    models: Sequence[str | os.PathLike],
    split: str | os.PathLike,
    boxes: str | os.PathLike,
    shard: str | os.PathLike,
    out: str | os.PathLike,
    kind: str,
    settings: dict,
    target: str = "label",
    explain: str = "boxed",
    score: str = "test",
    batch: int | None = None,
    precision: str = "auto",
    threads: int = 2,
) -> None:
    """Explain the images of one shard and write their maps.

    Parameters
    ----------
    models : sequence of path-like
        The weights of all folds.
    split, boxes : path-like
        Tables of the run.
    shard : path-like
        One shard of the image cache.
    out : path-like
        The map file.
    kind : str
        One of `MAPS`.
    settings : dict
        The map's own.
    target : {"label", "argmax"}
        What a label's map explains: its own logit, or the image's highest, whichever label that
        is of, as SCALP's published code does.
    explain : {"boxed", "all"}
        The images and labels that have a box, or all.
    score : {"test", "all"}
        Only images of a fold's test part, or also those that the model trained on.
    batch : int, optional
        Images explained at once; 8 on a CPU and 64 on a GPU if not given.
    precision : {"auto", "32-true", "bf16-mixed"}
        Of the network's passes, forward and back; "auto" is "bf16-mixed" on a GPU and else
        "32-true".
    threads : int
    """
    if kind not in MAPS:
        raise InputError(f"maps: kind {kind!r} is unknown; choose one of {tuple(MAPS)}")
    for setting, value, known in [
        ("target", target, ("label", "argmax")),
        ("explain", explain, ("boxed", "all")),
        ("score", score, ("test", "all")),
        ("precision", precision, ("auto", "32-true", "bf16-mixed")),
    ]:
        if value not in known:
            raise InputError(f"{setting}: {value!r} is unknown; choose one of {known}")
    if settings.get("reduction") == "none":
        raise InputError("reduction: 'none' gives no map to store; choose max or sum")
    if not models:
        raise InputError("models: none given; name the weights of every fold")
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = batch or (64 if device.type == "cuda" else 8)
    mixed = precision == "bf16-mixed" or (precision == "auto" and device.type == "cuda")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=mixed)
    loaded = {}
    for path in models:
        model, description = weights.load(path)
        model.features = folded(model.features)
        model.forward = autocast(model.forward)
        loaded[description["fold"]] = (
            model.to(device, memory_format=torch.channels_last),
            description,
            weights.digest(path),
        )
    labels = description["labels"]
    store = ImageStore([shard])
    wanted = wanted_maps(
        store.images,
        labels,
        tables.read(boxes, tables.BOXES),
        tables.read(split, tables.SPLIT),
        explain,
        score,
    )
    images, folds = list(wanted), [fold for fold, _ in wanted.values()]
    missing = sorted(set(folds) - set(loaded))
    if missing:
        raise InputError(f"models: no weights of fold {missing[0]}; train it first")

    def batches() -> Iterator[tuple[int, list[int], torch.Tensor]]:
        """The fold, the rows of its images, and their pixels [n, H, W]."""
        for fold in sorted(set(folds)):
            # As many classes an image in a batch, so that no backward pass is spent on padding.
            rows = [row for row, own in enumerate(folds) if own == fold]
            rows.sort(key=lambda row: len(wanted[images[row]][1]))
            for start in range(0, len(rows), batch):
                part = rows[start : start + batch]
                pixels = np.stack([store.read(images[row]) for row in part])
                yield fold, part, torch.from_numpy(pixels)

    def explained() -> Iterator[tuple[list[int], list[list[int]], np.ndarray]]:
        """Rows of some images, their classes, and their maps [n, C, h, w]."""
        progress = tqdm(total=len(images), desc=kind, unit="image", disable=None)
        for fold, rows, pixels in ahead(batches()):
            model, description, _ = loaded[fold]
            asked = [wanted[images[row]][1] for row in rows]
            inputs = normalise(pixels.to(device), description["mean"], description["std"])
            classes = padded(asked) if target == "label" else highest(model, inputs)
            maps = MAPS[kind](model, inputs, classes, **settings)
            yield rows, asked, maps.float().cpu().numpy()
            progress.update(len(rows))
        progress.close()

    # The file is written while the next maps are made.
    maps = (
        (row, column, values)
        for rows, asked, made in ahead(explained())
        for row, columns, found in zip(rows, asked, made, strict=True)
        # The one map of the highest logit stands for every label.
        for column, values in zip(columns, cycle(found), strict=False)
    )
    first = next(maps, None)
    mapstore.write(
        out,
        images,
        labels,
        chain([first], maps) if first else (),
        first[2].shape if first else (1, 1),
        folds,
        [loaded[fold][2] for fold in folds],
        {
            "kind": kind,
            "target": target,
            **{name: value for name, value in settings.items() if value is not None},
        },
    )
    log.info("%s: %d images explained", out, len(images))


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Give the items of an iterable, which a thread of its own takes two ahead."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, items, end) for _ in range(2))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, items, end))
            yield item


def wanted_maps(
    images: Sequence[str],
    labels: Sequence[str],
    boxes: pd.DataFrame,
    split: pd.DataFrame,
    explain: str,
    score: str,
) -> dict[str, tuple[int, list[int]]]:
    """For each image to explain: the fold that explains it and its classes, in order."""
    tested = split[split.part == "test"]
    fold = dict(zip(split.image, split.fold, strict=True)) if score == "all" else {}
    fold.update(zip(tested.image, tested.fold, strict=True))
    boxed = boxes.groupby("image").label.agg(set).to_dict()
    wanted = {}
    for image in images:
        asked = labels if explain == "all" else boxed.get(image, ())
        columns = [column for column, label in enumerate(labels) if label in asked]
        if columns and image in fold:
            wanted[image] = (int(fold[image]), columns)
    return wanted


def padded(rows: list[list[int]]) -> torch.Tensor:
    """Make lists of classes a rectangle, int [N, C], by repeating each one's last entry."""
    longest = max(map(len, rows))
    return torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])


@torch.no_grad()
def highest(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Class of the highest logit of each image, int [N, 1]."""
    return model(inputs).argmax(1, keepdim=True)
