"""The NIH ChestX-ray release, read as it comes.

A release folder holds the images, one table, and optionally the boxes and the official lists::

    images/*.png                 or images_001/images/*.png ... images_012/images/*.png
    Data_Entry_2017_v2020.csv    or Data_Entry_2017.csv
    BBox_List_2017.csv
    train_val_list.txt, test_list.txt
"""

import csv
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from math import isfinite
from multiprocessing.pool import ThreadPool
from pathlib import Path
from struct import unpack
from typing import NamedTuple

import pandas as pd
from PIL import Image
from tqdm import tqdm

from crosseai import tables
from crosseai.errors import InputError
from crosseai.files import replacing
from crosseai.labels import CHESTX_RAY8

__all__ = ["Release", "read_release", "write_release"]

logger = logging.getLogger(__name__)

#: The 14 findings of ChestX-ray14 and the name for none of them.
_FINDINGS = (
    *CHESTX_RAY8,
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "No Finding",
    "Pleural_Thickening",
)
_ALIASES = {"Infiltrate": "Infiltration"}  # the box list's own spelling
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")
_SUFFIXES = (".png", ".jpg", ".jpeg")
_PNG = b"\x89PNG\r\n\x1a\n"
_READERS = 16  # threads: on network storage a header costs a round trip, not work

# Every kind of problem, and what to do about it.
_TABLE_ROW = "table row without image, patient or a column"
_TABLE_TWICE = "image named twice in the table"
_FILE_ABSENT = "image absent from the image folders"
_FILE_BROKEN = "image file with an unreadable header"
_FILE_UNNAMED = "image file not named in the table"
_FILE_TWICE = "image file in two image folders"
_LIST_UNKNOWN = "listed image not named in the table"
_LIST_BOTH = "image in both official lists"
_BOX_ROW = "box row without image, label or four numbers"
_BOX_IMAGE = "box of an image that is absent or unknown"
_BOX_LABEL = "box whose label is not in the table's row of its image"
_BOX_SIZE = "box without a positive, finite size"
_BOX_OUTSIDE = "box that leaves its image by more than a pixel"
_BOX_TWICE = "second box of an image and label"
_FIX = {
    _TABLE_ROW: "complete the row or remove it",
    _TABLE_TWICE: "remove one of the rows",
    _FILE_ABSENT: "add the file or remove the row",
    _FILE_BROKEN: "fetch the file again or remove the row",
    _FILE_UNNAMED: "add a row for it or remove the file",
    _FILE_TWICE: "remove one of the files",
    _LIST_UNKNOWN: "remove it from the list or add it to the table",
    _LIST_BOTH: "remove it from one of the lists",
    _BOX_ROW: "complete the row or remove it",
    _BOX_IMAGE: "add the image or remove the row",
    _BOX_LABEL: "add the label to the image's row or remove the box",
    _BOX_SIZE: "correct the box or remove it",
    _BOX_OUTSIDE: "correct the box (x, y, w, h in pixels of the image file) or remove it",
    _BOX_TWICE: "remove one of the boxes",
}


@dataclass(frozen=True)
class Release:
    """What `read_release` found.

    Attributes
    ----------
    records : DataFrame
        `crosseai.tables.RECORDS`, one row an image, in the table's order.
    boxes : DataFrame
        `crosseai.tables.BOXES`, one row a box, in the box list's order; may be empty.
    left_out : DataFrame
        file, row, image, reason: one row for everything that was set aside. `row` counts lines of
        the file from 1, the header included, and is missing where the file is an image.
    """

    records: pd.DataFrame
    boxes: pd.DataFrame
    left_out: pd.DataFrame


class _Row(NamedTuple):
    """A row of the table."""

    line: int
    patient: str
    labels: tuple[str, ...]
    view: str


