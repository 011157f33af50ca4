import itertools
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crosseai import tables
from crosseai.errors import InputError

RECORDS = pd.DataFrame(
    {
        "image": ["b.png", "a.png"],
        "path": ["images/b.png", "images/a.png"],
        "patient": ["2", "1"],
        "labels": [["Mass", "Nodule"], []],
        "view": ["PA", "AP"],
        "width": [2500, 3000],
        "height": [2048, 2000],
        "official": ["test", ""],
    }
)


def test_round_trip_keeps_rows_order_types_and_lists(tmp_path):
    tables.write(RECORDS, tables.RECORDS, tmp_path / "run" / "records.parquet")
    read = tables.read(tmp_path / "run" / "records.parquet", tables.RECORDS)
    assert list(read.columns) == tables.RECORDS.names
    assert [list(labels) for labels in read.labels] == [["Mass", "Nodule"], []]
    assert read.width.dtype == read.height.dtype == np.int32
    pd.testing.assert_frame_equal(
        read.drop(columns=["labels", "width", "height"]),
        RECORDS.drop(columns=["labels", "width", "height"]),
        check_dtype=False,
    )


def test_nested_outlines_nulls_and_nans(tmp_path):
    row = dict.fromkeys(tables.FOUND.names, 1.0) | {"image": "a", "label": "Mass", "rank": 0}
    found = pd.DataFrame(
        [
            row | {"outline": [[0.5, 1.0, 2.0, 3.0], [4.0, 5.0]], "region": "abc"},
            row | {"rank": 1, "outline": None, "region": None, "agreement": None},
        ]
    )
    tables.write(found, tables.FOUND, tmp_path / "found.parquet")
    read = tables.read(tmp_path / "found.parquet", tables.FOUND)
    assert [list(polygon) for polygon in read.outline[0]] == [[0.5, 1, 2, 3], [4, 5]]
    assert read.outline[1] is None
    assert read.region.isna().tolist() == [False, True]
    assert read.agreement.isna().tolist() == [False, True]


def test_columns_come_in_the_schema_s_order_and_others_are_left(tmp_path):
    split = pd.DataFrame({"extra": [1], "fold": [0], "part": ["train"], "image": ["a"]}, index=[7])
    tables.write(split, tables.SPLIT, tmp_path / "split.parquet")
    stored = pq.read_table(tmp_path / "split.parquet")
    assert stored.schema.equals(tables.SPLIT)
    assert stored.schema.metadata is None
    assert tables.read(tmp_path / "split.parquet", tables.SPLIT).index.tolist() == [0]


def test_an_empty_table_keeps_its_types(tmp_path):
    tables.write(pd.DataFrame(columns=tables.BOXES.names), tables.BOXES, tmp_path / "b.parquet")
    read = tables.read(tmp_path / "b.parquet", tables.BOXES)
    assert len(read) == 0
    assert read.x.dtype == np.float64


def test_predictions_have_a_column_a_label(tmp_path):
    schema = tables.predictions(["Mass", "Nodule"])
    assert schema.names == ["image", "part", "fold", "Mass", "Nodule"]
    assert schema.types[2:] == [pa.int32(), pa.float64(), pa.float64()]


def test_same_table_same_bytes(tmp_path):
    for name in "xy":
        tables.write(RECORDS.copy(), tables.RECORDS, tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_missing_column_writes_nothing(tmp_path):
    with pytest.raises(KeyError, match="fold"):
        tables.write(pd.DataFrame({"image": ["a"], "part": ["test"]}), tables.SPLIT, tmp_path / "x")
    wrong = pd.DataFrame({"image": ["a"], "part": ["test"], "fold": ["zero"]})
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        tables.write(wrong, tables.SPLIT, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_a_missing_file_and_wrong_columns_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.parquet: no such table"):
        tables.read(tmp_path / "none.parquet", tables.SPLIT)
    tables.write(RECORDS, tables.RECORDS, tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"r\.parquet: columns .*'patient'.*expected .*'fold'"):
        tables.read(tmp_path / "r.parquet", tables.SPLIT)


def test_a_file_that_is_no_table_is_named(tmp_path):
    (tmp_path / "x.parquet").write_text("image,part,fold")
    with pytest.raises(InputError, match=r"x\.parquet"):
        tables.read(tmp_path / "x.parquet", tables.SPLIT)


def test_bytes_do_not_depend_on_how_the_rows_came(tmp_path):
    n = 25_001
    split = pd.DataFrame({"image": [f"{i:05}.png" for i in range(n)], "fold": 0, "part": "test"})
    split = split[tables.SPLIT.names]
    tables.write(split, tables.SPLIT, tmp_path / "whole.parquet")
    tables.write_rows(iter(split.to_dict("records")), tables.SPLIT, tmp_path / "rows.parquet")
    whole = pa.Table.from_pandas(split, schema=tables.SPLIT, preserve_index=False)
    cuts = [0, 3, 3, 9_999, 10_000, 24_000, n]
    parts = (whole[start:stop] for start, stop in itertools.pairwise(cuts))
    tables.write_parts(parts, tables.SPLIT, tmp_path / "parts.parquet")
    stored = (tmp_path / "whole.parquet").read_bytes()
    assert (tmp_path / "rows.parquet").read_bytes() == stored
    assert (tmp_path / "parts.parquet").read_bytes() == stored
    pd.testing.assert_frame_equal(
        tables.read(tmp_path / "parts.parquet", tables.SPLIT), split, check_dtype=False
    )


def test_reads_some_rows_at_a_time(tmp_path):
    split = pd.DataFrame({"image": [f"{i:05}.png" for i in range(25_001)], "fold": 0, "part": "a"})
    tables.write(split, tables.SPLIT, tmp_path / "split.parquet")
    parts = list(tables.read_parts(tmp_path / "split.parquet", tables.SPLIT))
    assert max(map(len, parts)) < len(split)
    assert pa.concat_tables(parts)["image"].to_pylist() == split.image.to_list()


def test_no_rows_are_a_table_too(tmp_path):
    tables.write_rows(iter([]), tables.SPLIT, tmp_path / "split.parquet")
    assert tables.read(tmp_path / "split.parquet", tables.SPLIT).columns.to_list() == (
        tables.SPLIT.names
    )
    assert not sum(map(len, tables.read_parts(tmp_path / "split.parquet", tables.SPLIT)))
