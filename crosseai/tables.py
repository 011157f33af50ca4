"""The columns of the tables that travel between stages, and how they are read and written.

Every table is a Parquet file. Boxes are float pixels of the source image, origin top left.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crosseai.errors import InputError
from crosseai.files import replacing

__all__ = [
    "ACCURACY",
    "AUC",
    "BOXES",
    "DIFFERENCES",
    "FOUND",
    "HISTORY",
    "RECORDS",
    "SPLIT",
    "predictions",
    "read",
    "read_parts",
    "write",
    "write_parts",
    "write_rows",
]

_ROWS = 2_000  # in memory at a time

#: One row an image. `path` is relative to the release; `official` is train_val, test or empty.
RECORDS = pa.schema(
    {
        "image": pa.string(),
        "path": pa.string(),
        "patient": pa.string(),
        "labels": pa.list_(pa.string()),
        "view": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "official": pa.string(),
    }
)

#: One row a radiologist's box.
BOXES = pa.schema(
    {
        "image": pa.string(),
        "label": pa.string(),
        "x": pa.float64(),
        "y": pa.float64(),
        "w": pa.float64(),
        "h": pa.float64(),
    }
)

#: One row an image and fold; `part` is train, validation or test as seen by that fold's model.
SPLIT = pa.schema({"image": pa.string(), "part": pa.string(), "fold": pa.int32()})

#: One row a candidate box; rank 0 is the method's single box.
FOUND = pa.schema(
    {
        "image": pa.string(),
        "label": pa.string(),
        "rank": pa.int32(),
        "x": pa.float64(),
        "y": pa.float64(),
        "w": pa.float64(),
        "h": pa.float64(),
        "score": pa.float64(),
        "agreement": pa.float64(),  # IoU of the two thresholded maps inside the box, or null
        "peak_x": pa.float64(),
        "peak_y": pa.float64(),
        "outline": pa.list_(pa.list_(pa.float64())),  # polygons x0, y0, x1, y1, ...
        "region": pa.string(),  # COCO run-length code of the thresholded map
    }
)

#: One row an epoch.
HISTORY = pa.schema(
    {
        "epoch": pa.int32(),
        "loss": pa.float64(),
        "classification": pa.float64(),
        "contrastive": pa.float64(),
        "validation_loss": pa.float64(),
        "validation_auc": pa.float64(),
        "seconds": pa.float64(),
    }
)

#: One row a label and part.
AUC = pa.schema(
    {
        "label": pa.string(),
        "part": pa.string(),
        "auc": pa.float64(),
        "positives": pa.int64(),
        "n": pa.int64(),
    }
)


def predictions(labels: list[str]) -> pa.Schema:
    """One row an image, of validation or test, with a column of probabilities a label."""
    known = [("image", pa.string()), ("part", pa.string()), ("fold", pa.int32())]
    return pa.schema([*known, *((label, pa.float64()) for label in labels)])


#: One row a method, label, criterion, threshold and protocol.
ACCURACY = pa.schema(
    {
        "method": pa.string(),
        "label": pa.string(),
        "criterion": pa.string(),
        "iou_threshold": pa.float64(),
        "protocol": pa.string(),
        "n": pa.int64(),
        "hits": pa.float64(),
        "accuracy": pa.float64(),
        "ci_low": pa.float64(),
        "ci_high": pa.float64(),
    }
)

#: As ACCURACY, for the paired difference `method` minus `reference`.
DIFFERENCES = pa.schema(
    {
        "method": pa.string(),
        "reference": pa.string(),
        "label": pa.string(),
        "criterion": pa.string(),
        "iou_threshold": pa.float64(),
        "protocol": pa.string(),
        "n": pa.int64(),
        "difference": pa.float64(),
        "ci_low": pa.float64(),
        "ci_high": pa.float64(),
    }
)


def write(table: pd.DataFrame, schema: pa.Schema, path: str | os.PathLike) -> None:
    """Write `table` with the columns, order and types of `schema`.

    Raises
    ------
    KeyError
        If a column of the schema is missing.
    """
    write_parts([_arrow(table, schema)], schema, path)


def write_rows(rows: Iterable[dict], schema: pa.Schema, path: str | os.PathLike) -> None:
    """Write rows, each a value a column, as they come; memory does not grow with their number."""
    rows = iter(rows)
    parts = iter(lambda: list(islice(rows, _ROWS)), [])
    write_parts((pa.Table.from_pylist(part, schema) for part in parts), schema, path)


def write_parts(parts: Iterable[pa.Table], schema: pa.Schema, path: str | os.PathLike) -> None:
    """Write the rows of many tables one after another, as they come.

    Memory does not grow with their number, and the bytes do not depend on how rows are parted.

    Parameters
    ----------
    parts : iterable of pa.Table
        With the columns of `schema`.
    schema : pa.Schema
    path : path-like
    """
    waiting = schema.empty_table()
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            waiting = pa.concat_tables([waiting, part])
            while len(waiting) >= _ROWS:
                writer.write_table(waiting[:_ROWS].combine_chunks())
                waiting = waiting[_ROWS:]
        writer.write_table(waiting.combine_chunks())


def _arrow(table: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    arrow = pa.Table.from_pandas(table[schema.names], schema=schema, preserve_index=False)
    return arrow.replace_schema_metadata(None)


def read_parts(
    path: str | os.PathLike, schema: pa.Schema, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Read a table that `write` wrote some rows at a time, or some columns; errors as `read`."""
    own = _some(schema, columns)
    with _opened(path, schema) as file:
        for batch in file.iter_batches(_ROWS, columns=own.names, use_threads=False):
            yield pa.Table.from_batches([batch]).cast(own)


def read(
    path: str | os.PathLike, schema: pa.Schema, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read a table that `write` wrote, or some of its columns.

    Raises
    ------
    InputError
        If the file is missing or its columns are not those of `schema`.
    """
    own = _some(schema, columns)
    with _opened(path, schema) as file:
        return file.read(own.names).cast(own).to_pandas()


def _some(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns or schema.names])


def _opened(path: str | os.PathLike, schema: pa.Schema) -> pq.ParquetFile:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such table; run the stage that writes it first")
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet table ({error})") from None
    names = file.schema_arrow.names
    if names != schema.names:
        file.close()
        raise InputError(f"{path}: columns {names}, expected {schema.names}")
    return file
