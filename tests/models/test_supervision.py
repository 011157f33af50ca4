"""Noisy-or and box loss against exact arithmetic, patches against brute force, and the whole."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosseai.errors import InputError
from crosseai.models import build
from crosseai.models.classifier import Targets
from crosseai.models.losses import box_cross_entropy, noisy_or
from crosseai.models.supervision import Grid, patches_in

NETWORK = {"backbone": "tiny", "output_stride": 8, "grid": 8, "recognition_channels": 16}
NAN = math.nan

logits = st.lists(st.floats(-90, 90, width=32), min_size=1, max_size=4)
factors = st.sampled_from([0.01, 0.5, 0.9, 0.98])


def probability(z):
    return 1 / (1 + mpmath.exp(-mpmath.mpf(z)))


def noisy_or_by_hand(row, b):
    """Li's probability of an image without a box, patch by patch; its logit."""
    with mpmath.workdps(100):
        b = mpmath.mpf(b)
        none = mpmath.mpf(1)
        for z in row:
            none *= b + (1 - b) * (1 - probability(z))
        return 1 - none, mpmath.log((1 - none) / none)


def box_by_hand(row, inside, b):
    """Li's probability of a box, patch by patch; its negative logarithm."""
    with mpmath.workdps(100):
        b = mpmath.mpf(b)
        product = mpmath.mpf(1)
        for z, within in zip(row, inside, strict=True):
            p = probability(z)
            product *= b + (1 - b) * (p if within else 1 - p)
        return -mpmath.log(product)


def slope(function, row, j):
    """Derivative by patch j, exact to many digits."""
    with mpmath.workdps(100):
        step = mpmath.mpf(10) ** -30
        up, down = ([*row[:j], mpmath.mpf(row[j]) + s, *row[j + 1 :]] for s in (step, -step))
        return float((function(up) - function(down)) / (2 * step))


def grid_of(row, dtype):
    return torch.tensor(row, dtype=dtype).reshape(1, 1, 1, -1).requires_grad_()


@settings(max_examples=30, deadline=None)
@given(logits, factors)
def test_noisy_or_as_written(row, b):
    expected = float(noisy_or_by_hand(row, b)[1])
    for dtype, rel in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
        z = grid_of(row, dtype)
        logit = noisy_or(z, b)
        assert logit.shape == (1, 1)
        assert logit.item() == pytest.approx(expected, rel=rel, abs=rel)
        logit.sum().backward()
        found = z.grad.flatten()
        wanted = [slope(lambda r: noisy_or_by_hand(r, b)[1], row, j) for j in range(len(row))]
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=rel)


@settings(max_examples=30, deadline=None)
@given(logits, factors, st.integers(0, 2**4 - 1))
def test_the_box_loss_as_written(row, b, bits):
    inside = [bool(bits >> j & 1) for j in range(len(row))]
    expected = float(box_by_hand(row, inside, b))
    for dtype, rel in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        z = grid_of(row, dtype)
        loss = box_cross_entropy(z, torch.tensor(inside).reshape(z.shape), b)
        assert loss.shape == (1, 1)
        assert loss.item() == pytest.approx(expected, rel=rel, abs=1e-6)
        loss.sum().backward()
        wanted = [slope(lambda r: box_by_hand(r, inside, b), row, j) for j in range(len(row))]
        np.testing.assert_allclose(z.grad.flatten(), wanted, rtol=1e-3, atol=1e-6 + rel / b)


