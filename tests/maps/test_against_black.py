import copy
import math

import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import IntegratedGradients, LayerConductance, Lime
from skimage.measure import label as connected
from torch import nn
from torch.nn import functional

from crosseai.errors import InputError
from crosseai.maps.against_black import integrated_gradients, layer_conductance, lime, segments

FEW = {integrated_gradients: {"steps": 3}, layer_conductance: {"steps": 3}, lime: {"samples": 20}}


def images(n=2, size=16):
    return torch.randn(
        n, 3, size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )


def smooth_images(n=2, size=32):
    """Images on which superpixels find something to follow."""
    coarse = images(n, 6).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return functional.interpolate(coarse, (size, size), mode="bicubic")


def black_of(batch):
    """The darkest value of each channel of each image, everywhere."""
    darkest = [[batch[n, c].min().item() for c in range(3)] for n in range(len(batch))]
    return torch.tensor(darkest, dtype=batch.dtype)[:, :, None, None].expand_as(batch)


class Net(nn.Module):
    """Two convolutions and two linear layers, with ReLUs of their own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, padding=1, stride=2)
        self.third = nn.Linear(6, 16)
        self.last = nn.Linear(16, 4)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))
        self.double().eval()

    def forward(self, x):
        x = self.relus[0](self.first(x))
        x = self.relus[1](self.second(x) + 0.1).mean((2, 3))
        return self.last(self.relus[2](self.third(x)))


class InPlace(Net):
    """The same with one ReLU for all, in place."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = self.relu(self.second(x) + 0.1).mean((2, 3))
        return self.last(self.relu(self.third(x)))


NETWORKS = pytest.mark.parametrize("network", [Net, InPlace])
METHODS = pytest.mark.parametrize("method", FEW)


@NETWORKS
def test_integrated_gradients_equal_captum_on_relus_of_their_own(network):
    batch = images()
    peer = IntegratedGradients(Net())
    expected = torch.stack(
        [peer.attribute(batch, black_of(batch), torch.tensor([c, c]), n_steps=21) for c in (3, 1)],
        1,
    )
    signed = integrated_gradients(network(), batch, [3, 1], 21, "none")
    torch.testing.assert_close(signed, expected, rtol=1e-9, atol=1e-14)
    largest = integrated_gradients(network(), batch, [3, 1], 21)
    torch.testing.assert_close(largest, expected.abs().amax(2))
    summed = integrated_gradients(network(), batch, [3, 1], 21, "sum")
    torch.testing.assert_close(summed, expected.abs().sum(2))


def test_integrated_gradients_add_up_to_what_the_image_adds_to_the_logit():
    network, batch = Net(), images()
    network.relus = nn.ModuleList(nn.Softplus() for _ in range(3))  # no kink on the path
    signed = integrated_gradients(network, batch, range(4), 50, "none")
    difference = (network(batch) - network(black_of(batch))).detach()
    assert difference.abs().min() > 1e-3
    torch.testing.assert_close(signed.sum((2, 3, 4)), difference, rtol=1e-5, atol=1e-8)


@NETWORKS
def test_conductance_equals_captum_and_its_definition(network):
    batch, black, net, steps = images(), black_of(images()), Net(), 9
    peer = LayerConductance(net, net.first)
    rest = nn.Sequential(net.relus[0], net.second)

    def logits_behind(activation):
        pooled = net.relus[1](rest(activation) + 0.1).mean((2, 3))
        return net.last(net.relus[2](net.third(pooled)))

    for c in (0, 2):
        # Gradient by the layer times the layer's change, from one point of the path to the next.
        by_hand = torch.zeros(2, 16, 16, dtype=torch.float64)
        for step in range(steps):
            here = net.first(black + step / steps * (batch - black)).detach().requires_grad_()
            there = net.first(black + (step + 1) / steps * (batch - black)).detach()
            (gradient,) = torch.autograd.grad(logits_behind(here)[:, c].sum(), here)
            by_hand += (gradient * (there - here.detach())).sum(1)
        captums = peer.attribute(
            batch, black, torch.tensor([c, c]), n_steps=steps, method="riemann_trapezoid"
        ).sum(1)
        torch.testing.assert_close(captums.detach(), by_hand)
        maps = layer_conductance(network(), batch, [c], "first", steps)
        assert maps.max() > 0
        torch.testing.assert_close(maps[:, 0], by_hand.clamp(min=0))


