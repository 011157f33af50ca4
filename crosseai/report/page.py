"""The stage: what a run left in its folder, made into Table 1, figures and one page."""

import base64
import importlib.metadata
import json
import platform
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from crosseai import tables
from crosseai.errors import InputError
from crosseai.evaluation.overlap import iou
from crosseai.files import replacing
from crosseai.imagestore import ImageStore
from crosseai.mapstore import MapFile
from crosseai.report import figures
from crosseai.report.table import markdown, marks_of, sections, table

__all__ = ["report", "spread"]

_VERSIONS = ["crosseai", "torch", "torchvision", "numpy", "pandas", "scikit-image", "matplotlib"]
_WHICH = {
    "kfold": "each scored by the fold that never saw its patient",
    "random": "those of the test part",
    "official": "those of the official test list",
}


def report(run: Path, config: dict, nih: bool, panels: int) -> None:
    """Write `table1.csv`, `table1.md`, `report.html` and `figures/` of a run.

    It formats what the stage before wrote and computes nothing but the IoU that chooses the
    panels.

    Parameters
    ----------
    run : Path
        Folder of the run, with the files of all stages before.
    config : dict
        The effective configuration.
    nih : bool
        The run is on the NIH release: printed figures may stand beside the re-run ones.
    panels : int
        Findings to picture.
    """
    run = Path(run)
    accuracy = tables.read(run / "accuracy.parquet", tables.ACCURACY)
    differences = tables.read(run / "differences.parquet", tables.DIFFERENCES)
    metrics = _csv(run / "metrics.csv")
    rows = table(accuracy, published=nih)
    with replacing(run / "table1.csv") as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g")
    title, notes = f"CrossEAI: the run {config['run']}", _notes(config, nih)
    if _scores_training(config):
        title += ", images of the training scored too"
    shown = sections(rows, differences, metrics, marks_of(_method_notes(config)))
    with replacing(run / "table1.md") as temporary:
        temporary.write_text(markdown(shown, title, notes))

    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()  # panels of an earlier configuration
    figures.save(figures.accuracy_curves(accuracy), folder / "accuracy.png")
    method = _pictured(config, differences)
    pictures = _panels(run, config, method, panels, folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        title=title,
        lead="Boxes around chest X-ray findings, learned from image-level labels alone, "
        "beside what controls reach that never see the image.",
        sections=shown,
        notes=notes,
        curves=_embedded(folder / "accuracy.png"),
        method=method,
        panels=[(name, _embedded(path)) for name, path in pictures],
        counts=_counts(run),
        left_out=_left_out(run),
        versions=[
            ("Python", platform.python_version()),
            *((name, importlib.metadata.version(name)) for name in _VERSIONS),
        ],
        configuration=json.dumps(config, indent=2),  # JSON is YAML too
    )
    with replacing(run / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def _csv(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: no such table; run the stage that writes it first")
    return pd.read_csv(path)


def _method_notes(config: dict) -> dict[str, str]:
    """Method -> its note, where it has one."""
    found = {name: config["methods"][name].get("note") for name in config["table"]}
    return {name: note for name, note in found.items() if note}


def _notes(config: dict, nih: bool) -> list[str]:
    """What a reader must know to read the table."""
    own = _method_notes(config)
    kind, controls = config["split"]["kind"], config["controls"]
    which = _WHICH[kind]
    if _scores_training(config):
        which = "ALL of the release, those on images the network trained on among them"
    notes = [
        *(f"{mark} {name}: {own[name]}" for name, mark in marks_of(own).items()),
        "One box an image and label, n ground-truth boxes a row; no box is a miss.",
        f"Boxes scored (score: {config['score']}, split: {kind}): {which}.",
        "Means are over labels, each label with equal weight; their n is the number of boxes.",
        "Controls never see the image. They are made of boxes of other patients "
        f"({controls['folds']} folds), so they are supervised: a yardstick, not a method. "
        "control-centre: a centred box of the label's median width and height; control-random: a "
        f"box of that size anywhere, the mean of {controls['draws']} draws; control-prior: the "
        "label's box that overlaps most with the rest.",
        f"Brackets: 95 % interval, percentile bootstrap over patients, "
        f"{config['evaluation']['resamples']} resamples shared by all methods.",
    ]
    if nih:
        notes.append(
            "printed: the figure in Table 1 of the CrossEAI paper, in the protocol that its "
            "source used; it was measured on other boxes, splits and models than the re-run one."
        )
    return [*notes, "Research software, not for diagnosis."]


def _scores_training(config: dict) -> bool:
    """Whether boxes count on images that the network trained on."""
    return config["score"] == "all" and config["split"]["kind"] == "random"


def _pictured(config: dict, differences: pd.DataFrame) -> str:
    """The method whose maps are shown: the reference, or else the first with two maps."""
    reference = list(differences["reference"].unique())
    fused = [name for name in config["table"] if not isinstance(_map(config, name), str)]
    return [*(name for name in reference if name in fused), *fused, config["table"][0]][0]


def _map(config: dict, method: str) -> str | list[str]:
    return config["methods"][method]["map"]


def _panels(
    run: Path, config: dict, method: str, panels: int, folder: Path
) -> list[tuple[str, Path]]:
    """Draw the panels: caption and file of each."""
    records = tables.read(run / "data/records.parquet", tables.RECORDS).set_index("image")
    truth = tables.read(run / "data/boxes.parquet", tables.BOXES)
    if config["score"] == "test":
        split = tables.read(run / "data/split.parquet", tables.SPLIT)
        truth = truth[truth["image"].isin(split.loc[split["part"] == "test", "image"])]
    truth = truth.sort_values(["image", "label", "x", "y"], ignore_index=True)
    found = {name: _single(run, name) for name in config["table"]}
    boxes = [found[method].get(pair) for pair in _pairs(truth)]
    missing = np.full(4, np.nan)
    overlap = iou([missing if box is None else box for box in boxes], _corners(truth))
    shards = range(config["images"]["shards"])
    images = ImageStore([run / f"data/images/{shard}.h5" for shard in shards])
    model, parts = config["methods"][method]["model"], _map(config, method)
    if isinstance(parts, str):
        sources = [f"maps/{model}/{parts}", None, None]
    else:
        sources = [*(f"maps/{model}/{part}" for part in parts), f"fused/{method}"]
    counts = truth["label"].value_counts()
    drawn = []
    for number, row in enumerate(spread(overlap, truth["label"].to_numpy(), panels)):
        image, label = truth.loc[row, ["image", "label"]]
        name = f"{image} · {label} (n = {counts[label]})"
        figure = figures.panel(
            images.read(image),
            *(source and _read(run / source, shards, image, label) for source in sources),
            _corners(truth)[row],
            {other: found[other].get((image, label)) for other in found},
            name,
            (records.loc[image, "width"], records.loc[image, "height"]),
        )
        path = folder / f"panel-{number + 1}.png"
        figures.save(figure, path)
        drawn.append((name, path))
    return drawn


def spread(overlap: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """Choose rows at evenly spaced ranks of `overlap`, lowest first, different labels first.

    Parameters
    ----------
    overlap : ndarray [n] float
    labels : ndarray [n] str
    count : int

    Returns
    -------
    list of int
        At most `count` different rows. No label comes again before all others had their turn.
    """
    order = np.argsort(overlap, kind="stable")
    left, waiting, chosen = list(range(len(order))), set(), []  # ranks, labels not yet shown
    for k in range(min(count, len(order))):
        waiting = waiting & {labels[order[rank]] for rank in left}
        waiting = waiting or {labels[order[rank]] for rank in left}
        aim = (k + 0.5) / min(count, len(order)) * len(order) - 0.5
        rank = min(
            (rank for rank in left if labels[order[rank]] in waiting),
            key=lambda rank: abs(rank - aim),
        )
        left.remove(rank)
        waiting.remove(labels[order[rank]])
        chosen.append(int(order[rank]))
    return chosen


def _pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["image"], table["label"], strict=True))


def _corners(table: pd.DataFrame) -> np.ndarray:
    """Columns x, y, w, h -> x1, y1, x2, y2: [n, 4]."""
    start, size = table[["x", "y"]].to_numpy(), table[["w", "h"]].to_numpy()
    return np.concatenate([start, start + size], axis=1)


def _single(run: Path, method: str) -> dict[tuple[str, str], np.ndarray]:
    """Image and label -> the method's box [4]."""
    found = tables.read(run / f"boxes/{method}.parquet", tables.FOUND)
    found = found[found["rank"] == 0]
    return dict(zip(_pairs(found), _corners(found), strict=True))


def _read(folder: Path, shards: range, image: str, label: str) -> np.ndarray:
    """The map of an image and label, from whichever shard holds it."""
    for shard in shards:
        with MapFile(folder / f"{shard}.h5") as maps:
            if (image, label) in maps:
                return maps.read(image, label)
    raise InputError(f"{folder}: no map of {image} and {label}; make the maps again")


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _counts(run: Path) -> list[tuple[str, int | str]]:
    records = tables.read(run / "data/records.parquet", tables.RECORDS)
    boxes = tables.read(run / "data/boxes.parquet", tables.BOXES)
    split = tables.read(run / "data/split.parquet", tables.SPLIT)
    counts = [
        ("images", len(records)),
        ("patients", records["patient"].nunique()),
        ("boxes", len(boxes)),
        ("images with boxes", boxes["image"].nunique()),
    ]
    for (fold, part), group in split.groupby(["fold", "part"]):
        counts.append((f"fold {fold}, {part} images", len(group)))
    for label, number in boxes["label"].value_counts().sort_index().items():
        positives = sum(label in own for own in records["labels"])
        counts.append((f"{label}: images, boxes", f"{positives}, {number}"))
    return counts


def _left_out(run: Path) -> list[tuple[str, str, int, str]]:
    """File, reason, number of rows and one image of each kind of row left out."""
    rows = _csv(run / "data/left_out.csv").astype(object).fillna("")
    return [
        (file, reason, len(group), group["image"].iloc[0])
        for (file, reason), group in rows.groupby(["file", "reason"])
    ]