@pytest.mark.parametrize("value", [-1e30, -1e4, -200.0, 0.0, 200.0, 1e4, 1e30])
@pytest.mark.parametrize("other", [None, -1e30, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients(value, other):
    z = torch.full((1, 1, 16, 16), value)
    if other is not None:
        z[..., 3, 5] = other
    z.requires_grad_()
    logit = noisy_or(z, 0.98)
    box = box_cross_entropy(z, torch.rand(z.shape) < 0.5, 0.98)
    assert logit.isfinite().all()
    assert 0 <= logit.sigmoid().item() <= 1 - 0.98**256 + 1e-6
    assert 0 <= box.item() <= -256 * math.log(0.98) + 1e-3
    (torch.nn.functional.softplus(-logit) + torch.nn.functional.softplus(logit) + box).backward()
    assert z.grad.isfinite().all()


def test_an_image_whose_patches_are_all_off_can_still_learn_that_it_is_positive():
    """Where 1 - product rounds to zero."""
    z = torch.full((1, 1, 4, 4), -60.0, requires_grad=True)
    torch.nn.functional.softplus(-noisy_or(z, 0.5)).backward()
    torch.testing.assert_close(z.grad, torch.full_like(z, -1 / 16))


def test_the_two_ways_to_the_logit_meet():
    """On both sides of the probability from which the product is summed up instead."""
    z = torch.linspace(-18, -8, 1001, dtype=torch.float64)
    expected = [float(noisy_or_by_hand([x, x], 0.9)[1]) for x in z.tolist()]
    found = noisy_or(z[:, None, None].expand(-1, 1, 2), 0.9)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found.diff() > 0).all()


@pytest.mark.parametrize("grid", range(1, 24))
def test_every_grid_lets_an_image_be_surely_positive(grid):
    model = build("supervision", ["a"], **NETWORK | {"grid": grid})
    cap = noisy_or(torch.full((1, 1, grid, grid), 50.0, dtype=torch.float64), model.lowest_factor)
    assert cap.sigmoid().item() >= 0.99 - 1e-12
    if grid < 16:  # no larger than needed
        assert cap.sigmoid().item() == pytest.approx(0.99)
    else:
        assert model.lowest_factor == 0.98


def test_a_factor_of_one_s_own_is_taken():
    model = build("supervision", ["a"], **NETWORK, lowest_factor=0.3)
    assert model.lowest_factor == 0.3
    for wrong in (0, 1, 1.5, -0.1, NAN):
        with pytest.raises(InputError, match="lowest_factor"):
            build("supervision", ["a"], **NETWORK, lowest_factor=wrong)


def test_patches_start_at_their_prior():
    """With 0.01 an image of 16 x 16 patches starts at 0.05, with 0.5 at 0.92."""
    features = torch.zeros(1, 16, 16, 16)  # what the recognition gives tells nothing yet
    for prior, expected in ((0.01, 1 - (1 - 0.02 * 0.01) ** 256), (0.5, 1 - 0.99**256)):
        model = build("supervision", ["a"], **NETWORK | {"grid": 16}, patch_prior=prior)
        assert model.patch_logits(features).sigmoid().allclose(torch.tensor(prior))
        assert model.head(features).sigmoid().item() == pytest.approx(expected, rel=1e-4)
    for wrong in (0, 1, -0.1, NAN):
        with pytest.raises(InputError, match="patch_prior"):
            build("supervision", ["a"], **NETWORK, patch_prior=wrong)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10**6))