def read_release(
    root: str | os.PathLike, labels: Sequence[str] = CHESTX_RAY8, strict: bool = False
) -> Release:
    """Read a release folder: its images, labels, patients, boxes and official lists.

    Of every image only the header is read. Boxes are taken in the frame of the image files,
    `Infiltrate` is read as `Infiltration`, and the box list is read by column position, since its
    header names one column for four. Findings outside `labels` are not kept, nor are their boxes.
    Without `BBox_List_2017.csv` there are no boxes; without the lists `official` is empty. Where
    both tables are present, the version of 2020 is read.

    What does not fit together is handled so, whatever the caller:

    ==========================================================  ==================================
    problem                                                     rule
    ==========================================================  ==================================
    table row without image, patient or a column                row left out
    image named twice in the table                              first row kept
    image absent from the image folders                         row left out
    image file with an unreadable header                        row left out
    image file not named in the table                           file left out
    image file in two image folders                             first folder kept
    listed image not named in the table                         counted, nothing to leave out
    image in both official lists                                counts as test: never trained on
    box row without image, label or four numbers                box left out
    box of an image that is absent or unknown                   box left out
    box whose label is not in the table's row of its image      box left out
    box without a positive, finite size                         box left out
    box that leaves its image by at most one pixel (rounding)   clipped, no problem
    box that leaves its image by more than a pixel              box left out
    second box of an image and label                            first box kept
    ==========================================================  ==================================

    Every kind found is one warning in the log, with its count and first cases.

    Parameters
    ----------
    root : path-like
        The release folder.
    labels : sequence of str
        The findings to keep, in this order.
    strict : bool
        Make the first problem of the table above an error.

    Returns
    -------
    Release

    Raises
    ------
    InputError
        If the folder, its table, an image folder or a column is missing, if the release knows
        nothing of one of `labels`, if no image remains, or, with `strict`, at the first problem.

    References
    ----------
    Wang et al., "ChestX-ray8", CVPR 2017.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such release folder; correct the path")
    problems = _Problems(root, strict)
    table = _find_table(root)
    rows = _read_table(root / table, problems)
    _check_labels(root / table, labels, rows)
    official = _read_lists(root, rows, problems)
    files = _list_files(root, problems)

    for image in sorted(files.keys() - rows.keys()):
        problems.add(_FILE_UNNAMED, files[image], None, image)
    for image in [image for image in rows if image not in files]:
        problems.add(_FILE_ABSENT, table, rows[image].line, image)
    sizes = _read_sizes(root, {image: files[image] for image in rows if image in files})
    for image in [image for image in sizes if sizes[image] is None]:
        problems.add(_FILE_BROKEN, table, rows[image].line, image)
        del sizes[image]
    if not sizes:
        raise InputError(
            f"{root / table}: names {len(rows)} images, none of which can be read from the image "
            f"folders ({len(files)} files); put images and table of one release together"
        )

    records = pd.DataFrame(
        {
            "image": image,
            "path": files[image],
            "patient": rows[image].patient,
            "labels": [label for label in labels if label in rows[image].labels],
            "view": rows[image].view,
            "width": width,
            "height": height,
            "official": official.get(image, ""),
        }
        for image, (width, height) in sizes.items()
    )
    found = _read_boxes(root / "BBox_List_2017.csv", rows, sizes, problems)
    boxes = pd.DataFrame(
        [(*pair, *box) for pair, box in found.items() if pair[1] in labels],
        columns=tables.BOXES.names,
    ).astype(dict.fromkeys("xywh", "float64"))
    problems.log()
    logger.info(
        "%s: %d images of %d patients, %d boxes on %d images",
        root,
        len(records),
        records["patient"].nunique(),
        len(boxes),
        boxes["image"].nunique(),
    )
    return Release(records, boxes, problems.left_out())


def write_release(release: Release, out_dir: str | os.PathLike) -> None:
    """Write `records.parquet`, `boxes.parquet` and `left_out.csv` to `out_dir`.

    Parameters
    ----------
    release : Release
    out_dir : path-like
        Made if it is missing.
    """
    out_dir = Path(out_dir)
    tables.write(release.records, tables.RECORDS, out_dir / "records.parquet")
    tables.write(release.boxes, tables.BOXES, out_dir / "boxes.parquet")
    with replacing(out_dir / "left_out.csv") as temporary:
        release.left_out.to_csv(temporary, index=False, lineterminator="\n")


class _Problems:
    """What did not fit together; the first one is an error if `strict`."""

    def __init__(self, root: Path, strict: bool):
        self._root = root
        self._strict = strict
        self._found = {kind: [] for kind in _FIX}  # kind -> [(file, row, image)]

    def add(self, kind: str, file: str, row: int | None, image: str) -> None:
        if self._strict:
            place = f"{self._root / file}" + (f", row {row}" if row else "")
            raise InputError(f"{place}: {kind} ({image}); {_FIX[kind]}")
        self._found[kind].append((file, row, image))

    def log(self) -> None:
        for kind, found in self._found.items():
            if found:
                cases = [f"{file} row {row} {image}" if row else file for file, row, image in found]
                more = ", ..." if len(cases) > 3 else ""
                logger.warning("%d x %s: %s%s", len(cases), kind, ", ".join(cases[:3]), more)

    def left_out(self) -> pd.DataFrame:
        return pd.DataFrame(
            [
                (*where, kind)
                for kind, found in self._found.items()
                if kind != _LIST_UNKNOWN  # nothing that could have been kept
                for where in found
            ],
            columns=["file", "row", "image", "reason"],
        ).astype({"row": "Int64"})


def _find_table(root: Path) -> str:
    for name in _TABLES:
        if (root / name).is_file():
            return name
    raise InputError(f"{root}: holds no table; put {' or '.join(_TABLES)} there")


def _read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of every row that is not blank."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file ({error}); fetch it again") from None
    return [(line, cells) for line, cells in rows if any(cells)]


def _read_table(path: Path, problems: _Problems) -> dict[str, _Row]:
    """Every image that the table names, in its order."""
    (_, header), *lines = _read_csv(path) or [(1, [])]
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise InputError(
            f"{path}, row 1: no column '{missing[0]}'; the first row must name {list(_COLUMNS)}"
        )
    columns = [header.index(name) for name in _COLUMNS]
    rows = {}
    for line, cells in lines:
        if len(cells) <= max(columns):
            problems.add(_TABLE_ROW, path.name, line, cells[0])
            continue
        image, findings, patient, view = (cells[column] for column in columns)
        if not image or not patient:
            problems.add(_TABLE_ROW, path.name, line, image)
        elif image in rows:
            problems.add(_TABLE_TWICE, path.name, line, image)
        else:
            findings = tuple(
                _ALIASES.get(name.strip(), name.strip()) for name in findings.split("|")
            )
            rows[image] = _Row(line, patient, findings, view)
    return rows


def _check_labels(table: Path, labels: Sequence[str], rows: Mapping[str, _Row]) -> None:
    known = set(_FINDINGS).union(*(row.labels for row in rows.values())) - {""}
    for label in labels:
        if label not in known:
            closest = get_close_matches(label, sorted(known), 1)
            hint = f"; did you mean '{closest[0]}'?" if closest else ";"
            raise InputError(
                f"labels: '{label}' is not known to {table}{hint} Known: {', '.join(sorted(known))}"
            )


def _read_lists(root: Path, rows: Mapping[str, _Row], problems: _Problems) -> dict[str, str]:
    """Official part of every listed image."""
    official = {}
    for part in ("train_val", "test"):
        path = root / f"{part}_list.txt"
        for line, (image, *_) in _read_csv(path) if path.is_file() else []:
            if image not in rows:
                problems.add(_LIST_UNKNOWN, path.name, line, image)
                continue
            if official.get(image, part) != part:
                problems.add(_LIST_BOTH, path.name, line, image)
            official[image] = part
    return official


def _list_files(root: Path, problems: _Problems) -> dict[str, str]:
    """Path below `root` of every image file; one listing a folder, no look at the files."""
    folders = [root / "images", *sorted(root.glob("images_*/images"))]
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        raise InputError(f"{root}: no image folder; put the files into images/ or images_*/images/")
    files = {}
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            if name.startswith(".") or not name.lower().endswith(_SUFFIXES):
                continue
            path = (folder / name).relative_to(root).as_posix()
            if name in files:
                problems.add(_FILE_TWICE, path, None, name)
            else:
                files[name] = path
    return files


def _read_sizes(root: Path, files: Mapping[str, str]) -> dict[str, tuple[int, int] | None]:
    """Width and height of every image, None where the header is unreadable."""
    with ThreadPool(_READERS) as pool:
        sizes = pool.imap(partial(_read_size, root), files.values(), chunksize=64)
        sizes = tqdm(sizes, "headers", len(files), unit="image", disable=None)
        return dict(zip(files, sizes, strict=True))


def _read_size(root: Path, file: str) -> tuple[int, int] | None:
    path = os.path.join(root, file)
    try:
        with open(path, "rb", buffering=0) as opened:
            header = opened.read(24)
        if len(header) == 24 and header.startswith(_PNG):  # ten times as fast as Pillow
            width, height = unpack(">II", header[16:])
        else:
            with Image.open(path) as image:
                width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return (width, height) if 0 < width < 2**31 and 0 < height < 2**31 else None  # PNG's limits


def _read_boxes(
    path: Path,
    rows: Mapping[str, _Row],
    sizes: Mapping[str, tuple[int, int]],
    problems: _Problems,
) -> dict[tuple[str, str], tuple[float, float, float, float]]:
    """x, y, w, h of every image and label that has a box."""
    if not path.is_file():
        logger.info("%s: absent, a release without boxes", path)
        return {}
    (_, header), *lines = _read_csv(path) or [(1, [])]
    if header[:2] != ["Image Index", "Finding Label"]:
        raise InputError(
            f"{path}, row 1: no columns 'Image Index', 'Finding Label'; "
            "the first row must be the header"
        )
    boxes = {}
    for line, cells in lines:
        image, label, *numbers = (cells + [""] * 6)[:6]
        label = _ALIASES.get(label, label)
        problem = _BOX_ROW
        if image and label and (box := _floats(numbers)):
            box, problem = _check_box(box, sizes.get(image))
            if problem is None and label not in rows[image].labels:
                problem = _BOX_LABEL
            if problem is None and (image, label) in boxes:
                problem = _BOX_TWICE
        if problem:
            problems.add(problem, path.name, line, image)
        else:
            boxes[image, label] = box
    return boxes


def _floats(cells: Iterable[str]) -> tuple[float, ...] | None:
    try:
        return tuple(float(cell) for cell in cells)
    except ValueError:
        return None


def _check_box(
    box: tuple[float, float, float, float], size: tuple[int, int] | None
) -> tuple[tuple[float, float, float, float], str | None]:
    """Clip a box to its image of (width, height) and name its problem, if it has one."""
    x, y, w, h = box
    if size is None:
        return box, _BOX_IMAGE
    if not (all(map(isfinite, box)) and w > 0 and h > 0):
        return box, _BOX_SIZE
    width, height = size
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    outside = max(left - x, top - y, x + w - right, y + h - bottom) > 1
    if outside or left >= right or top >= bottom:
        return box, _BOX_OUTSIDE
    # A box that lies inside keeps its figures to the last digit.
    w = w if left == x and right == x + w else right - left
    h = h if top == y and bottom == y + h else bottom - top
    return (left, top, w, h), None
