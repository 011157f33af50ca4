"""A synthetic chest X-ray release in the NIH layout, for trying the whole chain anywhere.

Every picture is a sum of attenuations on a coordinate grid: soft tissue, minus the air of the
lungs, plus bones, vessels and devices; a film curve and noise turn it into grey values. A finding
says which share of the lung's air it replaces by water, so it looks right wherever it lies.

Coordinates: `u` runs across the body from the midline (positive towards the picture's right, the
patient's left), `v` down from the neck, both in units of the picture's width at scale 1. A patient
owns the anatomy and the places of the findings; a visit owns the pose, the exposure, the devices
and how severe each finding is.
"""

import csv
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import NormalDist
from tempfile import mkdtemp

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from crosseai.errors import InputError

__all__ = ["MARKER", "Visit", "plan", "radiograph", "write_phantom"]

Stroke = tuple[list[tuple[float, float]], float, float]  # points (u, v), width, strength
Box = tuple[float, float, float, float]  # x, y, w, h in pixels

#: File that tells a phantom from a real release, which has the same layout.
MARKER = "PHANTOM"

STREAM = {"anatomy": 0, "history": 1, "visit": 2, "finding": 3}  # each draws its own numbers


# --------------------------------------------------------------------------- drawing on the grid


def generator(seed: int, patient: int, stream: int, number: int = 0) -> np.random.Generator:
    """Random numbers that depend on nothing but these four, whatever else is drawn before."""
    return np.random.default_rng((seed, patient, stream, number))


def soft(inside: np.ndarray, width: float) -> np.ndarray:
    """Mask with a soft edge: 0 where `inside` < -width, 1 where it is > width."""
    t = inside * (0.5 / width)
    t += 0.5
    np.clip(t, 0, 1, out=t)
    mask = 3 - 2 * t
    mask *= t
    mask *= t
    return mask


def ellipse(u: np.ndarray, v: np.ndarray, centre, axes, angle: float = 0.0) -> np.ndarray:
    """Distance from the centre in units of the half axes: 1 on the ellipse."""
    du, dv, c, s = u - float(centre[0]), v - float(centre[1]), math.cos(angle), math.sin(angle)
    x = (c / float(axes[0])) * du + (s / float(axes[0])) * dv
    y = (c / float(axes[1])) * dv - (s / float(axes[1])) * du
    return np.sqrt(x * x + y * y)


