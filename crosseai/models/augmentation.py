"""Random changes of training images, by batch."""

import torch
from torch.nn.functional import affine_grid, grid_sample

__all__ = ["augment", "normalise"]

#: ImageNet's mean and standard deviation a channel, torchvision's normalisation.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(
    pixels: torch.Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> torch.Tensor:
    """Make grey pixels [N, H, W], 0 to 255, the network's input, float32 [N, 3, H, W]."""
    grey = pixels[:, None].float() / 255  # [N, 1, H, W]
    shape = (1, len(mean), 1, 1)
    return (grey - grey.new_tensor(mean).view(shape)) / grey.new_tensor(std).view(shape)


def augment(
    pixels: torch.Tensor,
    generator: torch.Generator,
    rotation: float = 10.0,
    scale: float = 0.1,
    shift: float = 0.05,
    contrast: float = 0.2,
    flip: bool = True,
) -> torch.Tensor:
    """Rotate, scale, shift, mirror and change the contrast of each image on its own.

    Parameters
    ----------
    pixels : Tensor [N, H, W] uint8 or float
        Grey, 0 to 255.
    generator : torch.Generator
        On the CPU, so that the draws do not depend on the device.
    rotation : float
        Largest angle, degrees, either way.
    scale, shift : float
        Largest change of size, and largest displacement as a share of the image, either way.
    contrast : float
        Largest relative change of contrast about the image's mean, and of brightness.
    flip : bool
        Mirror half of the images left to right.

    Returns
    -------
    Tensor [N, H, W] float32
        0 to 255.
    """
    n = len(pixels)

    def draw(largest: float) -> torch.Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * largest  # [N]

    angle, zoom = torch.deg2rad(draw(rotation)), 1 + draw(scale)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5 * flip, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    shift_x, shift_y = 2 * draw(shift), 2 * draw(shift)  # the grid spans [-1, 1]
    matrix = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], 1)  # [N, 6]
    grid = affine_grid(
        matrix.view(n, 2, 3).to(pixels.device), [n, 1, *pixels.shape[1:]], align_corners=False
    )
    moved = grid_sample(pixels[:, None].float(), grid, align_corners=False)[:, 0]  # [N, H, W]
    gain, offset = (1 + draw(contrast)).to(moved), (255 * draw(contrast / 2)).to(moved)
    centre = moved.mean((1, 2), keepdim=True)
    changed = (moved - centre) * gain.view(-1, 1, 1) + centre + offset.view(-1, 1, 1)
    return changed.clamp(0, 255)
