"""Training, validation and test parts that no patient crosses."""

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import pandas as pd

from crosseai.errors import InputError

__all__ = ["share_boxes", "split_by_patient"]

_KINDS = ("official", "random", "kfold")
_PARTS = np.array(["train", "validation", "test"], object)


def split_by_patient(
    records: pd.DataFrame,
    boxes: pd.DataFrame,
    kind: str,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    folds: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Divide the images by patient.

    ``random``
        Patients are shuffled and cut where their images come nearest to `fractions`.
    ``official``
        The release's lists: test is the test list, which must hold every image with a box;
        validation is cut by patient from train_val, fractions[1] / (fractions[0] + fractions[1])
        of its images.
    ``kfold``
        Every image is tested once, in one of `folds` folds with about as many images, and images
        with boxes, each. In each fold, validation is fractions[1] of the images not tested, cut
        by patient.

    The result depends on the seed and on what the tables hold, not on the order of their rows.

    Parameters
    ----------
    records, boxes : DataFrame
        `crosseai.tables.RECORDS` and `crosseai.tables.BOXES`.
    kind : {"official", "random", "kfold"}
    fractions : sequence of three float
        Shares of the images for training, validation and test; they add up to 1. Every part with
        a share gets at least one patient.
    folds : int
        At least 2, at most the number of patients; for ``kfold`` alone.
    seed : int

    Returns
    -------
    DataFrame
        `crosseai.tables.SPLIT`, ordered by fold and image: one row an image and fold. All kinds
        but ``kfold`` have the one fold 0.

    Raises
    ------
    InputError
        If a setting is out of range, if there are too few patients, or if the official lists are
        missing, share a patient, or keep an image with a box for training.
    """
    if kind not in _KINDS:
        closest = get_close_matches(str(kind), _KINDS, 1)
        hint = f"did you mean '{closest[0]}'? " if closest else ""
        raise InputError(f"split.kind: '{kind}' is unknown; {hint}Known: {', '.join(_KINDS)}")
    _check_fractions(fractions)
    rng = np.random.default_rng(seed)
    records = records.sort_values("image", ignore_index=True)
    boxed = records["image"].isin(boxes["image"])
    if kind == "random":
        parts = [_random(records["patient"], fractions, rng)]
    elif kind == "official":
        parts = [_official(records, boxed, fractions, rng)]
    else:
        parts = _kfold(records["patient"], boxed, fractions[1], folds, rng)
    return pd.concat(
        [
            pd.DataFrame({"image": records["image"], "part": _PARTS[part], "fold": np.int32(fold)})
            for fold, part in enumerate(parts)
        ],
        ignore_index=True,
    )


def share_boxes(
    split: pd.DataFrame,
    records: pd.DataFrame,
    boxes: pd.DataFrame,
    box_folds: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Divide the tested images anew, for a classifier whose training sees boxes.

    The tested patients are dealt to folds. Each fold tests its own and adds the other folds'
    images with boxes to the training part; their images without a box it leaves out. All else
    stays where it is.

    Parameters
    ----------
    split : DataFrame
        `crosseai.tables.SPLIT` of one fold.
    records, boxes : DataFrame
    box_folds : int
        At least 2; of 5, each classifier sees 80 % of the boxes.
    seed : int

    Returns
    -------
    DataFrame
        `crosseai.tables.SPLIT`.

    Raises
    ------
    InputError
        If `split` has several folds, which share their boxes already, or there are fewer patients
        with boxes than folds.
    """
    if split["fold"].nunique() != 1:
        raise InputError("split: its folds share their boxes already; use it as it is")
    images = np.sort(split.loc[split["part"] == "test", "image"])
    boxed = np.isin(images, boxes["image"])  # [N]
    patients = records.set_index("image")["patient"].loc[images]
    names, owner, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    with_box = np.bincount(owner, boxed, len(names))  # [P]
    if not 2 <= box_folds <= (with_box > 0).sum():
        raise InputError(
            f"split.box_folds: {box_folds}, must be at least 2 and at most the "
            f"{(with_box > 0).sum()} patients with boxes on tested images"
        )
    fold = _deal(with_box, sizes, box_folds, np.random.default_rng(seed))[owner]  # [N]
    others = split[split["part"] != "test"]
    parts = []
    for test in range(box_folds):
        part = np.where(fold == test, "test", "train")
        kept = boxed | (fold == test)
        rows = pd.concat([others, pd.DataFrame({"image": images[kept], "part": part[kept]})])
        parts.append(rows.assign(fold=np.int32(test)).sort_values("image"))
    return pd.concat(parts, ignore_index=True)


def _check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] == 0:
        raise InputError(
            f"split.fractions: {list(fractions)}, must be three shares, of training, validation "
            "and test, none below 0 and training above it"
        )
    total = sum(fractions)
    if not abs(total - 1) < 1e-6:
        terms = " + ".join(f"{fraction:g}" for fraction in fractions)
        raise InputError(f"split.fractions: {terms} = {total:g}, must add up to 1")


