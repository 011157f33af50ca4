"""Radiomic features against IBSI's reference values, brute force and other definitions."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import find_contours, regionprops

from crosseai.models import radiomics
from crosseai.models.radiomics import FEATURES, discretise, radiomic_features

#: IBSI's digital phantom, its four slices of 4 x 5 pixels; 0 lies outside the region. Reference
#: manual (arXiv:1612.07003), section 5.1; the phantom is licensed CC BY 4.0.
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ]
)

#: Reference values of the digital phantom, in the manual's order and to its three digits, but for
#: the features that repeat another one. Intensity and histogram: the whole phantom. Textures: the
#: mean over the slices; with directions, these merged within each slice.
IBSI = {
    "first_order": "2.15 3.05 1.08 -0.355 1 1 1 4 6 3 5 1.55 1.11 1.15 0.812 0.6 567 2.77",
    "histogram": "1.27 0.512",
    "co_occurrence": (
        "0.512 2.14 2.71 2.24 1.4 3.06 1.49 5.66 1.79 0.352 5.19 0.683 0.854 0.625 0.901 "
        "0.0553 0.0173 5.14 6.98 80.4 -0.0341 0.263"
    ),
    "run_length": (
        "0.661 3.51 0.609 9.74 0.311 8.67 2.92 16.1 20.5 0.456 21.6 0.441 0.627 3.37 0.778 2.57"
    ),
    "size_zone": (
        "0.363 43.9 0.371 16.4 0.0259 10.3 40.4 113 1.41 0.323 1.49 0.333 0.24 3.97 21 1.93"
    ),
    "dependence": (
        "0.158 19.2 0.702 7.49 0.0473 3.06 17.6 49.5 10.2 0.562 3.96 0.212 2.7 2.73 2.71 0.17"
    ),
    "tone_difference": "0.121 0.925 2.99 10.4 2.88",
}


@pytest.mark.parametrize("family", IBSI)
def test_the_digital_phantom_has_ibsis_reference_values(family):
    measure = getattr(radiomics, family)
    if family in ("first_order", "histogram"):
        found = measure(PHANTOM[PHANTOM > 0])
    else:
        slices = [measure(levels) for levels in PHANTOM]
        found = {name: np.mean([features[name] for features in slices]) for name in slices[0]}
    assert " ".join(f"{value:.3g}" for value in found.values()) == IBSI[family]


#: Grey levels of a region with holes and islands.
LEVELS = arrays(int, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 4))
LEVELS = LEVELS.filter(np.any)
NEIGHBOURS = [step for step in product((-1, 0, 1), repeat=2) if step != (0, 0)]


def value_at(levels, y, x):
    inside = 0 <= y < levels.shape[0] and 0 <= x < levels.shape[1]
    return levels[y, x] if inside else 0


def assert_parts(found, matrix, pixels):
    """Compare with IBSI's definitions over the matrix [levels, sizes] that counts the parts."""
    n = matrix.sum()
    i, j = np.indices(matrix.shape) + 1
    p = matrix / n
    expected = {
        "small_emphasis": (p / j**2).sum(),
        "large_emphasis": (p * j**2).sum(),
        "low_level_emphasis": (p / i**2).sum(),
        "high_level_emphasis": (p * i**2).sum(),
        "small_low_level_emphasis": (p / i**2 / j**2).sum(),
        "small_high_level_emphasis": (p * i**2 / j**2).sum(),
        "large_low_level_emphasis": (p * j**2 / i**2).sum(),
        "large_high_level_emphasis": (p * i**2 * j**2).sum(),
        "level_non_uniformity": (matrix.sum(1) ** 2).sum() / n,
        "level_non_uniformity_normalised": (matrix.sum(1) ** 2).sum() / n**2,
        "size_non_uniformity": (matrix.sum(0) ** 2).sum() / n,
        "size_non_uniformity_normalised": (matrix.sum(0) ** 2).sum() / n**2,
        "percentage": n / pixels,
        "level_variance": (p * (i - (p * i).sum()) ** 2).sum(),
        "size_variance": (p * (j - (p * j).sum()) ** 2).sum(),
        "entropy": -sum(q * np.log2(q) for q in p.ravel() if q),
        "energy": (p**2).sum(),
    }
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=1e-12), name


@settings(max_examples=40, deadline=None)
@given(LEVELS)
def test_run_lengths_are_those_of_walking_along_every_line(levels):
    matrix = np.zeros((4, 7))
    for (y, x), level in np.ndenumerate(levels):
        for down, right in [(0, 1), (1, 0), (1, 1), (1, -1)]:
            if level and value_at(levels, y - down, x - right) != level:
                length = 1
                while value_at(levels, y + length * down, x + length * right) == level:
                    length += 1
                matrix[level - 1, length - 1] += 1
    assert_parts(radiomics.run_length(levels), matrix, 4 * (levels > 0).sum())