def test_conductance_behind_a_mean_and_a_linear_layer_needs_no_steps():
    """It is then the class activation map less that of the black image."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 7, 3, stride=2), nn.ReLU(), nn.Conv2d(7, 5, 3))
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    network.double()
    change = features(images()) - features(black_of(images()))  # [N, K, h, w]
    weight = network[3].weight[[2, 0]] / change[0, 0].numel()
    expected = torch.einsum("ck,nkhw->nchw", weight, change).relu().detach()
    for steps in (1, 20):
        maps = layer_conductance(network, images(), [2, 0], steps=steps)
        torch.testing.assert_close(maps, expected)


def test_conductance_of_a_module_used_again_behind_its_map_is_refused():
    with pytest.raises(InputError, match=r"layer: .* name another"):
        layer_conductance(InPlace(), images(), [0], steps=2)


def nearness(original, perturbed, kept, **_):
    """LIME's kernel: width 0.25 over the cosine distance to a sample that keeps all."""
    kept = kept[0].double()
    cosine = kept.sum() / (kept.norm() * math.sqrt(len(kept))) if kept.any() else torch.tensor(0.0)
    return math.exp(-((1 - cosine.item()) ** 2) / (2 * 0.25**2))


@NETWORKS
def test_lime_equals_captum_on_relus_of_their_own(network):
    batch = smooth_images()
    maps = lime(network(), batch, [3, 1], samples=60, superpixels=9, seed=4)
    assert maps.shape == (2, 2, 32, 32)
    assert maps.max() > 0
    peer = Lime(Net(), SkLearnRidge(alpha=1.0), nearness)
    for n in range(2):
        parts = torch.from_numpy(segments(batch[n].mean(0).numpy(), 9))
        assert parts.max() >= 4
        for column, c in enumerate((3, 1)):
            torch.manual_seed(4)
            expected = peer.attribute(
                batch[n : n + 1],
                black_of(batch)[n : n + 1],
                c,
                feature_mask=parts[None, None],
                n_samples=60,
            )
            expected = expected[0, 0].clamp(min=0).double()
            torch.testing.assert_close(maps[n, column], expected, rtol=1e-4, atol=1e-6)


def test_lime_finds_what_each_superpixel_adds_to_a_linear_network():
    torch.manual_seed(0)
    network, batch = nn.Sequential(nn.Flatten(), nn.Linear(3 * 1024, 2)), smooth_images(1)
    network.double()
    (maps,) = lime(network, batch, [1], samples=2000, superpixels=9)
    weight = network[1].weight.detach()[1].view(3, 32, 32)
    added = (weight * (batch - black_of(batch))[0]).sum(0)  # [H, W]
    parts = torch.from_numpy(segments(batch[0].mean(0).numpy(), 9))
    expected = torch.stack([added[parts == part].sum() for part in range(parts.max() + 1)])[parts]
    assert expected.min() < 0 < expected.max()
    torch.testing.assert_close(maps[0], expected.clamp(min=0), rtol=0.02, atol=0.01)


def test_lime_depends_on_its_seed_alone():
    network, batch = Net(), images()
    torch.manual_seed(1)
    one = lime(network, batch, [0], samples=30)
    torch.manual_seed(2)
    assert torch.equal(lime(network, batch, [0], samples=30), one)
    assert torch.equal(lime(network, batch[1:], [0], samples=30), one[1:])
    assert not torch.equal(lime(network, batch, [0], samples=30, seed=1), one)


