"""Pooling against exact arithmetic, the loss against its definition, and the head."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosseai.errors import InputError
from crosseai.models import build
from crosseai.models.baseline import log_sum_exp_pool
from crosseai.models.classifier import Targets
from crosseai.models.losses import balanced_cross_entropy

NETWORK = {"backbone": "tiny", "output_stride": 16, "transition_channels": 12}

values = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12)


def pool(row, sharpness, dtype=torch.float64):
    """The pooled value of one channel, and its gradient."""
    features = torch.tensor(row, dtype=dtype)[None, None, None].requires_grad_()  # [1, 1, 1, S]
    pooled = log_sum_exp_pool(features, sharpness)
    assert pooled.shape == (1, 1)
    pooled.sum().backward()
    return pooled.item(), features.grad.flatten().tolist()


def by_hand(row, sharpness):
    """Wang's equation 1 without the shift, which changes nothing, and its derivative."""
    with mpmath.workdps(60):
        terms = [mpmath.exp(mpmath.mpf(sharpness) * mpmath.mpf(x)) for x in row]
        total = mpmath.fsum(terms)
        pooled = mpmath.log(total / len(row)) / mpmath.mpf(sharpness)
        return float(pooled), [float(term / total) for term in terms]


@settings(max_examples=40, deadline=None)
@given(values, st.sampled_from([1e-3, 0.1, 0.5, 1, 5, 8, 10, 12, 100]))
def test_pools_as_written(row, sharpness):
    pooled, gradient = pool(row, sharpness)
    expected, slope = by_hand(row, sharpness)
    # The logarithm's rounding is divided by r.
    assert pooled == pytest.approx(expected, rel=1e-13, abs=1e-15 / sharpness)
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-300)
    pooled, gradient = pool(row, sharpness, torch.float32)
    assert pooled == pytest.approx(expected, rel=1e-6, abs=1e-6 / sharpness)
    np.testing.assert_allclose(gradient, slope, rtol=2e-3, atol=1e-35)


@settings(max_examples=40, deadline=None)
@given(values)
def test_lies_between_its_limits_the_mean_and_the_maximum(row):
    mean, largest = math.fsum(row) / len(row), max(row)
    pooled = [pool(row, r)[0] for r in (1e-8, 0.1, 1, 10, 1e9)]
    assert pooled == pytest.approx(sorted(pooled), abs=1e-6)
    assert pooled[0] == pytest.approx(mean, abs=1e-4)
    assert pooled[-1] == pytest.approx(largest, abs=1e-7)


@pytest.mark.parametrize("row", [[3e38, -3e38], [1e4] * 9, [-3e38, -3e38], [0.0, 1e-30]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_values_neither_overflow_nor_vanish(row, dtype):
    pooled, gradient = pool(row, 10, dtype)
    assert pooled == pytest.approx(max(row), rel=1e-6, abs=1)
    assert sum(gradient) == pytest.approx(1)
    assert min(gradient) >= 0


def test_half_precision_is_pooled_in_single():
    features = torch.randn(2, 3, 4, 4).half()
    pooled = log_sum_exp_pool(features, 10)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, log_sum_exp_pool(features.float(), 10))


def balanced_by_hand(logits, truth):
    """The weighted cross-entropy of Wang et al., term by term, over the number of terms."""
    pairs = [
        (1 / (1 + math.exp(-z)), y) for z, y in zip(logits.flatten(), truth.flatten(), strict=True)
    ]
    positives = sum(y == 1 for _, y in pairs)
    negatives = len(pairs) - positives
    terms = [
        -len(pairs) / positives * math.log(p) if y else -len(pairs) / negatives * math.log(1 - p)
        for p, y in pairs
    ]
    return math.fsum(terms) / len(pairs)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.floats(0, 1), st.integers(0, 999))
