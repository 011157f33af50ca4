"""Radiomic features of a region of a radiograph: its intensities, its shape and its texture.

The image biomarker standardisation initiative defines the intensity and texture features (IBSI
reference manual, arXiv:1612.07003); the shape in two dimensions is PyRadiomics'. Grey levels are
fixed in number. Texture matrices take pixels at distance 1; those that have a direction, the
co-occurrence and the run-length matrix, are merged over the four of them, so that no feature
depends on how the region is mirrored or turned by a right angle.

A quotient whose denominator is zero, as in a region of one pixel or of one value, is 0.
"""

import numpy as np
from skimage.measure import label

__all__ = [
    "FEATURES",
    "co_occurrence",
    "dependence",
    "discretise",
    "first_order",
    "histogram",
    "radiomic_features",
    "run_length",
    "shape",
    "size_zone",
    "tone_difference",
]

#: One of each pair of opposite neighbours, (rows, columns).
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


def radiomic_features(image: np.ndarray, mask: np.ndarray, bins: int = 32) -> dict[str, float]:
    """Measure the region `mask` of an image.

    Parameters
    ----------
    image : ndarray [H, W]
        Finite.
    mask : ndarray [H, W] bool
    bins : int
        Grey levels of the texture matrices.

    Returns
    -------
    dict of str to float
        Finite; keys and their order are `FEATURES`. An empty region is all zeros.
    """
    if not mask.any():
        return dict.fromkeys(FEATURES, 0.0)
    box = extent(mask.any(1)), extent(mask.any(0))
    image, mask = np.asarray(image[box], "float64"), mask[box]  # [h, w]
    levels = discretise(image, mask, bins)  # [h, w]
    families = {
        "intensity": first_order(image[mask]),
        "histogram": histogram(levels[mask]),
        "shape": shape(mask),
        "glcm": co_occurrence(levels),
        "glrlm": run_length(levels),
        "glszm": size_zone(levels),
        "gldm": dependence(levels),
        "ngtdm": tone_difference(levels),
    }
    return {
        f"{family}_{name}": float(value)
        for family, features in families.items()
        for name, value in features.items()
    }


def extent(occupied: np.ndarray) -> slice:
    """From the first to the last true element of [N] bool."""
    (found,) = occupied.nonzero()
    return slice(found[0], found[-1] + 1)


def discretise(image: np.ndarray, mask: np.ndarray, bins: int) -> np.ndarray:
    """Divide the region's range into `bins` equal parts (IBSI's fixed bin number).

    Returns
    -------
    ndarray [H, W] int
        1 to `bins`; 0 outside the region. A region of one value is 1.
    """
    values = image[mask]
    low, span = values.min(), np.ptp(values)
    share = (image - low) / span if span else np.zeros(image.shape)
    return np.where(mask, np.clip((share * bins).astype(int) + 1, 1, bins), 0)


def first_order(values: np.ndarray) -> dict[str, float]:
    """Measure intensities [N] float (IBSI 3.3)."""
    mean = values.mean()
    deviation = values - mean
    square = deviation * deviation
    variance = square.mean()
    p10, p25, median, p75, p90 = np.percentile(values, [10, 25, 50, 75, 90])
    middle = values[(values >= p10) & (values <= p90)]
    robust = abs(middle - middle.mean()).mean() if len(middle) else 0.0  # none of two values
    return {
        "mean": mean,
        "variance": variance,
        "skewness": ratio((square * deviation).mean(), variance**1.5),
        "kurtosis": ratio((square * square).mean(), variance**2, 3) - 3,
        "median": median,
        "minimum": values.min(),
        "p10": p10,
        "p90": p90,
        "maximum": values.max(),
        "interquartile_range": p75 - p25,
        "range": np.ptp(values),
        "mean_absolute_deviation": abs(deviation).mean(),
        "robust_mean_absolute_deviation": robust,
        "median_absolute_deviation": abs(values - median).mean(),
        "coefficient_of_variation": ratio(variance**0.5, mean),
        "quartile_coefficient_of_dispersion": ratio(p75 - p25, p75 + p25),
        "energy": (values**2).sum(),
        "root_mean_square": (values**2).mean() ** 0.5,
    }


