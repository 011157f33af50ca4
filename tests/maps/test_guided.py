import copy
import warnings

import pytest
import torch
import torchvision
from captum.attr import Deconvolution, GuidedBackprop
from torch import nn
from torch.nn import functional
from torchvision.models import resnet

from crosseai.maps.guided import deconvnet, guided_backprop
from crosseai.models import build


def images(n=2, size=16):
    return torch.randn(
        n, 3, size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )


PEERS = {guided_backprop: GuidedBackprop, deconvnet: Deconvolution}


def captums(network, batch, classes, method=guided_backprop):
    """Signed gradients by captum, [N, C, 3, H, W]; each ReLU must be a module of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = PEERS[method](network)
        maps = [peer.attribute(batch.clone(), torch.full((len(batch),), c)) for c in classes]
    return torch.stack(maps, 1).detach()


class Net(nn.Module):
    """Two convolutions and two linear layers with three ReLUs; a subclass calls them, `rectify`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.third = nn.Linear(8, 16)
        self.last = nn.Linear(16, 4)
        self.double().eval()

    def forward(self, x):
        x = self.rectify(self.first(x), 0)
        x = self.rectify(self.second(x) + 0.1, 1).mean((2, 3))
        return self.last(self.rectify(self.third(x), 2))


class Own(Net):
    def __init__(self):
        super().__init__()
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

    def rectify(self, x, call):
        return self.relus[call](x)


class Reused(Net):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def rectify(self, x, call):
        return self.relu(x)


class ReusedInPlace(Reused):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)


def calls(function):
    """A network whose ReLUs are `function`."""
    return lambda: type("Calls", (Net,), {"rectify": lambda self, x, call: function(x)})()


def ignoring(function):
    """The same where what the function returns is ignored."""

    def rectify(x):
        function(x)
        return x

    return calls(rectify)


