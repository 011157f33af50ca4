import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.fx.experimental.optimization import fuse

from crosseai.maps.folding import folded
from crosseai.maps.guided import guided_backprop
from crosseai.models import CLASSIFIERS, build


def lived_in(model):
    """No statistic and no parameter of a batch norm at its initial value; double precision."""
    torch.manual_seed(0)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        nn.init.normal_(norm.running_mean, 0, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model.double().eval()


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("backbone", "left"),  # a DenseNet's before its 58 layers, its 3 transitions and its end
    [("resnet18", 0), ("resnet50", 0), ("densenet121", 58 + 3 + 1)],
)
def test_gives_the_same_logits_and_gradients_with_fewer_batch_norms(backbone, left):
    model = lived_in(build("scalp", list("ab"), backbone=backbone))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    faster = copy.deepcopy(model)
    faster.features = folded(model.features)
    assert norms(faster) == left < norms(model)
    torch.testing.assert_close(faster(images), model(images), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        guided_backprop(faster, images, [0, 1]), guided_backprop(model, images, [0, 1])
    )
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_gives_the_same_logits_for_every_classifier(classifier):
    model = lived_in(build(classifier, list("ab"), backbone="resnet18"))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    faster = copy.deepcopy(model)
    faster.features = folded(model.features)
    assert norms(faster) < norms(model)
    torch.testing.assert_close(faster(images), model(images), rtol=1e-9, atol=1e-9)


def test_agrees_with_torch_s_own_on_a_network_of_torchvision():
    model = lived_in(torchvision.models.resnet18(weights=None))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(folded(model)(images), fuse(model)(images), rtol=1e-12, atol=1e-12)
    assert norms(folded(model)) == 0


class Shared(nn.Module):
    """One convolution before two batch norms, and one whose output goes two ways."""

    def __init__(self):
        super().__init__()
        self.convolution, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.first, self.second, self.third = (nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x):
        x = self.second(self.convolution(self.first(self.convolution(x))))
        y = self.other(x)
        return y + self.third(y)


def test_a_convolution_that_serves_others_too_stays():
    model, images = lived_in(Shared()), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    assert norms(folded(model)) == 3
    torch.testing.assert_close(folded(model)(images), model(images))
