"""Which images meet in a batch, so that every query finds a positive and its negatives there."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crosseai.errors import InputError

__all__ = ["Batch", "contrastive_batches", "patient_batches", "plain_batches"]


@dataclass(frozen=True)
class Batch:
    """Rows of the training set that are seen together.

    Attributes
    ----------
    image : ndarray [B] int
        Row of the training set.
    label : ndarray [B] int
        The label that the row was drawn for, or -1.
    group : ndarray [B] int
        Rows of one group share a label and are one another's negatives.
    """

    image: np.ndarray
    label: np.ndarray
    group: np.ndarray


def plain_batches(n: int, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Shuffle `n` images into batches of `size`; no label, no group."""
    order = rng.permutation(n)
    for start in range(0, n, size):
        image = order[start : start + size]
        yield Batch(image, np.full(len(image), -1), np.zeros(len(image), int))


def contrastive_batches(
    labels: np.ndarray,
    patients: np.ndarray,
    negatives: int,
    size: int,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Batches of queries, each followed by its positive, in groups that share a label.

    Every image is a query once an epoch. A query with several labels draws one of them, and is
    grouped with queries of the same label: ``negatives / 2 + 1`` queries and their positives, so
    that the rest of the group gives each query `negatives` negatives, less those of its own
    patient and less what a batch's border cuts off. Images without a label form groups of their
    own, whose rows count for the classification alone. Grouping costs no image that the
    classification does not also learn from.

    Parameters
    ----------
    labels : ndarray [N, L] bool
    patients : ndarray [N]
    negatives : int
        k of SCALP; even.
    size : int
        Images a batch, queries and positives together; even.
    rng : Generator

    Yields
    ------
    Batch
        Rows 2i are queries, rows 2i + 1 their positives: another image of the patient with the
        drawn label, or the query's own image where there is none (augmented a second time).
    """
    if negatives < 2 or negatives % 2:
        raise InputError(f"negatives: {negatives} is not even and positive; a group needs that")
    _check_even(size)
    drawn = np.array([rng.choice(np.flatnonzero(row)) if row.any() else -1 for row in labels])
    same = defaultdict(list)  # (patient, label) -> images
    for image, label in zip(*np.nonzero(labels), strict=True):
        same[patients[image], label].append(image)

    groups = []
    for label in range(-1, labels.shape[1]):
        queries = rng.permutation(np.flatnonzero(drawn == label))
        groups += np.split(queries, range(negatives // 2 + 1, len(queries), negatives // 2 + 1))
    groups = [groups[i] for i in rng.permutation(len(groups)) if len(groups[i])]
    query = np.concatenate(groups)
    group = np.repeat(np.arange(len(groups)), [len(members) for members in groups])

    positive = query.copy()
    for i, image in enumerate(query):
        others = [o for o in same.get((patients[image], drawn[image]), []) if o != image]
        if others:
            positive[i] = rng.choice(others)
    for start in range(0, len(query), size // 2):
        part = slice(start, start + size // 2)
        yield Batch(
            np.stack([query[part], positive[part]], 1).ravel(),
            np.repeat(drawn[query[part]], 2),
            np.repeat(group[part], 2),
        )


def patient_batches(patients: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of pairs of images of one patient, whatever their labels; no label, no group.

    Every image is a query once an epoch; its positive is a random image of its patient, possibly
    itself. Of a patient these are two random images, as in SCALP's published code.

    Parameters
    ----------
    patients : ndarray [N]
    size : int
        Images a batch, queries and positives together; even.
    rng : Generator

    Yields
    ------
    Batch
        Rows 2i are queries, rows 2i + 1 their positives.
    """
    _check_even(size)
    own = defaultdict(list)  # patient -> images
    for image, patient in enumerate(patients):
        own[patient].append(image)
    query = rng.permutation(len(patients))
    positive = [rng.choice(own[patients[image]]) for image in query]
    image = np.stack([query, positive], 1).ravel()
    for start in range(0, len(image), size):
        part = image[start : start + size]
        yield Batch(part, np.full(len(part), -1), np.zeros(len(part), int))


def _check_even(size: int) -> None:
    if size < 2 or size % 2:
        raise InputError(f"batch: {size} is not even and positive; a query has its positive there")
