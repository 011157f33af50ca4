"""Table 1 as CSV and Markdown.

`published.csv` holds the figures that the CrossEAI paper prints in its Table 1: the T(IoU)
accuracies of five methods, with the means as printed. At T = 0.4 and 0.6 the printed means of
`crosseai` (0.42, 0.25) do not follow from its rows (0.402, 0.205).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from crosseai.labels import CHESTX_RAY8, TABLE_1

__all__ = [
    "PUBLISHED_PROTOCOL",
    "Cell",
    "Section",
    "is_control",
    "markdown",
    "marks_of",
    "sections",
    "switched",
    "table",
]

#: The protocol in which each column of the printed table was scored, as far as papers and public
#: code tell: Wang et al. 2017 draw one to three boxes an image, and any of them may hit; Li et al.
#: 2018 score the thresholded region; SCALP's code takes the best of all boxes and their unions.
PUBLISHED_PROTOCOL = {
    "baseline": "oracle",
    "supervision": "region",
    "scalp": "oracle",
    "chexradinet": "single",
    "crosseai": "single",
}

_KEYS = ["method", "label", "criterion", "iou_threshold", "protocol"]
_COLUMNS = [*_KEYS, "n", "hits", "accuracy", "ci_low", "ci_high", "published"]


class Cell(NamedTuple):
    """One cell of a table as it is shown."""

    text: str
    best: bool = False  # shown bold
    value: float | None = None  # sorts
    interval: str = ""
    printed: str = ""  # the published figure

    @property
    def whole(self) -> str:
        """All of it in one line: 0.42 [0.36, 0.48] · printed 0.50."""
        text = f"{self.text} [{self.interval}]" if self.interval else self.text
        return f"{text} · printed {self.printed}" if self.printed else text


@dataclass(frozen=True)
class Section:
    """One table of the report: a title, a header and rows of cells, a line that explains it."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    note: str = ""
    protocol: str = ""  # of accuracies by IoU, between which the page switches
    labels: str = ""  # the same: six or eight


def table(accuracy: pd.DataFrame, published: bool = False) -> pd.DataFrame:
    """The rows of `table1.csv`.

    Parameters
    ----------
    accuracy : DataFrame
        As `tables.ACCURACY`.
    published : bool
        Fill the column `published`: for the NIH release only, whose images the printed figures
        speak of. A figure is filled in for the criterion IoU and the protocol in which its paper
        scored, see `PUBLISHED_PROTOCOL`, a mean only where all six labels have boxes; the column
        is empty elsewhere.

    Returns
    -------
    DataFrame
        method, label, criterion, iou_threshold, protocol, n, hits, accuracy, ci_low, ci_high,
        published; the order of the rows is kept.
    """
    if not published:
        return accuracy.assign(published=float("nan"))[_COLUMNS]
    printed = pd.read_csv(Path(__file__).with_name("published.csv"))
    printed = printed.rename(columns={"accuracy": "published"}).assign(criterion="IoU")
    printed["protocol"] = printed["method"].map(PUBLISHED_PROTOCOL)
    if not set(TABLE_1) <= set(accuracy["label"]):
        printed = printed[printed["label"] != "Mean"]  # a mean over other labels
    return accuracy.merge(printed, on=_KEYS, how="left")[_COLUMNS]


def is_control(method: str) -> bool:
    """Whether a method is one of the controls, which never see the image."""
    return method.startswith("control-")


def marks_of(notes: Mapping[str, str]) -> dict[str, str]:
    """Give each method with a note its mark: superscript 1, 2, ... in the order of `notes`."""
    superscripts = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    return {method: str(k).translate(superscripts) for k, method in enumerate(notes, 1)}