@settings(max_examples=40, deadline=None)
@given(LEVELS)
def test_zones_are_what_a_flood_fills(levels):
    matrix = np.zeros((4, 49))
    dry = set(zip(*np.nonzero(levels), strict=True))
    while dry:
        zone = [dry.pop()]
        for y, x in zone:  # grows as it is gone through
            around = {(y + dy, x + dx) for dy, dx in NEIGHBOURS} & dry
            reached = {place for place in around if levels[place] == levels[zone[0]]}
            zone += reached
            dry -= reached
        matrix[levels[zone[0]] - 1, len(zone) - 1] += 1
    assert_parts(radiomics.size_zone(levels), matrix, (levels > 0).sum())


@settings(max_examples=40, deadline=None)
@given(LEVELS)
def test_dependence_counts_equal_neighbours(levels):
    matrix = np.zeros((4, 9))
    for (y, x), level in np.ndenumerate(levels):
        if level:
            equal = sum(value_at(levels, y + dy, x + dx) == level for dy, dx in NEIGHBOURS)
            matrix[level - 1, equal] += 1
    found = radiomics.dependence(levels)
    assert len(found) == 16
    assert_parts(found, matrix, (levels > 0).sum())


@settings(max_examples=40, deadline=None)
@given(LEVELS)
def test_tone_differences_are_those_of_a_loop_over_pixels(levels):
    n, s = np.zeros(5), np.zeros(5)
    for (y, x), level in np.ndenumerate(levels):
        around = [value_at(levels, y + dy, x + dx) for dy, dx in NEIGHBOURS]
        around = [value for value in around if value]
        if level and around:
            n[level] += 1
            s[level] += abs(level - np.mean(around))
    found = radiomics.tone_difference(levels)
    occurring = np.flatnonzero(n)
    p = n / max(n.sum(), 1)
    pairs = list(product(occurring, repeat=2))
    levels_there = len(occurring)
    ps = sum(p[i] * s[i] for i in occurring)
    busy = sum(abs(i * p[i] - j * p[j]) for i, j in pairs)
    assert found["coarseness"] == pytest.approx(1 / ps if ps else 1e6)
    assert found["busyness"] == pytest.approx(ps / busy if busy else 0)
    if levels_there > 1:
        contrast = sum(p[i] * p[j] * (i - j) ** 2 for i, j in pairs) * s.sum() / n.sum()
        contrast /= levels_there * (levels_there - 1)
        assert found["contrast"] == pytest.approx(contrast)
        weighted = [
            abs(i - j) * (p[i] * s[i] + p[j] * s[j]) / (p[i] + p[j]) / n.sum() for i, j in pairs
        ]
        assert found["complexity"] == pytest.approx(sum(weighted))
        strength = sum((p[i] + p[j]) * (i - j) ** 2 for i, j in pairs) / s.sum()
        assert found["strength"] == pytest.approx(strength)
    else:
        assert found["contrast"] == found["complexity"] == found["strength"] == 0


@settings(max_examples=40, deadline=None)
@given(LEVELS)
def test_co_occurrence_is_scikit_images(levels):
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    counts = graycomatrix(levels.astype("uint8"), [1], angles, levels=5, symmetric=True)
    counts = counts[1:, 1:].sum(3, keepdims=True)  # without the outside, directions merged
    p = counts[..., 0, 0] / max(counts.sum(), 1)
    found = radiomics.co_occurrence(levels)
    for name, prop in [
        ("contrast", "contrast"),
        ("difference_average", "dissimilarity"),
        ("inverse_difference_moment", "homogeneity"),
        ("angular_second_moment", "ASM"),
    ]:
        assert found[name] == pytest.approx(graycoprops(counts, prop)[0, 0], abs=1e-12), name
    i, j = np.indices(p.shape) + 1
    assert found["joint_maximum"] == p.max()
    assert found["autocorrelation"] == pytest.approx((i * j * p).sum())
    assert found["cluster_shade"] == pytest.approx(
        ((i + j - 2 * (i * p).sum()) ** 3 * p).sum(), abs=1e-9
    )
    if found["joint_variance"] > 1e-9:
        assert found["correlation"] == pytest.approx(graycoprops(counts, "correlation")[0, 0])


MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(np.any)


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_shape_is_that_of_the_contours(mask):
    """The contours of marching squares, by another library; holes run the other way round."""
    contours = find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="high")
    area = sum((y[:-1] * x[1:] - y[1:] * x[:-1]).sum() / 2 for y, x in map(np.transpose, contours))
    perimeter = sum(np.hypot(*np.diff(points, axis=0).T).sum() for points in contours)
    found = radiomics.shape(mask)
    assert found["area"] == pytest.approx(abs(area))
    assert found["perimeter"] == pytest.approx(perimeter)
    corners = np.concatenate(contours)
    distances = np.hypot(*(corners[:, None] - corners).T)
    assert found["maximum_diameter"] == pytest.approx(distances.max())
    (region,) = regionprops(mask.astype(int))
    assert found["pixels"] == region.area
    assert found["major_axis"] == pytest.approx(region.axis_major_length, abs=1e-6)
    assert found["minor_axis"] == pytest.approx(region.axis_minor_length, abs=1e-6)


def test_shape_of_a_rectangle():
    """By hand: 4 x 7 pixels whose corners are cut."""
    found = radiomics.shape(np.ones((4, 7), bool))
    perimeter = 2 * 3 + 2 * 6 + 4 * 0.5**0.5
    assert found == pytest.approx(
        {
            "pixels": 28,
            "area": 27.5,
            "perimeter": perimeter,
            "perimeter_to_area": perimeter / 27.5,
            "sphericity": 2 * (np.pi * 27.5) ** 0.5 / perimeter,
            "maximum_diameter": (7**2 + 3**2) ** 0.5,
            "major_axis": 4 * ((7**2 - 1) / 12) ** 0.5,
            "minor_axis": 4 * ((4**2 - 1) / 12) ** 0.5,
            "elongation": (15 / 48) ** 0.5,
        }
    )


def test_grey_levels_divide_the_range_of_the_region_equally():
    image = np.array([[10, 11, 13, 14], [18, 30, 17, 200]])
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 0]], bool)
    assert discretise(image, mask, 4).tolist() == [[1, 1, 2, 3], [4, 0, 4, 0]]
    assert discretise(np.full((2, 2), 7), np.eye(2, dtype=bool), 4).tolist() == [[1, 0], [0, 1]]


IMAGES = arrays("uint8", (8, 6))
REGIONS = arrays(bool, (8, 6))


@settings(max_examples=40, deadline=None)
@given(IMAGES, REGIONS, st.integers(0, 3), st.booleans())
def test_features_are_finite_and_do_not_depend_on_place_or_orientation(image, mask, turns, flip):
    found = radiomic_features(image, mask)
    assert tuple(found) == FEATURES
    assert np.isfinite(list(found.values())).all()
    turned = [np.rot90(array[:, ::-1] if flip else array, turns) for array in (image, mask)]
    moved = [np.pad(array, ((2, 0), (0, 3)), constant_values=0) for array in turned]
    moved[0][:2] = 255  # what lies outside the region does not count
    assert radiomic_features(*moved) == pytest.approx(found, rel=1e-9, abs=1e-9)


def test_textures_do_not_depend_on_brightness_and_contrast():
    image = np.random.default_rng(0).integers(0, 100, (20, 20), "uint8")
    mask = np.ones((20, 20), bool)
    before, after = radiomic_features(image, mask), radiomic_features(2 * image + 10, mask)
    changed = {name.split("_")[0] for name in FEATURES if before[name] != after[name]}
    assert changed == {"intensity"}
    assert after["intensity_mean"] == pytest.approx(2 * before["intensity_mean"] + 10)


def test_two_values_have_none_between_their_percentiles():
    """IBSI's robust deviation is that of the values from the 10th to the 90th percentile."""
    found = radiomics.first_order(np.array([0.0, 10.0]))
    assert (found["p10"], found["p90"]) == (1, 9)
    assert found["mean_absolute_deviation"] == 5
    assert found["robust_mean_absolute_deviation"] == 0


def test_names_are_unique():
    assert len(set(FEATURES)) == len(FEATURES) == 104


@pytest.mark.parametrize(
    "mask",
    [np.zeros((5, 5), bool), np.eye(5, dtype=bool) & (np.arange(5) == 2), np.ones((5, 5), bool)],
    ids=["empty", "pixel", "flat"],
)
def test_a_region_that_shows_nothing_has_finite_features(mask):
    found = radiomic_features(np.full((5, 5), 9, "uint8"), mask)
    assert np.isfinite(list(found.values())).all()
    assert found["intensity_mean"] == 9 * mask.any()
    assert found["shape_pixels"] == mask.sum()
    assert found["glcm_contrast"] == found["glcm_joint_entropy"] == found["intensity_variance"] == 0