def test_superpixels_are_connected_counted_from_zero_and_about_as_many_as_asked():
    rows, columns = np.mgrid[:64, :64]
    grey = np.hypot(rows - 30, columns - 20) < 12
    grey = (grey * 90.0 + np.random.default_rng(0).normal(0, 5, (64, 64))).astype("float32")
    for number in (16, 64):
        parts = segments(grey, number)
        assert parts.shape == (64, 64)
        present = np.unique(parts)
        assert present.tolist() == list(range(len(present)))
        assert number / 2 <= len(present) <= number * 1.5
        assert all(connected(parts == part).max() == 1 for part in present)
        np.testing.assert_array_equal(segments(grey * 0.01 - 1, number), parts)
    # They follow the edge of the disc.
    sums = [grey[parts == part] for part in present]
    assert sum(part.std() ** 2 * len(part) for part in sums) < 0.2 * grey.var() * grey.size


@METHODS
def test_an_image_without_contrast_gives_an_empty_map(method):
    maps = method(Net(), torch.full((1, 3, 16, 16), 0.3, dtype=torch.float64), [0], **FEW[method])
    assert torch.count_nonzero(maps.abs() > 1e-12) == 0


@METHODS
def test_classes_shared_or_each_image_s_own(method):
    batch, few = images(), FEW[method]
    every = method(Net(), batch, range(4), **few)
    assert (every >= 0).all()
    own = method(Net(), batch, torch.tensor([[1, 3], [0, 0]]), **few)
    torch.testing.assert_close(own, torch.stack([every[0, [1, 3]], every[1, [0, 0]]]))
    torch.testing.assert_close(method(Net(), batch[1:], range(4), **few), every[1:])
    with torch.no_grad():
        torch.testing.assert_close(method(Net(), batch, range(4), **few), every)
    asking = batch.clone().requires_grad_()
    maps = method(Net(), asking, range(4), **few)
    assert asking.grad is None
    assert not maps.requires_grad
    with pytest.raises(ValueError, match="classes"):
        method(Net(), batch, torch.zeros(3, 1, dtype=int), **few)


@METHODS
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(method, fails):
    network = nn.Sequential(nn.BatchNorm2d(3), Net()).double().train()
    network[1].third.eval()
    network[1].first.weight.requires_grad_(False)
    network[1].last.weight.grad = torch.ones_like(network[1].last.weight)

    def state():
        return (
            [m.training for m in network.modules()],
            [p.requires_grad for p in network.parameters()],
            [p.grad is None for p in network.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()],
            [len(m._backward_hooks) for m in network.modules()],
        )

    before, tensors, batch = state(), copy.deepcopy(network.state_dict()), images()
    if fails:
        with pytest.raises((RuntimeError, IndexError, AssertionError)):
            method(network, batch, [99], **FEW[method])
    else:
        method(network, batch, [0], **FEW[method])
    assert state() == before
    assert (network[1].last.weight.grad == 1).all()
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    assert torch.equal(batch, images())


@METHODS
def test_a_network_may_begin_with_a_relu_in_place(method):
    linear = nn.Conv2d(3, 4, 3).double()
    tail = [nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)]
    torch.manual_seed(0)
    plain, in_place = (
        nn.Sequential(nn.ReLU(inplace=flag), linear, *tail).double() for flag in (False, True)
    )
    batch = images()
    maps = method(in_place, batch, [0, 1], **FEW[method])
    torch.testing.assert_close(maps, method(plain, images(), [0, 1], **FEW[method]))
    assert torch.equal(batch, images())


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        (integrated_gradients, {"steps": 0}, "steps"),
        (integrated_gradients, {"reduction": "mean"}, "mean"),
        (layer_conductance, {"steps": 0}, "steps"),
        (layer_conductance, {"layer": "layer9"}, "layer9"),
        (layer_conductance, {"layer": "last"}, "no module gives a map"),
        (lime, {"samples": 0}, "samples"),
        (lime, {"superpixels": 0}, "superpixels"),
    ],
)
def test_settings_that_do_not_fit_are_named(method, settings, said):
    with pytest.raises(InputError, match=said):
        method(Net(), images(), [0], **settings)