def _random(
    patients: pd.Series, fractions: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Part of every image, by cutting the shuffled patients; int [N], an index into `_PARTS`."""
    names, owner, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    part = np.empty(len(names), int)
    part[order] = _cut(sizes[order], fractions)
    return part[owner]


def _cut(sizes: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Cut a row of patients where the shares of their images are nearest to `fractions`.

    Every part with a share gets a patient.

    Parameters
    ----------
    sizes : int [P]
        Images of each patient.
    fractions : sequence of float
        Share of each part; they add up to 1.

    Returns
    -------
    int [P]
        Index of each patient's part, ascending.
    """
    wanted = np.asarray(fractions) > 0
    if len(sizes) < wanted.sum():
        raise InputError(
            f"split: too few patients to cut into {wanted.sum()} parts, {len(sizes)}; add patients "
            "or use other settings under split"
        )
    share = np.concatenate([[0], np.cumsum(sizes) / np.sum(sizes)])  # [P + 1], before patient p
    ends = [0]
    for part, target in enumerate(np.cumsum(fractions)[:-1]):
        nearest = np.abs(share - target).argmin()
        last = len(sizes) - wanted[part + 1 :].sum()
        ends.append(np.clip(nearest, ends[-1] + wanted[part], last))
    return np.repeat(np.arange(len(fractions)), np.diff([*ends, len(sizes)]))


def _official(
    records: pd.DataFrame, boxed: pd.Series, fractions: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Part of every image by the release's lists; int [N]."""
    official, patients = records["official"], records["patient"]
    training = official == "train_val"
    test = official == "test"
    if not training.any() or not test.any():
        raise InputError(
            "split.kind: 'official' needs train_val_list.txt and test_list.txt, each with images "
            "of the release; add the lists or use 'random' or 'kfold'"
        )
    for wrong, what in [
        (~training & ~test, "is in neither official list; add it to one"),
        (training & boxed, "has a box but lies in train_val_list.txt; move it to test_list.txt"),
        (
            training & patients.isin(patients[test]),
            "lies in train_val_list.txt and other images of the patient in test_list.txt; "
            "keep the patient in one list",
        ),
    ]:
        if wrong.any():
            image, patient = records.loc[wrong.idxmax(), ["image", "patient"]]
            raise InputError(
                f"split.kind: 'official', image {image} of patient {patient} {what}, or use "
                f"'random' or 'kfold' ({wrong.sum()} such images)"
            )
    train, validation, _ = fractions
    both = train + validation
    part = np.full(len(records), 2)
    part[training] = _random(patients[training], (train / both, validation / both), rng)
    return part


def _kfold(
    patients: pd.Series, boxed: pd.Series, validation: float, folds: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Part of every image in every fold; folds x int [N]."""
    names, owner, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    if not 2 <= folds <= len(names):
        raise InputError(
            f"split.folds: {folds}, must be at least 2 and at most the {len(names)} patients"
        )
    fold = _deal(np.bincount(owner, boxed, len(names)), sizes, folds, rng)[owner]  # [N]
    parts = []
    for test in range(folds):
        rest = fold != test
        part = np.full(len(patients), 2)
        part[rest] = _random(patients[rest], (1 - validation, validation), rng)
        parts.append(part)
    return parts


def _deal(boxed: np.ndarray, sizes: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal patients to folds, those with most boxed images first, each to the emptiest fold.

    Parameters
    ----------
    boxed, sizes : int [P]
        Images with boxes, and images, of each patient.
    folds : int
    rng : Generator
        Shuffles patients that are alike.

    Returns
    -------
    int [P]
        Fold of each patient. No fold is empty if there are as many patients.
    """
    order = rng.permutation(len(sizes))
    order = order[np.lexsort((sizes[order], boxed[order]))[::-1]]
    fold = np.empty(len(sizes), int)
    held_boxed = [0.0] * folds
    held_sizes = [0] * folds
    for patient in order:
        if boxed[patient]:
            k = min(range(folds), key=lambda k: (held_boxed[k], held_sizes[k]))
        else:
            k = min(range(folds), key=held_sizes.__getitem__)
        fold[patient] = k
        held_boxed[k] += boxed[patient]
        held_sizes[k] += sizes[patient]
    return fold
