import pytest
import torch
from torch import nn

from crosseai.errors import InputError
from crosseai.maps.own import own
from crosseai.models import build


class Patches(nn.Module):
    """Maps of four classes, which training would change."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9))

    def heatmaps(self, images):
        return self.features(images).sigmoid()


def test_the_classifier_s_own_maps_of_the_classes():
    network, images = Patches(), torch.randn(2, 3, 8, 8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    maps = own(network, images, torch.tensor([[3, 0], [1, 1]]))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not maps.requires_grad
    network.eval()
    every = network.heatmaps(images).detach()
    expected = torch.stack([every[0, [3, 0]], every[1, [1, 1]]])
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(own(network, images, [2]), every[:, [2]])


def test_patch_probabilities_of_supervision():
    torch.manual_seed(0)
    network = build("supervision", ["a", "b"], backbone="resnet18", width=8)
    images = torch.randn(1, 3, 64, 64)
    maps = own(network, images, [1])
    assert maps.shape == (1, 1, *network.eval().heatmaps(images).shape[2:])
    assert 0 < maps.min() < maps.max() < 1


def test_a_classifier_without_maps_is_named():
    with pytest.raises(InputError, match="Sequential makes none"):
        own(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2), [0])