def sections(
    table: pd.DataFrame,
    differences: pd.DataFrame,
    metrics: pd.DataFrame,
    marks: Mapping[str, str],
) -> list[Section]:
    """Everything the report shows as a table, Table 1 first.

    Parameters
    ----------
    table : DataFrame
        From `table`.
    differences : DataFrame
        As `tables.DIFFERENCES`; may be empty.
    metrics : DataFrame
        As `metrics.csv`.
    marks : mapping of str to str
        Method -> what stands behind its name, from `marks_of`.

    Returns
    -------
    list of Section
    """
    shown = _Accuracies(table, marks)
    six = [label for label in TABLE_1 if label in shown.labels]
    result = []
    if six:
        result.append(
            shown.section(
                "Table 1. T(IoU) accuracy, one box an image and label",
                [*six, "Mean"],
                note="Best method of a row in bold; controls are shown and never bold.",
            )
        )
        result.append(
            shown.section(
                "T(IoU) accuracy, the best of all candidate boxes",
                ["Mean"],
                protocol="oracle",
                note="The radiologist's box chooses the candidate: an upper limit, not a result. "
                "What drawing all candidates would cost stands under AFP, all boxes.",
            )
        )
        result.append(
            shown.section(
                "T(IoU) accuracy, the region above the threshold instead of a box",
                ["Mean"],
                protocol="region",
                note="All pixels above the method's threshold against the radiologist's box.",
            )
        )
        result.append(
            shown.section(
                "T(IoBB) accuracy, one box an image and label",
                ["Mean"],
                criterion="IoBB",
                note="Share of the drawn box that lies inside the radiologist's; small boxes gain.",
            )
        )
    if len(shown.labels & set(CHESTX_RAY8)) > len(six):
        result.append(shown.section("T(IoU) accuracy, all labels with boxes", ["Mean8"]))
    chosen = differences[(differences["label"] == "Mean") & (differences["criterion"] == "IoU")]
    for protocol, group in chosen.groupby("protocol", sort=False):
        result.append(_difference_section(group, _PROTOCOLS[protocol], marks))
    result.append(_measure_section(metrics, marks))
    result.append(_auc_section(metrics))
    return [section for section in result if section.rows]


def switched(table: pd.DataFrame, marks: Mapping[str, str]) -> list[Section]:
    """T(IoU) accuracy label by label: a table for each protocol and set of labels, Table 1 first.

    Parameters
    ----------
    table, marks
        As `sections`.

    Returns
    -------
    list of Section
        With `protocol` and `labels` set.
    """
    shown = _Accuracies(table, marks)
    found = []
    for labels, (names, mean) in {
        "six": (TABLE_1, "Mean"),
        "eight": (CHESTX_RAY8, "Mean8"),
    }.items():
        own = [label for label in names if label in shown.labels]
        for protocol, scored in _PROTOCOLS.items():
            section = shown.section(f"T(IoU) accuracy, {scored}", [*own, mean], protocol=protocol)
            found.append(replace(section, labels=labels))
    return [section for section in found if section.rows]


def markdown(sections: Iterable[Section], title: str, notes: Sequence[str]) -> str:
    """`table1.md`: the first section, the notes under it, then the other sections."""
    lines = [f"# {_plain(title)}", ""]
    for number, section in enumerate(sections):
        lines += [f"## {section.title}", "", _line(section.header)]
        lines.append(_line(["---"] * len(section.header)))
        for row in section.rows:
            lines.append(_line(f"**{cell.whole}**" if cell.best else cell.whole for cell in row))
        lines += ["", *([section.note, ""] if section.note else [])]
        if number == 0:
            lines += [*(f"- {_plain(note)}" for note in notes), ""]
    return "\n".join(lines)


class _Accuracies:
    """Looks up the rows of a table by what they are."""

    def __init__(self, table: pd.DataFrame, marks: Mapping[str, str]):
        self._rows = {tuple(getattr(row, key) for key in _KEYS): row for row in table.itertuples()}
        self._marks = marks
        self.methods = list(dict.fromkeys(table["method"]))
        self.labels = set(table["label"])
        self.thresholds = sorted(set(table["iou_threshold"]))

    def section(
        self,
        title: str,
        labels: list[str],
        criterion: str = "IoU",
        protocol: str = "single",
        note: str = "",
    ) -> Section:
        """Rows T x label, one column a method that this protocol knows."""

        def row(method: str, label: str, threshold: float) -> object | None:
            return self._rows.get((method, label, criterion, threshold, protocol))

        methods = [m for m in self.methods if row(m, labels[-1], self.thresholds[0])]
        rows = []
        for threshold in self.thresholds if methods else []:
            for label in labels:
                found = {method: row(method, label, threshold) for method in methods}
                n = str(found[methods[0]].n)
                head = [Cell(f"{threshold:.1f}"), Cell(self._name(label)), Cell(n)]
                rows.append(head + _cells(found))
        names = [name + self._marks.get(name, "") for name in methods]
        header = [f"T({criterion})", "label", "n", *names]
        return Section(title, header, rows, note, protocol if criterion == "IoU" else "")

    def _name(self, label: str) -> str:
        members = {"Mean": TABLE_1, "Mean8": CHESTX_RAY8}.get(label)
        if members is None:
            return label
        return f"Mean of {len(self.labels & set(members))} labels"