def test_the_balanced_loss_is_its_definition(images, labels, share, seed):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 4, (images, labels)))
    truth = torch.from_numpy((rng.random((images, labels)) < share).astype(float))
    loss = balanced_cross_entropy(logits, truth)
    assert loss.item() == pytest.approx(balanced_by_hand(logits, truth))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_batch_of_one_class_is_the_plain_cross_entropy(value):
    logits = torch.tensor([[1.0, -200.0], [200.0, 0.5]], requires_grad=True)
    loss = balanced_cross_entropy(logits, torch.full((2, 2), value))
    sign = 2 * value - 1
    terms = [max(-sign * z, 0) + math.log1p(math.exp(-abs(z))) for z in (1, -200, 200, 0.5)]
    assert loss.item() == pytest.approx(sum(terms) / 4)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_both_classes_pull_alike_however_rare_one_is():
    logits = torch.zeros(50, 2, requires_grad=True)
    truth = torch.zeros(50, 2)
    truth[7, 1] = 1
    balanced_cross_entropy(logits, truth).backward()
    assert logits.grad[7, 1].item() == pytest.approx(-0.5)
    assert logits.grad[truth == 0].sum().item() == pytest.approx(0.5)


def test_the_logits_are_the_prediction_weights_times_what_is_pooled():
    torch.manual_seed(0)
    model = build("baseline", ["a", "b"], **NETWORK, sharpness=3).double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        activations = model.features(images)  # [2, 12, 4, 4]
        assert activations.shape == (2, 12, 4, 4)
        logits = model(images)
    for n in range(2):
        pooled = [by_hand(channel.flatten().tolist(), 3)[0] for channel in activations[n]]
        for label in range(2):
            row = model.classifier.weight[label].tolist()
            expected = math.fsum(a * b for a, b in zip(row, pooled, strict=True))
            expected += model.classifier.bias[label].item()
            assert logits[n, label].item() == pytest.approx(expected, rel=1e-10)


def test_the_transition_layer_is_the_last_that_has_an_extent_and_feeds_the_linear_layer():
    """What a class activation map is made of."""
    model = build("baseline", ["a", "b"], **NETWORK).eval()
    seen = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, given, out: seen.append((m, given[0], out)))
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 64, 64))
    *_, (module, _, activations), (linear, pooled, out) = seen
    assert module in set(model.features.transition.modules())
    assert linear is model.classifier
    assert torch.equal(out, logits)
    torch.testing.assert_close(pooled, log_sum_exp_pool(activations, 10))


def test_the_loss_of_a_batch_also_from_frozen_activations():
    torch.manual_seed(0)
    model = build("baseline", ["a", "b"], **NETWORK).eval()
    images, truth = torch.randn(4, 3, 32, 32), torch.tensor([[1.0, 0], [0, 0], [0, 1], [0, 0]])
    nothing = torch.zeros(4, dtype=torch.long)
    targets = Targets(truth, nothing, nothing, nothing, torch.full((4, 2, 4), torch.nan))
    losses = model.losses(images, 0, targets)
    assert losses["total"].item() == pytest.approx(
        balanced_by_hand(model(images).detach(), truth), rel=1e-5
    )
    assert torch.equal(losses["classification"], losses["total"])
    later = model.losses(model.features[:3](images), 3, targets)
    torch.testing.assert_close(later["total"], losses["total"])


@pytest.mark.parametrize(("own", "channels"), [(None, 64), (20, 20)])
def test_the_transition_layer_has_the_backbone_s_channels_unless_told(own, channels):
    model = build("baseline", ["a"], backbone="resnet18", width=8, transition_channels=own)
    with torch.no_grad():
        assert model.features(torch.randn(2, 3, 64, 64)).shape == (2, channels, 2, 2)


@pytest.mark.parametrize("sharpness", [0, -1, math.nan])
def test_a_sharpness_that_is_not_positive_is_refused(sharpness):
    with pytest.raises(InputError, match="sharpness"):
        build("baseline", ["a"], **NETWORK, sharpness=sharpness)