def histogram(levels: np.ndarray) -> dict[str, float]:
    """Measure the histogram of grey levels [N] int (IBSI 3.4); the rest repeats `first_order`."""
    share = np.bincount(levels) / len(levels)  # [levels]
    return {"entropy": entropy(share), "uniformity": (share**2).sum()}


def shape(mask: np.ndarray) -> dict[str, float]:
    """Measure a region [H, W] bool, in pixels.

    Area and perimeter are those of the polygons through the midpoints between inner and outer
    pixels (marching squares), pixels that touch by a corner being joined; the axes are those of
    the ellipse with the same second moments.
    """
    inside = np.pad(mask, 1).astype(int)
    # Every square of four pixels by its corners: the midpoints cut a known piece out of it.
    square = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, :-1] + 8 * inside[1:, 1:]
    count = np.bincount(square.ravel(), minlength=16)  # [16]
    area, perimeter = count @ SQUARE_AREA, count @ SQUARE_PERIMETER
    y, x = mask.nonzero()
    minor, major = 4 * np.linalg.eigvalsh(np.cov([x, y], bias=True)).clip(0) ** 0.5
    return {
        "pixels": len(x),
        "area": area,
        "perimeter": perimeter,
        "perimeter_to_area": perimeter / area,
        "sphericity": 2 * (np.pi * area) ** 0.5 / perimeter,
        "maximum_diameter": diameter(mask),
        "major_axis": major,
        "minor_axis": minor,
        "elongation": ratio(minor, major),
    }


#: Of a square with corners 1, 2 / 4, 8 inside: the area inside, the length of the border.
SQUARE_AREA = np.array([0, 1, 1, 4, 1, 4, 6, 7, 1, 6, 4, 7, 4, 7, 7, 8]) / 8
CUT = 0.5**0.5
SQUARE_PERIMETER = np.array(
    [0, CUT, CUT, 1, CUT, 1, 2 * CUT, CUT, CUT, 2 * CUT, 1, CUT, 1, CUT, CUT, 0]
)


def diameter(mask: np.ndarray) -> float:
    """Largest distance between two corners of the polygons round a region [H, W] bool."""
    # A corner of the convex hull is the first or last pixel of its row and of its column.
    y, x = (row_ends(mask) & row_ends(mask.T).T).nonzero()
    corner = np.add.outer(x + 1j * y, [0.5, -0.5, 0.5j, -0.5j]).ravel()  # midpoints round them
    return abs(np.subtract.outer(corner, corner)).max()


def row_ends(mask: np.ndarray) -> np.ndarray:
    """Mark the first and the last pixel of each row of a region [H, W] bool."""
    (rows,) = mask.any(1).nonzero()
    ends = np.zeros_like(mask)
    ends[rows, mask[rows].argmax(1)] = True
    ends[rows, mask.shape[1] - 1 - mask[rows, ::-1].argmax(1)] = True
    return ends


