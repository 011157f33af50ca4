"""Grad-CAM++ and guided backpropagation of eight labels of eight images against their peers.

ResNet-50 with triplet attention, 224 pixels, random weights and images. The floor is what both
maps cannot do without: one forward pass and, a label, one backward pass to the images, through a
network without hooks. The peers get channels-last memory too, which makes both of them faster.
"""

import warnings
from copy import deepcopy

import torch
from captum.attr import GuidedBackprop
from measure import Line, paired, ratio, write
from pytorch_grad_cam import GradCAMPlusPlus, GuidedBackpropReLUModel
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from crosseai.labels import CHESTX_RAY8
from crosseai.maps.both import heatmaps_and_gradients
from crosseai.maps.cam import grad_cam_plus_plus
from crosseai.maps.folding import Tracer, folded
from crosseai.maps.guided import guided_backprop
from crosseai.models import build

ROUNDS = 5
IMAGES = 8
SIZE = 224
CLASSES = range(len(CHESTX_RAY8))


def network() -> nn.Module:
    """SCALP's classifier with statistics of its batch norms that are not the initial ones."""
    torch.manual_seed(0)
    model = build("scalp", list(CHESTX_RAY8), backbone="resnet50")
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        nn.init.normal_(norm.running_mean, 0, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model.eval().to(memory_format=torch.channels_last)


def with_relus_of_their_own(model: nn.Module) -> nn.Module:
    """Copy a network so that no ReLU module is called twice or works in place, as captum asks."""
    model = deepcopy(model)
    graph = Tracer().trace(model.features)
    for number, node in enumerate(graph.nodes):
        if node.op == "call_module" and isinstance(
            model.features.get_submodule(node.target), nn.ReLU
        ):
            node.target = f"relu_{number}"
            model.features.add_module(node.target, nn.ReLU())
    model.features = fx.GraphModule(model.features, graph)
    return model.eval()


def floor(model: nn.Module, images: torch.Tensor) -> None:
    """One forward pass, a backward pass a label, input only."""
    leaf = images.detach().requires_grad_()
    logits = model(leaf)
    for column in CLASSES:
        torch.autograd.grad(logits[:, column].sum(), leaf, retain_graph=True)


def main() -> None:
    """Measure, print and write."""
    warnings.simplefilter("ignore")
    model = network()
    images = torch.randn(IMAGES, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    fast = deepcopy(model)
    fast.features = folded(model.features).to(memory_format=torch.channels_last)
    frozen = deepcopy(fast).requires_grad_(False)
    split, wrapped = with_relus_of_their_own(model), deepcopy(model)
    left = torch.randn(2048, 2048)

    def grad_cam_package() -> None:
        with GradCAMPlusPlus(wrapped, [wrapped.features.layer4]) as cam:
            for column in CLASSES:
                cam(images, [ClassifierOutputTarget(column)] * IMAGES)

    def guided_package() -> None:
        guided = GuidedBackpropReLUModel(wrapped, "cpu")
        for row in range(IMAGES):
            for column in CLASSES:
                guided(images[row : row + 1], column)

    def captum() -> None:
        peer = GuidedBackprop(split)
        for column in CLASSES:
            peer.attribute(images.clone(), torch.full((IMAGES,), column))

    def multiply() -> None:
        for _ in range(8):
            left @ left

    ours = {
        "floor": lambda: floor(frozen, images),
        "multiply": multiply,
        "both maps": lambda: heatmaps_and_gradients(fast, images, CLASSES),
        "guided backpropagation": lambda: guided_backprop(fast, images, CLASSES),
        "Grad-CAM++": lambda: grad_cam_plus_plus(fast, images, CLASSES),
        "captum": captum,
        "pytorch-grad-cam, Grad-CAM++": grad_cam_package,
        "pytorch-grad-cam, guided": guided_package,
    }
    seconds = paired(ours, ROUNDS)
    seconds["pytorch-grad-cam"] = [
        sum(pair)
        for pair in zip(
            seconds["pytorch-grad-cam, Grad-CAM++"],
            seconds["pytorch-grad-cam, guided"],
            strict=True,
        )
    ]
    with FlopCounterMode(display=False) as counter:
        frozen(images)
    # A backward pass to the input does what the forward pass does.
    work = counter.get_total_flops() * (1 + len(CLASSES))
    multiplied = 8 * 2 * 2048**3
    share = ratio(seconds, "multiply", "floor") * work / multiplied
    write(
        "maps",
        [
            Line(
                "both maps against pytorch-grad-cam",
                ratio(seconds, "pytorch-grad-cam", "both maps"),
                "times as fast",
                at_least=7,
            ),
            Line(
                "guided backpropagation against captum",
                ratio(seconds, "captum", "guided backpropagation"),
                "times as fast",
                at_least=2.2,
            ),
            Line(
                "both maps against the floor",
                ratio(seconds, "both maps", "floor"),
                "times its time",
                at_most=1.1,
            ),
            Line("the floor's rate", share, "of matrix multiplication's", at_least=0.45),
        ],
        seconds,
    )


if __name__ == "__main__":
    main()