def test_a_box_touches_the_patches_that_hold_one_of_its_points(grid, seed):
    rng = np.random.default_rng(seed)
    fine = 2520  # points across; a multiple of each grid, so that no point lies on two patches
    x1, y1 = rng.integers(0, fine, 2)
    x2, y2 = rng.integers([x1, y1], fine) + 1
    box = torch.tensor([x1, y1, x2, y2], dtype=torch.float64) / fine
    rows, columns = (np.arange(*ends) * grid // fine for ends in ((y1, y2), (x1, x2)))
    expected = np.zeros((grid, grid), bool)
    expected[np.ix_(rows, columns)] = True
    # An edge on a patch's border is there only within rounding.
    shrunk = box + torch.tensor([1e-9, 1e-9, -1e-9, -1e-9])
    np.testing.assert_array_equal(patches_in(shrunk, grid), expected)


def test_patches_at_exact_borders_and_of_no_box():
    boxes = torch.tensor(
        [
            [[0.25, 0.5, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]],
            [[0.3, 0.1, 0.3001, 0.2], [NAN] * 4],
            [[0.0, 0.2, 0.0, 0.4], [1.0, 0.2, 1.0, 0.4]],  # moved out of the image
        ]
    )
    found = patches_in(boxes, 4)
    assert found.shape == (3, 2, 4, 4)
    assert found[0, 0].nonzero().tolist() == [[2, 1], [3, 1]]
    assert found[0, 1].all()
    assert found[1, 0].nonzero().tolist() == [[0, 1]]
    assert not found[1, 1].any()
    assert not found[2].any()


def losses_by_hand(patches, truth, boxes, b):
    """Every pair of image and label, every patch, one by one."""
    images, labels, grid, _ = patches.shape
    bag = box = 0
    for n in range(images):
        for k in range(labels):
            row = patches[n, k].flatten().tolist()
            x1, y1, x2, y2 = boxes[n, k].tolist()
            inside = [
                x1 < (j + 1) / grid and x2 > j / grid and y1 < (i + 1) / grid and y2 > i / grid
                for i in range(grid)
                for j in range(grid)
            ]
            if any(inside):
                box += box_by_hand(row, inside, b)
            else:
                p = noisy_or_by_hand(row, b)[0]
                bag -= math.log(p if truth[n, k] else 1 - p)
    return float(bag / images / labels), float(box / images / labels)


@pytest.mark.parametrize("weight", [5.0, 0.5])
def test_labels_teach_where_there_is_no_box_and_boxes_where_there_is(weight):
    torch.manual_seed(0)
    model = build("supervision", ["a", "b"], **NETWORK, box_weight=weight).eval()
    truth = torch.tensor([[1.0, 1.0], [0, 1], [1, 0], [0, 0]])
    boxes = torch.full((4, 2, 4), NAN)
    boxes[0, 0] = torch.tensor([0.3, 0.1, 0.6, 0.9])
    boxes[1, 1] = torch.tensor([0.0, 0.5, 0.2, 0.6])
    boxes[2, 0] = torch.tensor([1.0, 0.5, 1.0, 0.6])  # moved out of the image
    nothing = torch.zeros(4, dtype=torch.long)
    targets = Targets(truth, nothing, nothing, nothing, boxes)
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        losses = model.losses(images, 0, targets)
        patches = model.patch_logits(model.features(images))
        later = model.losses(model.features[:4](images), 4, targets)
    bag, box = losses_by_hand(patches, truth, boxes, model.lowest_factor)
    assert losses["classification"].item() == pytest.approx(bag, rel=1e-5)
    assert losses["localisation"].item() == pytest.approx(box, rel=1e-5)
    assert losses["total"].item() == pytest.approx(bag + weight * box, rel=1e-5)
    torch.testing.assert_close(later, losses)


def test_the_probability_of_an_image_is_the_noisy_or_of_its_heatmap():
    torch.manual_seed(0)
    model = build("supervision", ["a", "b"], **NETWORK).double().eval()
    images = torch.randn(3, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        heatmaps, found = model.heatmaps(images), model(images).sigmoid()
    assert heatmaps.shape == (3, 2, 8, 8)
    b = model.lowest_factor
    expected = 1 - (b + (1 - b) * (1 - heatmaps)).flatten(2).prod(2)
    torch.testing.assert_close(found, expected)


def test_mixed_precision_gives_heatmaps_in_single():
    model = build("supervision", ["a"], **NETWORK).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.heatmaps(torch.randn(1, 3, 64, 64)).dtype == torch.float32


def test_the_grid_enlarges_and_averages():
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    enlarged = Grid(8)(ramp)[0, 0]
    expected = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]  # bilinear, half-pixel centres
    torch.testing.assert_close(enlarged, torch.tensor(expected).expand(8, 8))
    torch.testing.assert_close(Grid(2)(ramp)[0, 0], torch.tensor([[0.5, 2.5], [0.5, 2.5]]))
    assert torch.equal(Grid(4)(ramp), ramp)