def co_occurrence(levels: np.ndarray) -> dict[str, float]:
    """Measure which levels [H, W] int are neighbours (grey level co-occurrence, IBSI 3.6)."""
    size = levels.max() + 1
    count = np.zeros(size * size, int)
    for rows, columns in DIRECTIONS:
        here, there = pair(levels, rows, columns)
        both = (here > 0) & (there > 0)
        count += np.bincount(here[both] * size + there[both], minlength=size * size)
    count = count.reshape(size, size)[1:, 1:]
    p = count + count.T  # [levels, levels]
    p = p / max(p.sum(), 1)
    i = np.arange(1, size)  # [levels]
    marginal = p.sum(1)  # [levels]
    mean = i @ marginal
    variance = (i - mean) ** 2 @ marginal
    total, apart = np.add.outer(i, i), abs(np.subtract.outer(i, i))
    sums = np.bincount(total.ravel(), p.ravel())  # [2 * levels + 1]
    differences = np.bincount(apart.ravel(), p.ravel())  # [levels]
    s, d = np.arange(len(sums)), np.arange(len(differences))
    autocorrelation = i @ p @ i
    joint, single = entropy(p), entropy(marginal)
    shared = 2 * single - joint  # both marginals of a symmetric matrix are the same
    return {
        "joint_maximum": p.max(),
        "joint_average": mean,
        "joint_variance": variance,
        "joint_entropy": joint,
        "difference_average": d @ differences,
        "difference_variance": (d - d @ differences) ** 2 @ differences,
        "difference_entropy": entropy(differences),
        "sum_variance": (s - s @ sums) ** 2 @ sums,
        "sum_entropy": entropy(sums),
        "angular_second_moment": (p**2).sum(),
        "contrast": d**2 @ differences,
        "inverse_difference": (1 / (1 + d)) @ differences,
        "inverse_difference_normalised": (1 / (1 + d / len(i))) @ differences,
        "inverse_difference_moment": (1 / (1 + d**2)) @ differences,
        "inverse_difference_moment_normalised": (1 / (1 + (d / len(i)) ** 2)) @ differences,
        "inverse_variance": (1 / d[1:] ** 2) @ differences[1:],
        "correlation": ratio(autocorrelation - mean**2, variance),
        "autocorrelation": autocorrelation,
        "cluster_shade": (s - 2 * mean) ** 3 @ sums,
        "cluster_prominence": (s - 2 * mean) ** 4 @ sums,
        "information_correlation_1": ratio(-shared, single),
        "information_correlation_2": max(1 - np.exp(-2 * shared), 0) ** 0.5,
    }


def run_length(levels: np.ndarray) -> dict[str, float]:
    """Measure runs of one level [H, W] int in four directions (IBSI 3.7)."""
    flat = np.pad(levels, ((0, 0), (0, 1))).ravel()  # a zero ends each line
    lines = [flat]
    # Pixels below one another, straight or aside, lie as far apart in memory as a row is long,
    # one more or one less: in rows of that length they share a column.
    width = levels.shape[1] + 1
    for step in (width - 1, width, width + 1):
        rows = len(flat) // step + 2
        lines.append(np.pad(flat, (0, rows * step - len(flat))).reshape(rows, step).T.ravel())
    line = np.concatenate(lines)
    start = np.flatnonzero(np.diff(line, prepend=-1))
    level, length = line[start], np.diff(start, append=len(line))
    inside = level > 0
    return parts(level[inside], length[inside], len(DIRECTIONS) * np.count_nonzero(levels))


def size_zone(levels: np.ndarray) -> dict[str, float]:
    """Measure the 8-connected zones of one level [H, W] int (IBSI 3.8)."""
    zone = label(levels, connectivity=2).ravel()
    size = np.bincount(zone)
    level = np.zeros(len(size), int)
    level[zone] = levels.ravel()
    return parts(level[1:], size[1:], np.count_nonzero(levels))


def dependence(levels: np.ndarray) -> dict[str, float]:
    """Measure how many of a pixel's 8 neighbours have its level [H, W] int (IBSI 3.11)."""
    around = neighbours(levels)  # [8, H, W]
    inside = levels > 0
    size = 1 + (around == levels).sum(0)  # the pixel itself counts
    level, size = levels[inside], size[inside]
    joint = np.bincount(level * 10 + size) / len(level)
    features = parts(level, size, len(level))
    del features["percentage"]  # always 1
    return features | {"energy": (joint**2).sum()}