def cloud(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise of about unit variance with `cells` blobs across the picture."""
    noise = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    return np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)) * 1.4


def limit(value: float, low: float, high: float) -> float:
    """Clip one number; unlike np.clip it stays a plain float, so that grids stay float32."""
    return min(max(value, low), high)


def either(rng: np.random.Generator) -> int:
    """Choose a side: -1 or 1."""
    return 1 if rng.random() < 0.5 else -1


def curve(*points: tuple[float, float]) -> list[tuple[float, float]]:
    """Trace a Bezier curve through the first and the last of its control points."""
    t, line = np.linspace(0, 1, 16)[:, None], np.array(points)[:, None]
    while len(line) > 1:
        line = line[:-1] * (1 - t) + line[1:] * t
    return [tuple(point) for point in line[0]]


# ------------------------------------------------------------------------------ patient and visit


@dataclass(frozen=True)
class Anatomy:
    """What stays with a patient. Lengths in picture widths."""

    woman: bool
    age: int
    habitus: float  # 0 slim .. 1 stout
    scale: float  # of the whole body
    across: float  # how far from the picture's middle it usually lies
    down: float
    chest: float  # half width of the rib cage
    apex: float  # v of the lungs' tops
    base: float  # v of the right dome at full inspiration
    heart: float  # half width of the heart
    heart_angle: float
    knob: float  # radius of the aortic knob
    rib_spacing: float
    rib_phase: float
    rib_slope: float
    breast: float
    gas: float  # size of the stomach bubble
    pacemaker: bool
    vessels: tuple[Stroke, ...]
    calcifications: tuple[tuple[float, float, float], ...]


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient."""
    woman, habitus = bool(rng.random() < 0.45), rng.beta(2, 2.5)
    return Anatomy(
        woman=woman,
        age=int(np.clip(rng.normal(50, 16), 16, 92)),
        habitus=habitus,
        scale=rng.normal(0.95, 0.065),
        across=rng.normal(0, 0.025),
        down=rng.normal(0, 0.028),
        chest=rng.normal(0.36 if woman else 0.375, 0.018),
        apex=rng.normal(0.115, 0.015),
        base=rng.normal(0.735, 0.025),
        heart=rng.normal(0.157 + 0.02 * habitus, 0.023),
        heart_angle=rng.normal(0.55, 0.12),
        knob=rng.normal(0.045, 0.006),
        rib_spacing=rng.normal(0.077, 0.005),
        rib_phase=rng.random(),
        rib_slope=rng.normal(0.9, 0.25),
        breast=rng.uniform(0.2, 1.0) if woman else 0.0,
        gas=rng.uniform(0.0, 0.075),
        pacemaker=bool(rng.random() < 0.05),
        vessels=tuple(branches(rng)),
        calcifications=tuple(
            (rng.uniform(-0.3, 0.3), rng.uniform(0.15, 0.68), rng.uniform(0.004, 0.009))
            for _ in range(rng.poisson(0.7))
        ),
    )


def branches(rng: np.random.Generator) -> Iterator[Stroke]:
    """Vessels that leave both hila, fork and thin out."""
    for side in (-1, 1):
        for angle in np.linspace(-1.35, 1.45, 9):
            twigs = [(side * 0.075, 0.41, angle + rng.normal(0, 0.15), 0.011)]
            while twigs:
                u, v, direction, width = twigs.pop()
                length = rng.uniform(3.5, 7.5) * np.sqrt(width) * 0.13
                end = (
                    u + side * length * np.cos(direction),
                    v + length * 1.25 * np.sin(direction),
                )
                yield [(u, v), end], width, min(1.0, 0.3 + 45 * width)
                if width > 0.0036:
                    for turn in (-0.35, 0.35):
                        twigs.append((*end, direction + rng.normal(turn, 0.15), width * 0.68))


@dataclass(frozen=True)
class Visit:
    """One picture to draw, and what the release says about it."""

    seed: int
    patient: int
    followup: int
    anatomy: Anatomy
    view: str  # PA or AP
    findings: dict[str, float]  # what is drawn: severity in (0, 1)
    labels: tuple[str, ...]  # what the release says, a few of them wrong
    boxed: tuple[str, ...]  # labels that carry a box
    test: bool

    @property
    def image(self) -> str:
        """File name as at NIH: patient and follow-up."""
        return f"{self.patient:08d}_{self.followup:03d}.png"


def plan(images: int, seed: int) -> list[Visit]:
    """Draw patients with their visits until there are `images` visits."""
    visits: list[Visit] = []
    patient = 0
    while len(visits) < images:
        patient += 1
        visits += list(history(seed, patient))
    return visits[:images]


def history(seed: int, patient: int) -> Iterator[Visit]:
    """One patient's visits.

    Each finding has a latent variable, correlated with the others through shared causes and
    mostly a patient's own; the finding is there when it exceeds the threshold that gives the
    prevalence, and the more severe the further it does. So findings come together, persist and
    evolve. Every fourth patient is a test patient; only those carry boxes.
    """
    anatomy = draw_anatomy(generator(seed, patient, STREAM["anatomy"]))
    rng = generator(seed, patient, STREAM["history"])
    normal, test = NormalDist(), patient % 4 == 0
    shared = np.array([finding.causes for finding in FINDINGS.values()])  # [8, 3]
    own = np.sqrt(1 - (shared**2).sum(axis=1))  # [8]
    lasting = rng.standard_normal(11)
    portable = rng.random() < 0.25  # an inpatient is mostly X-rayed in bed
    for followup in range(min(rng.geometric(0.4), 12)):
        sources = np.sqrt(0.7) * lasting + np.sqrt(0.3) * rng.standard_normal(11)
        latent = shared @ sources[:3] + own * sources[3:]
        findings = {}
        for (label, finding), value in zip(FINDINGS.items(), latent, strict=True):
            tail = 1 - normal.cdf(value)  # uniform in (0, 1)
            if tail < finding.prevalence:
                findings[label] = 1 - tail / finding.prevalence
        labels = set(findings)
        if rng.random() < 0.035:  # a reader misses a finding, or names one that is not there
            labels ^= {rng.choice(list(findings) if findings else list(FINDINGS))}
        elif rng.random() < 0.01:
            labels |= {rng.choice(list(FINDINGS))}
        boxed = [label for label in FINDINGS if rng.random() < 0.9 and test]
        yield Visit(
            seed=seed,
            patient=patient,
            followup=followup,
            anatomy=anatomy,
            view="AP" if rng.random() < (0.8 if portable else 0.15) else "PA",
            findings=findings,
            labels=tuple(label for label in FINDINGS if label in labels),
            boxed=tuple(label for label in boxed if label in labels and label in findings),
            test=test,
        )


# -------------------------------------------------------------------------------- the chest itself


@dataclass(frozen=True)
class Chest:
    """An anatomy in the pose of one visit, on the grid of one picture."""

    anatomy: Anatomy
    ap: bool
    base: float  # v of the right dome at this inspiration
    heart: float
    angle: float  # of the body in the picture, radians
    scale: float
    shift: tuple[float, float]
    u: np.ndarray  # [size, size]
    v: np.ndarray  # [size, size]

    @property
    def size(self) -> int:
        """Pixels across the picture."""
        return len(self.u)

    @cached_property
    def lung(self) -> np.ndarray:
        """Depth inside the lungs at each pixel."""
        return depth(self, self.u, self.v)


def pose(anatomy: Anatomy, view: str, size: int, rng: np.random.Generator) -> Chest:
    """Place the patient before the detector; in bed (AP) less upright and less inspired."""
    ap = view == "AP"
    angle = rng.normal(0, 0.035 if ap else 0.018)
    scale = anatomy.scale * rng.normal(1, 0.02)
    shift = rng.normal(anatomy.across, 0.018), rng.normal(anatomy.down, 0.018)
    x = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    dx, dy = (x - shift[0])[None, :] / scale, (x - shift[1])[:, None] / scale
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return Chest(
        anatomy=anatomy,
        ap=ap,
        base=anatomy.base - abs(rng.normal(0.05 if ap else 0.0, 0.022)),
        heart=anatomy.heart * rng.normal(1.12 if ap else 1.0, 0.03),
        angle=angle,
        scale=scale,
        shift=shift,
        u=c * dx + s * dy,
        v=c * dy - s * dx + np.float32(0.5),
    )


def to_pixels(chest: Chest, points: Iterable[tuple[float, float]], size: int) -> np.ndarray:
    """Pixel coordinates of body points, the inverse of `pose`'s grid. Gives [N, 2]."""
    u, v = np.array(points).T
    c, s = np.cos(chest.angle), np.sin(chest.angle)
    x = chest.scale * (c * u - s * (v - 0.5)) + chest.shift[0]
    y = chest.scale * (s * u + c * (v - 0.5)) + chest.shift[1]
    return (np.stack([x, y], axis=1) + 0.5) * size


def strokes(chest: Chest, lines: Iterable[Stroke]) -> np.ndarray:
    """Draw thin lines, antialiased, each as strong as it says; [size, size] in [0, 1]."""
    large = 2 * chest.size
    canvas = Image.new("L", (large, large))
    pen = ImageDraw.Draw(canvas)
    lines = list(lines)
    pixels = to_pixels(chest, [point for points, _, _ in lines for point in points], large)
    start = 0
    for points, width, strength in lines:
        thick = max(1, round(width * chest.scale * large))
        line = pixels[start : start + len(points)].ravel().tolist()
        pen.line(line, fill=round(255 * strength), width=thick, joint="curve")
        start += len(points)
    small = canvas.reduce(2)
    return np.asarray(small, dtype=np.float32) / 255


def outer(chest: Chest, v):
    """Distance of the lungs' lateral border from the midline at height v."""
    s = np.clip((0.62 - v) / (0.62 - chest.anatomy.apex), 0, 1)
    return 0.13 + (chest.anatomy.chest - 0.13) * np.sqrt(1 - s * s * (0.4 + 0.6 * s))


def inner(chest: Chest, v):
    """Distance of the lungs' medial border from the midline at height v."""
    s = np.clip((0.45 - v) / (0.45 - chest.anatomy.apex), 0, 1)
    return 0.055 + 0.075 * s**4


def dome(chest: Chest, u):
    """Height v of the diaphragm at u; the left dome lies lower, the angles lowest."""
    t = (np.abs(u) - 0.16) / chest.anatomy.chest
    return chest.base + 0.018 * soft(u, 0.02) + 0.36 * t * t


def depth(chest: Chest, u, v):
    """How far inside a lung a point lies (negative: outside), in picture widths."""
    r = np.abs(u)
    sides = np.minimum(outer(chest, v) - r, r - inner(chest, v))
    return np.minimum(sides, np.minimum(dome(chest, u) - v, v - chest.anatomy.apex))


def heart(chest: Chest, growth: float = 1.0) -> np.ndarray:
    """Depth inside the heart's silhouette; a growing heart grows to the left and up."""
    a = chest.heart * growth, chest.heart * 0.82 * (0.4 + 0.6 * growth)
    centre = 0.045 + 0.25 * chest.heart * (growth - 1), chest.base + 0.05 - a[1]
    ventricle = ellipse(chest.u, chest.v, centre, a, chest.anatomy.heart_angle)
    atrium_at = (centre[0] - 0.55 * a[0], centre[1] - 0.15 * a[1])
    atrium = ellipse(chest.u, chest.v, atrium_at, (0.5 * a[0], 0.85 * a[1]))
    return (1 - np.minimum(ventricle, atrium)) * chest.heart


def silhouette(chest: Chest, inside: np.ndarray) -> np.ndarray:
    """Heart and mediastinum as one shadow, rounded where they meet; the share of air replaced."""
    band = 0.058 + 0.012 * chest.ap - np.abs(chest.u - 0.006)
    t = np.clip(0.5 + (inside - band) / 0.10, 0, 1)
    return 0.95 * soft(band + t * (inside - band) + 0.10 * t * (1 - t), 0.012)


def body(chest: Chest) -> np.ndarray:
    """Soft tissue: neck, sloping shoulders, trunk and upper arms, thickest at the midline."""
    u, v, stout = chest.u, chest.v, chest.anatomy.habitus
    r = np.abs(u)
    trunk = chest.anatomy.chest + 0.035 + 0.05 * stout
    slope = 0.095 + 0.03 * stout + np.clip((v + 0.02) / 0.17, 0, 1) ** 2 * 0.43
    outline = soft(slope - r, 0.015)
    arm = soft(r - trunk - 0.02, 0.02) * soft(v - 0.36 - 0.9 * (0.5 - r), 0.05)  # armpit's air
    thick = 0.62 + (0.30 + 0.16 * stout) * (1 - (r / 0.5) ** 2)
    wall = soft(r - trunk + 0.05, 0.03) * 0.10
    return outline * (thick - wall) * (1 - 0.75 * arm) + 0.16 * soft(v - dome(chest, u), 0.02)


def breasts(chest: Chest) -> np.ndarray:
    """Breast shadows, dense towards their lower edge."""
    if not chest.anatomy.breast:
        return np.zeros_like(chest.u)
    size = 0.10 + 0.06 * chest.anatomy.breast
    d = ellipse(np.abs(chest.u), chest.v, (0.215, chest.base - 0.065), (size, size))
    return soft(1 - d, 0.10) * np.clip(0.35 + 0.65 * (chest.v - chest.base + 0.2) / 0.25, 0, 1)


def bones(chest: Chest) -> np.ndarray:
    """Spine, posterior and anterior ribs, clavicles, shoulders: bright cortex round a core."""
    a, u, v = chest.anatomy, chest.u, chest.v
    r = np.abs(u)
    cage = soft(outer(chest, v) + 0.012 - r, 0.008) * soft(v - a.apex + 0.03, 0.02)
    back = cage * soft(r - 0.035, 0.02) * soft(chest.base + 0.12 - v, 0.08)
    behind = rib((v - a.rib_slope * r * r + 0.10 * r) / a.rib_spacing + a.rib_phase)
    front = rib((v + 0.75 * r - 0.55 * r * r) / (1.2 * a.rib_spacing) + 1.7 * a.rib_phase)
    fore = cage * soft(r - 0.15, 0.05) * soft(chest.base + 0.02 - v, 0.05) * soft(v - 0.2, 0.05)
    spine = soft(0.042 - r, 0.010) * (0.8 + 0.2 * np.cos(v * (2 * np.pi / 0.058)))
    collar = 0.155 - 0.03 * chest.ap - 0.22 * (r - 0.05) + 0.32 * (r - 0.05) ** 2
    collar = np.abs(v - collar) / (0.013 + 0.02 * np.abs(r - 0.2))
    clavicle = (soft(1 - collar, 0.25) * (0.6 + 0.4 * np.minimum(collar, 1) ** 2)) * (
        soft(r - 0.03, 0.01) * soft(0.37 - r, 0.02)
    )
    shoulder = soft(1 - ellipse(r, v, (0.47, 0.20), (0.065, 0.10), -0.3), 0.3)
    blade = soft(1 - ellipse(r, v, (0.405, 0.30), (0.05, 0.17), -0.25), 0.25)
    return (
        0.16 * back * behind
        + 0.10 * fore * front
        + 0.09 * spine
        + 0.20 * clavicle
        + 0.22 * shoulder
        + 0.10 * blade
    )


def rib(phase: np.ndarray) -> np.ndarray:
    """Profile across a periodic set of ribs: a core with brighter edges."""
    p = np.cos(phase * np.float32(2 * np.pi))
    core = soft(p - 0.1, 0.35)
    return core * (1.15 - 0.4 * np.clip(p, 0, 1))


def centre(chest: Chest) -> np.ndarray:
    """Mediastinum with aortic knob and arch; the trachea is a dark band in it."""
    u, v = chest.u, chest.v
    width = 0.055 + 0.02 * soft(v - 0.3, 0.2) + 0.012 * chest.ap
    band = soft(width - np.abs(u - 0.006), 0.015)
    knob = soft(1 - ellipse(u, v, (0.045, 0.295), (chest.anatomy.knob,) * 2), 0.2)
    trachea = soft(0.016 - np.abs(u + 0.004), 0.008) * soft(0.33 - v, 0.02)
    return 0.16 * np.maximum(band, knob) - 0.14 * trachea


# ------------------------------------------------------------------------------------ the findings


def place(
    chest: Chest,
    rng: np.random.Generator,
    top: float = 0.06,
    bottom: float = 0.92,
    edge: float = 0.12,
):
    """Choose a point in either lung, clear of heart and mediastinum: its side (-1, 1), u and v."""
    side = either(rng)
    down, across = rng.uniform(top, bottom), rng.uniform(edge, 1 - edge)
    v = chest.anatomy.apex + down * (chest.base - chest.anatomy.apex)
    near = inner(chest, v) + (0.10 if side > 0 else 0.03) * (v > chest.base - 0.25)
    return side, side * (near + across * (outer(chest, v) - near)), v


def cardiomegaly(chest: Chest, rng: np.random.Generator, severity: float):
    """Draw a heart wider than half the chest."""
    inside = heart(chest, 1.08 + 0.44 * severity + rng.uniform(-0.06, 0.06))
    return silhouette(chest, inside), inside > 0


def effusion(chest: Chest, rng: np.random.Generator, severity: float):
    """Fluid at a base with a meniscus that climbs the wall, or caught in a pocket or fissure."""
    side, pocket = either(rng), rng.random() < 0.5
    lean, breadth = rng.uniform(0.1, 0.5), rng.uniform(0.35, 1.1)
    height, drop = rng.uniform(0.5, 2.0) * (0.04 + 0.16 * severity), rng.uniform(0, 0.4)
    along = rng.uniform(0.4, 1)  # from the spine to the wall: a fissure holds fluid too
    r, wall = side * chest.u, outer(chest, chest.v)
    if pocket:
        centre_v = chest.base - 0.08 - drop
        reach = 1 - ((chest.v - centre_v) / (0.06 + 0.12 * severity + 0.05 * breadth)) ** 2
        thick = np.clip(reach, 0, 1) * (0.06 + 0.08 * breadth)
        inside = thick - np.abs(r - along * wall) - 0.003
    else:
        t = np.clip(r / wall, 0, 1)
        start = 1 - breadth * min(1.0, 0.35 + severity)  # small ones only blunt the angle
        level = chest.base + 0.08 - height - lean * height * 2 * t**3
        inside = np.minimum(chest.v - level, (t - start) * 0.5)
    inside = np.minimum(inside, depth(chest, side * np.maximum(r, 0.001), chest.v) + 0.01)
    inside = np.where(r > 0.03, inside, -1)
    return (0.70 + 0.25 * severity) * soft(inside, 0.012), inside > 0


def infiltration(chest: Chest, rng: np.random.Generator, severity: float):
    """Ill-defined patches with a net of fine lines."""
    _, u, v = place(chest, rng, 0.05, 0.92)
    axes = 0.120 * np.exp(rng.normal(0, 0.33, 2)) * (1, 1.1)
    away = ellipse(chest.u, chest.v, (u, v), axes, rng.uniform(-0.6, 0.6))
    patches = 0.75 + 0.35 * cloud(rng, chest.size, 16)
    net = 1 - np.minimum(np.abs(cloud(rng, chest.size, 34)), 1)
    within = soft(1 - away, 0.55) * soft(chest.lung, 0.02)
    texture = np.clip(patches, 0.25, 1.4) * (0.6 + 0.5 * net)
    return (0.36 + 0.36 * severity) * within * texture, within > 0.35


def pneumonia(chest: Chest, rng: np.random.Generator, severity: float):
    """Draw a dense consolidation, cut straight by a fissure, with dark branching bronchi in it."""
    side, u, v = place(chest, rng, 0.05, 0.95)
    axes = 0.148 * np.exp(rng.normal(0, 0.40, 2)) * (1, 1.1)
    angle = rng.uniform(-0.5, 0.5)
    away = ellipse(chest.u, chest.v, (u, v), axes, angle) + 0.09 * cloud(rng, chest.size, 14)
    fissure = (chest.v - v) * math.cos(angle) * either(rng) + 0.45 * float(axes[1])
    inside = np.minimum((1 - away) * float(axes[0]), fissure)
    within = soft(inside, 0.018) * soft(chest.lung, 0.015)
    lines = []
    for turn in rng.normal(0, 0.7, 5):
        end = u + side * 0.12 * np.cos(turn), v + 0.12 * np.sin(turn)
        lines.append((curve((u - side * 0.08, v - 0.03), (u, v), end), 0.006, 1.0))
    air = 1 - 0.4 * strokes(chest, lines)
    return (0.38 + 0.42 * severity) * within * air, within > 0.4


def pneumothorax(chest: Chest, rng: np.random.Generator, severity: float):
    """Air round a lung that has shrunk from apex, wall or base: dark, no vessels, a thin line."""
    side, kind = either(rng), rng.choice(3, p=(0.4, 0.35, 0.25))
    a, spot = chest.anatomy, rng.uniform(0.3, 0.75)
    middle = a.apex + spot * (chest.base - a.apex)
    anchor_v = (chest.base, middle, a.apex)[kind]
    shrink = 1 - (0.14 + 0.13 * severity) * (1.0, 1.7, 0.8)[kind]
    r = side * chest.u
    shrunk = depth(chest, 0.09 + (r - 0.09) / shrink, anchor_v + (chest.v - anchor_v) / shrink)
    reach = (0.115 + 0.08 * severity) * rng.uniform(0.65, 1.35)
    window = (
        soft(a.apex + reach - chest.v, 0.02),
        soft(reach - np.abs(chest.v - middle), 0.04) * soft(r - 0.15, 0.02),
        soft(chest.v - chest.base - 0.04 + 0.8 * reach, 0.02) * soft(r - 0.12, 0.02),
    )[kind]
    lung = soft(depth(chest, np.maximum(r, 0.001), chest.v), 0.006) * window
    gap = lung * (1 - soft(shrunk, 0.006))
    line = lung * soft(0.010 - np.abs(shrunk - 0.004), 0.004)
    squeezed = lung * soft(shrunk, 0.006) * soft(0.05 - shrunk, 0.05)  # the lung next to the air
    return 1.0 * line + 0.4 * squeezed - (0.70 + 0.30 * severity) * gap, gap > 0.5


def atelectasis(chest: Chest, rng: np.random.Generator, severity: float):
    """Plates of collapsed lung, or a wedge, mostly low; the diaphragm rises a little."""
    side, u, v = place(chest, rng, 0.35, 0.95)
    tilt, count = rng.normal(0, 0.35), int(rng.integers(1, 4))
    length = 0.10 * math.exp(rng.normal(0, 0.25))
    c, s = math.cos(tilt), math.sin(tilt)
    along, across = c * (chest.u - u) + s * (chest.v - v), c * (chest.v - v) - s * (chest.u - u)
    if rng.random() < 0.3:  # a wedge, its tip towards the hilum
        half = np.clip(0.5 * (side * along + length), 0.006, 0.07)
        inside = np.minimum(half - np.abs(across), length - np.abs(along))
    else:
        apart, bend, middle = rng.uniform(0.03, 0.045), rng.normal(0, 1.2), float(count - 1) / 2
        bowed = across + bend * along**2
        row = np.clip(np.round(bowed / apart + middle), 0, count - 1) - middle
        thick = rng.uniform(0.009, 0.014) * (1.1 - (along / length) ** 2)
        inside = thick - np.abs(bowed - apart * row)
    within = soft(inside, 0.006) * soft(chest.lung, 0.01)
    raised = soft(chest.v - dome(chest, chest.u) + 0.045 * severity, 0.012) * (side * chest.u > 0)
    fill = (0.50 + 0.40 * severity) * within
    return np.maximum(fill, 0.9 * raised * soft(chest.lung, 0.01)), within > 0.4


def mass(chest: Chest, rng: np.random.Generator, severity: float):
    """Draw a lobulated round opacity of more than 3 cm."""
    _, u, v = place(chest, rng)
    radius = limit(0.065 * math.exp(rng.normal(0, 0.25)) * (0.9 + 0.2 * severity), 0.045, 0.13)
    bearing = np.arctan2(chest.v - v, chest.u - u)
    lobes = 0.09 * np.cos(3 * bearing + rng.uniform(0, 6)) + 0.05 * np.cos(5 * bearing)
    stretch = math.exp(rng.normal(0, 0.1))
    away = ellipse(chest.u, chest.v, (u, v), (radius * stretch, radius / stretch)) + lobes
    return (0.60 + 0.45 * severity) * soft(1 - away, 0.22), away < 1


def nodule(chest: Chest, rng: np.random.Generator, severity: float):
    """Draw a small round opacity, anywhere in the lungs."""
    _, u, v = place(chest, rng, 0.02, 0.97, 0.03)
    radius = limit(0.037 * math.exp(rng.normal(0, 0.16)), 0.025, 0.046)
    away = ellipse(chest.u, chest.v, (u, v), (radius, radius))
    return (1.00 + 0.45 * severity) * soft(1 - away, 0.25), away < 1


@dataclass(frozen=True)
class Finding:
    """How often a finding occurs, with what it shares its causes, and how it is drawn.

    `draw(chest, rng, severity)` gives the share of the lung's air that the finding replaces
    (negative: more air) and the mask of its visible extent, both [size, size].
    """

    prevalence: float
    causes: tuple[float, float, float]  # loadings on fluid overload, infection, tumour
    draw: Callable[[Chest, np.random.Generator, float], tuple[np.ndarray, np.ndarray]]


FINDINGS = {
    "Atelectasis": Finding(0.13, (0.5, 0.2, 0.1), atelectasis),
    "Cardiomegaly": Finding(0.10, (0.6, 0.0, 0.0), cardiomegaly),
    "Effusion": Finding(0.13, (0.7, 0.2, 0.2), effusion),
    "Infiltration": Finding(0.14, (0.2, 0.6, 0.0), infiltration),
    "Mass": Finding(0.095, (0.0, 0.0, 0.6), mass),
    "Nodule": Finding(0.10, (0.0, 0.0, 0.6), nodule),
    "Pneumonia": Finding(0.095, (0.1, 0.7, 0.0), pneumonia),
    "Pneumothorax": Finding(0.105, (0.1, 0.0, 0.1), pneumothorax),
}


def around(extent: np.ndarray, rng: np.random.Generator) -> Box | None:
    """Draw a reader's box, loosely round the visible extent, within the picture."""
    size = len(extent)
    rows, columns = np.flatnonzero(extent.any(axis=1)), np.flatnonzero(extent.any(axis=0))
    if not len(rows):
        return None
    low = np.array([columns[0], rows[0]])
    high = np.array([columns[-1], rows[-1]]) + 1
    loose = (high - low) * np.clip(rng.normal(0.02, 0.035, (2, 2)), -0.08, 0.1)  # [end, axis]
    low, high = np.clip(low - loose[0], 0, size - 1), np.clip(high + loose[1], 1, size)
    return tuple(float(value) for value in (*low.round(2), *(high - low).round(2)))


# ------------------------------------------------------------ what is no finding, and the film


def devices(chest: Chest, rng: np.random.Generator) -> Iterator[Stroke]:
    """Tubes, lines, leads, pacemaker and the side's letter; in bed there are more of them."""
    often = 0.45 if chest.ap else 0.06
    if rng.random() < often:  # tracheal tube
        yield curve((0.01, -0.1), (-0.005, 0.1), (0.0, 0.30)), 0.008, 0.5
    if rng.random() < often:  # central venous line
        yield curve((-0.30, 0.12), (-0.12, 0.12), (-0.05, 0.15), (-0.045, 0.42)), 0.006, 0.55
    if rng.random() < 0.7 * often:  # gastric tube
        yield curve((0.0, -0.1), (0.02, 0.5), (0.0, 0.7), (0.16, 0.9)), 0.007, 0.5
    if rng.random() < often:  # leads with their electrodes
        for _ in range(rng.integers(2, 4)):
            u, v = rng.uniform(-0.35, 0.35), rng.uniform(0.15, 0.75)
            bend = (u + rng.normal(0, 0.15), v + 0.2)
            yield curve((u, v), bend, (rng.choice((-0.5, 0.5)), rng.uniform(0.3, 1.0))), 0.005, 0.5
            yield [(u - 0.008, v), (u + 0.008, v)], 0.016, 0.75
    if chest.anatomy.pacemaker:
        yield [(0.25, 0.21), (0.32, 0.21)], 0.055, 1.0
        yield curve((0.25, 0.21), (0.08, 0.16), (-0.06, 0.3), (0.06, chest.base - 0.04)), 0.006, 0.8
    right = rng.random() < 0.3
    u, v, h = (-0.44 if right else 0.41) + rng.normal(0, 0.015), rng.uniform(0.03, 0.12), 0.035
    letter = [(u, v), (u, v + h), (u + 0.6 * h, v + h)]
    if right:
        letter = [(u, v + h), (u, v), (u + 0.6 * h, v + 0.2 * h), (u, v + 0.5 * h)]
        letter.append((u + 0.6 * h, v + h))
    yield letter, 0.007, 1.0


def spots(chest: Chest, rng: np.random.Generator) -> np.ndarray:
    """Nipples, calcified specks and a skin fold: like findings, but fainter, smaller or longer."""
    total = np.zeros_like(chest.u)
    for u, v, radius in chest.anatomy.calcifications:
        total += 0.30 * soft(1 - ellipse(chest.u, chest.v, (u, v), (radius, radius)), 0.4)
    if rng.random() < 0.2:
        at = rng.normal(0.20, 0.02), chest.base - rng.uniform(0.02, 0.09)
        total += 0.12 * soft(1 - ellipse(np.abs(chest.u), chest.v, at, (0.014, 0.014)), 0.4)
    if rng.random() < (0.25 if chest.ap else 0.03):
        at = either(rng) * rng.uniform(0.15, 0.3) + rng.normal(0, 0.25) * (chest.v - 0.5)
        edge = chest.u - at
        total += 0.07 * soft(edge, 0.003) * soft(0.05 - edge, 0.05) * soft(chest.v - 0.2, 0.05)
    return total


def film(attenuation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Expose, automatically and so that overall brightness tells nothing; uint8 [size, size]."""
    size = len(attenuation)
    x = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    uneven = rng.normal(0, 0.10) * x[None, :] + rng.normal(0, 0.10) * x[:, None]
    contrast, level = math.exp(rng.normal(-0.15, 0.16)), rng.normal(-0.1, 0.14)
    exposed = (attenuation - attenuation.mean()) / attenuation.std() + 3 * uneven - level
    grey = 0.53 + 0.5 * np.tanh(contrast * exposed)
    grain = rng.standard_normal((size, size), dtype=np.float32) * rng.uniform(0.006, 0.02)
    return np.clip(255 * (grey + grain), 0, 255).astype(np.uint8)


def radiograph(visit: Visit, size: int) -> tuple[np.ndarray, dict[str, Box]]:
    """Draw a visit's picture.

    Parameters
    ----------
    visit : Visit
        From `plan`.
    size : int
        Pixels across and down.

    Returns
    -------
    image : ndarray of uint8, [size, size]
    boxes : dict
        For each boxed label x, y, w, h in pixels, origin top left.
    """
    rng = generator(visit.seed, visit.patient, STREAM["visit"], visit.followup)
    chest = pose(visit.anatomy, visit.view, size, rng)
    anatomy, boxes = chest.anatomy, {}
    fill = silhouette(chest, heart(chest))
    clear = np.ones_like(fill)  # share of the vessels that is left
    for number, label in enumerate(FINDINGS):
        if label not in visit.findings:
            continue
        own = generator(visit.seed, visit.patient, STREAM["finding"], number)
        water, extent = FINDINGS[label].draw(chest, own, visit.findings[label])
        fill = np.where(water < 0, fill + water, fill + water * np.clip(1 - fill, 0, 1))
        clear = np.where(water < -0.05, 0, clear)
        box = around(extent, own)  # not from `rng`: a finding must not change the devices
        if label in visit.boxed and box:
            boxes[label] = box
    lung = soft(chest.lung, 0.012)
    vessels = strokes(chest, anatomy.vessels)
    mottle = 0.025 * cloud(rng, size, 40) + 0.03 * cloud(rng, size, 9)
    air = 0.62 * lung * (1 - fill) * (1 + mottle) - 0.14 * vessels * clear * lung * (1 - fill)
    gas = ellipse(chest.u, chest.v, (0.15, chest.base + 0.13), (anatomy.gas + 0.01, 0.035))
    bubble = 0.3 * soft(1 - gas, 0.2)
    attenuation = (
        body(chest)
        + centre(chest)
        + 0.10 * soft(heart(chest), 0.02)
        + bones(chest)
        + 0.20 * breasts(chest)
        + spots(chest, rng)
        + 0.5 * strokes(chest, devices(chest, rng))
        + 0.03 * cloud(rng, size, 5)
        - air
        - bubble
    )
    return film(attenuation, rng), boxes


# --------------------------------------------------------------------------------------- the files


def write_phantom(
    root: str | os.PathLike, images: int = 2000, size: int = 256, seed: int = 0, jobs: int = 1
) -> None:
    """Write a synthetic release in the NIH layout.

    The same arguments give the same bytes, whatever `jobs` is. The folder appears whole or not
    at all.

    Parameters
    ----------
    root : path-like
        Folder to make.
    images : int
        Number of radiographs, a patient having 2.5 on average.
    size : int
        Pixels across and down.
    seed : int
        Of all random numbers.
    jobs : int
        Processes that draw.

    Raises
    ------
    InputError
        If `root` exists and is not an empty folder, or a number is out of range.
    """
    root = Path(root)
    for name, value, least in (("images", images, 1), ("size", size, 32), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"phantom: {name} is {value}; use {least} or more")
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise InputError(f"{root}: exists and is not an empty folder; remove it or name another")
    visits = plan(images, seed)
    with replacing_folder(root) as folder:
        (folder / "images").mkdir()
        draw = partial(write_image, folder=folder / "images", size=size)
        with pool(jobs) as each:
            boxes = list(tqdm(each(draw, visits), "phantom", images, unit="image", disable=None))
        write_tables(folder, visits, boxes, size)
        (folder / MARKER).write_text(
            f"{images} synthetic radiographs, {size} pixels, seed {seed}\n"
        )


@contextmanager
def replacing_folder(root: Path) -> Iterator[Path]:
    """Give a temporary folder beside `root` that takes its place once the block succeeds."""
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        yield folder
        folder.chmod(0o755)
        os.replace(folder, root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def pool(jobs: int) -> Iterator[Callable]:
    """Give an ordered `map` over `jobs` processes; with one, the plain one."""
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs) as executor:
        yield partial(executor.map, chunksize=16)


def write_image(visit: Visit, folder: Path, size: int) -> dict[str, Box]:
    """Draw and save one picture; give its boxes."""
    image, boxes = radiograph(visit, size)
    Image.fromarray(image).save(folder / visit.image)
    return boxes


def write_tables(folder: Path, visits: list[Visit], boxes: list[dict], size: int) -> None:
    """Write the tables and lists as NIH spells them."""
    with open(folder / "Data_Entry_2017.csv", "w", newline="") as file:
        file.write(
            "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
            "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
        )
        table, spacing = csv.writer(file, lineterminator="\n"), round(430 / size, 3)  # mm
        for visit in visits:
            names, person = "|".join(visit.labels) or "No Finding", visit.anatomy
            sex, age = "F" if person.woman else "M", person.age + visit.followup // 3
            row = [visit.image, names, visit.followup, visit.patient, age, sex, visit.view]
            table.writerow([*row, size, size, spacing, spacing])
    with open(folder / "BBox_List_2017.csv", "w", newline="") as file:
        file.write("Image Index,Finding Label,Bbox [x,y,w,h],,,\n")
        table = csv.writer(file, lineterminator="\n")
        for visit, found in zip(visits, boxes, strict=True):
            for label, box in found.items():
                name = "Infiltrate" if label == "Infiltration" else label
                table.writerow([visit.image, name, *box, "", "", ""])
    for name, test in (("train_val_list.txt", False), ("test_list.txt", True)):
        listed = [visit.image + "\n" for visit in visits if visit.test == test]
        (folder / name).write_text("".join(listed))
