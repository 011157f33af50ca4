"""Fusion of a heatmap and a gradient map into one."""

import logging
import os

import numpy as np
from tqdm import tqdm

from crosseai import mapstore
from crosseai.errors import InputError

__all__ = ["fuse", "fuse_files", "scale"]

log = logging.getLogger(__name__)


def scale(values: np.ndarray) -> np.ndarray:
    """Scale a map linearly so that it spans 0 to 255, float32; a constant map becomes zero."""
    values = np.asarray(values, "float32")
    low, high = values.min(), values.max()
    return (values - low) / (high - low) * 255 if high > low else np.zeros_like(values)


def fuse(heatmap: np.ndarray, gradient: np.ndarray, t: float) -> np.ndarray:
    """Weighted mean of two maps, each scaled to span 0 to 255 (CrossEAI, fusion step).

    Parameters
    ----------
    heatmap, gradient : ndarray [H, W]
        Of one shape, any units.
    t : float
        Share of the heatmap, 0 to 1.

    Returns
    -------
    ndarray [H, W] float32
        0 to 255.

    Raises
    ------
    ValueError
        If the shapes differ or t lies outside 0 to 1.

    Examples
    --------
    >>> fuse(np.array([[0.0, 1.0]]), np.array([[2.0, 0.0]]), t=0.25)
    array([[191.25,  63.75]], dtype=float32)
    """
    if heatmap.shape != gradient.shape:
        raise ValueError(f"maps of different shapes: {heatmap.shape} and {gradient.shape}")
    if not 0 <= t <= 1:
        raise ValueError(f"t: {t} lies outside 0 to 1")
    fused = t * scale(heatmap) + (1 - t) * scale(gradient)
    return np.minimum(fused, 255, dtype="float32")  # rounding may pass 255 by a bit


def fuse_files(
    heatmaps: str | os.PathLike, gradients: str | os.PathLike, out: str | os.PathLike, t: float
) -> None:
    """Fuse two map files of one shard; the smaller maps are enlarged to the larger ones' size.

    Raises
    ------
    InputError
        If the files hold different images and labels, or maps of different weights.
    """
    if not 0 <= t <= 1:
        raise InputError(f"t: {t} lies outside 0 to 1")
    with mapstore.MapFile(heatmaps) as first, mapstore.MapFile(gradients) as second:
        if not first.matches(second):
            raise InputError(
                f"{heatmaps} and {gradients}: maps of different images, labels or weights; "
                "make both with the same models"
            )
        size = tuple(map(max, first.shape, second.shape))
        fused = (
            (
                first.row[image],
                first.column[label],
                fuse(first.read(image, label, size), second.read(image, label, size), t),
            )
            for image, label in tqdm(first, "fuse", unit="map", disable=None)
        )
        mapstore.write(
            out,
            first.images,
            first.classes,
            fused,
            size,
            first.fold,
            first.model,
            {"t": t},
        )
