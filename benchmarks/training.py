"""A training step with the contrastive loss against the bare loop on batches already in memory.

One epoch of `crosseai train` (drawing pairs, reading, augmenting, normalising) and the same steps
with the same batches, made beforehand: the published network at 224 pixels, and the phantom's.
"""

import lightning_fabric
import numpy as np
import torch
from measure import Line, paired, ratio, write
from torch import nn

from crosseai.labels import CHESTX_RAY8
from crosseai.models import build
from crosseai.models.training import Images, Inputs, Settings, make_optimizer, train_epoch

#: Name, images an epoch, pixels, settings of the network, batch.
NETWORKS = [
    ("ResNet-50, 224 pixels", 48, 224, {"backbone": "resnet50"}, 16),
    (
        "the phantom's network, 112 pixels",
        400,
        112,
        {"backbone": "resnet18", "width": 8, "output_stride": 8},
        40,
    ),
]
ROUNDS = 5


def random_images(number: int, size: int) -> Images:
    """Images of number / 4 patients with a quarter of the labels."""
    rng = np.random.default_rng(0)
    labels = len(CHESTX_RAY8)
    return Images(
        [f"{image}.png" for image in range(number)],
        torch.from_numpy(rng.integers(0, 256, (number, size, size), "uint8")),
        torch.from_numpy((rng.random((number, labels)) < 0.25).astype("float32")),
        rng.integers(0, number // 4, number),
        torch.full((number, labels, 4), torch.nan),
    )


def seconds_of(images: Images, network: dict, batch: int) -> dict[str, list[float]]:
    """Time an epoch and the same steps without a loader."""
    torch.manual_seed(0)
    settings = Settings(batch=batch, precision="32-true")
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision="32-true")
    model = build("scalp", list(CHESTX_RAY8), **network).to(memory_format=torch.channels_last)
    model, optimizer = fabric.setup(model, make_optimizer(model, settings))
    model.mark_forward_method("losses")
    inputs = Inputs(nn.Sequential(), images, settings, fabric)
    steps, losses = [], model.module.losses

    def keep(*step: object) -> dict[str, torch.Tensor]:
        steps.append(step)
        return losses(*step)

    def epoch() -> None:
        train_epoch(fabric, model, optimizer, inputs, None, 0, 0, settings)

    def bare() -> None:
        for step in steps:
            total = losses(*step)["total"]
            optimizer.zero_grad()
            fabric.backward(total)
            optimizer.step()

    model.module.losses = keep
    epoch()
    del model.module.losses
    return paired({"bare loop": bare, "epoch": epoch}, ROUNDS)


def main() -> None:
    """Measure, print and write."""
    lines, seconds = [], {}
    for name, number, size, network, batch in NETWORKS:
        own = seconds_of(random_images(number, size), network, batch)
        lines += [
            Line(f"{name}: rate", ratio(own, "bare loop", "epoch"), "of the bare loop's", 0.95),
            Line(f"{name}: images of a batch a second", 2 * number / np.median(own["epoch"])),
        ]
        seconds |= {f"{name}, {key}": values for key, values in own.items()}
    write("training", lines, seconds)


if __name__ == "__main__":
    main()
