"""Algorithm 1 on speckled fused maps, one core, against its plain version and region properties.

The plain version is the one that the tests hold the fast one against. All maximal rectangles
compete. The masks hold 20 to 40 % of the map.
"""

import sys
from pathlib import Path

import numpy as np
from measure import Line, paired, ratio, write
from skimage.filters import gaussian
from skimage.measure import label, regionprops

from crosseai.boxes.rectangles import find_boxes, maximal_rectangles
from crosseai.boxes.regions import mask_of
from crosseai.fusion import fuse

sys.path.append(str(Path(__file__).parents[1] / "tests" / "boxes"))
from reference import find_boxes as plain_find_boxes

MAPS = 24
SIZE = 224
THRESHOLD = 0.35
SHARES = (0.2, 0.4)


def speckled(rng: np.random.Generator) -> np.ndarray:
    """Fused map of smooth heat and a gradient map that is noise where there is heat."""
    y, x = np.mgrid[:SIZE, :SIZE]
    heat = np.zeros((SIZE, SIZE))
    for _ in range(3):
        (across, down), width = rng.uniform(0, SIZE, 2), rng.uniform(25, 60)
        distance = (x - across) ** 2 + (y - down) ** 2
        heat += rng.uniform(0.5, 1) * np.exp(-distance / (2 * width**2))
    speckle = np.abs(gaussian(rng.standard_normal((SIZE, SIZE)), 0.7))
    return fuse(heat, speckle * (0.3 + heat), rng.uniform(0.3, 0.8))


def main() -> None:
    """Measure, print and write."""
    rng = np.random.default_rng(0)
    maps = []
    while len(maps) < MAPS:
        map = speckled(rng)
        if SHARES[0] <= mask_of(map, THRESHOLD).mean() <= SHARES[1]:
            maps.append(map)
    seconds = {"Algorithm 1": [], "plain version": [], "label and regionprops": []}
    for map in maps:
        mask = mask_of(map, THRESHOLD)
        own = paired({"Algorithm 1": lambda: find_boxes(map, THRESHOLD, candidates=0)}, 30, warm=2)  # noqa: B023
        slow = paired(
            {
                "plain version": lambda: plain_find_boxes(map, THRESHOLD, candidates=0),  # noqa: B023
                "label and regionprops": lambda: [
                    region.bbox
                    for region in regionprops(label(mask, connectivity=2))  # noqa: B023
                ],
            },
            1,
            warm=0,
        )
        for name, values in {**own, **slow}.items():
            seconds[name].append(float(np.median(values)))
    candidates = [len(maximal_rectangles(mask_of(map, THRESHOLD))) for map in maps]
    write(
        "boxes",
        [
            Line(
                "Algorithm 1 against its plain version",
                ratio(seconds, "plain version", "Algorithm 1"),
                "times as fast",
                at_least=200,
            ),
            Line("a map", 1e3 * np.median(seconds["Algorithm 1"]), "ms", at_most=1),
            Line("the slowest map", 1e3 * max(seconds["Algorithm 1"]), "ms"),
            Line("label and regionprops", 1e3 * np.median(seconds["label and regionprops"]), "ms"),
            Line("rectangles a map", np.median(candidates)),
        ],
        seconds,
        rectangles=candidates,
    )


if __name__ == "__main__":
    main()
