"""The stage: what a run left in its folder, made into Table 1, figures and one page."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import plotly.offline
from markupsafe import Markup

from crosseai import tables
from crosseai.errors import InputError
from crosseai.evaluation.overlap import iou
from crosseai.files import replacing
from crosseai.imagestore import ImageStore
from crosseai.labels import CHESTX_RAY8
from crosseai.mapstore import MapFile
from crosseai.report import charts, figures, gallery
from crosseai.report.table import markdown, marks_of, sections, switched, table

__all__ = ["report", "spread"]

_WORKBENCHES = 200  # findings at most, whose maps are there in full
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
    marks = marks_of(_method_notes(config))
    shown = sections(rows, differences, metrics, marks)
    with replacing(run / "table1.md") as temporary:
        temporary.write_text(markdown(shown, title, notes))

    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()  # panels of an earlier configuration
    figures.save(figures.accuracy_curves(accuracy), folder / "accuracy.png")
    scored = _Scored(run, config, _pictured(config, differences))
    _panels(scored, panels, folder)
    found = scored.findings()
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
        switched=switched(rows, marks),
        sections=[section for section in shown if not section.protocol],
        notes=notes,
        charts=_charts(run, config, accuracy, found, scored.method),
        methods=config["table"],
        reference=scored.method,
        labels=sorted({finding["label"] for finding in found}),
        findings=found,
        gallery=_json(
            {
                "findings": found,
                "methods": config["table"],
                "reference": scored.method,
                "colours": charts.colours(config["table"]),
                "settings": scored.settings(),
            }
        ),
        pictures=_json(gallery.pictures(scored.images, [finding["image"] for finding in found])),
        counts=_counts(run),
        left_out=_left_out(run),
        versions=[
            ("Python", platform.python_version()),
            *((name, importlib.metadata.version(name)) for name in _VERSIONS),
            ("commit", _commit()),
        ],
        configuration=json.dumps(config, indent=2),  # JSON is YAML too
        style=_own("page.css"),
        plotly=Markup(plotly.offline.get_plotlyjs()),
        scripts=_own("boxes.js") + _own("page.js"),
    )
    with replacing(run / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")


def _own(name: str) -> Markup:
    """A file beside this one, to stand in the page as it is."""
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _json(value: object) -> Markup:
    """JSON for a script element, which nothing in it can end."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _commit() -> str:
    """The commit of the code, where it lies in a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


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


class _Scored:
    """The scored boxes of a run, what the methods found there, and what is shown of both."""

    def __init__(self, run: Path, config: dict, method: str):
        truth = tables.read(run / "data/boxes.parquet", tables.BOXES)
        if config["score"] == "test":
            split = tables.read(run / "data/split.parquet", tables.SPLIT)
            truth = truth[truth["image"].isin(split.loc[split["part"] == "test", "image"])]
        self.run, self.config, self.method = run, config, method
        self.truth = truth.sort_values(["image", "label", "x", "y"], ignore_index=True)
        self.records = tables.read(run / "data/records.parquet", tables.RECORDS).set_index("image")
        self.found = {
            name: tables.read(run / f"boxes/{name}.parquet", tables.FOUND)
            for name in config["table"]
        }
        self.shards = range(config["images"]["shards"])
        self.images = ImageStore([run / f"data/images/{shard}.h5" for shard in self.shards])

    def findings(self) -> list[dict]:
        """The findings with their maps, those of the workbench in full; see `gallery.findings`."""
        found = gallery.findings(self.truth, self.records, self.found, self.method)
        overlap = np.array([finding["iou"][self.method] for finding in found])
        labels = self.truth["label"].to_numpy()
        settings = self.settings()
        bench = gallery.chosen(overlap, labels, _WORKBENCHES) if settings else []
        pairs = list(zip(self.truth["image"], self.truth["label"], strict=True))
        whole = {pairs[row] for row in bench}
        maps = [gallery.packed_maps(path, self.shards, pairs, whole) for path in self.sources()]
        for row, finding in enumerate(found):
            finding["maps"] = [own[row] for own in maps]
            finding["workbench"] = pairs[row] in whole
        return found

    def sources(self) -> list[Path]:
        """Folders of the method's map, or of the two that it fuses."""
        line = self.config["methods"][self.method]
        names = [line["map"]] if isinstance(line["map"], str) else line["map"]
        return [self.run / f"maps/{line['model']}/{name}" for name in names]

    def settings(self) -> dict | None:
        """The method's settings where the workbench knows its rule."""
        line = self.config["methods"][self.method]
        rule = self.config["boxes"][line["box"]]
        known = rule["rule"] == "rectangles" and rule["threshold_of"] == "maximum"
        if isinstance(line["map"], str) or not known:
            return None
        return {
            "t": self.config["t"] if line["t"] is None else line["t"],
            "threshold": rule["threshold"],
            "candidates": rule["candidates"],
            "keepLastRing": rule["keep_last_ring"],
            "kernel": gallery.kernel(rule["smoothing"]),
            "size": rule["size"] or self.config["images"]["size"],
        }


