import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from crosseai.models.augmentation import MEAN, STD, augment, mirrored, normalise

NOTHING = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "contrast": 0.0, "flip": False}


def pixels(n=6, size=32):
    return torch.randint(
        0, 256, (n, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def changed_pixels(images, generator, **settings):
    return augment(images, torch.full((len(images), 1, 4), torch.nan), generator, **settings)[0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_normalise_equals_torchvision_s():
    images = pixels()
    transform = v2.Compose(
        [v2.Grayscale(3), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )
    expected = torch.stack([transform(image[None]) for image in images])
    torch.testing.assert_close(normalise(images), expected, rtol=1e-6, atol=1e-6)
    assert normalise(images.float(), [0.5], [0.25]).shape == (6, 1, 32, 32)


def test_without_any_change_the_pixels_stay():
    changed = changed_pixels(pixels(), seeded(), **NOTHING)
    torch.testing.assert_close(changed, pixels().float(), rtol=0, atol=1e-2)


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    images = pixels(200, 8)
    changed = changed_pixels(images, seeded(), **{**NOTHING, "flip": True})
    kept = ((changed - images).abs() < 0.1).all(2).all(1)
    mirrored = ((changed - images.flip(2)).abs() < 0.1).all(2).all(1)
    assert (kept | mirrored).all()
    assert 60 < mirrored.sum() < 140


def test_the_generator_decides():
    first = changed_pixels(pixels(), seeded(1))
    torch.testing.assert_close(first, changed_pixels(pixels(), seeded(1)), rtol=0, atol=0)
    assert (first != changed_pixels(pixels(), seeded(2))).any()
    assert first.dtype == torch.float32
    images = pixels()
    changed_pixels(images, seeded())
    assert (images == pixels()).all()  # not changed in place


def test_values_stay_within_0_and_255():
    changed = changed_pixels(pixels(50), seeded(), contrast=2.0)
    assert changed.min() == 0
    assert changed.max() == 255


def dot(size=65):
    """One bright blob right of the centre."""
    y, x = np.mgrid[:size, :size]
    return torch.tensor(255 * np.exp(-((x - 48) ** 2 + (y - 32) ** 2) / 8), dtype=torch.float32)


def centres(images):
    """Centres of mass about the image's centre, in pixels, [N, 2] as x, y."""
    y, x = torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in images.shape[1:]], indexing="ij")
    mass = images.sum((1, 2))
    return torch.stack([(images * x).sum((1, 2)) / mass, (images * y).sum((1, 2)) / mass], 1)


@pytest.mark.parametrize("flip", [False, True])
def test_rotation_turns_about_the_centre_up_to_its_angle(flip):
    x, y = centres(
        changed_pixels(
            dot().expand(300, 65, 65), seeded(), **{**NOTHING, "rotation": 30, "flip": flip}
        )
    ).T
    torch.testing.assert_close(torch.hypot(x, y), torch.full((300,), 16.0), atol=0.1, rtol=0)
    angle = torch.rad2deg(torch.atan2(y, x.abs()))
    assert -30.5 < angle.min() < -25
    assert 25 < angle.max() < 30.5
    assert bool((x < 0).any()) == flip


def test_scale_and_shift_stay_within_their_shares():
    radius = centres(
        changed_pixels(dot().expand(300, 65, 65), seeded(), **{**NOTHING, "scale": 0.2})
    )
    assert 16 / 1.21 < radius[:, 0].min() < 14
    assert 18.5 < radius[:, 0].max() < 16 / 0.79
    assert radius[:, 1].abs().max() < 0.1
    moved = centres(
        changed_pixels(dot().expand(300, 65, 65), seeded(), **{**NOTHING, "shift": 0.1})
    )
    moved = moved - torch.tensor([16.0, 0.0])
    assert 5.5 < moved.abs().max() < 6.6  # a tenth of 65
    assert (moved.min(0).values < -5).all()
    assert (moved.max(0).values > 5).all()


def test_contrast_changes_gain_and_brightness_alone():
    images = pixels(300, 8).float() / 4 + 96
    changed = changed_pixels(images, seeded(), **{**NOTHING, "contrast": 0.2})
    gain = changed.std((1, 2)) / images.std((1, 2))
    offset = changed.mean((1, 2)) - images.mean((1, 2))
    assert 0.79 < gain.min() < 0.83
    assert 1.17 < gain.max() < 1.21
    assert 23 < offset.abs().max() < 25.6  # a tenth of 255
    line = (images - images.mean((1, 2), keepdim=True)) * gain.view(-1, 1, 1)
    line = line + changed.mean((1, 2), keepdim=True)
    torch.testing.assert_close(changed, line, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "setting", [{"rotation": 20.0}, {"scale": 0.3}, {"shift": 0.2}, {"flip": True}, {}]
)
def test_a_box_moves_with_what_it_surrounds(setting):
    """Against the bright rectangle's own extent in the changed image."""
    images = torch.zeros(40, 100, 100)
    images[:, 30:50, 40:80] = 255
    box = torch.tensor([[0.4, 0.3, 0.8, 0.5], [torch.nan] * 4]).expand(40, 2, 4)
    settings = {**NOTHING, **setting} if setting else {"contrast": 0.0}
    moved, boxes = augment(images, box, seeded(), **settings)
    assert boxes[:, 1].isnan().all()
    for image, (x1, y1, x2, y2) in zip(moved, 100 * boxes[:, 0], strict=True):
        rows, columns = (image > 127).any(1).nonzero(), (image > 127).any(0).nonzero()
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        torch.testing.assert_close(
            torch.stack([x1, y1, x2, y2]), torch.tensor(found).float(), rtol=0, atol=1.6
        )


def test_a_mirrored_box_counts_from_the_other_side():
    box = torch.tensor([0.25, 0.5, 0.375, 1.0])
    assert mirrored(box).tolist() == [0.625, 0.5, 0.75, 1.0]
    assert (mirrored(mirrored(box)) == box).all()