WAYS = {
    "modules": Own,
    "one module": Reused,
    "one module in place": ReusedInPlace,
    "F.relu": calls(functional.relu),
    "F.relu by name": calls(lambda x: functional.relu(input=x)),
    "F.relu in place": calls(lambda x: functional.relu(x, inplace=True)),
    "F.relu in place by position": calls(lambda x: functional.relu(x, True)),
    "torch.relu": calls(torch.relu),
    "method": calls(lambda x: x.relu()),
    "method in place": calls(lambda x: x.relu_()),
    "torch.relu_": calls(torch.relu_),
    "F.relu_": calls(functional.relu_),
    "method in place on a view": calls(lambda x: x.view(x.shape).relu_()),
    "ignored method on a view": ignoring(lambda x: x.view(x.shape).relu_()),
    "ignored method on two slices": ignoring(lambda x: (x[:, :4].relu_(), x[:, 4:].relu_())),
    "ignored F.relu": ignoring(lambda x: functional.relu(x, inplace=True)),
    "ignored method": ignoring(lambda x: x.relu_()),
    "ignored module": ignoring(nn.ReLU(inplace=True)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", PEERS)
def test_every_way_to_call_a_relu_equals_captum_on_modules(method, way):
    expected = captums(Own(), images(), range(4), method)
    network = WAYS[way]()
    torch.testing.assert_close(network(images()), Own()(images()), rtol=1e-12, atol=1e-14)
    maps = method(network, images(), range(4), "none")
    assert expected.abs().amax() > 0
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-15)


def test_the_methods_differ_from_the_plain_gradient_and_each_other():
    network, leaf = Own(), images().requires_grad_()
    (plain,) = torch.autograd.grad(network(leaf)[:, 0].sum(), leaf)
    guided, deconvolved = (method(network, images(), [0], "none")[:, 0] for method in PEERS)
    for a, b in [(guided, plain), (deconvolved, plain), (guided, deconvolved)]:
        assert (a - b).abs().max() > 0.1 * plain.abs().max()


def test_by_hand():
    """One pixel, three channels, two ReLUs: only the path of positive gradients passes."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)
    )
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]]))
        network[3].weight.copy_(torch.tensor([[2.0, -1.0]]))
    lit = torch.tensor([1.0, 0.1, 0.1]).view(1, 3, 1, 1)  # both units are active
    dark = torch.tensor([-1.0, 0.1, 0.1]).view(1, 3, 1, 1)  # neither is
    signed = guided_backprop(network, torch.cat([lit, dark]), [0], "none")
    assert signed.flatten(1).tolist() == [[2.0, -4.0, 6.0], [0.0, 0.0, 0.0]]
    # The deconvnet does not ask whether a unit is active.
    signed = deconvnet(network, torch.cat([lit, dark]), [0], "none")
    assert signed.flatten(1).tolist() == [[2.0, -4.0, 6.0], [2.0, -4.0, 6.0]]
    assert guided_backprop(network, lit, [0]).item() == 6
    assert guided_backprop(network, lit, [0], "sum").item() == 12


def test_a_network_may_begin_with_a_relu_in_place():
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3, 2)).double()
    peer = copy.deepcopy(network)
    peer[0].inplace = False
    batch = images(3, 1)
    kept = batch.clone()
    maps = guided_backprop(network, batch, [0, 1], "none")
    torch.testing.assert_close(maps, captums(peer, batch, [0, 1]))
    assert torch.equal(batch, kept)


def with_own_relus(network):
    """A copy in which no residual block uses a ReLU module twice and none works in place."""
    network = copy.deepcopy(network)
    for block in network.modules():
        if isinstance(block, resnet.BasicBlock):
            block.relu_a, block.relu_b = nn.ReLU(), nn.ReLU()
            block.attention = getattr(block, "attention", nn.Identity())
            block.forward = lambda x, b=block: b.relu_b(
                b.attention(b.bn2(b.conv2(b.relu_a(b.bn1(b.conv1(x))))))
                + (x if b.downsample is None else b.downsample(x))
            )
        elif isinstance(block, nn.ReLU):
            block.inplace = False
    return network


NETWORKS = {
    "torchvision": lambda: torchvision.models.resnet18(weights=None, num_classes=5),
    "triplet": lambda: build("scalp", list("abcde"), backbone="resnet18"),
    "triplet, channels last": lambda: build("scalp", list("abcde"), backbone="resnet18").to(
        memory_format=torch.channels_last
    ),
}


@pytest.mark.parametrize(
    ("method", "name"),
    [*((guided_backprop, name) for name in NETWORKS), (deconvnet, "torchvision")],
)
def test_residual_networks_equal_captum_on_a_copy_with_relus_of_its_own(method, name):
    torch.manual_seed(0)
    network = NETWORKS[name]().double().eval()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, 0, 0.1)
    copied = with_own_relus(network)
    batch = images(2, 64)
    torch.testing.assert_close(network(batch), copied(batch), rtol=1e-10, atol=1e-12)
    expected = captums(copied, batch, [0, 3], method)
    maps = method(network, batch, [0, 3], "none")
    assert expected.abs().amax((2, 3, 4)).min() > 0
    torch.testing.assert_close(maps / maps.std(), expected / expected.std(), rtol=1e-8, atol=1e-10)


def test_densenet_equals_captum_on_modules_not_in_place():
    torch.manual_seed(0)
    network = build("scalp", list("ab"), backbone="densenet121", attention="last").double().eval()
    peer = copy.deepcopy(network)
    for relu in (m for m in peer.modules() if isinstance(m, nn.ReLU)):
        relu.inplace = False
    expected = captums(peer, images(1, 64), [1])
    maps = guided_backprop(network, images(1, 64), [1], "none")
    torch.testing.assert_close(maps / maps.std(), expected / expected.std(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", PEERS)
def test_reductions(method):
    signed = method(Own(), images(), [0, 1], "none")
    assert signed.shape == (2, 2, 3, 16, 16)
    largest = method(Own(), images(), [0, 1])
    assert largest.shape == (2, 2, 16, 16)
    torch.testing.assert_close(largest, signed.abs().max(2).values)
    torch.testing.assert_close(method(Own(), images(), [0, 1], "sum"), signed.abs().sum(2))


def test_an_unknown_reduction_is_a_clear_error():
    with pytest.raises(ValueError, match="mean"):
        guided_backprop(Own(), images(), [0], "mean")


def test_classes_shared_or_each_image_s_own():
    batch = images(3)
    every = guided_backprop(Own(), batch, range(4))
    own = guided_backprop(Own(), batch, torch.tensor([[1, 3], [0, 2], [3, 3]]))
    expected = torch.stack([every[0, [1, 3]], every[1, [0, 2]], every[2, [3, 3]]])
    torch.testing.assert_close(own, expected)
    torch.testing.assert_close(guided_backprop(Own(), batch[1:2], range(4)), every[1:2])
    with pytest.raises(ValueError, match="classes"):
        guided_backprop(Own(), batch, torch.zeros(2, 1, dtype=int))


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    network = nn.Sequential(nn.BatchNorm2d(3), ReusedInPlace()).double().train()
    network[1].third.eval()
    network[1].first.weight.requires_grad_(False)
    network[1].last.weight.grad = torch.ones_like(network[1].last.weight)

    def state():
        return (
            [m.training for m in network.modules()],
            [p.requires_grad for p in network.parameters()],
            [p.grad is None for p in network.parameters()],
            [len(m._forward_hooks) + len(m._backward_hooks) for m in network.modules()],
            [type(m) for m in network.modules()],
            network[1].relu.inplace,
        )

    before, tensors = state(), copy.deepcopy(network.state_dict())
    if fails:
        with pytest.raises(RuntimeError):
            guided_backprop(network, images(), [99])
    else:
        guided_backprop(network, images(), [0, 1])
    assert state() == before
    assert (network[1].last.weight.grad == 1).all()
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    # ReLUs are plain again: the gradient is the gradient.
    plain, guided = images().requires_grad_(), images().requires_grad_()
    Own()(plain)[:, 0].sum().backward()
    Reused()(guided)[:, 0].sum().backward()
    torch.testing.assert_close(guided.grad, plain.grad)


def test_images_and_an_outer_no_grad_do_not_matter():
    batch = images()
    expected = guided_backprop(Own(), batch, [0])
    with torch.no_grad():
        torch.testing.assert_close(guided_backprop(Own(), batch, [0]), expected)
    asking = batch.clone().requires_grad_()
    torch.testing.assert_close(guided_backprop(Own(), asking, [0]), expected)
    assert asking.grad is None
    assert not batch.requires_grad


def test_gradients_of_parameters_are_never_computed(monkeypatch):
    """Nothing in the graph of the logits reaches a parameter."""
    network, reached = ReusedInPlace(), []
    for parameter in network.parameters():
        parameter.register_hook(reached.append)
    guided_backprop(network, images(), [0, 1])
    assert not reached
    network(images()).sum().backward()
    assert len(reached) == len(list(network.parameters()))
