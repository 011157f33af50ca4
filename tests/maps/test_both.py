import pytest
import torch
import torchvision
from torch import nn

from crosseai.maps.both import heatmaps_and_gradients
from crosseai.maps.cam import grad_cam_plus_plus
from crosseai.maps.guided import guided_backprop
from crosseai.models import build


class Deep(nn.Module):
    """A head of two linear layers with a ReLU, for which there is no closed form."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(inplace=True))
        self.head = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


NETWORKS = {
    "resnet": lambda: torchvision.models.resnet18(weights=None, num_classes=4),
    "densenet": lambda: torchvision.models.densenet121(weights=None, num_classes=4),
    "triplet attention": lambda: build("scalp", list("abcd"), backbone="resnet18", width=8),
    "a deep head": Deep,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_two_maps_made_apart(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    classes = torch.tensor([[0, 3], [1, 2]])
    heatmaps, gradients = heatmaps_and_gradients(model, images, classes, "sum")
    assert heatmaps.shape[:2] == (2, 2)
    assert not heatmaps.requires_grad
    assert heatmaps.any()
    torch.testing.assert_close(heatmaps, grad_cam_plus_plus(model, images, classes))
    torch.testing.assert_close(gradients, guided_backprop(model, images, classes, "sum"))


def test_leaves_the_model_as_it_was():
    model = NETWORKS["resnet"]().train()
    heatmaps_and_gradients(model, torch.randn(2, 3, 64, 64), [0])
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
