"""Random changes of training images, by batch."""

import torch
from torch.nn.functional import affine_grid, grid_sample

__all__ = ["augment", "mirrored", "normalise"]

#: ImageNet's mean and standard deviation a channel, torchvision's normalisation.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(
    pixels: torch.Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> torch.Tensor:
    """Make grey pixels [N, H, W], 0 to 255, the network's input, float32 [N, 3, H, W].

    Its channels lie together in memory (channels last), as convolutions are fastest.
    """
    grey = pixels[..., None].float() / 255  # [N, H, W, 1]
    return (grey - grey.new_tensor(mean)).div_(grey.new_tensor(std)).permute(0, 3, 1, 2)


def mirrored(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes [..., 4] of the mirror images; x1, y1, x2, y2 as shares of the image."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([1 - x2, y1, 1 - x1, y2], -1)


def augment(
    pixels: torch.Tensor,
    boxes: torch.Tensor,
    generator: torch.Generator,
    rotation: float = 10.0,
    scale: float = 0.1,
    shift: float = 0.05,
    contrast: float = 0.2,
    flip: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate, scale, shift, mirror and change the contrast of each image on its own.

    Parameters
    ----------
    pixels : Tensor [N, H, W] uint8 or float
        Grey, 0 to 255.
    boxes : Tensor [N, L, 4] float32
        x1, y1, x2, y2 as shares of the image, or NaN.
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
    pixels : Tensor [N, H, W] float32
        0 to 255.
    boxes : Tensor [N, L, 4] float32
        The upright box round each moved box, cut at the border of the image.
    """
    n = len(pixels)

    def draw(largest: float) -> torch.Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * largest  # [N]

    angle, zoom = torch.deg2rad(draw(rotation)), 1 + draw(scale)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5 * flip, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    shift_x, shift_y = 2 * draw(shift), 2 * draw(shift)  # the grid spans [-1, 1]
    matrix = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], 1)
    matrix = matrix.view(n, 2, 3)  # from a place in the new image to its place in the old
    grid = affine_grid(matrix.to(pixels.device), [n, 1, *pixels.shape[1:]], align_corners=False)
    moved = grid_sample(pixels[:, None].float(), grid, align_corners=False)[:, 0]  # [N, H, W]
    gain, offset = (1 + draw(contrast)).to(moved), (255 * draw(contrast / 2)).to(moved)
    gain, offset = gain.view(-1, 1, 1), offset.view(-1, 1, 1)
    offset = offset + (1 - gain) * moved.mean((1, 2), keepdim=True)  # contrast is about the mean
    return moved.mul_(gain).add_(offset).clamp_(0, 255), _moved(boxes, matrix)


def _moved(boxes: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Upright boxes [N, L, 4] round boxes that an affine grid [N, 2, 3] has moved."""
    corners = 2 * boxes[..., [0, 1, 2, 1, 0, 3, 2, 3]].unflatten(-1, (4, 2)) - 1  # [N, L, 4, 2]
    back = torch.linalg.inv(matrix[:, :, :2]).mT[:, None]  # [N, 1, 2, 2]
    corners = (corners - matrix[:, None, None, :, 2]) @ back
    corners = ((corners + 1) / 2).clamp(0, 1)
    return torch.cat([corners.amin(2), corners.amax(2)], -1)