def _charts(
    run: Path, config: dict, accuracy: pd.DataFrame, found: list[dict], method: str
) -> list[dict]:
    """Title, note and figure of each chart."""
    overlaps = {
        name: np.array([finding["iou"][name] for finding in found]) for name in config["table"]
    }
    drawn = [
        (
            "Accuracy over T(IoU)",
            "One box an image and label; bands are 95 % intervals. The legend hides and shows.",
            charts.accuracy(accuracy),
        ),
        (
            "IoU of every finding",
            f"{len(found)} findings; no box counts as 0. Line: mean; box: quartiles.",
            charts.iou_violins(overlaps),
        ),
    ]
    agreed = [finding for finding in found if finding["agreement"] is not None]
    if agreed:
        drawn.append(
            (
                "Does the agreement of the two explanations tell which boxes to trust?",
                f"{len(agreed)} boxes of {method}; lines: parts with as many findings each.",
                charts.agreement(
                    np.array([finding["agreement"] for finding in agreed]),
                    np.array([finding["iou"][method] for finding in agreed]),
                ),
            )
        )
    records = tables.read(run / "data/records.parquet", tables.RECORDS).set_index("image")
    predictions = {}
    for model in dict.fromkeys(config["methods"][name]["model"] for name in config["table"]):
        paths = sorted((run / "models" / model).glob("fold*/predictions.parquet"))
        predictions[model] = pd.concat(map(pd.read_parquet, paths))
    labels = [name for name in CHESTX_RAY8 if name in set().union(*records["labels"])]
    positive = pd.DataFrame({name: [name in own for own in records["labels"]] for name in labels})
    drawn.append(
        (
            "ROC curves of the classifiers",
            "Test images, the mean over the folds.",
            charts.roc(predictions, positive.set_index(records.index)),
        )
    )
    for path in sorted((run / "ablation").glob("*.csv")):
        title = f"What each setting of {path.stem} is worth"
        note = "Mean of the labels; one setting changed at a time, the configured value large."
        drawn.append((title, note, charts.settings(pd.read_csv(path))))
    return [
        {"title": title, "note": note, "json": _json(json.loads(figure.to_json()))}
        for title, note, figure in drawn
    ]


def _panels(scored: _Scored, count: int, folder: Path) -> None:
    """Draw some findings as the paper's Figure 3, into PNG files."""
    run, truth, records = scored.run, scored.truth, scored.records
    corners = _corners(truth)
    found = {name: _single(table) for name, table in scored.found.items()}
    missing = np.full(4, np.nan)
    boxes = [found[scored.method].get(pair, missing) for pair in _pairs(truth)]
    overlap = iou(np.reshape(boxes, (-1, 4)), corners)
    sources = scored.sources()
    if len(sources) == 2:
        sources.append(run / f"fused/{scored.method}")
    sources += [None] * (3 - len(sources))
    counts = truth["label"].value_counts()
    for number, row in enumerate(spread(overlap, truth["label"].to_numpy(), count)):
        image, label = truth.loc[row, ["image", "label"]]
        figure = figures.panel(
            scored.images.read(image),
            *(source and _read(source, scored.shards, image, label) for source in sources),
            corners[row],
            {other: found[other].get((image, label)) for other in found},
            f"{image} · {label} (n = {counts[label]})",
            (records.loc[image, "width"], records.loc[image, "height"]),
        )
        figures.save(figure, folder / f"panel-{number + 1}.png")


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


def _single(found: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Image and label -> the method's box [4]."""
    first = found[found["rank"] == 0]
    return dict(zip(_pairs(first), _corners(first), strict=True))


def _read(folder: Path, shards: range, image: str, label: str) -> np.ndarray:
    """The map of an image and label, from whichever shard holds it."""
    for shard in shards:
        with MapFile(folder / f"{shard}.h5") as maps:
            if (image, label) in maps:
                return maps.read(image, label)
    raise InputError(f"{folder}: no map of {image} and {label}; make the maps again")


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