def tone_difference(levels: np.ndarray) -> dict[str, float]:
    """Measure how far pixels are from the mean of their neighbours, [H, W] int (IBSI 3.10)."""
    around = neighbours(levels)  # [8, H, W]
    known = (around > 0).sum(0)
    counts = (levels > 0) & (known > 0)
    level = levels[counts]
    difference = abs(level - around.sum(0)[counts] / known[counts])
    n = np.bincount(level)
    s = np.bincount(level, difference)
    (i,) = n.nonzero()  # the levels that occur
    s, p = s[i], n[i] / max(len(level), 1)
    apart = abs(np.subtract.outer(i, i))
    both = np.add.outer(p, p)
    weighted = np.add.outer(p * s, p * s)
    contrast = ratio(p @ apart**2 @ p, len(i) * (len(i) - 1)) * ratio(s.sum(), len(level))
    return {
        "coarseness": ratio(1, p @ s, 1e6),  # IBSI's value for a region of one level
        "contrast": contrast,
        "busyness": ratio(p @ s, abs(np.subtract.outer(i * p, i * p)).sum()),
        "complexity": ratio((apart * weighted / both).sum(), len(level)),
        "strength": ratio((both * apart**2).sum(), s.sum()),
    }


def parts(level: np.ndarray, size: np.ndarray, pixels: int) -> dict[str, float]:
    """Measure parts of a region by level and size: runs, zones or neighbourhoods.

    The features of IBSI's run-length, size-zone and dependence matrix are the same functions of
    what the matrix counts.

    Parameters
    ----------
    level, size : ndarray [parts] int
        From 1 up.
    pixels : int
        Parts there would be if each were one pixel.
    """
    n = len(level)
    low, high, small, large = level**-2.0, level**2, size**-2.0, size**2
    by_level, by_size = np.bincount(level), np.bincount(size)
    joint = np.bincount(level * (size.max() + 1) + size) / n
    return {
        "small_emphasis": small.mean(),
        "large_emphasis": large.mean(),
        "low_level_emphasis": low.mean(),
        "high_level_emphasis": high.mean(),
        "small_low_level_emphasis": (small * low).mean(),
        "small_high_level_emphasis": (small * high).mean(),
        "large_low_level_emphasis": (large * low).mean(),
        "large_high_level_emphasis": (large * high).mean(),
        "level_non_uniformity": (by_level**2).sum() / n,
        "level_non_uniformity_normalised": (by_level**2).sum() / n**2,
        "size_non_uniformity": (by_size**2).sum() / n,
        "size_non_uniformity_normalised": (by_size**2).sum() / n**2,
        "percentage": n / pixels,
        "level_variance": level.var(),
        "size_variance": size.var(),
        "entropy": entropy(joint),
    }


def pair(levels: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels [H, W] and those that lie so many rows below and columns to the right, both [h, w]."""
    height, width = levels.shape
    left, right = max(-columns, 0), width - max(columns, 0)
    return (
        levels[: height - rows, left:right],
        levels[rows:, left + columns : right + columns],
    )


def neighbours(levels: np.ndarray) -> np.ndarray:
    """The 8 neighbours of each pixel, [8, H, W] of [H, W]; 0 beyond the border."""
    height, width = levels.shape
    padded = np.pad(levels, 1)
    return np.stack(
        [
            padded[y : y + height, x : x + width]
            for y in range(3)
            for x in range(3)
            if (y, x) != (1, 1)
        ]
    )


def entropy(share: np.ndarray) -> float:
    """Entropy in bits of probabilities of any shape."""
    share = share[share > 0]
    return -(share * np.log2(share)).sum()


def ratio(above: float, below: float, otherwise: float = 0.0) -> float:
    """Divide; `otherwise` if the denominator is zero."""
    return above / below if below else otherwise


#: The features' names, in order.
FEATURES = tuple(radiomic_features(np.zeros((1, 1)), np.ones((1, 1), bool)))
