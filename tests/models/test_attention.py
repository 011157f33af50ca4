import pytest
import torch
from torch import nn

from crosseai.models.attention import TripletAttention


@pytest.fixture
def attention():
    """Double precision, evaluation mode, no parameter or statistic at its initial value."""
    torch.manual_seed(0)
    module = TripletAttention().double().eval()
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return module


def branch(x, kernel, norm):
    """The paper's branch: pool the first axis after the batch, convolve, normalise, gate."""
    pooled = torch.cat([x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)], 1)
    z = nn.functional.conv2d(pooled, kernel, padding=3)
    z = (z - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    return x / (1 + torch.exp(-z))


def test_equals_the_paper_s_three_rotated_branches(attention):
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)  # [N, C, H, W]
    # Channel and width interact once height is in the channels' place: [N, H, C, W], and back.
    # The kernel lies as [W, C].
    gate = attention.channel_width
    first = branch(
        x.permute(0, 2, 1, 3), gate.convolution.weight.transpose(2, 3), gate.norm
    ).permute(0, 2, 1, 3)
    # Channel and height, rotated the other way: [N, W, H, C].
    gate = attention.channel_height
    second = branch(x.permute(0, 3, 2, 1), gate.convolution.weight, gate.norm).permute(0, 3, 2, 1)
    gate = attention.height_width
    third = branch(x, gate.convolution.weight, gate.norm)
    expected = (first + second + third) / 3
    torch.testing.assert_close(attention(x), expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences(attention):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, x)


def test_has_the_paper_s_parameters_and_momentum():
    module = TripletAttention()
    assert sum(p.numel() for p in module.parameters()) == 3 * (98 + 2)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == [0.01] * 3
    assert all(m.bias is None for m in module.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(("bias", "share"), [(0.0, 0.5), (4.0, 0.973)])
def test_a_fresh_gate_lets_the_share_through_that_its_bias_says(bias, share):
    """Batch norm makes the sigmoid's input standard normal; E sigmoid(4 + z) is 0.973."""
    torch.manual_seed(0)
    x = torch.rand(64, 16, 8, 8) + 1
    passed = (TripletAttention(bias)(x) / x).mean().item()
    assert passed == pytest.approx(share, abs=0.015)


def test_every_branch_learns(attention):
    attention(torch.randn(2, 4, 8, 8, dtype=torch.float64)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in attention.parameters())
