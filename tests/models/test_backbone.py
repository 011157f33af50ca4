import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import relu
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet

from crosseai.errors import InputError
from crosseai.models import build
from crosseai.models.attention import TripletAttention
from crosseai.models.backbone import build_backbone

LABELS = list("abcdefgh")


def peer(name):
    """torchvision's network, its statistics set off zero and one."""
    torch.manual_seed(1)
    network = getattr(torchvision.models, name)(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.double().eval()


def peer_features(network, images):
    if hasattr(network, "features"):
        return relu(network.features(images))
    for name, stage in network.named_children():
        if name != "avgpool":
            images = stage(images)
        else:
            return images


def peer_names(network):
    names = {name.removeprefix("features.") for name in network.state_dict()}
    return {name for name in names if not name.startswith(("fc.", "classifier."))}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "densenet169"])
def test_parameters_carry_torchvision_s_names(name):
    with torch.device("meta"):
        expected = peer_names(getattr(torchvision.models, name)(weights=None))
        plain = set(build_backbone(name, attention="none")[0].state_dict())
        attentive = set(build_backbone(name, attention="all")[0].state_dict())
        last = set(build_backbone(name, attention="last")[0].state_dict())
    assert plain == expected
    assert attentive > last > expected
    assert all("attention" in added for added in attentive - expected)
    assert all("4" in added.split("attention")[0] + added for added in last - expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_without_attention_it_is_torchvision_s_network_up_to_the_last_activation(name):
    network = peer(name)
    backbone, channels = build_backbone(name, attention="none")
    state = {key.removeprefix("features."): value for key, value in network.state_dict().items()}
    backbone.double().load_state_dict({key: state[key] for key in backbone.state_dict()})
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        features = backbone.eval()(images)
        expected = peer_features(network, images)
    assert features.shape == (2, channels, 2, 2)
    assert features.std() > 0
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_attention_gates_the_residual_branch_before_the_sum(name):
    """A gate of zero leaves the shortcut alone, a gate of one the plain block."""
    torch.manual_seed(0)
    block = build_backbone(name)[0].eval().layer1[-1]
    x = torch.rand(1, block.conv1.in_channels, 8, 8)
    norms = [m for m in block.attention.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.bias.fill_(-200)
        torch.testing.assert_close(block(x), x)
        for norm in norms:
            norm.bias.fill_(200)
        plain = resnet.BasicBlock if name == "resnet18" else resnet.Bottleneck
        torch.testing.assert_close(block(x), plain.forward(block, x))


def test_attention_sits_where_it_is_asked_for():
    def places(name, attention):
        with torch.device("meta"):
            backbone = build_backbone(name, attention=attention)[0]
        return [key for key, m in backbone.named_modules() if isinstance(m, TripletAttention)]

    assert len(places("resnet50", "all")) == 16
    assert places("resnet18", "last") == ["layer4.0.attention", "layer4.1.attention"]
    assert places("densenet121", "all") == [f"attention{i}" for i in (1, 2, 3, 4)]
    assert places("densenet169", "last") == ["attention4"]
    assert places("resnet18", "none") == places("densenet121", "none") == []


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_gate_bias_reaches_every_gate(name):
    backbone, _ = build_backbone(name, gate_bias=4.0)
    biases = {
        key: value.item()
        for key, value in backbone.named_parameters()
        if "attention" in key and key.endswith("norm.bias")
    }
    assert biases
    assert set(biases.values()) == {4.0}


def test_the_paper_s_network_has_its_size_and_cost():
    with torch.device("meta"):
        model = build("scalp", LABELS).eval()
        images = torch.empty(1, 3, 224, 224)
    assert 23.51e6 < sum(p.numel() for p in model.parameters()) < 23.55e6
    with FlopCounterMode(display=False) as counter:
        assert model(images).shape == (1, 8)
    # The paper counts a multiplication and its addition as one.
    assert 4.1e9 < counter.get_total_flops() / 2 < 4.2e9


def test_stride_in_1x1_moves_the_stride_and_nothing_else():
    with torch.device("meta"):
        first, _ = build_backbone("resnet50", stride_in_1x1=True)
        usual, _ = build_backbone("resnet50")
        images = torch.empty(1, 3, 64, 64)
    for layer in ("layer2", "layer3", "layer4"):
        before, after = getattr(usual, layer)[0], getattr(first, layer)[0]
        assert (before.conv1.stride, before.conv2.stride) == ((1, 1), (2, 2))
        assert (after.conv1.stride, after.conv2.stride) == ((2, 2), (1, 1))
        assert after.downsample[0].stride == (2, 2)
        assert all(block.conv1.stride == (1, 1) for block in getattr(first, layer)[1:])
    assert first.layer1[0].conv1.stride == first.layer1[0].conv2.stride == (1, 1)
    assert first(images).shape == usual(images).shape == (1, 2048, 2, 2)


@pytest.mark.parametrize(
    ("name", "stride_in_1x1"),
    [("resnet18", False), ("resnet50", False), ("resnet50", True), ("densenet121", False)],
)
@pytest.mark.parametrize("stride", [16, 8])
def test_a_finer_output_stride_keeps_the_parameters(name, stride_in_1x1, stride):
    with torch.device("meta"):
        fine, channels = build_backbone(name, stride_in_1x1=stride_in_1x1, output_stride=stride)
        coarse, _ = build_backbone(name, stride_in_1x1=stride_in_1x1)
        images = torch.empty(1, 3, 64, 96)
    assert fine(images).shape == (1, channels, 64 // stride, 96 // stride)
    assert coarse(images).shape == (1, channels, 2, 3)
    assert {k: v.shape for k, v in fine.state_dict().items()} == {
        k: v.shape for k, v in coarse.state_dict().items()
    }


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"backbone": "resnet19"}, "resnet19"),
        ({"attention": "some"}, "some"),
        ({"output_stride": 4}, "4"),
        ({"backbone": "densenet121", "width": 16}, "width"),
        ({"backbone": "resnet18", "stride_in_1x1": True}, "stride_in_1x1"),
        ({"backbone": "densenet121", "stride_in_1x1": True}, "stride_in_1x1"),
    ],
)
def test_an_unknown_setting_is_named(settings, named):
    with pytest.raises(InputError, match=named):
        build("scalp", LABELS, **settings)


def test_width_scales_every_stage():
    with torch.device("meta"):
        backbone, channels = build_backbone("resnet18", width=16)
        images = torch.empty(1, 3, 64, 64)
    assert channels == 128
    assert backbone[:5](images).shape == (1, 16, 16, 16)  # up to layer1
    assert backbone(images).shape == (1, 128, 2, 2)


def test_an_unknown_classifier_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"skalp.*scalp"):
        build("skalp", LABELS)
