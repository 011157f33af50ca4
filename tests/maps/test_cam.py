import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models import vgg

from crosseai.errors import InputError
from crosseai.maps.cam import (
    cam,
    closed_form,
    general_formula,
    grad_cam,
    grad_cam_plus_plus,
    plus_plus_weight,
)
from crosseai.models import build

LABELS = list("abcde")


def unsettled(network):
    """Double precision, evaluation mode, statistics off zero and one."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.double().eval()


def images(n=2, size=64):
    return torch.randn(
        n, 3, size, size, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )


def split(network):
    """Last feature map and head of a pooled network, as functions."""
    if hasattr(network, "labels"):
        return network.features, lambda a: network.classifier(a.mean((2, 3)))
    if hasattr(network, "features"):
        return (
            lambda x: functional.relu(network.features(x)),
            lambda a: network.classifier(a.mean((2, 3))),
        )
    return nn.Sequential(*list(network.children())[:-2]), lambda a: network.fc(a.mean((2, 3)))


POOLED = {
    "torchvision-resnet18": lambda: torchvision.models.resnet18(weights=None, num_classes=5),
    "torchvision-densenet121": lambda: torchvision.models.densenet121(weights=None, num_classes=5),
    "triplet-resnet18": lambda: build("scalp", LABELS, backbone="resnet18"),
    "plain-resnet18-16": lambda: build(
        "scalp", LABELS, backbone="resnet18", attention="none", output_stride=16
    ),
    "triplet-densenet121": lambda: build("scalp", LABELS, backbone="densenet121"),
}


@pytest.mark.parametrize("name", POOLED)
def test_closed_form_equals_the_general_formula(name):
    torch.manual_seed(0)
    network = unsettled(POOLED[name]())
    features, head = split(network)
    activation = features(images()).detach().requires_grad_()
    index = torch.tensor([[0, 2, 4], [3, 2, 1]])
    expected = general_formula(activation, head(activation), index, plus_plus_weight)
    maps = grad_cam_plus_plus(network, images(), index)
    assert maps.shape == (2, 3, *activation.shape[2:])
    assert maps.amax((2, 3)).min() > 0
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-14)
    assert not maps.requires_grad


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (cam, "torchvision-resnet18"),
        (grad_cam, "torchvision-resnet18"),
        (grad_cam_plus_plus, "torchvision-resnet18"),
        (grad_cam_plus_plus, "torchvision-densenet121"),
    ],
)
def test_a_pooled_network_takes_no_backward_pass(method, name, monkeypatch):
    torch.manual_seed(0)
    network = unsettled(POOLED[name]())
    monkeypatch.setattr(torch.autograd, "grad", None)
    assert method(network, images(), range(5)).shape == (2, 5, 2, 2)


def gradient_weighed(activation, head, c):
    """Grad-CAM by its equations 1 and 2: [N, h, w]."""
    at = activation.detach().requires_grad_()
    head(at)[:, c].sum().backward()
    weight = at.grad.sum((2, 3)) / at[0, 0].numel()  # [N, K]
    return (weight[:, :, None, None] * at.detach()).sum(1).clamp(min=0)


@pytest.mark.parametrize("name", ["torchvision-resnet18", "triplet-resnet18"])
def test_grad_cam_of_pooled_networks_equals_its_definition(name):
    torch.manual_seed(0)
    network = unsettled(POOLED[name]())
    features, head = split(network)
    activation = features(images())
    maps = grad_cam(network, images(), range(5))
    expected = torch.stack([gradient_weighed(activation, head, c) for c in range(5)], 1)
    assert expected.amax() > 0
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-14)
    assert not maps.requires_grad


def test_grad_cam_of_another_head_and_layer_equals_its_definition():
    torch.manual_seed(1)
    network = Toy("vgg").double()
    activation = network.relu(network.convolution(images(2, 8)))
    expected = torch.stack([gradient_weighed(activation, network.head, c) for c in (0, 1)], 1)
    assert (expected.amax((2, 3)) > 0).any()
    torch.testing.assert_close(grad_cam(network, images(2, 8), [0, 1]), expected)
    before = network.convolution(images(2, 8))
    expected = gradient_weighed(before, lambda a: network.head(network.relu(a)), 1)
    assert expected.amax() > 0
    maps = grad_cam(network, images(2, 8), [1], layer="convolution")
    torch.testing.assert_close(maps[:, 0], expected)


def test_closed_form_in_numbers():
    activation = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])  # means 2 and 2
    theta = torch.tensor([[[1.0, -1.0], [0.5, 3.0]]])
    expected = [
        [[1 / 4 * 1, 1 / 4 * 3]],
        [[0.5 / 3 * 1, 0.5 / 3 * 3 + 3 / 8 * 4]],
    ]
    found = closed_form(activation, theta, plus_plus_weight)[0]
    torch.testing.assert_close(found, torch.tensor(expected))


HEADS = ("pooled", "flat", "vgg")


class Toy(nn.Module):
    """A convolution, a ReLU, and one of three heads."""

    def __init__(self, head):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, stride=2)
        self.relu = nn.ReLU()
        self.head = {
            "pooled": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
            "flat": nn.Sequential(nn.Flatten(), nn.Linear(27, 2)),
            "vgg": nn.Sequential(nn.Flatten(), nn.Linear(27, 12), nn.ReLU(), nn.Linear(12, 2)),
        }[head]

    def forward(self, x):
        return self.head(self.relu(self.convolution(x)))


def chain_of_derivatives(function, activation):
    """First to third derivative of a number by each entry of `activation` on its own."""
    at = activation.detach().requires_grad_()
    (first,) = torch.autograd.grad(function(at), at, create_graph=True)
    second, third = torch.zeros_like(at), torch.zeros_like(at)
    for entry in range(at.numel()):
        (row,) = torch.autograd.grad(first.flatten()[entry], at, create_graph=True)
        second.view(-1)[entry] = row.flatten()[entry].detach()
        (row,) = torch.autograd.grad(row.flatten()[entry], at, retain_graph=True)
        third.view(-1)[entry] = row.flatten()[entry]
    return first.detach(), second, third


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition_with_true_derivatives(head, seed):
    """Equations 10 and 19 with Y = exp(logit), its derivatives found by autograd."""
    torch.manual_seed(seed)
    network = Toy(head).double()
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    activation = network.relu(network.convolution(image)).detach()[0]  # [K, h, w]
    for c in (0, 1):

        def score(a, c=c):
            return network.head(a[None])[0, c].exp()

        first, second, third = chain_of_derivatives(score, activation)
        denominator = 2 * second + activation.sum((1, 2), keepdim=True) * third
        alpha = torch.where(first > 0, second / denominator, 0)
        weight = (alpha * first.relu()).sum((1, 2))  # [K]
        expected = (weight[:, None, None] * activation).sum(0).relu()
        # The exponential itself is a factor of a whole map, and is left out.
        expected = expected / score(activation).detach()
        maps = grad_cam_plus_plus(network, image, [c])
        assert maps.max() > 0
        torch.testing.assert_close(maps[0, 0], expected, rtol=1e-9, atol=1e-14)


def test_layer_is_taken_by_name():
    torch.manual_seed(0)
    network = unsettled(POOLED["torchvision-resnet18"]())
    stem = nn.Sequential(*list(network.children())[:6])  # up to layer2
    rest = nn.Sequential(*list(network.children())[6:-1], nn.Flatten(), network.fc)
    activation = stem(images()).detach().requires_grad_()
    index = torch.tensor([[1, 3]]).expand(2, -1)
    expected = general_formula(activation, rest(activation), index, plus_plus_weight)
    maps = grad_cam_plus_plus(network, images(), [1, 3], layer="layer2")
    assert maps.shape == (2, 2, 8, 8)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-14)
    last = grad_cam_plus_plus(network, images(), [1, 3], layer="layer4")
    torch.testing.assert_close(last, grad_cam_plus_plus(network, images(), [1, 3]))


def test_a_vgg_takes_its_last_spatial_layer():
    torch.manual_seed(0)
    features = vgg.make_layers([8, "M", 16, 16, "M"])
    head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 49, 8), nn.ReLU(), nn.Linear(8, 3))
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(7), head)
    network = network.double().eval()
    activation = network[:2](images()).detach().requires_grad_()
    index = torch.tensor([[0, 1, 2]] * 2)
    expected = general_formula(activation, head(activation), index, plus_plus_weight)
    maps = grad_cam_plus_plus(network, images(), range(3))
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-16)


EVERY = [(cam, "pooled")] + [(m, h) for m in (grad_cam, grad_cam_plus_plus) for h in HEADS]


@pytest.mark.parametrize(("method", "head"), EVERY)
def test_classes_shared_or_each_image_s_own(method, head):
    torch.manual_seed(0)
    network = Toy(head).double()
    batch = images(3, 8)
    both = method(network, batch, [0, 1])
    own = method(network, batch, torch.tensor([[1], [0], [1]]))
    torch.testing.assert_close(own[:, 0], both[[0, 1, 2], [1, 0, 1]])
    torch.testing.assert_close(method(network, batch, torch.tensor([1, 0])), both[:, [1, 0]])
    one = method(network, batch[1:2], [0, 1])
    torch.testing.assert_close(one, both[1:2])
    with pytest.raises(ValueError, match="classes"):
        method(network, batch, torch.zeros(2, 1, dtype=int))


def snapshot(network):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in network.modules()
    ]
    return (
        [m.training for m in network.modules()],
        [p.requires_grad for p in network.parameters()],
        [p.grad is None for p in network.parameters()],
        hooks,
        [type(m) for m in network.modules()],
    )


@pytest.mark.parametrize(("method", "head"), EVERY)
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(method, head, fails):
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), Toy(head), nn.Dropout(0.0)).double().train()
    network[1].relu.eval()
    network[1].convolution.weight.requires_grad_(False)
    network[1].convolution.bias.grad = torch.ones_like(network[1].convolution.bias)
    before, state = snapshot(network), copy.deepcopy(network.state_dict())
    if fails:
        with pytest.raises((RuntimeError, IndexError)):
            method(network, images(2, 8), [99])
    else:
        method(network, images(2, 8), [0, 1])
    assert snapshot(network) == before
    assert (network[1].convolution.bias.grad == 1).all()
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])


def test_images_and_an_outer_no_grad_do_not_matter():
    torch.manual_seed(0)
    network = Toy("vgg").double()
    batch = images(2, 8)
    expected = grad_cam_plus_plus(network, batch, [0, 1])
    with torch.no_grad():
        torch.testing.assert_close(grad_cam_plus_plus(network, batch, [0, 1]), expected)
    asking = batch.clone().requires_grad_()
    torch.testing.assert_close(grad_cam_plus_plus(network, asking, [0, 1]), expected)
    assert asking.grad is None
    assert not batch.requires_grad


@pytest.mark.parametrize("method", [cam, grad_cam, grad_cam_plus_plus])
def test_a_network_may_begin_with_a_relu_in_place(method):
    torch.manual_seed(0)
    toy = Toy("pooled" if method is cam else "vgg")
    plain, in_place = (nn.Sequential(nn.ReLU(flag), toy).double() for flag in (False, True))
    batch = images(2, 8)
    torch.testing.assert_close(method(in_place, batch, [0, 1]), method(plain, images(2, 8), [0, 1]))
    assert torch.equal(batch, images(2, 8))


def test_unknown_layer_and_a_model_without_maps_are_named():
    with pytest.raises(ValueError, match="layer9"):
        grad_cam_plus_plus(Toy("vgg"), images(2, 8).float(), [0], layer="layer9")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(ValueError, match="no module gives a map"):
        grad_cam_plus_plus(flat, images(2, 8).float(), [0])


class LogSumExp(nn.Module):
    """Per channel, between the mean and the maximum (Wang et al. 2017)."""

    def forward(self, x):
        return (x.flatten(2) * 10).exp().mean(2).log() / 10


POOLINGS = {
    "mean": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "maximum": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
    "log-sum-exp": LogSumExp,
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_cam_is_prediction_weights_times_activations(pooling):
    torch.manual_seed(0)
    transition = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 5, 1))
    network = nn.Sequential(transition, POOLINGS[pooling](), nn.Linear(5, 3)).double()
    activation, weight = transition(images(2, 9)).detach(), network[2].weight.detach()
    assert (activation < 0).any()
    expected = torch.zeros(2, 2, 4, 4, dtype=torch.float64)
    for n in range(2):
        for column, c in enumerate((2, 0)):
            for k in range(5):
                expected[n, column] += weight[c, k] * activation[n, k]
    maps = cam(network, images(2, 9), [2, 0])
    torch.testing.assert_close(maps, expected)
    assert (maps.amin((2, 3)) < 0).any()
    if pooling == "mean":  # it divides the logit among the pixels
        logits = network(images(2, 9)) - network[2].bias
        torch.testing.assert_close(maps.mean((2, 3)), logits[:, [2, 0]].detach())


def test_cam_of_the_baseline_classifier():
    torch.manual_seed(0)
    network = unsettled(build("baseline", LABELS, backbone="resnet18", width=8))
    weight, activation = network.classifier.weight[[4, 1]], network.features(images())
    expected = torch.einsum("ck,nkhw->nchw", weight, activation).detach()
    torch.testing.assert_close(cam(network, images(), [4, 1]), expected)


def test_cam_wants_a_pooling_and_one_linear_layer():
    class Mixing(nn.Module):
        """As many numbers as channels, of more than one channel each."""

        def forward(self, x):
            return x.mean((2, 3)).cumsum(1)

    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 12, 3)
    mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for rest in (
        nn.Sequential(mean, nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2)),
        nn.Sequential(mean, nn.BatchNorm1d(12), nn.Linear(12, 2)),
        nn.Sequential(mean, nn.Linear(12, 2), nn.Sigmoid()),
        nn.Sequential(Mixing(), nn.Linear(12, 2)),
        nn.Sequential(nn.Flatten(), nn.Linear(12 * 36, 2)),
        nn.Sequential(nn.Conv2d(12, 2, 1), mean),
    ):
        network = nn.Sequential(convolution, nn.ReLU(), rest).double()
        with pytest.raises(InputError, match=r"cam .* one linear layer; choose grad_cam"):
            cam(network, images(2, 8), [0, 1])
        assert grad_cam(network, images(2, 8), [0, 1]).shape == (2, 2, 6, 6)
