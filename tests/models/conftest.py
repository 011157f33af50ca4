"""A backbone small enough to train within a test."""

from functools import partial

import pytest
from torchvision.models import densenet

from crosseai.models import backbone


def tiny_densenet(weights=None):
    """torchvision's DenseNet with five dense layers."""
    return densenet.DenseNet(8, (1, 2, 1, 1), num_init_features=16, bn_size=2)


@pytest.fixture(autouse=True, scope="module")
def tiny():
    """Let a backbone be called "tiny"; torchvision's own network of it."""
    with pytest.MonkeyPatch.context() as patch:
        constructor = partial(backbone.build_densenet, tiny_densenet)
        patch.setitem(backbone.BACKBONES, "tiny", constructor)
        yield tiny_densenet