def _cells(found: Mapping[str, object]) -> list[Cell]:
    """A row of accuracies, the best method marked."""
    best = max((row.accuracy for name, row in found.items() if not is_control(name)), default=None)
    cells = []
    for name, row in found.items():
        cell = _figure(row.accuracy, row.ci_low, row.ci_high)
        printed = f"{row.published:.2f}" if pd.notna(row.published) else ""
        bold = row.accuracy == best and best > 0 and not is_control(name)
        cells.append(cell._replace(best=bold, printed=printed))
    return cells


def _difference_section(
    differences: pd.DataFrame, scored: str, marks: Mapping[str, str]
) -> Section:
    methods = list(dict.fromkeys(differences["method"]))
    reference = differences["reference"].iloc[0]
    rows = []
    for threshold, group in differences.groupby("iou_threshold"):
        found = {row.method: row for row in group.itertuples()}
        cells = [
            _figure(found[m].difference, found[m].ci_low, found[m].ci_high, sign="+")
            for m in methods
        ]
        rows.append([Cell(f"{threshold:.1f}"), *cells])
    return Section(
        f"T(IoU) accuracy minus that of {reference}, {scored}, mean over labels",
        ["T(IoU)", *(name + marks.get(name, "") for name in methods)],
        rows,
        "Paired: both methods are scored on the same resampled patients.",
    )


_PROTOCOLS = {
    "single": "one box an image and label",
    "oracle": "the best of all candidate boxes",
    "region": "the region above the threshold",
}

_MEASURES = {
    "mean_iou": "mean IoU",
    "pointing_game": "pointing game",
    "afp@0.1": "AFP at 0.1",
    "afp@0.3": "AFP at 0.3",
    "afp@0.5": "AFP at 0.5",
    "afp_all@0.1": "AFP at 0.1, all boxes",
}


def _measure_section(metrics: pd.DataFrame, marks: Mapping[str, str]) -> Section:
    metrics = metrics.assign(method=metrics["method"].map(lambda name: name + marks.get(name, "")))
    chosen = metrics[(metrics["label"] == "Mean") & metrics["metric"].isin(_MEASURES)]
    return Section(
        "Other measures, mean over labels",
        ["method", *_MEASURES.values()],
        _pivot(chosen, "method", "metric", list(_MEASURES)),
        "AFP: false boxes a scored box, lower is better; all boxes: if every candidate was drawn. "
        "A control points at its box's centre.",
    )


def _auc_section(metrics: pd.DataFrame) -> Section:
    chosen = metrics[(metrics["metric"] == "auc") & (metrics["label"] != "Mean8")]
    models = list(dict.fromkeys(chosen["method"]))
    return Section(
        "Classification: AUC on test images",
        ["label", *models],
        _pivot(chosen, "label", "method", models),
        "Within each fold, then the mean over the folds. Mean: of the labels in Table 1.",
    )


def _pivot(long: pd.DataFrame, index: str, columns: str, names: list[str]) -> list[list[Cell]]:
    """Long form -> a row for each value of `index`, a cell for each of `names`."""
    rows = []
    for head, group in long.groupby(index, sort=False):
        found = {getattr(row, columns): row for row in group.itertuples()}
        cells = [
            _figure(found[n].value, found[n].ci_low, found[n].ci_high) if n in found else Cell("")
            for n in names
        ]
        rows.append([Cell(str(head)), *cells])
    return rows


def _figure(value: float, low: float, high: float, sign: str = "") -> Cell:
    """Write a figure with its interval."""
    return Cell(
        f"{value:{sign}.2f}", value=round(value, 6), interval=f"{low:{sign}.2f}, {high:{sign}.2f}"
    )


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Keep names from the data from starting HTML or a new line in Markdown."""
    return " ".join(text.replace("<", "&lt;").split())
